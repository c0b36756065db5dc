"""A leader that is part of an application: the same loop, in a thread of it (``&leader=thread`` in a URL).

What differs from a leader process:

- Its clients in this process reach it without a socket (``net/nearby.py``), and may take a turn themselves: what they
  send is then committed and published before their call returns, with no thread to be woken in between. That is done
  where the turn does not wait for the disk; the leader's thread does all else, and whatever others ask.
- It ends when the last fabric that asked for it has been closed, not when no client is left.
- What the process holds in memory, its logging, signals and limits are the application's, so they are left alone.

**Two threads, one lock.** The leader's thread holds it all the time but while it polls. Whoever takes a turn meanwhile
looks, before giving the lock back, whether something is left for that thread: something received by a socket, whose
descriptor may be silent now, or a deadline earlier than the one that it sleeps to; then it is woken.

**Batching.** Callers that do not wait for the outcome have an allowance of turns (``core/leader/allowance.py``). So one
that sends without a pause soon fills batches, as it would with a leader elsewhere.

**Failure.** When storage fails in a lent turn, or one of our assertions, the leader's thread ends of it, as a leader
process would; clients see it gone and start another. Any other exception may be the application's, from a handler of
signals: it goes on there, and the leader's thread takes the turn back and repeats it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import zmq

from zfabric import errors
from zfabric.core.leader.allowance import Allowance
from zfabric.core.leader.express import Express
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Incoming, Turn
from zfabric.modes.options import LeaderOptions
from zfabric.net.forking import close_copies
from zfabric.net.nearby import Lent, Nearby, NearSession
from zfabric.net.polling import SharedPoller
from zfabric.server.building import build
from zfabric.server.holding import hold
from zfabric.server.loop import Loop
from zfabric.store.volume import Volume
from zfabric.wire import messages
from zfabric.wire.messages import Produced

if TYPE_CHECKING:
    from zfabric.core.client.outbox import Express as Take

_EVENTS = int(zmq.EVENTS)
_IN = int(zmq.POLLIN)
_Message = tuple[bytes, Sequence[Any]]
_leading: set[InsideLoop] = set()
_AT_ONCE = (False,)
"""Arguments of a lock's acquire, for ``map``: that it is taken and that this is noted is one call of no Python code, so
that no handler of signals can raise in between, and leave the lock taken for ever."""


class InsideLoop(Loop):
    """The loop of a leader that shares its process with its clients.

    Args:
        lock: held by the thread that runs it, but while it polls.
    """

    def __init__(
        self, options: LeaderOptions, volume: Volume, leader: Leader, turn: Turn, near: Nearby, lock: threading.Lock
    ) -> None:
        super().__init__(options, volume, leader, turn, poller=SharedPoller(lock), near=near)
        self._poller.register(near.bell.fd, zmq.POLLIN)
        self._bell = near.bell
        self._inbox = near.inbox
        self._lock = lock
        self._sleeps_ns = 0
        self._allowance = Allowance()
        self._taken: list[_Message] = []
        self._failure: BaseException | None = None

    def forked(self) -> None:
        """This is a child's copy."""
        options = self._options
        endpoints = (options.listen, options.listen_too, options.publish, options.publish_too)
        close_copies(endpoint for endpoint in endpoints if endpoint)

    # The leader's own thread.

    def _next_deadline(self, now: int) -> int:
        self._sleeps_ns = super()._next_deadline(now)
        return self._sleeps_ns

    def _wait(self) -> None:
        super()._wait()
        if self._bell.rung:
            self._bell.hush()
        if self._failure is not None:
            raise self._failure

    def _receive(self) -> Iterator[Incoming]:
        near = self._take([])
        self._first &= not near
        yield from self._read(near)
        yield from super()._receive()

    # Whoever sends.

    def lend(self, patient: bool) -> Lent:  # noqa: FBT001 - called by every send
        """Take a turn in the calling thread for what clients of this process have sent.

        Args:
            patient: the caller waits for what comes of it.
        """
        held: list[bool] = []
        try:
            held.extend(filter(None, map(self._lock.acquire, _AT_ONCE)))
            if not held:
                return "left"
            if self._failure is not None:
                return "left"
            began = time.monotonic_ns()
            if not (patient or self._allowance.allows(began)):
                return "later"
            done = self._lend(began)
            if not patient:
                self._allowance.spent(began, time.monotonic_ns())
            return "done" if done else "left"
        except (errors.ZFabricError, AssertionError) as error:
            self._failure = error
            return "left"
        except BaseException:
            if held:
                self._turn.spoil()
                self._inbox.extendleft(reversed(self._taken))
                self._bell.ring()
            raise
        finally:
            if held:
                self._lock.release()

    def express(self, session: NearSession, partition_id: int) -> Take | None:
        """Return the express way of a session to a partition; None if there is none now."""
        held: list[bool] = []
        try:
            held.extend(filter(None, map(self._lock.acquire, _AT_ONCE)))
            way = self._turn.express(partition_id) if held else None
        finally:
            if held:
                self._lock.release()
        return None if way is None else partial(self._express, session, way)

    def _express(
        self, session: NearSession, way: Express,
        value: bytes, timestamp: int, producer: int, epoch: int, sequence: int, now: int,
    ) -> Produced | None:  # fmt: skip
        """Take a record in the calling thread, unless something waits that was there before it."""
        held: list[bool] = []
        try:
            held.extend(filter(None, map(self._lock.acquire, _AT_ONCE)))
            if not held:
                return None
            if self._inbox or self._carried or self._stopping or self._links is not None or session.over:
                return None
            if self._failure is not None or not self._allowance.allows(now):
                return None
            wall_ms = time.time_ns() // 1_000_000
            frames = way.take_record(value, timestamp, producer, epoch, sequence, wall_ms)
            if frames is None:
                return None
            try:
                self._publishing.publish(frames)
                if self._allowance.lets_go(now):
                    os.sched_yield()
            finally:  # What is there has to be told of, if by a HEAD alone.
                produced = way.taken(now, wall_ms)
            self._peers[session.peer] = now
            if not self._finish():
                self._bell.ring()
            self._allowance.spent(now, time.monotonic_ns())
            return produced
        except (errors.ZFabricError, AssertionError) as error:
            self._failure = error
            self._bell.ring()
            return None
        except BaseException:
            if held:
                self._turn.spoil()
                self._bell.ring()
            raise
        finally:
            if held:
                self._lock.release()

    def _lend(self, now: int) -> bool:
        if self._carried or self._stopping or self._links is not None:
            return False
        self._taken = []
        taken = self._take(self._taken)
        if self._volume.writing:
            self._look_at_room()  # For "os" topics.
        effects = self._turn.lend(list(self._read(taken)), now, time.time_ns() // 1_000_000)
        if effects is None:
            self._taken = []
            self._inbox.extendleft(reversed(taken))
            return False
        self._perform(effects)
        self._taken = []
        return self._finish()

    def _finish(self) -> bool:
        """Answer whoever waits for what was done; tells whether nothing is left for the leader's thread."""
        woken = deque(self._turn.woken())
        if woken:
            self._perform(self._turn.answer(woken, self._settings.turn_bytes))
            self._carried.extend(woken)
        due_ns = self._turn.next_deadline()
        return not (
            self._carried
            or (due_ns is not None and due_ns < self._sleeps_ns)
            or self._readable(self._router)
            or self._readable(self._publishing.socket)
        )

    def _readable(self, socket: zmq.Socket[bytes]) -> bool:
        return bool(cast("int", socket.get(_EVENTS)) & _IN)

    def _take(self, taken: list[_Message]) -> list[_Message]:
        """Take what clients of this process have sent, up to the turn's bounds, to the end of a list; returns it."""
        inbox, budget = self._inbox, self._settings.turn_bytes
        while inbox and budget > 0 and len(taken) < self._settings.turn_messages:
            taken.append(entry := inbox[0])
            inbox.popleft()
            budget -= sum(map(len, entry[1]))
        return taken

    def _read(self, taken: list[_Message]) -> Iterator[Incoming]:
        now = time.monotonic_ns()
        for peer, frames in taken:
            self._peers[peer] = now
            yield peer, messages.read(frames)


class Resident:
    """A leader and the thread that is given to it; ``modes/inside.py`` makes it.

    Attributes:
        served: clients were able to find it.
    """

    def __init__(self, options: LeaderOptions, near: Nearby) -> None:
        self.served = False
        self._options = options
        self._near = near
        self._lock = threading.Lock()
        self._loop: InsideLoop | None = None
        self._unwanted = False

    def run(self) -> None:
        """Lead in the calling thread until :meth:`stop`.

        Raises:
            ZFabricError, OSError: as ``holding.hold`` and ``building.build``; or why it cannot go on.
            ConfigurationError: without assertions.
        """
        if sys.flags.optimize:
            raise errors.ConfigurationError(
                source="leader=thread",
                problem="wants assertions (no -O): they guard the log",
                instead="start Python without -O, or let the leader be a process",
            )
        with ExitStack() as stack:
            loop = build(self._options, hold(self._options, stack), stack, self._make)
            if self._unwanted:
                loop.stop()
            with self._lock:
                try:
                    loop.run(self._serving)
                finally:
                    _leading.difference_update([self._loop])
                    loop.stop()
                    self._near.refuse_all()
                    self._near.withdraw()

    def stop(self) -> None:
        """Let it end in order, soon; any thread may."""
        self._unwanted = True
        if self._loop is not None:
            self._loop.stop()
        self._near.bell.ring()

    def _make(self, options: LeaderOptions, volume: Volume, leader: Leader, turn: Turn) -> InsideLoop:
        self._loop = InsideLoop(options, volume, leader, turn, self._near, self._lock)
        return self._loop

    def _serving(self) -> None:
        assert self._loop is not None
        _leading.add(self._loop)
        self._near.lend = self._loop.lend
        self._near.express = self._loop.express
        self.served = True


def _after_fork() -> None:
    for loop in _leading:  # It stays there: whatever it holds is not to be closed by a child.
        loop.forked()


os.register_at_fork(after_in_child=_after_fork)
