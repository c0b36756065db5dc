"""The workers of asyncio: a task for each request, as many as may run at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zfabric.aio.pump import Pump
    from zfabric.core.client.job import Job
    from zfabric.core.client.responder import Responder

STREAMS = (AsyncIterator, Iterator)
"""What a handler may return in place of being a generator."""
CONCURRENCY = 100
"""Requests that run at once by default: tasks cost little."""
PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt)
"""What concerns the task or the loop, whoever has raised it. Not SystemExit: a handler does not end its service."""


class Workers:
    """Of one service.

    Args:
        work: handles one request, to the end.
    """

    def __init__(self, pump: Pump, work: Callable[[Job], Coroutine[Any, Any, None]], count: int) -> None:
        self._pump = pump
        self._work = work
        self._responder: Responder | None = None

    def start(self, responder: Responder) -> None:
        """Begin to take requests of a responder."""
        self._responder = responder
        responder.prompt = self._pump.attend(self.wake)

    def wake(self) -> None:
        """There may be requests to take."""
        responder = self._responder
        while responder is not None and (job := responder.take(self._pump.now())) is not None:
            job.cancel = self._pump.spawn(self._work(job))

    def worked(self) -> None:
        """A request is done with: send what became of it."""
        if self._responder is None:
            return
        if self._responder.running:
            self._pump.flush_soon()  # With what becomes of others.
        else:
            self._pump.flush_now()

    def end(self) -> None:
        """Nothing comes any more."""
        self._responder = None
        self._pump.leave(self.wake)

    async def until_told(
        self, start: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Start the service, wait for SIGTERM or SIGINT, which ends the start as well, and stop the service."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def tell() -> None:
            told.set()
            starting.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tell)
        starting = loop.create_task(start())
        try:
            await asyncio.wait((starting,))
            if not starting.cancelled():
                starting.result()
            await told.wait()
        finally:
            starting.cancel()
            loop.remove_signal_handler(signal.SIGINT)
            try:
                await stop()
            finally:
                loop.remove_signal_handler(signal.SIGTERM)


async def settle(result: Any) -> Any:
    """Return what a handler has returned, once it is there."""
    return await result if isinstance(result, Awaitable) else result


def chunks(result: Any) -> AsyncIterator[Any]:
    """Return the chunks that a streaming handler gives, whether it is asynchronous or not."""
    return result if isinstance(result, AsyncIterator) else _each(result)


async def _each(result: Any) -> AsyncIterator[Any]:
    for chunk in result:
        yield chunk
