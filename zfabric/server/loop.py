"""The sockets of a leader process: what comes in goes to its :class:`Turn`, the effects go out. It decides nothing.

Each pass takes what waits on the ROUTER, up to a bound, and hands it to ``core/leader/turn.py``, whose rules say what
is committed when and told when. Once in a while it looks after the process: room on the disk, memory, clients.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import zmq

from zfabric import errors
from zfabric.core.effects import LeaderEffect, Reply
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Incoming, Turn
from zfabric.modes.options import LeaderOptions, secret
from zfabric.net import sockets
from zfabric.net.connections import Connections
from zfabric.net.session import received
from zfabric.server import process, status
from zfabric.server.damage import tell
from zfabric.server.publishing import Publishing
from zfabric.server.refusals import Refusals
from zfabric.settings import REQUEST_BYTES_MAX, REQUEST_FRAMES_MAX
from zfabric.store.lockfile import FileLock
from zfabric.store.volume import Volume
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Attach

if TYPE_CHECKING:
    from zfabric.model import Buffer
    from zfabric.net.nearby import Nearby
    from zfabric.net.polling import SharedPoller
    from zfabric.server.gossip import Gossip
    from zfabric.server.links import Links

log = logging.getLogger("zfabric.leader")

UPKEEP_NS = 500_000_000
ATTACH_NS = 20_000_000
ATTACH_PATIENCE_NS = 2_000_000_000
RELEASE_NS = 10_000_000_000
PEER_NS = 60_000_000_000
PEERS_MAX = 100_000
DRAIN_NS = 2_000_000_000
_NOBLOCK: Final = int(zmq.NOBLOCK)
GOSSIP: Final = b"zg"
"""First bytes of a frame of gossip (``wire/gossip.py``, which a leader without a mesh does not use)."""
GOSSIP_COST: Final = 64
"""A byte of gossip counts as so many of a turn's, since all of it is decoded: a STATE of 64 KiB took 2.5 ms."""
GOSSIP_LEAST: Final = 8_192
"""A frame of gossip counts as at least so many bytes: 32 in a turn, as each may take 0.3 ms."""


