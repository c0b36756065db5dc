"""The pump of threads: the waiting caller drives the sockets, a parked thread does so while nobody waits.

One lock guards the core and the sockets. Whoever waits becomes the driver if nobody is: steps, then polls raw
descriptors outside the lock (see ``net/ports.py`` for why that is safe). The others wait on a condition. An I/O thread
for everything would cost 107 against 59 us a round trip (measured), so the thread here takes over only once no caller
has come by for 2 ms. While callers come and go it naps rather than parks: to wake it at each of their returns would
cost more than what they came for. As long as it finds one asleep inside each time, and there is no producer, its naps
grow to 16 ms. While somebody sends with pauses it polls: a record that waits for an acknowledgement would wait for the
end of a nap as well (400 records a second at random times: p99 of 4.5 ms rather than 1.4, measured).

KeyboardInterrupt comes out of a wait between two steps, and out of nothing else: see :mod:`zfabric.sync.interrupts`.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.net import abandoned
from zfabric.net.driver import FAR_NS
from zfabric.net.watching import Watching
from zfabric.sync import interrupts
from zfabric.sync.interrupts import held, take_over

if TYPE_CHECKING:
    from zfabric.core.client.caller import Caller
    from zfabric.core.client.errand import Errand
    from zfabric.core.client.pending import Pending
    from zfabric.core.effects import Send
    from zfabric.model import Buffer
    from zfabric.net.driver import Awaited, Driver

_PATIENCE_NS = 2_000_000
_NAP_NS = 16_000_000
_PARK_NS = 20_000_000
_FEW = 32
"""Descriptors, at 1.5 us for a look at each: a poll of them all at once has to give the interpreter away."""
_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()


class Pump:
    """Drives one client for any number of threads.

    Attributes:
        lock: held by whoever touches the core. forked: this is a child's copy.
        stepped_ns: when a caller last drove the sockets (monotonic). now: gives the time (monotonic ns).
        paced_ns: when one last came by who pauses between what it sends; 0 once one has come who does not.
    """

    now = staticmethod(time.monotonic_ns)

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        driver.may_drive()
        self.lock = threading.RLock()
        self.forked = False
        self.stepped_ns = self.paced_ns = 0
        self._owner = os.getpid()
        self._changed = threading.Condition(self.lock)
        self._work = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiters = 0
        self._driving = False
        self._polls_until_ns: int | None = None
        self._watching = Watching()
        self._attended = False
        self._closed = False
        self._over = False  # Closed or forked.
        self._poller = select.poll()
        self._poll_fds = self._poller.poll
        self._generation = -1
        self._polled: set[int] = set()
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller.register(self._wake_reader, select.POLLIN)
        self._kept = abandoned.keep(self, driver, self._wake_reader, self._wake_writer)
        _pumps.add(self)
        interrupts.guard(self)

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

    def flush(self, *, look: bool = True) -> None:
        """Send what the core wants sent and, if asked to ``look``, take what has come; call it with the lock held."""
        self.check()
        interrupts.take_over()
        self.stepped_ns = time.monotonic_ns()
        if self.paced_ns and self._driving and not self._waiters:
            look = False  # The thread does so.
        due_ns = self.driver.step(self._to_look_at() if look else ())
        if not self._waiters and not self._attended and self.driver.core.busy():
            self._attend()
        elif self._driving and (self._waiters or self._is_late(due_ns)):
            self._wake()

    def rests(self, now: int) -> bool:
        """Tell whether a :meth:`flush` would find nothing to do, unless something has come in."""
        interrupts.take_over()
        driver = self.driver
        return not (self._over or driver.core.restless or driver.effects) and now < driver.due_ns

    def _to_look_at(self) -> Sequence[int] | None:
        """Return what to look at where nobody has polled: all, or where that is much, what a poll finds at once."""
        if len(self._polled) <= _FEW:
            return None
        if self._driving:
            return ()  # Whoever polls takes what comes.
        if self._generation != self.driver.ports.generation:
            self._register()
        return self._readable(self._poll_fds(0))

    def _is_late(self, due_ns: int | None) -> bool:
        """Tell whether the thread polls older descriptors, or for longer than it may: until ``due_ns``."""
        if self._generation != self.driver.ports.generation or self.driver.core.calling:
            return True
        return due_ns is not None and (self._polls_until_ns is None or due_ns < self._polls_until_ns)

    def wait(self, pending: Pending[Any], timeout: float | None) -> bool:
        """Drive until ``pending`` is done; tells whether it is. ``timeout`` in seconds, None for ever."""
        return self._wait(pending, timeout, calm=False)

    def arrive(self, pending: Pending[Any], timeout: float | None) -> bool:
        """As :meth:`wait`, for what comes by itself: there is nothing to do before, unless the core is restless."""
        return self._wait(pending, timeout, calm=True)

    def _wait(self, pending: Pending[Any], timeout: float | None, *, calm: bool) -> bool:
        deadline_ns = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        interrupts.take_over()
        with self.lock:
            self._waiters += 1
            ready: Sequence[int] | None = ()
            try:
                if self._driving:
                    self._wake()
                elif calm:
                    ready = self._exchange(pending, deadline_ns, all_there=True)
                    if ready is None:
                        return True  # And the core is not restless: nothing is to be called back.
                if ready is not None and not self._go_on(pending, ready, deadline_ns):
                    return pending.done
            finally:
                self._waiters -= 1
                if self._waiters or not self._attended:
                    self._leave()
        if self.driver.core.calling:
            self.driver.run_callbacks()
        return True

    def do(self, caller: Caller, errand: Errand) -> Buffer:
        """Begin an errand, drive until it is done, which the core sees to, and return its result, or raise it."""
        take_over()
        core = self.driver.core
        with self.lock:
            if self._over:
                self.check()
            try:
                send = caller.begin(errand, time.monotonic_ns())
                if send is not None:
                    self.post(send)
                if errand.done:
                    self.flush(look=False)
                else:
                    self.drive(errand, self._watching)
            except BaseException:
                if not errand.done:  # Nobody waits for it any more.
                    caller.abandon(errand, time.monotonic_ns())
                    self.flush(look=False)
                raise
        if core.restless and core.calling:
            self.driver.run_callbacks()
        return errand.result()

    def post(self, send: Send) -> None:
        """Send a message, at once if nobody polls; call it with the lock held, and wait or flush after."""
        driver = self.driver
        if self._driving or self._over or driver.effects:
            driver.core.requests.effect(send)
        else:
            driver.ports.put(send)

    def drive(self, pending: Awaited, watching: Watching | None = None) -> None:
        """Drive until ``pending``, which is not, is done, with the lock held once; callbacks may be left.

        Args:
            watching: says for how long to watch for it before sleeping.
        """
        self._waiters += 1
        try:
            if self._driving:
                self._wake()
                ready: Sequence[int] | None = ()
            else:
                ready = self._exchange(pending, watching=None if self._waiters > 1 else watching)
            if ready is not None:
                self._go_on(pending, ready)
        finally:
            self._waiters -= 1
            if self._waiters or not self._attended:
                self._leave()

    def _leave(self) -> None:
        """One who waited does so no more."""
        if self._waiters:
            self._changed.notify_all()
        elif not (self._attended or self._closed) and self.driver.core.busy():
            self._attend()

    def _exchange(
        self,
        pending: Awaited,
        deadline_ns: int | None = None,
        *,
        all_there: bool = False,
        watching: Watching | None = None,
    ) -> Sequence[int] | None:
        """Wait as long as all that happens is that messages go out, and come in one by one; with the lock held once.

        Returns what a step has to look at, None if ``pending`` is done and none is wanted.

        Args:
            all_there: one for which nobody slept is followed by a step, as there may be more of them. One for which
                somebody did is handed on at once: it is nearly always alone, and to look takes a tenth of its way.
        """
        driver = self.driver
        core, ports, effects = driver.core, driver.ports, driver.effects
        while not (core.restless or effects or self._over):
            fd = ports.unread()
            if held:
                interrupts.deliver()
            due_ns = driver.due_ns
            if deadline_ns is not None:
                due_ns = min(due_ns, deadline_ns)
            self.stepped_ns = now = time.monotonic_ns()
            left_ms = (due_ns - now) / 1e6
            if left_ms <= 0:
                return ()  # Also where messages come without end.
            slept = fd is None
            if fd is None:
                found = self._sleep(left_ms, 0 if watching is None else watching.limit_ns)
                try:
                    ((fd, _),) = found
                except ValueError:  # None, or more than one.
                    return self._readable(found)
            message = ports.take(fd)
            if message is None:
                return self._readable(((fd, 0),))
            session, frames = message
            self.stepped_ns = came_ns = time.monotonic_ns()
            core.receive(session, frames, came_ns)
            if pending.done and not core.restless:
                if watching is not None and slept:
                    watching.took(came_ns - now)
                return None if slept or not all_there else ()
        return ()

    def _go_on(self, pending: Awaited, ready: Sequence[int], deadline_ns: int | None = None) -> bool:
        """Drive until ``pending`` is done, True, or ``deadline_ns`` has come; ``ready`` is what to look at first."""
        core = self.driver.core
        more: Sequence[int] | None = ready
        while more is not None:
            more = self._drive(pending, deadline_ns, more)
            if more is not None and deadline_ns is not None and time.monotonic_ns() >= deadline_ns:
                return False
            # Others have had the lock meanwhile: who has what it waits for by now must not sleep for more.
            if more == () and not (pending.done or core.restless or self._driving):
                more = self._exchange(pending, deadline_ns)
        return True

    def _drive(self, pending: Awaited, deadline_ns: int | None, ready: Sequence[int]) -> Sequence[int] | None:
        """One step and one wait, with the lock held; returns what was found readable, None if ``pending`` is done.

        The wait is left to :meth:`_exchange` if that may begin.
        """
        if self._over:
            self.check()
        self.stepped_ns = time.monotonic_ns()
        due_ns = self.driver.step(ready, pending)
        if pending.done:
            return None
        interrupts.deliver()
        if self.driver.core.calling:
            self._call_back()
            return ()
        due_ns = _earlier(due_ns, deadline_ns)
        if self._driving:
            self._changed.wait(None if due_ns is None else max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            return ()
        if not self.driver.core.restless:
            return ()
        return self._poll(time.monotonic_ns(), due_ns)

    def _call_back(self) -> None:
        """Run user callbacks outside the lock, which the caller holds once; meanwhile it counts as one who left."""
        self._waiters -= 1
        if self._waiters:
            self._changed.notify_all()
        elif self.driver.core.busy():
            self._attend()
        self.lock.release()
        try:
            self.driver.run_callbacks()
        finally:
            self.lock.acquire()
            self._waiters += 1
            if self._driving:
                self._wake()

    def _poll(self, now: int, due_ns: int | None) -> Sequence[int]:
        """Poll outside the lock, which the caller holds once; returns the descriptors found readable."""
        self._polls_until_ns = due_ns
        left_ns = FAR_NS if due_ns is None else min(max(0, due_ns - now), FAR_NS)
        return self._readable(self._sleep(left_ns / 1e6, 0))

    def _sleep(self, left_ms: float, watch_ns: int) -> Sequence[tuple[int, int]]:
        """Return what a poll finds outside the lock, which the caller holds once, after watching for so long."""
        if self._generation != self.driver.ports.generation:
            self._register()
        if self._waiters > 1:
            self._changed.notify_all()  # What has come in may be theirs.
        self._driving = True
        self.lock.release()
        try:
            if watch_ns:
                until_ns = time.monotonic_ns() + watch_ns
                while time.monotonic_ns() < until_ns:
                    found = self._poll_fds(0)
                    if found:
                        return found
            return self._poll_fds(left_ms)
        finally:
            self.lock.acquire()
            self._driving = False

    def _register(self) -> None:
        """Poll what is open now."""
        self._generation = self.driver.ports.generation
        fds = set(self.driver.fds())
        for fd in self._polled - fds:
            self._poller.unregister(fd)
        for fd in fds - self._polled:
            self._poller.register(fd, select.POLLIN)
        self._polled = fds

    def _readable(self, found: Sequence[tuple[int, int]]) -> Sequence[int]:
        """Return the descriptors that a poll has found, and be ready to be woken again."""
        ready = [fd for fd, _ in found]
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        return ready

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b"\0")
        except BlockingIOError:
            return  # It is full of wake-ups already.

    def hire(self, work: Callable[[], None], count: int) -> list[threading.Thread]:
        """Start so many threads that do ``work``, and return them; they do not keep the process from ending."""
        threads = [threading.Thread(target=work, name=f"zfabric-worker-{n}", daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def checkpoint(self) -> None:
        """Let Ctrl-C end a call here that may go on for long without waiting."""
        interrupts.deliver()

    def nudge(self) -> None:
        """Let every waiting caller look around once more."""
        with self.lock:
            if not self._over:
                self._wake()
                self._changed.notify_all()

    def _attend(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="zfabric-pump", daemon=True)
            self._thread.start()
        self._attended = True
        self._work.set()

    def _watch(self) -> None:
        try:
            self._run()
        finally:
            # Should it have died of an error, which is printed, the next caller with something to do starts another.
            with self.lock:
                self._thread = None
                self._attended = False
                self._work.clear()

    def _run(self) -> None:
        nap_ns = _PATIENCE_NS
        while True:
            self._work.wait()
            time.sleep(nap_ns / 1e9)
            spared = self._is_spared()
            nap_ns = min(2 * nap_ns, _NAP_NS) if spared else _PATIENCE_NS
            quiet_ns = time.monotonic_ns() - self.stepped_ns
            if quiet_ns < (_PARK_NS if spared else _PATIENCE_NS) and not (self._over or self._is_paced()):
                continue  # Without the lock, which who comes and goes would find taken.
            with self.lock:
                if self._over:
                    return
                quiet_ns = time.monotonic_ns() - self.stepped_ns
                if self._waiters or not (self._is_paced() or self.driver.core.busy()):
                    if quiet_ns > _PARK_NS:
                        self._attended = False
                        self._work.clear()
                        nap_ns = _PATIENCE_NS
                    continue
                if quiet_ns >= _PATIENCE_NS or self._is_paced():
                    self._take_over()
            self.driver.run_callbacks()

    def _is_spared(self) -> bool:
        """Tell whether a caller sleeps inside, and there is no producer whose records would wait for a nap to end."""
        return self._driving and self._waiters > 0 and not self.driver.core.producers

    def _is_paced(self) -> bool:
        """Tell whether somebody sends who pauses in between: what waits for an acknowledgement has to go at once."""
        return time.monotonic_ns() - self.paced_ns < _PARK_NS

    def _take_over(self) -> None:
        """Drive until something was done, with the lock held once; or for as long as somebody sends with pauses."""
        due_ns = self.driver.step(())  # The poll that follows finds what has come.
        while not (self._driving or self._waiters):
            now = time.monotonic_ns()
            paced = self._is_paced()
            ready = self._poll(now, _earlier(due_ns, now + _PARK_NS) if paced else due_ns)
            self._changed.notify_all()
            if self._over:
                return
            due_ns = self.driver.step(ready)
            if not paced or self.driver.core.calling:
                return

    def disown(self) -> None:
        """This is a child's copy: refuse everything, whatever state the parent's threads had left the locks in."""
        self.forked = self._over = True
        self._kept.detach()
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        error = errors.Forked(what="fabric", owner=self._owner, child=os.getpid())
        for producer in self.driver.core.producers:
            producer.refuse(error)

    def close(self) -> None:
        """End the thread and the sockets."""
        with self.lock:
            if self._closed or self.forked:
                return
            self._closed = self._over = True
            self._kept.detach()
            interrupts.release(self)
            self._work.set()
            self._wake()
            self._changed.notify_all()
            while self._driving:
                self._changed.wait(0.01)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)
        with self.lock:
            self.driver.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        self.driver.ended()


def _earlier(due_ns: int | None, other_ns: int | None) -> int | None:
    if due_ns is None or other_ns is None:
        return other_ns if due_ns is None else due_ns
    return min(due_ns, other_ns)


def _after_fork() -> None:
    for pump in _pumps:
        pump.disown()


os.register_at_fork(after_in_child=_after_fork)
