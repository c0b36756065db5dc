"""What a handler, a caller or an instance does wrongly, or on purpose, hurts nobody else."""

from __future__ import annotations

import array
import asyncio
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import zmq

import zfabric
from tests.process.leaders import PATIENCE_S
from tests.process.test_service_life import until as aio_until
from zfabric import aio, errors
from zfabric.core.client.nonsense import NONSENSE_MAX
from zfabric.settings import CALL_BYTES_MAX
from zfabric.wire import calls


@pytest.fixture
def fabric(zfabric_fabric):
    return zfabric_fabric


@pytest.fixture
def service(fabric):
    made = fabric.service("s", concurrency=2, deserializer=lambda method, value: value if method == "m" else value / 2)

    @made.method("m")
    def method(request):
        return request.value

    yield made
    made.stop(drain=0.0)


def until(condition, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Bare(errors.ZFabricError):
    def __init__(self):
        Exception.__init__(self, "without values")


ODD = {
    "half of a pair": ValueError("caf\udce9"),
    "no text": Unspeakable(),
    "bytes": errors.NotFound(kind="user", name=b"eve\xff"),
    "an object": errors.NotFound(kind="user", name=object()),
    "a truth": errors.LimitExceeded(what="x", value=True, limit=10**30),
    "long": errors.NotFound(kind="user", name="x" * 50_000_000),
    "bare": Bare(),
}


@pytest.mark.parametrize("error", ODD.values(), ids=ODD)
def test_whatever_a_handler_raises_is_told_and_costs_no_worker_and_no_connection(fabric, service, error):
    @service.method("m")
    def method(request):
        raise error

    with service:
        for _ in range(4):
            with pytest.raises(errors.ZFabricError) as told:
                fabric.request("s.m", timeout=20.0)
            assert not isinstance(told.value, errors.RequestTimeout | errors.CalleeLost)
            assert len(str(told.value)) < 30_000
        assert until(lambda: service.stats()["running"] == 0)


def test_a_body_may_be_any_view_of_bytes(fabric, service):
    @service.method("m")
    def method(request):
        return memoryview(request.value)[::-1]

    with service:
        assert fabric.request("s.m", memoryview(b"abcdef")[::2]) == b"eca"
        assert fabric.request("s.m", memoryview(bytes(20_000))[::2]) == bytes(10_000)
        assert len(fabric.request("s.m", memoryview(array.array("d", [0.0] * 10_000)))) == 80_000
        with pytest.raises(errors.LimitExceeded):
            fabric.request("s.m", memoryview(array.array("d", bytes(CALL_BYTES_MAX + 8))))


def test_headers_that_are_none_cost_no_worker_even_if_the_value_is_none_either(fabric, service, monkeypatch):
    with service:
        with monkeypatch.context() as patched:
            patched.setattr(calls, "headers", lambda values: b"\xc1")
            for _ in range(4):
                with pytest.raises(errors.ProtocolViolation):
                    fabric.request("s.m", b"", headers={"a": b"1"}, timeout=20.0)
        assert until(lambda: service.stats()["running"] == 0)
        assert fabric.request("s.m", b"x") == b"x"


def test_requests_that_nobody_waits_for_any_more_hold_no_place_in_the_queue(fabric):
    service = fabric.service("s", concurrency=1, queue=10)
    began, go_on = threading.Event(), threading.Event()

    @service.method("m")
    def method(request):
        began.set()
        return b"%d" % go_on.wait(60)

    with service:
        first = threading.Thread(target=fabric.request, args=("s.m",), kwargs={"timeout": 60.0})
        first.start()
        try:
            assert began.wait(20)
            for _ in range(150):
                with pytest.raises(errors.RequestTimeout):
                    fabric.request("s.m", timeout=0.003)
        finally:
            go_on.set()
            first.join(20)
        assert fabric.request("s.m") == b"1"


async def test_a_task_that_is_cancelled_before_it_began_still_says_that_its_request_is_over(zfabric_url):
    async with aio.connect(zfabric_url) as fabric:
        service = fabric.service("s", concurrency=1)
        waited = []

        @service.method("m")
        async def method(request):
            waited.append(request.value)
            await asyncio.sleep(0.0 if request.value == b"short" else 600)
            return b"done"

        async with service:
            spawn = fabric._pump.spawn

            def cancelled(body):
                cancel = spawn(body)
                cancel()
                return cancel

            fabric._pump.spawn = cancelled
            with pytest.raises(errors.RemoteError) as told:
                await fabric.request("s.m", timeout=20.0)
            assert told.value.kind == "CancelledError"
            fabric._pump.spawn = spawn
            assert await aio_until(lambda: service.stats()["running"] == 0)
            assert await fabric.request("s.m", b"short", timeout=20.0) == b"done"


async def test_a_start_that_is_cancelled_leaves_no_instance_behind(zfabric_url):
    async with aio.connect(zfabric_url) as fabric:
        service = fabric.service("s")
        starting = asyncio.create_task(service.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert service.ended
        with pytest.raises(errors.Closed):
            await service.start()


def test_a_stream_that_is_forgotten_half_way_holds_no_worker(fabric):
    service = fabric.service("s", concurrency=1)

    @service.method("endless")
    def endless(request):
        while True:
            yield b"chunk"

    with service, zfabric.connect(fabric.url) as caller:
        for _ in range(3):
            for chunk in caller.stream("s.endless"):
                assert chunk == b"chunk"
                break
        assert caller.request("s.health", timeout=30.0) == b"ok"
        assert until(lambda: not service.stats()["running"])


def test_a_callback_may_ask_a_service_of_its_own_fabric(fabric, service):
    """Whoever waits runs callbacks, so it may be the worker that looks for requests."""
    fabric.topics.create("t")
    told = []

    def delivered(delivery, error):
        told.append(fabric.request("s.m", b"asked", timeout=30.0))

    with service, fabric.producer() as producer:
        for _ in range(10):
            before = len(told)
            producer.send("t", b"v", on_delivery=delivered)
            assert until(lambda before=before: len(told) > before)
    assert told == [b"asked"] * 10


@contextmanager
def strangers(endpoint, count):
    """Sockets that speak to a service as they like."""
    context = zmq.Context()
    try:
        made = [context.socket(zmq.DEALER) for _ in range(count)]
        for stranger in made:
            stranger.linger = 0
            stranger.connect(endpoint)
        yield made
    finally:
        context.destroy(linger=0)


def asked(service, number):
    return calls.request(calls.REQUEST, number, service.instance, 0, b"s.m", b"", b"x")


def test_who_talks_nonsense_a_thousand_times_is_not_listened_to_any_more(fabric, service):
    with service, strangers(service.endpoint, 2) as (fool, other):
        for _ in range(NONSENSE_MAX):
            fool.send(b"garbage")
        fool.send_multipart(asked(service, 7))
        assert until(lambda: service.stats()["garbage"] == NONSENSE_MAX + 1)
        other.send_multipart(asked(service, 8))
        assert other.poll(PATIENCE_S * 1_000)
        assert calls.read_answered(other.recv_multipart()).number == 8
        assert service.stats()["requests"] == 1
        assert not fool.poll(0)


def test_a_request_does_not_wait_until_a_flood_of_another_sender_is_over(zfabric_url):
    """A ROUTER takes from its senders in turn, so a request is among the first of what has come."""
    seen = []

    async def offer():
        async with aio.connect(zfabric_url) as fabric, fabric.service("s") as service:

            @service.method("m")
            async def method(request):
                seen.append(service.stats()["garbage"])
                return b""

            async def overtaken():
                """Whether a request was taken before the flood had been."""
                before, flood = len(seen), service.stats()["garbage"] + 900
                with strangers(service.endpoint, 2) as (fool, other):
                    for _ in range(900):
                        fool.send(b"garbage")
                    other.send_multipart(asked(service, 8))
                    arrive()
                    assert await aio_until(lambda: len(seen) > before and service.stats()["garbage"] == flood)
                return seen[-1] < flood

            for _ in range(20):
                if await overtaken():
                    return True
            return False

    def arrive():
        time.sleep(0.5)  # Nobody looks at the sockets meanwhile. On a busy machine the request may come later still.

    assert asyncio.run(offer())


async def test_a_handler_that_wants_to_exit_does_not_end_its_service(zfabric_url):
    """A SystemExit of a task would end the loop, and all other requests with it."""
    async with aio.connect(zfabric_url) as fabric:
        service = fabric.service("s")

        @service.method("exit")
        async def leave(request):
            sys.exit(3)

        @service.method("chunks")
        async def chunks(request):
            yield b"1"
            sys.exit(3)

        async with service:
            with pytest.raises(errors.RemoteError) as told:
                await fabric.request("s.exit", timeout=20.0)
            assert (told.value.kind, told.value.text) == ("SystemExit", "3")
            stream = fabric.stream("s.chunks", timeout=20.0)
            assert await anext(stream) == b"1"
            with pytest.raises(errors.RemoteError):
                await anext(stream)
            assert await fabric.request("s.health") == b"ok"


async def test_a_close_that_is_cancelled_while_it_drains_ends_all_services(zfabric_url):
    async with aio.connect(zfabric_url) as caller:
        fabric = aio.connect(zfabric_url)
        services = [fabric.service(name) for name in ("one", "two")]
        began = asyncio.Event()

        async def method(request):
            began.set()
            await asyncio.sleep(600)

        for service in services:
            service.method("m")(method)
            await service.start()
        asking = asyncio.create_task(caller.request("one.m", timeout=60.0))
        await asyncio.wait_for(began.wait(), 20)
        closing = asyncio.create_task(fabric.close())
        await asyncio.sleep(0)
        assert services[0].stats()["draining"]
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert [service.ended for service in services] == [True, True]
        with pytest.raises(errors.CalleeLost):
            await asyncio.wait_for(asking, 20)
