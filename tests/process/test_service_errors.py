"""What handlers raise and are, as callers and authors of services are told: errors of applications, wrong kinds."""

from __future__ import annotations

import functools
import pickle

import pytest

import zfabric
from zfabric import aio, errors


class OutOfStock(zfabric.ZFabricError):
    code = 1_001
    template = "{count} of {item!r} are left"


class Nameless(zfabric.ZFabricError):
    template = "no code of its own: {item}"


class Particular(zfabric.NotFound):
    """One of ours in a sense of the application's."""


UNKNOWN = type("Unknown", (zfabric.ZFabricError,), {"code": 1_002, "template": "{item} is not known there"})
del errors.base.OWN[1_002]  # As in a caller's process that has not defined it.


@pytest.fixture
def fabric(zfabric_fabric):
    return zfabric_fabric


@pytest.fixture
def service(fabric):
    made = fabric.service("s", version="1.0")
    yield made
    made.stop(drain=0.0)


def told(fabric, **options):
    with pytest.raises(errors.ZFabricError) as caught:
        fabric.request("s.m", **options)
    return caught.value


def raising(service, error):
    @service.method("m")
    def method(request):
        raise error

    return service


def test_an_error_of_the_application_arrives_as_itself_where_the_caller_knows_it(fabric, service):
    with raising(service, OutOfStock(item="hat", count=0)):
        error = told(fabric, traceback=True)
    assert type(error) is OutOfStock
    assert (error.item, error.count, str(error)) == ("hat", 0, "0 of 'hat' are left")
    assert "raise error" in error.__notes__[0]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("raised", "code", "details"),
    [(UNKNOWN(item="hat"), 1_002, '{"item":"hat"}'), (Nameless(item="hat"), 0, "")],
    ids=["unknown", "nameless"],
)
def test_one_that_the_caller_does_not_know_is_told_by_its_name_and_its_text(fabric, service, raised, code, details):
    with raising(service, raised):
        error = told(fabric)
    assert isinstance(error, errors.RemoteError)
    assert (error.kind, error.text) == (type(raised).__name__, str(raised))
    assert (error.values["error"], error.values["details"]) == (code, details)


def test_one_of_ours_and_its_kin_arrive_as_ours(fabric, service):
    for raised in (Particular(kind="user", name="eve"), zfabric.NotFound(kind="user", name="eve")):
        with raising(service, raised):
            error = told(fabric)
        assert (type(error), error.values) == (zfabric.NotFound, {"kind": "user", "name": "eve"})
        service = fabric.service("s")
    with raising(service, zfabric.ZFabricError(message="no more to say")):
        assert str(told(fabric)) == "no more to say"


def test_values_that_do_not_fit_the_application_s_class_make_it_a_remote_error(fabric, service):
    class Strict(zfabric.ZFabricError):
        code = 1_003

        def __init__(self, *, item):
            super().__init__(message=f"{item} is wrong", item=item)

    with raising(service, Strict(item="hat")):
        error = told(fabric)
    assert (type(error), error.kind, error.text) == (errors.RemoteError, "Strict", "hat is wrong")


@pytest.mark.parametrize("code", [1, 999, 1 << 31, True, "1001", 1_001])
def test_a_code_is_the_application_s_own(code):
    with pytest.raises(errors.InvalidArgument):
        type("Wrong", (zfabric.ZFabricError,), {"code": code})
    assert errors.base.OWN[1_001] is OutOfStock


def test_a_class_may_be_defined_again_as_when_its_module_is_loaded_again(monkeypatch):
    monkeypatch.setitem(errors.base.OWN, 1_001, OutOfStock)
    again = type("OutOfStock", (zfabric.ZFabricError,), {"code": 1_001, "__module__": __name__})
    assert errors.base.OWN[1_001] is again


def test_a_synchronous_service_says_at_once_that_it_has_no_event_loop(fabric, service):
    async def handler(request):
        return b""

    async def chunks(request):
        yield b""

    for wrong in (handler, chunks):
        with pytest.raises(errors.InvalidArgument, match=r"zfabric\.aio"):
            service.method("m")(wrong)
    for side in (service, fabric):
        with pytest.raises(errors.InvalidArgument, match=r"zfabric\.aio"):
            side.middleware(handler)


def logged(handler):
    @functools.wraps(handler)
    def inner(request):
        return handler(request)

    return inner


def test_a_decorated_generator_gives_its_chunks_to_those_who_ask_for_a_stream(fabric, service):
    @service.method("m")
    @logged
    def method(request):
        yield b"a"
        yield b"b"

    with service:
        assert list(fabric.stream("s.m")) == [b"a", b"b"]
        with pytest.raises(errors.RemoteError, match="asks for a stream"):
            fabric.request("s.m")


async def test_a_decorated_asynchronous_generator_does_too(zfabric_url):
    async with aio.connect(zfabric_url) as fabric, fabric.service("s") as service:

        @service.method("m")
        @logged
        async def method(request):
            yield b"a"
            yield b"b"

        assert [chunk async for chunk in fabric.stream("s.m")] == [b"a", b"b"]
