"""Handlers that ask their own service: told at once when nobody is left to answer them."""

from __future__ import annotations

import asyncio
import threading

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S
from tests.process.test_sdk import until
from zfabric import aio, errors


def test_a_handler_that_waits_for_its_own_only_worker_is_told_at_once(zfabric_fabric):
    service = zfabric_fabric.service("s", concurrency=1)

    @service.method("outer")
    def outer(request):
        return zfabric_fabric.request("s.inner", timeout=PATIENCE_S)

    @service.method("inner")
    def inner(request):
        return b"inner"

    with service, zfabric.connect(zfabric_fabric.url) as caller:
        for _ in range(3):
            with pytest.raises(errors.WouldDeadlock) as told:
                caller.request("s.outer", timeout=PATIENCE_S)
            assert (told.value.service, told.value.method, told.value.concurrency) == ("s", "inner", 1)
        assert caller.request("s.inner") == b"inner"


def test_a_handler_may_ask_its_own_service_while_a_worker_is_free_or_will_be(zfabric_fabric):
    """Of two that ask at the same time one is told, and the other one answered."""
    service = zfabric_fabric.service("s", concurrency=2)
    both = threading.Barrier(2)

    @service.method("outer")
    def outer(request):
        if request.value:
            both.wait(PATIENCE_S)
        return zfabric_fabric.request("s.inner", timeout=PATIENCE_S)

    @service.method("inner")
    def inner(request):
        return b"inner"

    found = []

    def ask(caller):
        try:
            found.append(caller.request("s.outer", b"both", timeout=PATIENCE_S))
        except errors.WouldDeadlock:
            found.append(b"told")

    with service, zfabric.connect(zfabric_fabric.url) as caller:
        assert caller.request("s.outer") == b"inner"
        asking = [threading.Thread(target=ask, args=(caller,)) for _ in range(2)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(PATIENCE_S)
        assert sorted(found) == [b"inner", b"told"]
        assert until(lambda: not any(method.asked for method in service._responder.methods.values()), PATIENCE_S)


async def test_another_instance_takes_what_would_wait_for_itself(zfabric_url):
    async with aio.connect(zfabric_url) as first, aio.connect(zfabric_url) as second:
        for fabric in (first, second):
            service = fabric.service("s", concurrency=1)

            async def outer(request, fabric=fabric, name=b"%x" % service.instance):
                return name + b" " + await fabric.request("s.inner", timeout=PATIENCE_S)

            async def inner(request, name=b"%x" % service.instance):
                return name

            service.method("outer")(outer)
            service.method("inner")(inner)
            await service.start()
        for fabric in (first, second):
            seen = set()
            async with asyncio.timeout(PATIENCE_S):
                while len(seen) < 2:
                    seen.add(await fabric.request("s.inner"))
        for fabric in (first, second):
            for _ in range(20):
                answer = await fabric.request("s.outer", timeout=PATIENCE_S)
                assert set(answer.split()) == seen, "the one that asks and the other one"


def test_requests_of_others_wait_for_a_worker_as_ever(zfabric_fabric):
    """Only a handler's own request makes a circle: not one with the same trace, for instance."""
    service = zfabric_fabric.service("s", concurrency=1)
    go_on = threading.Event()
    trace = {"traceparent": b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"}

    @service.method("wait")
    def wait(request):
        return b"%d" % go_on.wait(PATIENCE_S)

    with service, zfabric.connect(zfabric_fabric.url) as caller:
        told = []
        asking = [
            threading.Thread(target=lambda: told.append(caller.request("s.wait", headers=trace, timeout=PATIENCE_S)))
            for _ in range(3)
        ]
        for thread in asking:
            thread.start()
        assert until(lambda: service.stats()["waiting"] == 2, PATIENCE_S)
        go_on.set()
        for thread in asking:
            thread.join(PATIENCE_S)
        assert told == [b"1"] * 3