class Loop:
    """The shell around one leader's machines. Made and run by ``server/__main__.py``.

    Args:
        alone: asked twice a second in embedded mode: gives a lock that keeps clients from coming if none is there.
        poller, near: of a leader that is part of an application (``inside.py``).

    Attributes:
        beat: called about twice a second, unless a turn takes longer: shows that the loop goes round.
    """

    def __init__(
        self,
        options: LeaderOptions,
        volume: Volume,
        leader: Leader,
        turn: Turn,
        *,
        alone: Callable[[], FileLock | None] | None = None,
        poller: SharedPoller | None = None,
        near: Nearby | None = None,
    ) -> None:
        self._options = options
        self._settings = options.settings
        self._volume = volume
        self._leader = leader
        self._turn = turn
        self._others: dict[int, Callable[[], None]] = {}
        self._alone = alone
        self._context = sockets.context()
        self._carried: deque[Incoming] = deque()
        self._first = False  # Nothing was received in this turn that waits.
        self._peers: dict[bytes, int] = {}
        self._dropped = 0
        self._memory = process.Memory(self._settings.memory_max_bytes)
        self._stopping = False
        self._upkeep_due = 0
        self._release_due = time.monotonic_ns() + RELEASE_NS
        self._alone_since: int | None = None
        self._last: FileLock | None = None
        self.beat: Callable[[], None] | None = None
        self._serving: Callable[[], None] | None = None
        self._started = time.monotonic_ns()
        self._refusals = Refusals(self._started)
        self._load = process.Load()
        self._gossip: Gossip | None = None
        self._links: Links | None = None
        self._make_links: Callable[[], Links] | None = None
        self._near = near
        self._poller: zmq.Poller | SharedPoller = zmq.Poller() if poller is None else poller
        self._endpoints = [endpoint for endpoint in (options.listen, options.listen_too) if endpoint]
        self._open()

    # Life.

    def _open(self) -> None:
        self._router = sockets.router(self._context, self._settings.frame_bytes_max)
        self._connections = Connections(self._context, self._router)
        for endpoint in self._endpoints:
            sockets.bind(self._router, endpoint)
        publish = [endpoint for endpoint in (self._options.publish, self._options.publish_too) if endpoint]
        self._publishing = Publishing(self._context, self._settings, self._leader.counters, publish)
        self._controller: zmq.Socket[bytes] | None = None
        if self._options.controller:
            self._controller = sockets.dealer(self._context, self._settings.frame_bytes_max)
            sockets.connect(self._controller, self._options.controller)
            self._poller.register(self._controller, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._publishing.socket, zmq.POLLIN)
        self._poller.register(self._publishing.lanes.fd, zmq.POLLIN)

    def _new_router(self) -> zmq.Socket[bytes]:
        router = sockets.router(self._context, self._settings.frame_bytes_max)
        self._connections.stop()
        self._connections = Connections(self._context, router)
        return router

    def wake_on(self, fd: int, action: Callable[[], None]) -> None:
        """Call ``action`` when ``fd`` becomes readable; it is then watched no more."""
        self._others[fd] = action
        self._poller.register(fd, zmq.POLLIN)

    def take_part(self, gossip: Gossip) -> None:
        """Let this process be a member of a mesh."""
        self._gossip = gossip
        self._poller.register(gossip.links.fd, zmq.POLLIN)

    def reach_out(self, make: Callable[[], Links], *, at_once: bool) -> None:
        """Let this process open connections of its own; not ``at_once``: when something of its logs is damaged."""
        self._make_links = make
        if at_once:
            self._links = make()

    def reply(self, peer: bytes, frame: bytes) -> None:
        """Send one frame to a peer of the ROUTER, if it is there and reads."""
        self._perform([Reply(peer, (frame,))])

    def stop(self) -> None:
        """End after what has been received is answered."""
        self._stopping = True

    def run(self, serving: Callable[[], None]) -> None:
        """Take turns until :meth:`stop`, then drain: answer what is there, tell the clients, close.

        ``serving`` is called once, when clients can find this leader: leader 0 has heard of it. If that one does not
        answer within two seconds, it is called all the same: what is known to be ours can be served.
        """
        self._serving = serving
        if self._controller is None:
            self._serves()
        while not self._stopping:
            self._wait()
            self._take_turn()
        if self._gossip is not None:
            self._gossip.leave(time.monotonic_ns())
            while not self._gossip.left:
                self._wait()
                self._take_turn()
        deadline = time.monotonic_ns() + DRAIN_NS
        while (self._carried or self._router.poll(0)) and time.monotonic_ns() < deadline:
            self._take_turn()
        self._perform(self._turn.close(time.monotonic_ns(), time.time_ns() // 1_000_000))
        goodbye = messages.command(Type.GOODBYE, 0, messages.Empty())
        self._perform([Reply(peer, (goodbye,)) for peer in self._peers])

    def _serves(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving()

    def close(self) -> None:
        """Close the sockets, giving the last answers a second to leave."""
        if self._gossip is not None:
            self._gossip.close()
        if self._links is not None:
            self._links.close()
        self._connections.stop()
        self._router.close()
        self._publishing.close()
        if self._controller is not None:
            self._controller.close(linger=0)
        self._context.term()

    # Waiting.

    def _next_deadline(self, now: int) -> int:
        """When the next turn is wanted, if nothing comes (monotonic ns)."""
        deadlines = [now if self._carried else self._upkeep_due]
        for machine in (self._turn, self._gossip, self._links):
            wanted = None if machine is None else machine.next_deadline()
            if wanted is not None:
                deadlines.append(wanted)
        return min(deadlines)

    def _wait(self) -> None:
        now = time.monotonic_ns()
        if self._links is not None:
            self._links.watch(self._poller)
        timeout_ms = max(0, -(-(self._next_deadline(now) - now) // 1_000_000))
        for ready, _ in self._poller.poll(timeout_ms):
            if ready in self._others:
                self._poller.unregister(ready)
                self._others.pop(ready)()
            elif ready is self._publishing.socket:
                if self._publishing.take_subscriptions():
                    self._drop_subscribers()
            elif ready == self._publishing.lanes.fd:
                self._publishing.lanes.attend()
            elif ready is self._controller:
                self._take_assignments()
            elif self._links is not None:
                self._links.wake(ready)

    def _take_assignments(self) -> None:
        assert self._controller is not None
        while True:
            try:
                frames = self._controller.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                command = messages.read(frames)
            except (errors.ProtocolViolation, errors.UnsupportedVersion) as error:
                log.warning("controller_misunderstood problem=%s", error)
                continue
            if command.type == Type.ASSIGN:
                self._carried.append((b"", command))
                self._serves()
            elif command.type == Type.DONE:
                self._serves()
            elif command.type == Type.ERROR:
                log.error("attach_refused problem=%s", errors.from_wire(command.body.code, command.body.values))

    def _attach(self) -> None:
        if self._controller is None:
            return
        options = self._options
        if time.monotonic_ns() - self._started > ATTACH_PATIENCE_NS:
            self._serves()
        attach = Attach(
            options.leader, options.advertise, options.advertise_publish, self._leader.assignment_version,
            self._turn.attachment(time.monotonic_ns()), secret(),
        )  # fmt: skip
        try:
            self._controller.send(messages.command(Type.ATTACH, 1, attach), zmq.NOBLOCK)
        except zmq.Again:
            self._upkeep_due = time.monotonic_ns() + ATTACH_NS  # Leader 0 is not up yet.

    # The turn.

    def _receive(self) -> Iterator[Incoming]:
        """Yield what waits on the ROUTER, up to the turn's bounds."""
        budget = self._settings.turn_bytes
        now = time.monotonic_ns()
        for number in range(self._settings.turn_messages):
            # One is nearly always alone: to try costs four times as much as a look, but less where something is there.
            parts = received(self._router, look=number == 1)
            if not parts:
                return
            peer = parts[0].bytes
            self._peers[peer] = now
            first = parts[1].buffer if len(parts) > 1 else b""
            try:
                if len(first) > REQUEST_BYTES_MAX:
                    raise errors.ProtocolViolation(
                        problem=f"command frame of {len(first):,} bytes", allowed=f"up to {REQUEST_BYTES_MAX:,}"
                    )
                frames = [part.buffer for part in parts[1:]]
                if self._links is not None and frames and self._links.takes(peer, frames, now):
                    continue
                if len(parts) > REQUEST_FRAMES_MAX:
                    raise errors.ProtocolViolation(
                        problem=f"message of {len(parts)} frames", allowed=f"up to {REQUEST_FRAMES_MAX}"
                    )
                command = messages.read(frames, parts[1:])
                if command.type in messages.INTERNAL:
                    what = Type(command.type).name
                    raise errors.ProtocolViolation(problem=f"{what} from a client", allowed="from the fabric itself")
            except (errors.ProtocolViolation, errors.UnsupportedVersion) as error:
                budget -= self._misread(peer, parts, first, error, now)
                if budget <= 0:
                    return
                continue
            wall_ms = time.time_ns() // 1_000_000
            if not (self._first and self._turn.at_once(peer, command, now, wall_ms, self._perform)):
                self._first = False
                yield peer, command
            budget -= sum(map(len, parts))
            if budget <= 0:
                return

    def _misread(self, peer: bytes, parts: list[Any], first: Buffer, error: errors.ZFabricError, now: int) -> int:
        """Take a message that is no command; returns what it counts of a turn's bytes."""
        if self._gossip is not None and len(parts) == 2 and bytes(first[:2]) == GOSSIP:
            del self._peers[peer]
            self._gossip.receive(peer, first, partial(sockets.address_of, parts[1]), now)
            return GOSSIP_COST * max(GOSSIP_LEAST, len(first))
        self._leader.counters.errors += 1
        request = messages.request_id(first)
        if request:
            self._perform([Reply(peer, (messages.failure(request, error),))])
        return 0

    def _take_turn(self) -> None:
        now = time.monotonic_ns()
        if now >= self._upkeep_due:
            self._upkeep(now)
        turn = self._turn
        writes: list[Incoming] = []
        reads: deque[Incoming] = deque()
        incoming = self._carried
        self._carried = deque()
        self._first = not incoming
        if len(incoming) < self._settings.turn_messages:  # Else what waits is answered first: a flood waits outside.
            incoming.extend(self._receive())
        wall_ms = time.time_ns() // 1_000_000
        if self._links is not None:
            incoming.extend(self._links.collect(now, wall_ms))
        for entry in incoming:
            if entry[1].type == Type.STATUS:
                self._status(*entry)
            elif entry[1].type == Type.OFFER and self._links is not None:
                self._perform([self._links.offered(*entry, now)])
            else:
                (writes if entry[1].type in turn.writes else reads).append(entry)
        self._look_at_room()
        grown = turn.grown
        effects = turn.change(writes, now, wall_ms)
        if effects:
            self._perform(effects)
        reads.extend(turn.woken())
        if self._links is not None:
            self._perform(self._links.settled(now))
        if reads:
            self._perform(turn.answer(reads, self._settings.turn_bytes))
            self._carried.extend(reads)
        if self._gossip is not None:
            self._gossip.step(time.monotonic_ns())
        if turn.grown > grown:
            log.info("map_grown bytes=%d", self._volume.stats().map_bytes)

    def _perform(self, effects: Sequence[LeaderEffect]) -> None:
        router, publish = self._router, self._publishing.publish
        for effect in effects:
            if isinstance(effect, Reply):
                if not effect.peer or (self._near is not None and self._near.post(effect.peer, effect.frames)):
                    continue
                if self._links is not None and self._links.reply(effect):
                    continue
                try:
                    router.send_multipart((effect.peer, *effect.frames), zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    self._dropped += 1  # The peer does not read; it will ask again.
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    self._peers.pop(effect.peer, None)
                    if self._links is not None:
                        self._links.gone(effect.peer, time.monotonic_ns())
            else:
                publish(effect.frames)

    # Upkeep.

    def _upkeep(self, now: int) -> None:
        self._upkeep_due = now + UPKEEP_NS
        if self.beat is not None:
            self.beat()
        self._volume.refresh_room()
        if not self._volume.writing and self._volume.grow_if_needed():
            log.info("map_grown bytes=%d", self._volume.stats().map_bytes)
        self._leader.counters.bytes_written = self._volume.stats().bytes_written
        self._attach()
        self._turn.report(self._load.look())
        tell(self._leader.damage.take_news())
        if self._links is None and self._make_links is not None and self._leader.damage.stretches:
            self._links = self._make_links()
        if now >= self._release_due:
            self._release_due = now + RELEASE_NS
            self._volume.release_pages()
            self._volume.reader_check()
            if self._near is None:
                process.trim()  # A thousand clients that have left: 65 MB of anonymous memory without it.
            self._peers = {peer: seen for peer, seen in self._peers.items() if now - seen < PEER_NS}
        if len(self._peers) > PEERS_MAX:
            self._peers.clear()
        self._connections.count()
        self._publishing.lanes.look(now)
        refused = self._refusals.look(self._turn.refusals, now)
        if refused is not None:
            log.warning("requests_refused count=%d seconds=%.1f", *refused)
        if self._near is None:  # Else what the process holds is the application's.
            self._watch_memory()
        if self._alone is not None:
            self._look_for_clients(now)

    def _look_at_room(self) -> None:
        try:
            self._volume.check_room()
        except errors.StorageFull as error:
            if self._leader.storage_full is None:
                log.warning("storage_full problem=%s", error)
            self._leader.storage_full = error
        else:
            self._leader.storage_full = None

    def _look_for_clients(self, now: int) -> None:
        assert self._alone is not None
        lock = self._alone()
        if lock is None:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since < self._settings.grace_ms * 1_000_000:
            lock.close()
        else:
            self._last = lock  # Held until the process has ended: whoever comes waits, then starts another.
            self.stop()

    def _watch_memory(self) -> None:
        """Drop all connections when the process holds more than it may."""
        held = self._memory.exceeded()
        if held:
            log.warning("memory_exceeded anonymous_bytes=%d dropped=%s", held, "all connections")
            self._drop_connections()
            process.trim()

    def _drop_connections(self) -> None:
        """Close both sockets and bind new ones: frees whatever strangers have filled libzmq's queues with.

        An endless multipart message passes every limit of libzmq (measured), and subscriptions are queued and kept
        without one; both can only be ended so. Clients notice at once, connect again and repeat what was not answered.
        """
        self._peers.clear()
        if self._gossip is not None:
            self._gossip.links.clear()
        self._carried = deque(entry for entry in self._carried if not entry[0])
        self._poller.unregister(self._router)
        self._connections.stop()
        self._router.close(linger=0)
        self._router = sockets.bind_again(self._new_router, self._endpoints, DRAIN_NS)
        self._poller.register(self._router, zmq.POLLIN)
        self._drop_subscribers()

    def _drop_subscribers(self) -> None:
        self._poller.unregister(self._publishing.socket)
        self._publishing.drop(DRAIN_NS)
        self._poller.register(self._publishing.socket, zmq.POLLIN)

    def _status(self, peer: bytes, command: Command) -> None:
        values = status.values(
            self._options,
            self._leader,
            self._volume,
            clients=self._connections.count() + (len(self._near.sessions) if self._near is not None else 0),
            subscriptions=self._publishing.subscriptions,
            refused=self._turn.refusals,
            uptime_ns=time.monotonic_ns() - self._started,
        )
        if self._gossip is not None:
            values.update(self._gossip.values())
        frame = messages.command(Type.STATUS_IS, command.request, messages.StatusIs(values))
        self._perform([Reply(peer, (frame,))])
