"""A leader process: ``python -m zfabric.server JSON``. Started by the supervisor and by the embedded mode.

It writes one JSON line to standard output and then nothing more (but see ``beats`` of its options):
``{"ready": true, "pid": …, "listen": …}`` when it serves, or ``{"error": CODE, "values": {…}}`` (a class of
``zfabric.errors``) when it cannot, with exit status 1.
Status 75 means that storage failed while it served: start it again.

It imports what a leader needs and nothing else (22 MB here): no asyncio, no click, nothing of the SDK.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from zfabric import errors

if TYPE_CHECKING:
    from zfabric.core.cluster.roster import Roster
    from zfabric.core.transaction import Transaction
    from zfabric.modes.options import LeaderOptions
    from zfabric.store.directory import Mode
    from zfabric.wire.card import Kind

EXIT_FAILED = 1
EXIT_STORAGE = 75


def _say(document: dict[str, object]) -> None:
    with suppress(BrokenPipeError):  # Whoever started us has gone; others will come.
        os.write(1, json.dumps(document).encode() + b"\n")


def _detach(directory: str) -> None:
    """Leave the starting process: it never has to wait for us, and its terminal's signals are not ours."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, "leader.log")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if os.path.exists(path) and os.path.getsize(path) > 1 << 20:
        flags |= os.O_TRUNC
    log = os.open(path, flags, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(log, 2)
    os.dup2(null, 0)
    os.close(log)
    os.close(null)


def _serve(argument: str, stack: ExitStack) -> int:
    from zfabric.core.cluster.placement import Placement
    from zfabric.core.leader.leader import Leader
    from zfabric.core.leader.turn import Turn
    from zfabric.modes.options import decode, secret
    from zfabric.net import sockets
    from zfabric.server import logs
    from zfabric.server.loop import Loop
    from zfabric.store.directory import DataDirectory
    from zfabric.store.volume import Volume
    from zfabric.wire.metadata import LeaderAddress

    options = decode(argument)
    settings = options.settings
    logs.configure(settings.log_level, settings.log_format)
    sockets.raise_descriptor_limit(1 << 16)
    directory = DataDirectory.create_or_check(options.data)
    if options.embedded:
        stack.enter_context(directory.lock(*_holder(options)))
        directory.clean_run()
        stack.callback(directory.drop_run)
    if options.peer is not None:
        from zfabric.server.peering import settle

        options = settle(options, directory.port_path)
    directory.check_room(options.leader)
    volume = stack.enter_context(Volume.open(directory.volume_path(options.leader), settings))
    leader = Leader(options.leader, settings)
    placement = None
    if options.leader == 0:
        placement = Placement(_roster(options), secret())

    def start(txn: Transaction) -> None:
        leader.start(txn)
        if placement is not None:
            placement.start(os.urandom(8).hex(), options.leaders, settings.record_bytes_max, txn)
            placement.listen(LeaderAddress(0, options.advertise, options.advertise_publish))

    turn = Turn(volume, leader, placement)
    turn.begin(start)
    loop = Loop(options, volume, leader, turn, alone=directory.try_exclusive_clients if options.embedded else None)
    stack.callback(loop.close)
    if options.mesh is not None and placement is not None:
        from zfabric.server.gossip import Gossip

        loop.take_part(Gossip(options.mesh, placement.roster, directory.members_path, loop.reply))
    if (options.keep or options.offer_to) and placement is not None:
        from zfabric.server.links import Links

        loop.reach_out(
            Links(
                leader, settings.frame_bytes_max, keep=options.keep, follow=options.follow,
                offer_to=options.offer_to, roster=placement.roster,
            )
        )  # fmt: skip
    loop.wake_on(_signals(loop.stop), lambda: None)
    if options.supervised:
        loop.wake_on(0, loop.stop)

    def serving() -> None:
        _say({"ready": True, "pid": os.getpid(), "leader": options.leader, "listen": options.listen})
        if options.beats:
            loop.beat = _beats(os.dup(1))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    loop.run(serving)
    return 0


def _holder(options: LeaderOptions) -> tuple[Mode, str]:
    """Return what the directory's lock says of this process."""
    if options.peer is None:
        return "embedded", options.listen
    from zfabric.server.peering import holder_url

    return "peer", holder_url(options)


def _roster(options: LeaderOptions) -> Roster:
    """Return the table of members, with what this process says of itself."""
    from zfabric.core.cluster.roster import Roster
    from zfabric.wire.card import Card

    run = (int.from_bytes(os.urandom(8), "big") >> 1) | 1
    host, mesh = os.uname().nodename, options.mesh
    if mesh is None:
        kind: Kind = "embedded" if options.embedded else "node"
        card = Card(kind=kind, host=host, publish=options.advertise_publish, software="zfabric")
        return Roster(run, options.advertise, card)
    card = Card(kind=mesh.kind, host=host, zone=mesh.zone, publish=mesh.publish, software="zfabric")
    return Roster(run, mesh.endpoint, card, mesh=mesh.name)


def _beats(fd: int) -> Callable[[], None]:
    """Return what writes a byte, or nothing if nobody reads."""
    os.set_blocking(fd, False)

    def beat() -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(fd, b".")

    return beat


def _signals(stop: Callable[[], None]) -> int:
    """Make SIGTERM and SIGINT stop the loop; returns a descriptor that becomes readable with them."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    return reader


def main() -> int:
    """Run one leader process until it is told to stop; returns its exit status."""
    if len(sys.argv) != 2 or sys.flags.optimize:
        _say({"error": errors.ConfigurationError.code, "values": {
            "source": "python -m zfabric.server",
            "problem": "wants one JSON argument, and assertions (no -O): they guard the log",
            "instead": "start leaders with 'zfabric serve'"}})  # fmt: skip
        return 2
    argument = sys.argv[1]
    options = json.loads(argument)
    try:
        if options.get("embedded"):
            _detach(options["data"])
        with ExitStack() as stack:
            return _serve(argument, stack)
    except errors.StorageFailed as error:
        _say({"error": error.code, "values": error.values})
        return EXIT_STORAGE
    except errors.ZFabricError as error:
        _say({"error": error.code, "values": error.values})
        return EXIT_FAILED
    except OSError as error:
        from zfabric.store.directory import INSTEAD, unusable

        problem = unusable(options["data"], error)
        _say({"error": problem.code, "values": problem.values})
        if error.errno in INSTEAD:
            return EXIT_FAILED
        raise


if __name__ == "__main__":
    sys.exit(main())
