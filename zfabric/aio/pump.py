"""The pump of asyncio: descriptors of the sockets are watched by the running loop, timers are its own.

``zmq.asyncio`` costs half as much again (measured); a raw descriptor is edge-triggered, which ``net/ports.py`` minds.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.net import abandoned
from zfabric.net.watching import Watching

if TYPE_CHECKING:
    from zfabric.core.client.caller import Caller
    from zfabric.core.client.errand import Errand
    from zfabric.core.client.pending import Pending
    from zfabric.core.effects import Send
    from zfabric.model import Buffer
    from zfabric.net.driver import Driver


_BURST = 64
"""Messages that are taken one by one before the rest is left to a step, which lets others have their turn."""
_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()


class Pump:
    """Drives one client within the running loop. When that one is closed, the next loop that asks goes on with it.

    Attributes:
        lock: never waited for: one loop is one thread. forked: this is a child's copy.
        stepped_ns: when the sockets were last driven (monotonic). now: gives the time (monotonic ns).
        paced_ns: as the pump of threads has it; the loop attends to everybody anyway.
    """

    now = staticmethod(time.monotonic_ns)

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.lock = threading.RLock()
        self.forked = False
        self.stepped_ns = self.paced_ns = 0
        self._owner = os.getpid()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generation = -1
        self._watched: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._soon = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._hands: list[Callable[[], None]] = []
        self._asking = 0
        self._watching = Watching()
        self._awake = False
        self._awake_until_ns = 0
        self._kept = abandoned.keep(self, driver)
        _pumps.add(self)

    @property
    def state(self) -> str:
        """``open``, ``closed``, or ``forked``; takes no lock."""
        return "forked" if self.forked else "closed" if self._closed else "open"

    def check(self) -> None:
        """Raise Forked in a forked child, Closed after :meth:`close`."""
        if self.forked:
            raise errors.Forked(what="fabric", owner=self._owner, child=os.getpid())
        if self._closed:
            raise errors.Closed(what="fabric")

    def listen_endpoint(self) -> str:
        """Return where an instance of a service may listen."""
        return self.driver.listen_endpoint()

    def rests(self, now: int) -> bool:
        """Tell that a :meth:`flush` has to follow whatever was sent: the loop does the rest."""
        return False

    def flush(self, *, look: bool = True) -> None:
        """Send what the core wants sent, take what has come, and ask the loop to come back when there is more.

        Without ``look``, what has come is left to the loop.
        """
        self._step(None if look else ())

    def _step(self, ready: Iterable[int] | None) -> None:
        self.check()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move(loop)
        self.stepped_ns = time.monotonic_ns()
        due_ns = self.driver.step(ready)
        if self.driver.core.handing:
            self._hand_out()
        if self._generation != self.driver.generation:
            self._generation = self.driver.generation
            fds = set(self.driver.fds())
            for fd in self._watched:  # All of them: a number may have come back as another descriptor.
                loop.remove_reader(fd)
            for fd in fds:
                loop.add_reader(fd, self._readable, fd)
            self._watched = fds
        # One that comes too early looks around and sets another: cheaper than a new one at each step.
        if due_ns is not None and (self._timer is None or due_ns < self._timer_ns):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_ns = due_ns
            self._timer = loop.call_later(max(0.0, (due_ns - time.monotonic_ns()) / 1e9), self._late)
        self.driver.run_callbacks()

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and not self._loop.is_closed():
            raise errors.NotSupported(
                what="a fabric of one event loop",
                where="in another while the first is open",
                instead="call zfabric.aio.connect() in each",
            )
        self._loop = loop
        self._generation, self._watched, self._timer = -1, set(), None
        self._soon = self._awake = False

    def _readable(self, fd: int) -> None:
        if self._closed:
            return
        driver = self.driver
        message = driver.ports.take(fd)
        if message is None:
            self._step((fd,))
            return
        session, frames = message
        self.stepped_ns = now = time.monotonic_ns()
        driver.core.receive(session, frames, now)
        self._advance()

    def _advance(self) -> None:
        """Go on as long as all that happens is that messages go out, and come in one by one; then step."""
        driver = self.driver
        core, ports = driver.core, driver.ports
        for _ in range(_BURST):
            if core.handing:
                self._hand_out()
            if core.restless:
                break
            fd = driver.send()
            if fd is None and self._generation == ports.generation:
                return
            message = None if fd is None else ports.take(fd)
            if message is None:
                break
            session, frames = message
            core.receive(session, frames, time.monotonic_ns())
        self._step(())

    def attend(self, wake: Callable[[], None]) -> bool:
        """Have ``wake`` called at once where requests have come in; tells that this is so."""
        self._hands.append(wake)
        return True

    def leave(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` no more."""
        if wake in self._hands:
            self._hands.remove(wake)

    def _hand_out(self) -> None:
        self.driver.core.handing = False
        for wake in self._hands:
            wake()

    def _late(self) -> None:
        self._timer = None
        if not self._closed:
            self._step(())

    def post(self, send: Send) -> None:
        """Send a message, at once if no other waits; :meth:`flush_now` or :meth:`flush_soon` has to follow."""
        driver = self.driver
        requests = driver.core.requests
        if self._closed or requests.effects:
            requests.effect(send)
        else:
            driver.ports.put(send)

    def flush_now(self) -> None:
        """As :meth:`flush` without a look, and what little of that there is to do."""
        self.check()
        if asyncio.get_running_loop() is self._loop:
            self._advance()
        else:
            self._step(())

    def flush_soon(self) -> None:
        """As :meth:`flush` without a look, once for all tasks that want it in this turn of the loop."""
        self.check()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move(loop)
        if not self._soon:
            self._soon = True
            loop.call_soon(self._flush_as_said)

    def _flush_as_said(self) -> None:
        self._soon = False
        if not self._closed:
            self._advance()

    async def do(self, caller: Caller, errand: Errand) -> Buffer:
        """Begin an errand, wait until it is done, which the core sees to, and return its result, or raise it.

        If other tasks wait as well, there is one look for all of them at what has come in.
        """
        self.check()
        try:
            began_ns = time.monotonic_ns()
            send = caller.begin(errand, began_ns)
            if send is not None:
                self.post(send)
            if self._asking:
                self.flush_soon()
            else:
                self.flush_now()
            if not errand.done:
                watching = None if self._asking else self._watching
                self._asking += 1
                try:
                    if watching is not None and watching.limit_ns:
                        self._watch(began_ns + watching.limit_ns)
                    await self._wait(errand)
                finally:
                    self._asking -= 1
                if watching is not None:
                    watching.took(time.monotonic_ns() - began_ns)
        except BaseException:
            if not errand.done:  # Nobody waits for it any more.
                caller.abandon(errand, time.monotonic_ns())
                self.flush(look=False)
            raise
        return errand.result()

    def _watch(self, until_ns: int) -> None:
        """Keep the loop from sleeping until then, or until nobody waits."""
        self._awake_until_ns = until_ns
        if not self._awake:
            self._stay_awake()

    def _stay_awake(self) -> None:
        """Have the loop come back at once: in between it looks at its descriptors."""
        self._awake = self._asking > 0 and time.monotonic_ns() < self._awake_until_ns and not self._closed
        if self._awake and self._loop is not None:
            self._loop.call_soon(self._stay_awake)

    async def wait(self, pending: Pending[Any], timeout: float | None) -> bool:
        """Wait until ``pending`` is done; tells whether it is. ``timeout`` in seconds, None for ever."""
        self.flush()
        if not pending.done:
            await self._wait(pending, timeout)
        return pending.done

    async def arrive(self, pending: Pending[Any], timeout: float | None) -> bool:
        """As :meth:`wait`, for what comes by itself: there is nothing to do before, unless the core is restless."""
        self.flush_now()
        if not pending.done:
            await self._wait(pending, timeout)
        return pending.done

    async def _wait(self, pending: Pending[Any], timeout: float | None = None) -> None:
        """Wait until ``pending`` is done, or for so many seconds: by a timer alone, at half of what a scope costs."""
        loop = self._loop
        assert loop is not None
        future: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        pending.on_done(done)
        timer = None if timeout is None else loop.call_later(timeout, done)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            pending.forget(done)

    def spawn(self, body: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Begin a task; returns what cancels it, where it first waits: its beginning runs in any case."""
        assert self._loop is not None
        begun = unwanted = False

        async def run() -> None:
            nonlocal begun
            begun = True
            if unwanted:
                task.cancel()
            try:
                await body
            finally:
                self._tasks.discard(task)  # A callback of the task would cost another turn of the loop.

        task = self._loop.create_task(run())
        self._tasks.add(task)

        def cancel() -> None:
            # A task that is cancelled before its first step never runs, and nobody would say that its request is over.
            nonlocal unwanted
            unwanted = True
            if begun:
                task.cancel()

        return cancel

    def checkpoint(self) -> None:
        """Nothing: a task is cancelled where it waits."""

    def disown(self) -> None:
        """This is a child's copy: refuse everything."""
        self.forked = True
        self._kept.detach()

    async def close(self) -> None:
        """Close the sockets."""
        if self._closed:
            return
        self._closed = True
        self._kept.detach()
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            for fd in self._watched:
                self._loop.remove_reader(fd)
        self.driver.close()
        if self.driver.inside:
            await asyncio.to_thread(self.driver.ended)


def _after_fork() -> None:
    for pump in _pumps:
        pump.disown()


os.register_at_fork(after_in_child=_after_fork)
