"""The asynchronous twin against real leader processes."""

from __future__ import annotations

import asyncio
import time

import pytest

import zfabric.aio
from zfabric import errors
from zfabric.settings import LeaderSettings

FAST = LeaderSettings(grace_ms=100)


async def test_a_hundred_sends_are_gathered_and_read(zfabric_url):
    async with zfabric.aio.connect(zfabric_url, settings=FAST) as fabric:
        await fabric.topics.create("t", partitions=2)
        async with fabric.producer() as producer:
            deliveries = [await producer.send("t", b"%d" % number, key=b"k") for number in range(100)]
            done = await asyncio.gather(*(delivery.result(timeout=60) for delivery in deliveries))
            assert [meta.offset for meta in done] == list(range(100))
            assert await producer.send_many("t", [b"x"] * 500) == 500
        async with fabric.consumer("t", group="g") as consumer:
            seen = 0
            async for _ in consumer:
                seen += 1
                if seen == 600:
                    break
            await consumer.commit()
            assert sum(consumer.position.values()) == 600


async def test_a_host_whose_name_leads_nowhere_is_said_to_have_no_address():
    async with zfabric.aio.connect("zf://nowhere.invalid:7400", timeout=1.0) as fabric:
        with pytest.raises(errors.Unreachable) as refused:
            await fabric.topics.list()
    assert "no address of the host 'nowhere.invalid' was found" in str(refused.value)


async def test_a_delivery_is_awaited_as_its_result_is(zfabric_url):
    """Of the asynchronous twin alone: whoever awaits the other one is told so by Python."""
    async with zfabric.aio.connect(zfabric_url, settings=FAST) as fabric:
        await fabric.topics.create("t")
        async with fabric.producer() as producer:
            delivery = await producer.send("t", b"0")
            assert await delivery == await delivery.result()
            both = await asyncio.gather(await producer.send("t", b"1"), await producer.send("t", b"2"))
            assert [done.offset for done in both] == [1, 2]
            lost = await producer.send("t", b"3")
            producer.abandon()
            with pytest.raises(errors.Closed):
                await lost
    assert not hasattr(zfabric.Delivery, "__await__")


async def test_a_task_that_goes_on_sending_hears_of_acknowledgements_without_yielding(zfabric_url):
    """Else the batch behind the first would wait until the loop has its turn."""
    async with zfabric.aio.connect(zfabric_url, settings=FAST) as fabric:
        await fabric.topics.create("t")
        async with fabric.producer() as producer:
            first = await producer.send("t", b"first")
            deadline = time.monotonic() + 60
            while not first.done:
                assert time.monotonic() < deadline
                await producer.send("t", b"next")  # It never suspends while there is room.
                time.sleep(0.002)  # noqa: ASYNC251 - the loop must not have its turn
            await producer.flush(timeout=60)


async def test_a_cancelled_poll_leaves_nothing_half_done(zfabric_url):
    async with zfabric.aio.connect(zfabric_url, settings=FAST) as fabric:
        await fabric.topics.create("t")
        async with fabric.consumer("t") as consumer, fabric.producer() as producer:
            waiting = asyncio.create_task(consumer.poll(timeout=60.0))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await (await producer.send("t", b"after")).result(timeout=60)
            assert [record.value for record in await consumer.poll(timeout=60.0)] == [b"after"]


async def test_a_poll_that_is_cancelled_as_its_record_comes_leaves_that_to_the_next_call(zfabric_url):
    async with zfabric.aio.connect(zfabric_url, settings=FAST) as fabric:
        await fabric.topics.create("t")
        async with fabric.consumer("t") as consumer, fabric.producer() as producer:
            for number in range(3):
                waiting = asyncio.create_task(consumer.poll(timeout=60.0))
                await asyncio.sleep(0.05)
                arrival = consumer._core.arrivals._expected
                arrival.on_done(waiting.cancel)
                await producer.send("t", b"%d" % number)
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert (arrival.done, consumer.position) == (True, {0: number})
                if number == 2:
                    assert (await anext(aiter(consumer))).value == b"2"
                else:
                    assert [record.value for record in await consumer.poll(timeout=60.0)] == [b"%d" % number]


async def test_many_consumers_wait_at_once(zfabric_url):
    async with zfabric.aio.connect(zfabric_url, settings=FAST) as fabric:
        await fabric.topics.create("t")
        consumers = [fabric.consumer("t") for _ in range(10)]
        waiting = [asyncio.create_task(consumer.poll(timeout=60.0)) for consumer in consumers]
        async with fabric.producer() as producer:
            await producer.send("t", b"v")
        results = await asyncio.gather(*waiting)
        assert [[record.value for record in records] for records in results] == [[b"v"]] * 10


async def test_errors_are_the_same_as_in_the_synchronous_twin(zfabric_url):
    async with zfabric.aio.connect(zfabric_url, settings=FAST) as fabric:
        with pytest.raises(errors.UnknownTopic):
            await fabric.topics.describe("nowhere")
        with pytest.raises(errors.UnknownTopic):
            async with fabric.consumer("nowhere"):
                pass
    with pytest.raises(errors.Closed):
        await fabric.topics.list()


async def test_a_request_that_waits_is_begun_when_the_one_before_has_ended(zfabric_url):
    """Whatever else happens: nothing does here, but what timers of the SDK do once a second."""
    async with zfabric.aio.connect(zfabric_url) as fabric, zfabric.aio.connect(zfabric_url) as other:
        service = other.service("one", concurrency=1)

        @service.method("echo")
        async def echo(request):
            await asyncio.sleep(0)
            return request.value

        async with service:
            asked = [fabric.request("one.echo", b"%d" % number, timeout=20.0) for number in range(200)]
            assert await asyncio.gather(*asked) == [b"%d" % number for number in range(200)]
