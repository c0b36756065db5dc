"""What callers of services meet."""

from __future__ import annotations

from typing import ClassVar

from zfabric.errors.base import Value, ZFabricError


class ServiceUnavailable(ZFabricError):
    """No instance of the service could be asked in time; the request was not executed anywhere."""

    code = 90
    retriable = True
    template = "no instance of service {service!r}{wanted} took the request within {seconds:g} s: {detail}"
    defaults: ClassVar[dict[str, Value]] = {"wanted": "", "detail": "none is known; is one running?"}
    service: str
    seconds: float


class UnknownMethod(ZFabricError):
    """The service has no such method, or it answers in another way: as a stream, or not as one."""

    code = 91
    template = "service {service!r} has no method {method!r} {kind}; it has: {known}"
    defaults: ClassVar[dict[str, Value]] = {"kind": "for requests"}
    service: str
    method: str
    known: str


class Overloaded(ZFabricError):
    """The instance has as many requests as it takes, and refused this one; another instance may have room."""

    code = 92
    retriable = True
    template = (
        "service {service!r} refused a request: {running} run (concurrency={concurrency}), {queued} wait "
        "(queue={limit}); try again later, or start more instances"
    )
    service: str
    running: int
    concurrency: int
    queued: int
    limit: int


class ServiceDraining(ZFabricError):
    """The instance is ending and takes nothing new; the request was not executed."""

    code = 93
    retriable = True
    template = "an instance of service {service!r} is draining; repeat at another"
    service: str


class DeadlineExceeded(ZFabricError, TimeoutError):
    """The request's time was over before the instance began, or had finished with a stream; it stopped there."""

    code = 94
    template = "{what}: its time was over {state}; give it a longer timeout"
    what: str
    state: str


class CalleeLost(ZFabricError):
    """The connection to the instance broke while it had the request; whether that was executed is not known."""

    code = 95
    retriable = True
    template = "{what}: the instance at {endpoint} was lost; it may or may not have been executed"
    what: str
    endpoint: str


class RemoteError(ZFabricError):
    """The handler raised something that is none of these errors: the exception's type and text, as it has them.

    ``traceback`` is there if the caller wanted it. Of an application's own error, which is not known here, ``error`` is
    the code, and ``details`` are the values in JSON.
    """

    code = 96
    template = "{method!r} raised {kind}: {text}"
    defaults: ClassVar[dict[str, Value]] = {"traceback": "", "error": 0, "details": ""}
    method: str
    kind: str
    text: str


class WrongInstance(ZFabricError):
    """Another instance listens where the asked one did; the request was not executed."""

    code = 97
    retriable = True
    template = "instance {instance:#x} does not listen here any more"
    instance: int


class StreamStalled(ZFabricError):
    """The reader of a stream took nothing for so long that its instance gave it up, to have its worker free."""

    code = 98
    template = "{what}: nothing of it was taken for {seconds:g} s, after {chunks} chunks; read on, or raise patience="
    what: str
    seconds: float
    chunks: int


class WouldDeadlock(ZFabricError):
    """A handler asked its own instance, all of whose workers wait for such requests: nobody is left to execute one."""

    code = 99
    template = (
        "service {service!r} asks itself for {method!r}, and all workers of an instance (concurrency={concurrency}) "
        "wait for such requests; call the function itself, raise concurrency, or start more instances"
    )
    service: str
    method: str
    concurrency: int
