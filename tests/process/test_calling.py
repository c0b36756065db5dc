"""What a service and its callers in one process are promised: middleware, traces, deadlines, streams, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

import zfabric
from zfabric import aio, errors
from zfabric.core.client import tracing
from zfabric.settings import CALL_BYTES_MAX, STREAM_WINDOW

PATIENCE_S = 60.0


def until(condition, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture
def fabric(zfabric_fabric):
    return zfabric_fabric


@pytest.fixture
def service(fabric):
    made = fabric.service("s", version="1.0")
    yield made
    made.stop(drain=0.0)


def test_middleware_wraps_requests_on_both_sides_the_first_outermost(fabric, service):
    with zfabric.connect(fabric.url) as caller:

        @service.method("m")
        def method(request):
            return request.value + b"m"

        for name, upper in ((b"a", b"A"), (b"b", b"B")):

            @service.middleware
            def inner(request, proceed, name=name):
                request.value += name
                return proceed(request) + name

            @caller.middleware
            def outer(call, proceed, name=upper):
                call.value += name
                call.headers["seen"] = call.value
                return proceed(call) + name

        with service:
            assert caller.request("s.m", b"") == b"ABabmbaBA"

        @caller.middleware
        def answer(call, proceed):
            raise errors.NotFound(kind="thing", name=call.method)

        with pytest.raises(errors.NotFound):
            caller.request("s.m", b"")


def test_a_trace_is_carried_on_to_what_a_handler_asks_and_begun_where_there_is_none(fabric, service):
    seen = []

    @service.method("outer")
    def outer(request):
        seen.append(request.headers[tracing.HEADER])
        return fabric.request("s.inner", b"")

    @service.method("inner")
    def inner(request):
        seen.append(request.headers[tracing.HEADER])
        return b""

    with service:
        fabric.request("s.outer")
        fabric.request("s.outer", headers={tracing.HEADER: b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00"})
    assert all(map(tracing.valid, seen))
    assert seen[0][:35] == seen[1][:35] != seen[2][:35]
    assert seen[0] != seen[1]
    assert seen[2][3:35] == b"a" * 32 == seen[3][3:35]
    assert seen[3][-2:] == b"00"


def test_the_time_that_is_left_travels_with_a_request_and_with_those_that_its_handler_makes(fabric, service):
    left = []

    @service.method("outer")
    def outer(request):
        left.append(request.remaining)
        return fabric.request("s.inner", b"", timeout=600.0)

    @service.method("inner")
    def inner(request):
        left.append(request.remaining)
        return b""

    with service:
        fabric.request("s.outer", timeout=60.0)
    assert 60.0 >= left[0] >= left[1] > 0.0


def test_a_request_whose_time_is_over_before_a_worker_has_it_is_not_executed(fabric):
    executed, go_on = [], threading.Event()
    service = fabric.service("s", concurrency=1)

    @service.method("wait")
    def wait(request):
        go_on.wait(PATIENCE_S)
        return b""

    @service.method("late")
    def late(request):
        executed.append(request.value)
        return b""

    with service, zfabric.connect(fabric.url) as other:
        assert fabric.request("s.health") == b"ok"  # Later it might be too late before it is connected.
        waiting = threading.Thread(target=other.request, args=("s.wait",), kwargs={"timeout": PATIENCE_S})
        waiting.start()
        assert until(lambda: service.stats()["running"] == 1)
        with pytest.raises(errors.RequestTimeout):
            fabric.request("s.late", b"x", timeout=0.1)
        go_on.set()
        waiting.join(PATIENCE_S)
        assert fabric.request("s.late", b"y") == b""
    assert executed == [b"y"]


def test_a_stream_is_ahead_of_its_reader_by_its_window_only_and_ends_when_it_is_left(fabric, service):
    given, ended = [], threading.Event()

    @service.method("numbers")
    def numbers(request):
        try:
            for number in range(1_000_000):
                given.append(number)
                yield b"%d" % number
        finally:
            ended.set()

    with service, zfabric.connect(fabric.url) as caller:
        with caller.stream("s.numbers") as stream:
            assert next(stream) == b"0"
            assert until(lambda: len(given) == STREAM_WINDOW)
            time.sleep(0.1)
            assert len(given) == STREAM_WINDOW
            assert [next(stream) for _ in range(100)] == [b"%d" % number for number in range(1, 101)]
        assert ended.wait(20)
        assert until(lambda: service.stats()["running"] == 0)


def test_a_stream_that_was_closed_gives_nothing_more_and_says_so(fabric, service):
    """Neither the chunks that were there already, nor to a thread that waits for the next one."""
    going_on = threading.Event()

    @service.method("two")
    def two(request):
        yield b"1"
        yield b"2"
        going_on.wait(60)

    with service:
        stream = fabric.stream("s.two")
        assert next(stream) == b"1"
        stream.close()
        with pytest.raises(errors.Closed):
            next(stream)
        with fabric.stream("s.two") as stream:
            told = []

            def read():
                try:
                    told.extend(stream)
                except errors.ZFabricError as error:
                    told.append(error)

            reader = threading.Thread(target=read)
            reader.start()
            assert until(lambda: len(told) == 2)
        reader.join(20)
        assert isinstance(told[2], errors.Closed)
        going_on.set()


def test_what_a_stream_raises_comes_after_its_chunks(fabric, service):
    @service.method("broken")
    def broken(request):
        yield b"1"
        yield b"2"
        raise ValueError("no more")

    with service:
        chunks = []
        with pytest.raises(errors.RemoteError) as raised:
            chunks.extend(fabric.stream("s.broken"))
        assert raised.value.text == "no more"
        stream = fabric.stream("s.broken")
        assert [next(stream), next(stream)] == [b"1", b"2"]
        with pytest.raises(errors.RemoteError):
            next(stream)
        with pytest.raises(errors.UnknownMethod) as unknown:
            fabric.request("s.broken")
        assert "one reply" in unknown.value.kind
        assert "use stream()" in unknown.value.kind, "what to do instead"


def test_a_method_with_one_reply_may_be_read_as_a_stream(fabric, service):
    @service.method("one")
    def one(request):
        return b"whole"

    with service:
        assert list(fabric.stream("s.one")) == [b"whole"]
        assert list(fabric.stream("s.health")) == [b"ok"]


def test_bodies_may_be_large_but_not_too_large(fabric, service):
    @service.method("echo")
    def echo(request):
        return request.value + b"!"

    with service, zfabric.connect(fabric.url) as caller:
        for size in (0, 4_095, 4_096, 4_097, 100_000, CALL_BYTES_MAX - 1):
            assert caller.request("s.echo", bytes(size), timeout=60.0) == bytes(size) + b"!"
        with pytest.raises(errors.LimitExceeded):
            caller.request("s.echo", bytes(CALL_BYTES_MAX + 1))
        with pytest.raises(errors.LimitExceeded) as given:
            caller.request("s.echo", bytes(CALL_BYTES_MAX), timeout=60.0)
        assert given.value.value == CALL_BYTES_MAX + 1
        assert caller.request("s.echo", b"?") == b"?!"


def test_serializers_work_on_both_sides(fabric):
    service = fabric.service("s", serializer=lambda _, value: b"%d" % value, deserializer=lambda _, value: int(value))

    @service.method("double")
    def double(request):
        return 2 * request.value

    with service:
        found = fabric.request(
            "s.double", 21, serializer=lambda _, v: str(v).encode(), deserializer=lambda _, v: int(v)
        )
        assert found == 42
        with pytest.raises(errors.RemoteError) as wrong:
            fabric.request("s.double", b"x")
        assert wrong.value.kind == "ValueError"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("s",), {}),
        ((".m",), {}),
        (("s.",), {}),
        ((5,), {}),
        (("s.m", "text"), {}),
        (("s.m",), {"timeout": 0}),
        (("s.m",), {"timeout": "1"}),
        (("s.m",), {"headers": {"a": "b"}}),
        (("s.m",), {"headers": {str(n): b"" for n in range(200)}}),
        (("s.m",), {"headers": {"a": bytes(70_000)}}),
        (("s.m",), {"headers": ["a"]}),
        (("s.m",), {"headers": {"\ud800": b""}}),
        (("s.m",), {"headers": {"\U0001f600" * 10_000: bytes(30_000)}}),
        (("s.\ud800",), {}),
        (("s.m",), {"version": 1}),
        (("s.m",), {"version": "\ud800"}),
        (("s.m",), {"version": "1.0 beta"}),
        (("s.m",), {"instance": "1"}),
        (("s.m",), {"instance": -1}),
        (("s.m",), {"hedge": -1}),
        (("s.m",), {"hedge": "automatic"}),
        (("s.m",), {"idempotent": 1}),
    ],
)
def test_a_wrong_argument_is_named(fabric, arguments, options):
    with pytest.raises(errors.InvalidArgument):
        fabric.request(*arguments, **options)


def test_a_hedged_request_takes_the_first_answer_and_cancels_the_other(fabric):
    """Whichever of two instances is asked first, if it is the slow one."""
    slow, fast = fabric.service("s", version="1"), fabric.service("s", version="1")
    cancelled = threading.Event()

    @slow.method("m", idempotent=True)
    def wait(request):
        if request.value == b"hedge" and until(lambda: request.cancelled):
            cancelled.set()
        return b"slow"

    @fast.method("m", idempotent=True)
    def answer(request):
        return b"fast"

    with slow, fast, zfabric.connect(fabric.url) as caller:
        assert until(lambda: len(caller.services("s")) == 2)

        def both():
            return len({caller.request("s.m") for _ in range(20)}) == 2

        assert until(both)
        while not cancelled.is_set():
            assert caller.request("s.m", b"hedge", hedge=0.01, timeout=20.0) == b"fast"
            time.sleep(0.002)


def test_notifications_are_executed_and_nothing_comes_back(fabric, service):
    seen = []

    @service.method("tell")
    def tell(request):
        seen.append(request.value)
        raise ValueError("nobody hears this")

    with service:
        for number in range(100):
            fabric.notify("s.tell", b"%d" % number)
        assert until(lambda: len(seen) == 100)
    assert sorted(seen, key=int) == [b"%d" % number for number in range(100)]
    with pytest.raises(errors.ServiceUnavailable):
        fabric.notify("nobody.tell", timeout=0.2)


def test_closing_the_fabric_drains_its_services(fabric):
    with zfabric.connect(fabric.url) as offering:
        service = offering.service("s")
        entered = threading.Event()

        @service.method("slow")
        def slow(request):
            entered.set()
            time.sleep(0.2)
            return b"done"

        service.start()
        answers = []
        asking = threading.Thread(target=lambda: answers.append(fabric.request("s.slow")))
        asking.start()
        assert entered.wait(20)
    asking.join(20)
    assert answers == [b"done"]
    assert until(lambda: fabric.services("s") == [])


def test_a_service_that_cannot_be_announced_or_cannot_listen_says_so(fabric):
    with zfabric.connect("zf://127.0.0.1:9", timeout=0.3) as nowhere:
        service = nowhere.service("s")
        with pytest.raises((errors.Unreachable, errors.RequestTimeout)):
            service.start()
        assert service.ended
        with pytest.raises(errors.Closed):
            service.start()
    with fabric.service("s", listen="tcp://127.0.0.1:*") as first, pytest.raises(errors.PortInUse) as taken:
        fabric.service("s", listen=first.endpoint).start()
    assert taken.value.endpoint == first.endpoint
    with pytest.raises(errors.PortInUse):
        fabric.service("s", listen="tcp://nowhere.invalid:*").start()


# The asynchronous SDK.


async def test_asynchronous_handlers_run_side_by_side(zfabric_url):
    async with aio.connect(zfabric_url) as fabric, aio.connect(zfabric_url) as caller:
        service = fabric.service("s")
        together = asyncio.Barrier(10)

        @service.method("meet")
        async def meet(request):
            await together.wait()
            return request.value

        @service.method("plain")
        def plain(request):
            return b"plain"

        @service.method("numbers")
        async def numbers(request):
            for number in range(50):
                await asyncio.sleep(0)
                yield b"%d" % number

        async with service:
            met = await asyncio.gather(*(caller.request("s.meet", b"%d" % number) for number in range(10)))
            assert met == [b"%d" % number for number in range(10)]
            assert await caller.request("s.plain") == b"plain"
            assert [chunk async for chunk in caller.stream("s.numbers")] == [b"%d" % number for number in range(50)]


async def test_cancelling_a_request_cancels_its_handler(zfabric_url):
    async with aio.connect(zfabric_url) as fabric, aio.connect(zfabric_url) as caller:
        service = fabric.service("s")
        began, ended = asyncio.Event(), asyncio.Event()

        @service.method("wait")
        async def wait(request):
            began.set()
            try:
                await asyncio.sleep(600)
            finally:
                ended.set()

        async with service:
            asking = asyncio.create_task(caller.request("s.wait", timeout=60.0))
            await asyncio.wait_for(began.wait(), 20)
            asking.cancel()
            await asyncio.wait_for(ended.wait(), 20)
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await caller.request("s.health") == b"ok"


@pytest.mark.parametrize(
    "listen", [5, b"tcp://127.0.0.1:*", "tcp://\ud800:1", "x", "tcp://h", "tcp://h:99999", "tcp://h:1x", ""]
)
def test_a_wrong_endpoint_of_a_service_is_named(fabric, listen):
    with pytest.raises(errors.InvalidArgument):
        fabric.service("s", listen=listen)


@pytest.mark.parametrize(
    "advertise",
    [5, "host:1", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://0.0.0.0:1", f"tcp://{'h' * 101}:1"],
)
def test_a_wrong_address_to_advertise_is_named(fabric, advertise):
    with pytest.raises(errors.InvalidArgument):
        fabric.service("s", advertise=advertise)


@pytest.mark.parametrize(
    ("listen", "advertise", "told"),
    [
        ("tcp://0.0.0.0:*", None, "tcp://127.0.0.1:"),
        ("tcp://*:*", None, "tcp://127.0.0.1:"),
        ("tcp://0.0.0.0:*", "tcp://localhost:*", "tcp://localhost:"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.2:*", "tcp://127.0.0.2:"),
        ("tcp://127.0.0.1:*", None, "tcp://127.0.0.1:"),
        ("tcp://127.0.0.1:*", f"tcp://{'h' * 100}:65535", "tcp://hhh"),
    ],
)
def test_what_a_service_announces_is_where_callers_reach_it(fabric, listen, advertise, told):
    with fabric.service("s", listen=listen, advertise=advertise) as service:
        assert [instance.endpoint for instance in fabric.services("s")] == [service.endpoint]
        assert service.endpoint.startswith(told)
        assert int(service.endpoint.rpartition(":")[2]) > 0
        if advertise is None or "localhost" in advertise:
            assert fabric.request("s.health") == b"ok"


def test_a_port_may_be_advertised_that_is_another_one_than_it_listens_on(fabric):
    with fabric.service("s", listen="tcp://127.0.0.1:*", advertise="tcp://gateway.example:7500"):
        assert [instance.endpoint for instance in fabric.services("s")] == ["tcp://gateway.example:7500"]


def test_a_method_that_could_not_be_asked_for_is_not_offered(fabric):
    with pytest.raises(errors.InvalidArgument):
        fabric.service("s" * 128)
    longest = fabric.service("s" * 100)
    longest.method("m" * 27)(lambda request: b"")
    with pytest.raises(errors.InvalidArgument):
        longest.method("m" * 28)
    with longest:
        assert fabric.request(f"{'s' * 100}.{'m' * 27}") == b""


async def test_a_task_that_outlives_its_request_has_time_of_its_own_and_the_same_trace(zfabric_url):
    async with aio.connect(zfabric_url) as fabric:
        service, tasks, over = fabric.service("s"), [], asyncio.Event()

        @service.method("begin")
        async def begin(request):
            async def go_on():
                await over.wait()
                return await fabric.request("s.trace", timeout=60.0)

            tasks.append(asyncio.create_task(go_on()))
            return request.headers[tracing.HEADER]

        @service.method("trace")
        async def trace(request):
            assert request.remaining > 30.0
            return request.headers[tracing.HEADER]

        async with service:
            first = None
            while first is None:  # On a busy machine the time of the first ones may be over too soon.
                with contextlib.suppress(errors.RequestTimeout, errors.ServiceUnavailable):
                    first = await fabric.request("s.begin", timeout=0.2)
            await asyncio.sleep(0.3)
            over.set()
            assert (await tasks[-1])[:35] == first[:35]
            await asyncio.gather(*tasks)


@pytest.mark.parametrize("version", ["1.0 beta", "1\n", "ä", "x" * 101, 1])
def test_a_version_that_could_not_be_announced_is_refused_when_it_is_given(fabric, version):
    with pytest.raises(errors.InvalidArgument) as wrong:
        fabric.service("s", version=version)
    assert wrong.value.name == "version"
