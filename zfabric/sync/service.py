# Generated from zfabric/aio/service.py by tools/unasync; edit that file.
"""A service as its author sees it: methods, their requests, an instance that starts, runs and drains."""

from __future__ import annotations

import inspect
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from zfabric import errors
from zfabric.core.client import arguments, tracing, vitals
from zfabric.core.client.job import Job, Method
from zfabric.core.client.responder import Responder
from zfabric.core.client.tracing import ALONE, ALONE_BYTES
from zfabric.errors.base import OWN_CODE_MIN
from zfabric.settings import CALL_BYTES_MAX, ERROR_TEXT_MAX, check_callable, check_flag, check_name, check_range
from zfabric.sync import workers
from zfabric.wire import calls
from zfabric.wire.card import ServiceCard

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.sync.pump import Pump

_log = logging.getLogger(__name__)
TRACEBACK_HEADER = "zfabric-traceback"
TRACEBACK_MAX = 20_000

Handler = Callable[["Request"], Any]
Given = TypeVar("Given", bound=Handler)
"""A handler as its application wrote it: decorating takes nothing of its type."""
"""Takes a request; returns bytes (or what the service's serializer takes), or gives chunks of them."""
Proceed = Callable[["Request"], Any]
Middleware = Callable[["Request", Proceed], Any]
"""Called around a handler: with the request, and with what goes on to the handler; returns the result."""
Serializer = Callable[[str, Any], bytes]
Deserializer = Callable[[str, bytes], Any]


class Request(msgspec.Struct, eq=False):
    """One request as its handler sees it; a struct, which is made without a step of Python's.

    Attributes:
        value: bytes, or what the service's deserializer made of them.
    """

    _job: Job
    _pump: Pump
    value: Any
    _headers: dict[str, bytes] | None = None

    __repr__ = object.__repr__

    @property
    def method(self) -> str:
        """Name of the method within the service."""
        return self._job.method.name

    @property
    def deadline(self) -> float | None:
        """Seconds on the clock of ``time.monotonic()`` when its caller stops waiting; None: never."""
        deadline_ns = self._job.deadline_ns
        return None if deadline_ns is None else deadline_ns / 1e9

    @property
    def headers(self) -> dict[str, bytes]:
        """Name to bytes, as the caller gave them; with ``traceparent``."""
        if self._headers is None:
            self._headers = calls.read_headers(self._job.headers)
        return self._headers

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, 0.0 when it is over; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self._pump.now() / 1e9)

    @property
    def cancelled(self) -> bool:
        """Whether its caller does not want it any more, has gone, or its time is over: work for it is in vain.

        Whoever has gone is noticed within two seconds or so.
        """
        job = self._job
        return job.cancelled or (job.deadline_ns is not None and job.deadline_ns <= self._pump.now())


