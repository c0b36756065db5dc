"""The workers of threads: whoever waits for a request drives the sockets, and runs the handler of what it took itself.

One worker, in front, waits within the pump; the others are parked. A request costs no change of threads then: the
worker in front takes it, answers it, and is in front again. Only a second request that is there at the same time wakes
a second worker. While the one in front runs a handler for long, the pump's own thread drives and wakes another.

Callbacks of the user's, which whoever drives may find, are run by a worker that has no request in hand and is not in
front: they may take long, and ask this very service.
"""

from __future__ import annotations

import inspect
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.sync import interrupts

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.job import Job
    from zfabric.core.client.responder import Responder
    from zfabric.sync.pump import Pump

END_S = 1.0
STREAMS = (Iterator,)
"""What a handler may return in place of being a generator."""
CONCURRENCY = 8
"""Threads, and so requests that run at once, by default."""


class _Told(BaseException):
    """A signal has come while the service starts."""


class _Ready:
    """Done whenever there is a request to take, or a callback to run: what the worker in front waits for."""

    __slots__ = ("_core", "_responder")

    def __init__(self, core: Client, responder: Responder) -> None:
        self._core = core
        self._responder = responder

    @property
    def done(self) -> bool:
        """Whether there is one, or no request will ever be."""
        return self._responder.handed is not None or self._responder.ready or self._core.calling


class Workers:
    """Of one service.

    Args:
        work: handles one request, to the end. count: of threads.
    """

    def __init__(self, pump: Pump, work: Callable[[Job], None], count: int) -> None:
        self._pump = pump
        self._work = work
        self._count = count
        self._parked = threading.Semaphore(0)
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._responder: Responder | None = None

    def start(self, responder: Responder) -> None:
        """Begin to take requests of a responder."""
        self._responder = responder
        self._threads = self._pump.hire(self._run, self._count)

    def wake(self) -> None:
        """There may be requests to take."""
        if self._idle:
            self._parked.release()

    def worked(self) -> None:
        """Nothing: the worker comes back at once, and sends what became of its request when it looks for another."""

    def end(self) -> None:
        """Nothing comes any more: wait for the workers, unless a handler goes on and on."""
        self._parked.release(self._count)
        until = time.monotonic() + END_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        with suppress(errors.Closed, errors.Forked):  # The fabric was closed under a handler that went on.
            self._loop()

    def _loop(self) -> None:
        pump, responder = self._pump, self._responder
        assert responder is not None
        core = pump.driver.core
        ready, effects = _Ready(core, responder), core.requests.effects
        while True:
            with pump.lock:
                job = responder.take(pump.now()) if responder.backlog.waiting or responder.handed is not None else None
                while job is None and not (responder.attended or responder.ended or core.calling):
                    responder.attended = True
                    try:
                        pump.drive(ready)  # Begins with the answer to the request before.
                    finally:
                        responder.attended = False
                    job = responder.take(pump.now())
                if job is None:
                    if responder.ended:
                        return
                    parks = not core.calling
                    if parks:
                        self._idle += 1
                elif responder.backlog.waiting:
                    self.wake()
                if effects:
                    pump.flush(look=False)
            if job is not None:
                self._work(job)
            elif parks:
                self._parked.acquire()
                with pump.lock:
                    self._idle -= 1
                continue
            if core.restless and core.calling:
                self._call_back()

    def _call_back(self) -> None:
        pump = self._pump
        with pump.lock:
            if pump.driver.core.requests.wants:
                pump.flush(look=False)  # Nobody waits for an answer until a callback has returned.
        pump.driver.run_callbacks()

    def until_told(self, start: Callable[[], None], stop: Callable[[], None]) -> None:
        """Start the service, wait for SIGTERM or SIGINT, which ends the start as well, and stop the service."""
        told = threading.Event()
        starting = True

        def tell(number: int, frame: FrameType | None) -> None:
            # A start is left only where nothing is half done: the signal comes again there.
            if not interrupts.hold(number, frame if starting else None):
                told.set()
                if starting:
                    raise _Told

        terminate, interrupt = signal.signal(signal.SIGTERM, tell), signal.signal(signal.SIGINT, tell)
        try:
            with suppress(_Told):
                start()
            starting = False
            told.wait()
        finally:
            starting = False
            signal.signal(signal.SIGINT, interrupt)
            try:
                stop()
            finally:
                signal.signal(signal.SIGTERM, terminate)


def check(name: str, function: Callable[..., Any]) -> None:
    """Raise InvalidArgument if it wants an event loop, which threads do not have."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        allowed = "a function without async; those with it are for zfabric.aio"
        raise errors.InvalidArgument(name=name, value=repr(function)[:100], allowed=allowed)


def settle(result: Any) -> Any:
    """Return what a handler has returned."""
    return result


def chunks(result: Any) -> Iterator[Any]:
    """Return the chunks that a streaming handler gives."""
    return iter(result)
