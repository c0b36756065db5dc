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

from zfabric import errors

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
    from zfabric.modes.options import decode
    from zfabric.server.holding import hold

    options = decode(argument)
    directory = hold(options, stack)
    from zfabric.net import sockets
    from zfabric.server import logs
    from zfabric.server.building import build

    logs.configure(options.settings.log_level, options.settings.log_format)
    sockets.raise_descriptor_limit(1 << 16)
    loop = build(options, directory, stack)
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