class Service:
    """One instance of a service: ``fabric.service(name)``. A context manager, which starts and drains it.

    Attributes:
        name, version: as given. instance: its number, drawn at random.
    """

    def __init__(
        self,
        pump: Pump,
        core: Client,
        card: ServiceCard,
        *,
        concurrency: int | None,
        queue: int,
        streams: int | None,
        patience: float,
        advertise: str,
        timeout: float,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
    ) -> None:
        self.name = card.name
        self.version = card.version
        self.instance = card.instance
        self._pump = pump
        self._core = core
        self._card = card
        self._timeout = timeout
        self._serializer = serializer
        self._deserializer = deserializer
        self._middleware: list[Middleware] = []
        count = concurrency or workers.CONCURRENCY
        self._workers = workers.Workers(pump, self._work, count)
        self._responder = Responder(
            core,
            card,
            concurrency=count,
            queue=queue,
            streams=streams or max(count * 3 // 4, 1),
            wake=self._workers.wake,
            patience_ns=int(patience * 1e9),
            advertise=advertise,
        )
        self._started = False

    def __repr__(self) -> str:
        responder, version = self._responder, f" version {self.version!r}" * bool(self.version)
        state = "draining" if responder.draining else "serving" if self._started else "not started"
        state = "ended" if responder.ended else self._pump.state if self._pump.forked else state
        return f"<Service {self.name!r}{version} instance {self.instance:x}: {state}>"

    # Before it starts.

    def method(self, name: str, *, idempotent: bool = False) -> Callable[[Given], Given]:
        """Offer the decorated function under ``name``, which has no dot; callers ask for ``SERVICE.name``.

        It takes a :class:`Request` and returns bytes. A generator gives the chunks of a stream; a function that
        returns one, as a decorated generator, gives them to those who ask for a stream. What it raises goes to
        the caller: a ZFabricError as itself, one of the application's own where the caller knows its ``code`` too, and
        anything else as RemoteError. ``health`` and ``stats`` are there from the beginning: the instance
        answers them by itself, whatever its workers do, past middleware and serializers, unless they are replaced.

        Args:
            idempotent: a request may be executed twice without harm, so callers may repeat one whose answer is lost.
        """
        check_name("method", name)
        if "." in name:
            raise errors.InvalidArgument(name="method", value=repr(name), allowed="a name without '.'")
        arguments.check_method(f"{self.name}.{name}")
        check_flag("idempotent", idempotent)

        def offer(handler: Given) -> Given:
            check_callable("handler", handler, required=True)
            workers.check("handler", handler)
            stream = inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler)
            self._responder.offer(Method(name, handler, idempotent=idempotent, stream=stream))
            return handler

        return offer

    def middleware(self, hook: Middleware) -> Middleware:
        """Have each request pass through the decorated function: ``hook(request, proceed)``; the first is outermost.

        It returns ``proceed(request)``, or another result, or raises. For a stream the result is its iterator.
        """
        check_callable("middleware", hook, required=True)
        workers.check("middleware", hook)
        self._middleware.append(hook)
        return hook

    # Its life.

    @property
    def endpoint(self) -> str:
        """Where callers reach it, once it is started."""
        return self._responder.card.endpoint

    def start(self) -> None:
        """Listen, and announce it; returns when callers can find it, within the timeout that ``connect`` was given.

        Raises:
            PortInUse, Unreachable, LimitExceeded: it cannot listen, or be announced. Closed: it has ended.
        """
        try:
            self._begin()
        except BaseException:
            if self._started and not self.ended:
                self.abandon()
            raise

    def _begin(self) -> None:
        pump, responder = self._pump, self._responder
        if self.ended:
            raise errors.Closed(what=f"service {self.name!r}")
        if self._started:
            return
        with pump.lock:
            pump.check()
            self._started = True
            responder.start(pump.now(), int(self._timeout * 1e9))
        if not pump.wait(responder.listening, self._timeout):
            raise errors.RequestTimeout(what=f"start of service {self.name!r}", seconds=self._timeout)
        responder.listening.result()
        self._workers.start(responder)
        announced = responder.announced
        assert announced is not None
        if not pump.wait(announced, self._timeout + 1.0):  # It ends by itself, and says more.
            raise errors.RequestTimeout(what=f"announcement of service {self.name!r}", seconds=self._timeout)
        announced.result()

    def retire(self, *, drain: float = 10.0) -> None:
        """Begin to drain it, and wait for nothing: :meth:`stop` does, and its ``drain`` counts from here then.

        Args:
            drain: as for :meth:`stop`.
        """
        check_range("drain", drain, 0.0, 86_400.0, "s")
        pump, responder = self._pump, self._responder
        if not self._started or responder.ended or pump.forked:
            return
        with pump.lock:
            now = pump.now()
            responder.drain(now, now + int(drain * 1e9))
            pump.flush(look=False)

    def stop(self, *, drain: float = 10.0) -> None:
        """Drain and end it: nothing new is taken, and nothing that was taken fails. A second call does nothing.

        Args:
            drain: longest time in seconds that it may take; what still runs then is not answered.
        """
        check_range("drain", drain, 0.0, 86_400.0, "s")
        pump, responder = self._pump, self._responder
        if not self._started or responder.ended or pump.forked:
            return
        try:
            self.retire(drain=drain)
            pump.wait(responder.drained, drain + 1.0)
        finally:
            with pump.lock:
                responder.close(pump.now())
                pump.flush(look=False)
            self._workers.end()

    def run(self, *, drain: float = 10.0) -> None:
        """Start it, wait for SIGTERM or SIGINT, and drain: the body of a service's process. For the main thread.

        A signal counts from the beginning: one that comes while it starts ends the start, and drains what is there. A
        second SIGTERM changes nothing; a second SIGINT ends the drain.

        Raises:
            NotSupported: this is another thread, where no signal arrives. Others as :meth:`start`.
        """
        if threading.current_thread() is not threading.main_thread():
            raise errors.NotSupported(
                what="service.run()",
                where="outside the main thread, where no signal arrives",
                instead="use start() and stop(), or the service as a context manager",
            )
        self._workers.until_told(self._begin, lambda: self.stop(drain=drain))

    def abandon(self) -> None:
        """End it at once: what waits is dropped, what runs is not answered."""
        pump = self._pump
        with pump.lock, suppress(errors.Closed, errors.Forked):
            self._responder.close(pump.now())
            pump.flush(look=False)
        self._workers.end()

    @property
    def ended(self) -> bool:
        """Whether it was started and has ended."""
        return self._responder.ended

    def stats(self) -> dict[str, Any]:
        """Return counters since its start: requests by outcome, those that run and wait, and each method's."""
        with self._pump.lock:
            return vitals.stats(self._responder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # One request.

    def _work(self, job: Job) -> None:
        """Run a handler and answer; a worker's whole business with a request."""
        try:
            body = self._handle(job)
        except errors.ZFabricError as error:
            known = type(error) is errors.ZFabricError or 1 < error.code < OWN_CODE_MIN
            self._fail(job, error if known else self._remote(job, error))
        except BaseException as error:  # noqa: BLE001, RUF100 - a handler's; its caller is told
            self._fail(job, self._remote(job, error))
            _log.info("handler_failed service=%s method=%s error=%r", self.name, job.method.name, error)
        else:
            with self._pump.lock:
                reply = self._responder.answer(job, body)
                if reply is not None:
                    self._pump.post(reply)  # Before what its caller need not wait for.
                self._responder.end(job, self._pump.now())
        finally:
            tracing.current.set(None)
            self._workers.worked()

    def _handle(self, job: Job) -> Any:
        method, body, headers = job.method, job.body, job.headers
        request = Request(job, self._pump, body if type(body) is bytes else bytes(body))
        if len(headers) != ALONE_BYTES or not headers.startswith(ALONE):
            calls.read_headers(headers)  # Before anything of the user's: whoever tells of its failure reads them.
        tracing.current.set(job)
        if self._deserializer is not None:
            request.value = self._deserializer(method.name, request.value)
        handler: Any = method.handler
        if self._middleware:
            result = self._through(request, handler)
        else:
            result = handler(request)
        if type(result) is bytes and self._serializer is None and len(result) <= CALL_BYTES_MAX and not method.stream:
            return result
        if method.stream or (job.streaming and isinstance(result, workers.STREAMS)):
            self._stream(job, workers.chunks(result))
            return b""
        return self._encoded(method, result)

    def _through(self, request: Request, handler: Handler) -> Any:
        hooks = self._middleware

        def proceed(place: int, request: Request) -> Any:
            if place == len(hooks):
                return workers.settle(handler(request))
            return workers.settle(hooks[place](request, lambda request: proceed(place + 1, request)))

        return proceed(0, request)

    def _stream(self, job: Job, chunks: Iterator[Any]) -> None:
        pump = self._pump
        try:
            for chunk in chunks:
                body = self._encoded(job.method, chunk)
                with pump.lock:
                    credit = self._responder.chunk(job, body, pump.now())
                    pump.flush(look=False)
                if credit is None:
                    continue
                if pump.wait(credit, None if job.deadline_ns is None else (job.deadline_ns - pump.now()) / 1e9):
                    credit.result()
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def _encoded(self, method: Method, result: Any) -> bytes | bytearray | memoryview:
        if self._serializer is not None:
            result = self._serializer(method.name, result)
        if type(result) is not bytes and not isinstance(result, bytes | bytearray | memoryview):
            instead = ", and for whoever asks for a stream, an iterator" * isinstance(result, workers.STREAMS)
            raise TypeError(f"the handler gave {type(result).__name__}; allowed: bytes{instead}")
        body = calls.flat(result)
        if len(body) > CALL_BYTES_MAX:
            what = f"bytes that method {method.name!r} gave"
            raise errors.LimitExceeded(what=what, value=len(body), limit=CALL_BYTES_MAX, instead="give a stream")
        return body

    def _fail(self, job: Job, error: errors.ZFabricError) -> None:
        with self._pump.lock:
            self._responder.fail(job, error)
            self._responder.end(job, self._pump.now())

    def _remote(self, job: Job, error: BaseException) -> errors.RemoteError:
        wanted = b"" if not job.headers else calls.read_headers(job.headers).get(TRACEBACK_HEADER, b"")
        trace = "".join(traceback.format_exception(error))[-TRACEBACK_MAX:] if wanted else ""
        values: dict[str, Any] = {"traceback": trace}
        if isinstance(error, errors.ZFabricError) and error.code >= OWN_CODE_MIN:
            values |= {"error": error.code, "details": msgspec.json.encode(calls.plain_values(error)).decode()}
        method, kind = f"{self.name}.{job.method.name}", type(error).__name__
        return errors.RemoteError(method=method, kind=kind, text=_text(error), **values)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:ERROR_TEXT_MAX]
    except Exception:  # noqa: BLE001 - a handler's own exception, whose text may fail as well
        return "<it has no text: str() of it failed>"


__all__ = ["Request", "Service"]
