"""The turn of a leader process: drain, handle, commit, answer, perform. It decides nothing.

One turn takes what waits on the ROUTER, up to a bound; hands what changes something to the machines in one write
transaction; makes that durable with one commit; hands them what only reads; then performs their effects. So all
partitions and all producers of a turn share one fsync, and nothing is told before it is true.

A map that is full is doubled and the turn repeated with the same messages. Any other failure of storage ends the
process: its successor finds what was acknowledged, and nothing more was claimed.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from zfabric import errors
from zfabric.core.cluster.placement import Placement
from zfabric.core.effects import LeaderEffect, Reply
from zfabric.core.leader.leader import Leader
from zfabric.modes.options import LeaderOptions
from zfabric.net import sockets
from zfabric.server import process
from zfabric.settings import PARTITIONS_MAX, REQUEST_FRAMES_MAX
from zfabric.store.lockfile import FileLock
from zfabric.store.volume import MapFull, Volume
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type

log = logging.getLogger("zfabric.leader")

JOURNAL_COMMIT_NS = 1_000_000_000
JOURNAL_BYTES_MAX = 64 << 20
UPKEEP_NS = 500_000_000
ATTACH_NS = 20_000_000
RELEASE_NS = 10_000_000_000
PEER_NS = 60_000_000_000
PEERS_MAX = 100_000
SUBSCRIPTIONS_MAX = 1_000_000
DRAIN_NS = 2_000_000_000

Incoming = tuple[bytes, Command]


class Loop:
    """The shell around one leader's machines. Made and run by ``server/__main__.py``.

    Args:
        alone: asked twice a second in embedded mode: gives a lock that keeps clients from coming if none is there.
    """

    def __init__(
        self,
        options: LeaderOptions,
        volume: Volume,
        leader: Leader,
        placement: Placement | None,
        *,
        alone: Callable[[], FileLock | None] | None = None,
    ) -> None:
        self._options = options
        self._settings = options.settings
        self._volume = volume
        self._leader = leader
        self._placement = placement
        self._others: dict[int, Callable[[], None]] = {}
        self._alone = alone
        self._writes = leader.writes | (placement.writes if placement else frozenset())
        self._context = sockets.context()
        self._carried: deque[Incoming] = deque()
        self._peers: dict[bytes, int] = {}
        self._subscriptions = 0
        self._dropped = 0
        self._stopping = False
        self._journal_due: int | None = None
        self._upkeep_due = 0
        self._release_due = time.monotonic_ns() + RELEASE_NS
        self._alone_since: int | None = None
        self._last: FileLock | None = None
        self._started = time.monotonic_ns()
        self._poller = zmq.Poller()
        self._open()

    # Life.

    def _open(self) -> None:
        frame_max = self._settings.frame_bytes_max
        self._router = sockets.router(self._context, frame_max)
        self._xpub = sockets.xpub(self._context, frame_max, self._settings.publish_queue)
        sockets.bind(self._router, self._options.listen)
        sockets.bind(self._xpub, self._options.publish)
        self._controller: zmq.Socket[bytes] | None = None
        if self._options.controller:
            self._controller = sockets.dealer(self._context, frame_max)
            sockets.connect(self._controller, self._options.controller)
            self._poller.register(self._controller, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._xpub, zmq.POLLIN)

    def wake_on(self, fd: int, action: Callable[[], None]) -> None:
        """Call ``action`` when ``fd`` becomes readable; it is then watched no more."""
        self._others[fd] = action
        self._poller.register(fd, zmq.POLLIN)

    def stop(self) -> None:
        """End after what has been received is answered."""
        self._stopping = True

    def run(self) -> None:
        """Take turns until :meth:`stop`, then drain: answer what is there, tell the clients, close."""
        while not self._stopping:
            self._wait()
            self._turn()
        deadline = time.monotonic_ns() + DRAIN_NS
        while (self._carried or self._router.poll(0)) and time.monotonic_ns() < deadline:
            self._turn()
        if self._volume.writing:
            self._volume.commit()
        goodbye = messages.command(Type.GOODBYE, 0, messages.Empty())
        self._perform([Reply(peer, (goodbye,)) for peer in self._peers])

    def close(self) -> None:
        """Close the sockets, giving the last answers a second to leave."""
        self._router.close()
        self._xpub.close()
        if self._controller is not None:
            self._controller.close(linger=0)
        self._context.term()

    # Waiting.

    def _wait(self) -> None:
        now = time.monotonic_ns()
        deadlines = [now if self._carried else self._upkeep_due]
        wanted = self._leader.next_deadline()
        if wanted is not None:
            deadlines.append(wanted)
        if self._journal_due is not None:
            deadlines.append(self._journal_due)
        timeout_ms = max(0, -(-(min(deadlines) - now) // 1_000_000))
        for ready, _ in self._poller.poll(timeout_ms):
            if isinstance(ready, int):
                self._poller.unregister(ready)
                self._others.pop(ready)()
            elif ready is self._xpub:
                self._take_subscriptions()
            elif ready is self._controller:
                self._take_assignments()

    def _take_subscriptions(self) -> None:
        # A subscription is approved for any partition id there can be: the leader may be about to get it. What is
        # not four bytes long could never match anything that is published here.
        for _ in range(self._settings.turn_messages):
            try:
                event = self._xpub.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            topic = event[1:]
            if len(topic) != messages.PARTITION.size or int.from_bytes(topic, "big") > PARTITIONS_MAX:
                continue
            if event[:1] == b"\x01" and self._subscriptions < SUBSCRIPTIONS_MAX:
                sockets.approve(self._xpub, topic)
                self._subscriptions += 1
            elif event[:1] == b"\x00":
                sockets.withdraw(self._xpub, topic)
                self._subscriptions = max(0, self._subscriptions - 1)

    def _take_assignments(self) -> None:
        assert self._controller is not None
        while True:
            try:
                frames = self._controller.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            command = messages.read(frames)
            if command.type == Type.ASSIGN:
                self._carried.append((b"", command))
            elif command.type == Type.ERROR:
                log.error("attach_refused %s", errors.from_wire(command.body.code, command.body.values))

    def _attach(self) -> None:
        if self._controller is None:
            return
        options = self._options
        attach = messages.Attach(
            options.leader, options.advertise, options.advertise_publish, self._leader.assignment_version
        )
        try:
            self._controller.send(messages.command(Type.ATTACH, 1, attach), zmq.NOBLOCK)
        except zmq.Again:
            self._upkeep_due = time.monotonic_ns() + ATTACH_NS  # Leader 0 is not up yet.

    # The turn.

    def _receive(self) -> Iterator[Incoming]:
        """Yield what waits on the ROUTER, up to the turn's bounds."""
        budget = self._settings.turn_bytes
        now = time.monotonic_ns()
        for _ in range(self._settings.turn_messages):
            try:
                parts: list[Any] = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            peer = parts[0].bytes
            self._peers[peer] = now
            first = parts[1].buffer if len(parts) > 1 else b""
            try:
                if len(parts) > REQUEST_FRAMES_MAX:
                    raise errors.ProtocolViolation(
                        problem=f"message of {len(parts)} frames", allowed=f"up to {REQUEST_FRAMES_MAX}"
                    )
                command = messages.read([part.buffer for part in parts[1:]], parts[1:])
                if command.type == Type.ASSIGN:
                    raise errors.ProtocolViolation(problem="ASSIGN from a client", allowed="from the controller alone")
            except (errors.ProtocolViolation, errors.UnsupportedVersion) as error:
                self._leader.counters.errors += 1
                request = messages.request_id(first)
                if request:
                    self._perform([Reply(peer, (messages.failure(request, error),))])
                continue
            yield peer, command
            budget -= sum(len(part) for part in parts)
            if budget <= 0:
                return

    def _turn(self) -> None:
        now = time.monotonic_ns()
        self._leader.clock(now, time.time_ns() // 1_000_000)
        if now >= self._upkeep_due:
            self._upkeep(now)
        writes: list[Incoming] = []
        reads: deque[Incoming] = deque()
        incoming = self._carried
        self._carried = deque()
        incoming.extend(self._receive())
        for entry in incoming:
            (writes if entry[1].type in self._writes else reads).append(entry)
        wanted = self._leader.next_deadline()
        journal_due = self._journal_due is not None and now >= self._journal_due
        if writes or journal_due or (wanted is not None and wanted <= now):
            self._write(writes, force=journal_due)
        effects = self._effects()
        if effects:
            self._perform(effects)
        if reads:
            self._read(reads)

    def _write(self, writes: list[Incoming], *, force: bool) -> None:
        while True:
            try:
                self._write_once(writes, force=force)
                return
            except MapFull:
                self._grow()

    def _write_once(self, writes: list[Incoming], *, force: bool) -> None:
        leader, placement, volume = self._leader, self._placement, self._volume
        txn = volume.write()
        for peer, command in writes:
            if placement is not None and command.type in placement.writes:
                placement.handle(peer, command, txn)
                assign = placement.assignment(leader.id, leader.assignment_version)
                if assign is not None:
                    leader.handle(b"", Command(Type.ASSIGN, 0, 0, assign, ()), txn)
            else:
                leader.handle(peer, command, txn)
        wanted = leader.next_deadline()
        if wanted is not None and wanted <= time.monotonic_ns():
            leader.tick(txn)
        leader.flush(txn)
        if leader.must_sync or force or (placement is not None and placement.changed):
            volume.commit()
            self._journal_due = None
        elif leader.journal:
            for entry in leader.journal:
                volume.journal(entry)
            if self._journal_due is None:
                self._journal_due = time.monotonic_ns() + JOURNAL_COMMIT_NS
            if volume.journal_bytes > JOURNAL_BYTES_MAX:
                self._journal_due = 0
        elif self._journal_due is None:
            volume.abandon()
        leader.settled()

    def _grow(self) -> None:
        """The map is full: double it, and put back what the abandoned transaction held for the journal."""
        self._volume.abandon()
        self._leader.abandon()
        self._volume.grow()
        log.info("map_grown bytes=%d", self._volume.stats().map_bytes)
        txn = self._volume.write()
        if self._placement is not None:
            self._placement.abandon(txn)
        for entry in self._volume.journaled():
            self._leader.restore(entry, txn)

    def _read(self, reads: deque[Incoming]) -> None:
        leader, placement = self._leader, self._placement
        budget = self._settings.turn_bytes
        with self._volume.read() as txn:
            while reads and budget > 0:
                peer, command = reads.popleft()
                if command.type in leader.reads:
                    leader.answer(peer, command, txn)
                elif placement is not None and command.type in placement.reads:
                    placement.answer(peer, command)
                elif command.type == Type.STATUS:
                    self._status(peer, command)
                else:
                    self._refuse(peer, command)
                effects = self._effects()
                budget -= sum(len(effect.frames[-1]) for effect in effects)
                self._perform(effects)
        self._carried.extend(reads)

    def _refuse(self, peer: bytes, command: Command) -> None:
        self._leader.counters.errors += 1
        error = errors.ProtocolViolation(
            problem=f"command {Type(command.type).name} to leader {self._leader.id}",
            allowed="requests; metadata and topic commands go to leader 0",
        )
        self._perform([Reply(peer, (messages.failure(command.request, error),))])

    def _effects(self) -> list[LeaderEffect]:
        effects = self._leader.take_effects()
        if self._placement is not None:
            effects += self._placement.take_effects()
        return effects

    def _perform(self, effects: list[LeaderEffect]) -> None:
        router, xpub = self._router, self._xpub
        for effect in effects:
            if isinstance(effect, Reply):
                if not effect.peer:
                    continue
                try:
                    router.send_multipart((effect.peer, *effect.frames), zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    self._dropped += 1  # The peer does not read; it will ask again.
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    self._peers.pop(effect.peer, None)
            else:
                xpub.send_multipart(effect.frames, zmq.NOBLOCK, copy=False)

    # Upkeep.

    def _upkeep(self, now: int) -> None:
        self._upkeep_due = now + UPKEEP_NS
        self._volume.refresh_room()
        try:
            self._volume.check_room()
        except errors.StorageFull as error:
            if self._leader.storage_full is None:
                log.warning("storage_full %s", error)
            self._leader.storage_full = error
        else:
            self._leader.storage_full = None
        if not self._volume.writing and self._volume.grow_if_needed():
            log.info("map_grown bytes=%d", self._volume.stats().map_bytes)
        self._leader.bytes_written = self._volume.stats().bytes_written
        self._attach()
        if now >= self._release_due:
            self._release_due = now + RELEASE_NS
            self._volume.release_pages()
            self._volume.reader_check()
            self._peers = {peer: seen for peer, seen in self._peers.items() if now - seen < PEER_NS}
        if len(self._peers) > PEERS_MAX:
            self._peers.clear()
        if process.resident()[1] > self._settings.memory_max_bytes:
            self._drop_connections()
        if self._alone is not None:
            self._look_for_clients(now)

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

    def _drop_connections(self) -> None:
        """Close the ROUTER and bind a new one: frees whatever strangers have filled libzmq's queues with.

        An endless multipart message passes every limit of libzmq (measured) and can only be ended so. Clients
        notice at once, connect again and repeat what was not answered.
        """
        log.warning("memory_exceeded anonymous_bytes=%d, all connections are dropped", process.resident()[1])
        self._poller.unregister(self._router)
        self._router.close(linger=0)
        self._peers.clear()
        deadline = time.monotonic_ns() + DRAIN_NS
        while True:
            self._router = sockets.router(self._context, self._settings.frame_bytes_max)
            try:
                sockets.bind(self._router, self._options.listen)
                break
            except errors.PortInUse:
                self._router.close(linger=0)
                if time.monotonic_ns() > deadline:
                    raise
                time.sleep(0.01)
        self._poller.register(self._router, zmq.POLLIN)

    def _status(self, peer: bytes, command: Command) -> None:
        options, counters, stats = self._options, self._leader.counters, self._volume.stats()
        rss, anonymous = process.resident()
        values: dict[str, int | float | str] = {
            "id": options.leader,
            "pid": os.getpid(),
            "endpoint": options.advertise,
            "publish": options.advertise_publish,
            "partitions": self._leader.led(),
            "clients": len(self._peers),
            "rss_bytes": rss,
            "rss_anon_bytes": anonymous,
            "uptime_s": (time.monotonic_ns() - self._started) / 1e9,
            "records_in": counters.records_in,
            "bytes_in": counters.bytes_in,
            "batches_in": counters.batches_in,
            "commits": stats.commits,
            "published": counters.published,
            "fetched_bytes": counters.fetched_bytes,
            "errors": counters.errors,
            "subscriptions": self._subscriptions,
            "map_bytes": stats.map_bytes,
            "used_bytes": stats.used_bytes,
        }
        frame = messages.command(Type.STATUS_IS, command.request, messages.StatusIs(values))
        self._perform([Reply(peer, (frame,))])
