# Generated from zfabric/aio/calls.py by tools/unasync; edit that file.
"""The half of a fabric that has to do with services: offer one, call others."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from zfabric import errors
from zfabric.core.client import arguments, tracing
from zfabric.core.client.caller import Caller
from zfabric.core.client.errand import Errand
from zfabric.model import ServiceInstance
from zfabric.net.addresses import WILDCARDS
from zfabric.settings import CALL_BYTES_MAX, check_callable, check_flag, check_range
from zfabric.sync import workers
from zfabric.sync.service import TRACEBACK_HEADER, Deserializer, Serializer, Service
from zfabric.wire import calls
from zfabric.wire.card import DRAINING, ServiceCard

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.sync.pump import Pump

METHODS_CHECKED_MAX = 1_000
"""Names of methods that are remembered not to need another check."""
_NONE: dict[str, bytes] = {}
_Options = tuple[str, int, bool | None, float | Literal["auto"] | None]
"""Of a request: version, instance, idempotent, hedge."""
_ANY: _Options = ("", 0, None, None)


class Outgoing:
    """A call as middleware of the caller's side sees it, and may change it.

    Attributes:
        method: ``SERVICE.METHOD``. value: what is sent. headers: name to bytes. timeout: seconds.
    """

    __slots__ = ("headers", "method", "options", "timeout", "value")

    def __init__(self, method: str, value: Any, headers: dict[str, bytes], timeout: float, **options: Any) -> None:
        self.method = method
        self.value = value
        self.headers = headers
        self.timeout = timeout
        self.options = options


Proceed = Callable[[Outgoing], Any]
Middleware = Callable[[Outgoing, Proceed], Any]


class Calling:
    """What a fabric can do with services."""

    def __init__(self, pump: Pump, core: Client, timeout: float) -> None:
        self._pump = pump
        self._core = core
        self._timeout = timeout
        self._now = pump.now
        self._random = core.random
        self._services: list[Service] = []
        self._call_hooks: list[Middleware] = []
        self._caller: Caller | None = None
        self._checked_methods: set[str] = set()

    def service(
        self,
        name: str,
        *,
        version: str = "",
        concurrency: int | None = None,
        queue: int = 1_000,
        streams: int | None = None,
        patience: float = 60.0,
        weight: int = 100,
        listen: str | None = None,
        advertise: str | None = None,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
    ) -> Service:
        """Return a new instance of a service, which is to be given methods, and started.

        Args:
            version: callers may ask for one, or for its first numbers.
            concurrency: requests that run at once; 8 threads in the synchronous SDK, 100 tasks in ``zfabric.sync``.
            queue: requests that wait beside these; more are refused with Overloaded.
            streams: those of one caller that run at once, so that others find a worker whatever it reads; further ones
                wait, and fill half of ``queue`` at most. Three quarters of ``concurrency`` by default, at least one.
                All callers' streams leave one worker to other requests, unless ``streams`` is ``concurrency`` or more.
            patience: seconds that a stream waits for its reader to take something, before it ends with StreamStalled.
            weight: share of requests that it wants, in percent of a full instance's; 0: none while others want some.
            listen: ``tcp://host:port``, the port may be ``*``; by default where this fabric is reached from.
            advertise: ``tcp://host:port`` by which callers reach it, where that is not what it listens on (containers,
                address translation); the port ``*`` is the same. By default that of ``listen``, and for all interfaces
                (``tcp://0.0.0.0:7500``) the address by which this machine reaches the fabric.
            serializer: ``(method, object) -> bytes`` for results.
            deserializer: ``(method, bytes) -> object`` for values.
        """
        arguments.check_method(f"{arguments.check_service(name)}.health")
        arguments.check_version(version)
        arguments.check_listen(listen)
        arguments.check_advertise(advertise)
        if concurrency is not None:
            check_range("concurrency", concurrency, 1, 100_000, "requests")
        check_range("queue", queue, 0, 1_000_000, "requests")
        if streams is not None:
            check_range("streams", streams, 1, 100_000, "streams")
        check_range("patience", patience, 1.0, 86_400.0, "s")
        check_range("weight", weight, 0, 10_000, "percent")
        check_callable("serializer", serializer)
        check_callable("deserializer", deserializer)
        self._pump.check()
        instance = self._core.random.getrandbits(62) + 1
        card = ServiceCard(
            name=name,
            version=version,
            endpoint=listen or self._pump.listen_endpoint(),
            instance=instance,
            weight=weight,
            host=_host(),
            zone=os.environ.get("ZFABRIC_ZONE", "")[:100],
        )
        made = Service(
            self._pump,
            self._core,
            card,
            concurrency=concurrency,
            queue=queue,
            streams=streams,
            patience=patience,
            advertise=advertise or self._reached(listen),
            timeout=self._timeout,
            serializer=serializer,
            deserializer=deserializer,
        )
        self._services = [service for service in self._services if not service.ended]
        self._services.append(made)
        return made

    def _reached(self, listen: str | None) -> str:
        """Return what is announced of a service that listens on all interfaces; "" for any other."""
        if listen is None or listen.removeprefix("tcp://").rpartition(":")[0] not in WILDCARDS:
            return ""
        found = self._pump.listen_endpoint()
        return found if found.startswith("tcp://") else "tcp://127.0.0.1:*"

    def middleware(self, hook: Middleware) -> Middleware:
        """Have each ``request`` pass through the decorated function: ``hook(call, proceed)``; the first is outermost.

        It returns ``proceed(call)``, or another result, or raises.
        """
        check_callable("middleware", hook, required=True)
        workers.check("middleware", hook)
        self._call_hooks.append(hook)
        return hook

    def request(
        self,
        method: str,
        value: Any = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, bytes] | None = None,
        version: str = "",
        instance: int = 0,
        idempotent: bool | None = None,
        hedge: float | Literal["auto"] | None = None,
        traceback: bool = False,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
    ) -> Any:
        """Ask a service and return its reply, as bytes.

        Args:
            method: ``SERVICE.METHOD``. value: bytes, or what ``serializer(method, value)`` makes such of.
            timeout: seconds; the fabric's by default, and never more than the request has left that is being handled
                here. A task that outlives that request has all of its own.
            headers: name to bytes; the trace is added.
            version: only instances of this one; ``"1"`` for any 1.x. instance: only this one.
            idempotent: it may be executed twice, so it is repeated when its instance is lost; as the method says itself
                by default, once an answer of it has come.
            hedge: seconds after which a second instance is asked too, if it is idempotent; "auto": when it takes longer
                than 95 of 100 requests of the method did from here.
            traceback: have RemoteError carry the handler's.
            deserializer: ``(method, bytes) -> object`` for the reply.

        Raises:
            ServiceUnavailable, Overloaded: it was not executed. CalleeLost, RequestTimeout: it may have been.
            RemoteError: the handler failed, or ZFabricError: it raised that.
        """
        if not self._call_hooks:
            options = version, instance, idempotent, hedge
            errand = self._errand(method, value, headers, timeout, serializer, options, traceback=traceback)
            reply: Any = self._pump.do(self._caller or self._make_caller(), errand)
            if type(reply) is not bytes:
                reply = bytes(reply)
            return reply if deserializer is None else deserializer(method, reply)
        call = Outgoing(
            method,
            value,
            dict(headers or _NONE),
            self._timeout if timeout is None else timeout,
            options=(version, instance, idempotent, hedge),
            traceback=traceback,
            serializer=serializer,
        )
        reply = self._through(0, call)
        return reply if deserializer is None else deserializer(method, reply)

    def _through(self, place: int, call: Outgoing) -> Any:
        if place < len(self._call_hooks):
            hook = self._call_hooks[place]
            return workers.settle(hook(call, lambda call: self._through(place + 1, call)))
        return self._run(self._errand(call.method, call.value, call.headers, call.timeout, **call.options))

    def _run(self, errand: Errand) -> Any:
        return bytes(self._pump.do(self._caller or self._make_caller(), errand))

    def _make_caller(self) -> Caller:
        core = self._core
        with self._pump.lock:
            if core.caller is None:
                core.caller = Caller(core, _host(), os.environ.get("ZFABRIC_ZONE", ""))
            self._caller = core.caller
            return core.caller

    def stream(
        self,
        method: str,
        value: Any = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, bytes] | None = None,
        version: str = "",
        instance: int = 0,
        idempotent: bool | None = None,
        traceback: bool = False,
        serializer: Serializer | None = None,
    ) -> Stream:
        """Ask a service for a stream, and return it: an iterator of chunks, as bytes.

        It is asked for when its first chunk is, and its time counts from this call.
        The instance is at most eight chunks, or the one that exceeds 1 MiB, ahead of the reader, and gives up one that
        takes nothing for a minute (the service's ``patience``). Whoever leaves early closes it, or uses ``with``; of
        one that is forgotten the instance is told when the fabric does something next, within ten seconds.

        Args:
            timeout: seconds for the whole of it; None: without end, once an instance has it: a fabric that does not
                answer is waited for as long as by any other call.
            Others as in :meth:`request`. It is repeated at another instance only before its first chunk.
        """
        errand = self._errand(
            method,
            value,
            headers,
            1e9 if timeout is None else timeout,
            serializer,
            (version, instance, idempotent, None),
            traceback=traceback,
        )
        errand.vary(calls.REQUEST, stream=True)
        if timeout is None:
            errand.bear(self._timeout, self._now())
        with self._pump.lock:
            self._pump.check()
            return Stream(self._pump, self._caller or self._make_caller(), errand)

    def notify(
        self,
        method: str,
        value: Any = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, bytes] | None = None,
        version: str = "",
        serializer: Serializer | None = None,
    ) -> None:
        """Tell a service something; returns when it is on its way to an instance, and nothing comes back.

        Raises:
            ServiceUnavailable: no instance could be told.
        """
        options = version, 0, None, None
        errand = self._errand(method, value, headers, timeout, serializer, options, kind=calls.NOTIFY)
        errand.vary(calls.NOTIFY, stream=False)
        self._run(errand)

    def services(self, name: str | None = None) -> list[ServiceInstance]:
        """Return the instances that are announced now, of one service or of all, sorted by service and version.

        A member of the mesh that has too many for its card is asked for them; one that does not answer within a second
        is listed with those that its card shows.
        """
        core, pump = self._core, self._pump
        with pump.lock:
            pump.check()
            caller = self._caller or self._make_caller()
            now = pump.now()
            pending = core.members.fresh(now, now + int(self._timeout * 1e9))
        if not pump.wait(pending, self._timeout + 1.0):
            raise errors.RequestTimeout(what="list of services", seconds=self._timeout)
        pending.result()
        with pump.lock:
            pump.check()
            rest = caller.instances.whole(pump.now())
        pump.wait(rest, self._timeout)
        with pump.lock:
            by_name = caller.instances.cards
            cards = [card for known in by_name if name in (None, known) for card in by_name[known]]
        found = [
            ServiceInstance(
                service=card.name,
                version=card.version,
                instance=card.instance,
                endpoint=card.endpoint,
                host=card.host,
                zone=card.zone,
                weight=card.weight,
                draining=bool(card.flags & DRAINING),
            )
            for card in cards
        ]
        return sorted(found, key=lambda entry: (entry.service, entry.version, entry.instance))

    def _errand(
        self,
        method: str,
        value: Any,
        headers: Mapping[str, bytes] | None,
        timeout: float | None,
        serializer: Serializer | None = None,
        options: _Options = _ANY,
        *,
        traceback: bool = False,
        kind: int = calls.REQUEST,
    ) -> Errand:
        if serializer is not None:
            value = serializer(method, value)
        if type(value) is not bytes or len(value) > CALL_BYTES_MAX:
            value = arguments.flat(value)
        if timeout is None:
            timeout = self._timeout
        elif type(timeout) is not float or not 0.001 <= timeout <= 1e9:
            check_range("timeout", timeout, 0.001, 1e9, "s")
        if type(method) is not str or method not in self._checked_methods:
            self._check_method(method)
        now = self._now()
        deadline_ns = now + int(timeout * 1e9)
        context = tracing.current.get()
        if context is not None and not context.over and (context.deadline_ns or deadline_ns) < deadline_ns:
            deadline_ns = context.deadline_ns or deadline_ns
            timeout = max(deadline_ns - now, 0) / 1e9
        if headers or traceback:
            check_flag("traceback", traceback)
            carried = {**arguments.checked(headers or _NONE)}
            if tracing.HEADER not in carried:
                carried = {**tracing.onward(context, self._random), **carried}
            if traceback:
                carried[TRACEBACK_HEADER] = b"1"
            encoded = calls.headers(carried)
        else:
            encoded = tracing.encoded(context, self._random)
        if context is not None and kind == calls.REQUEST:
            context.asks(encoded)
        errand = Errand(method, value, encoded, deadline_ns, timeout)
        if options != _ANY:
            version, instance, idempotent, hedge = options
            arguments.check_options(version, instance, idempotent, hedge)
            errand.choose(version=version, instance=instance, idempotent=idempotent, hedge_ns=arguments.hedge_ns(hedge))
        return errand

    def _check_method(self, method: object) -> None:
        arguments.check_method(method)
        if type(method) is str and len(self._checked_methods) < METHODS_CHECKED_MAX:
            self._checked_methods.add(method)

    def _end_services(self) -> None:
        """Drain what is offered here: part of closing the fabric."""
        services, self._services = self._services, []
        try:
            for service in services:
                service.retire()
            for service in services:
                service.stop()
        finally:
            for service in services:  # Those that are left when this was interrupted: nobody could end them later.
                if not service.ended:
                    service.abandon()
            if self._caller is not None:
                with self._pump.lock:
                    self._caller.close(self._pump.now())


def _host() -> str:
    return socket.gethostname()[:100]


class Stream:
    """The chunks of a stream: an iterator, and a context manager that cancels what is left of it."""

    def __init__(self, pump: Pump, caller: Caller, errand: Errand) -> None:
        assert errand.inflow is not None, "the chunks come there"
        self._pump = pump
        self._caller = caller
        self._errand = errand
        self._inflow = errand.inflow
        self._begun = self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        pump, inflow = self._pump, self._inflow
        if self._closed:
            raise self._over()
        if not self._begun:
            self._begun = True
            with pump.lock:
                pump.check()
                self._caller.call(self._errand, pump.now())
        while True:
            with pump.lock:
                chunk = inflow.take()
                if chunk is not None:
                    if not inflow.ended:
                        self._caller.grant(self._errand, pump.now())
                        pump.flush(look=False)
                    return bytes(chunk)
                if inflow.ended:
                    raise StopIteration
                more = inflow.wait()
            pump.wait(more, None)

    def close(self) -> None:
        """Cancel it, unless it has ended; what is asked of it afterwards is Closed."""
        self._closed = True
        if self._begun and not self._errand.done and not self._pump.forked:
            with self._pump.lock:
                self._caller.give_up(self._errand, self._over(), self._pump.now())
                self._pump.flush(look=False)

    def _over(self) -> errors.Closed:
        return errors.Closed(what=f"stream {self._errand.method!r}")

    def __del__(self) -> None:
        if self._begun and not self._errand.done:
            self._caller.leave(self._errand)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["Calling", "Outgoing", "Stream"]
