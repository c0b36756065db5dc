"""Clients in the places where applications put them: cancelled tasks, other loops, threads, forked children."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
import uvloop

import zfabric
import zfabric.aio
from tests.scale import scaled
from zfabric import errors
from zfabric.settings import LeaderSettings
from zfabric.testing import kill_leader

FAST = LeaderSettings(grace_ms=100)
PATIENCE_S = 60.0
SEED = 3


@pytest.fixture
def fabric(zfabric_url):
    with zfabric.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as connected:
        connected.topics.create("t")
        yield connected


def read(fabric, topic="t"):
    ends = {place.partition: place.end_offset for place in fabric.topics.describe(topic).partitions}
    records = []
    with fabric.consumer(topic) as consumer:
        while len(records) < sum(ends.values()):
            found = consumer.poll(100_000, timeout=PATIENCE_S)
            assert found
            records += found
    return records


def numbers(count):
    return [b"%d" % number for number in range(count)]


# Iteration.


def test_whoever_leaves_a_loop_goes_on_where_it_was_left(fabric):
    """With another loop, or with any other call."""
    with fabric.producer() as producer:
        producer.send_many("t", numbers(1000))
    with fabric.consumer("t") as consumer:
        seen = []
        for attempt in range(40):
            for record in consumer:
                seen.append(record.offset)
                if len(seen) % 7 == 0:
                    break
            if attempt % 2:
                seen += [record.offset for record in consumer.poll(5, timeout=PATIENCE_S)]
            if attempt % 3 == 0:
                assert consumer.position == {0: len(seen)}
        for batch in consumer.poll_batches(timeout=PATIENCE_S):
            seen += batch.offsets
        assert seen == list(range(1000))
        assert consumer.poll(timeout=0.1) == []


def test_a_commit_within_a_loop_passes_no_record_of_another_partition(fabric):
    """What it has taken of them and not yielded yet is not done."""
    fabric.topics.create("four", partitions=4)
    with fabric.producer() as producer:
        for number in range(100):
            producer.send("four", b"%d" % number, partition=number % 4)
    with fabric.consumer("four", group="g") as consumer:
        for count, _ in enumerate(consumer, 1):
            if count == 60:
                consumer.commit()
                break
    assert sum(entry.offset for entry in fabric.groups.describe("g")) == 60
    rest = []
    with fabric.consumer("four", group="g") as consumer:
        while len(rest) < 40:
            rest += consumer.poll(timeout=PATIENCE_S)
    assert len(rest) == 40


# Cancelled tasks.


async def cancelled(rng, work):
    """Run ``work`` as a task, cancel it at a random instant; tells whether it was."""
    task = asyncio.create_task(work)
    for _ in range(rng.choice([0, 1, 2, 3, 5])):
        await asyncio.sleep(0)
    await asyncio.sleep(rng.choice([0.0, 0.0, 0.001, 0.003]) * rng.random())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


async def test_cancelled_sends_and_flushes_repeat_and_lose_nothing(zfabric_url):
    rng, hits = random.Random(SEED), 0
    async with zfabric.aio.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as connected:
        await connected.topics.create("t")
        producer, deliveries = connected.producer(buffer_bytes=500), []

        async def work():
            while True:
                deliveries.append(await producer.send("t", b"%d" % len(deliveries)))
                if rng.random() < 0.2:
                    await producer.flush()
                await asyncio.sleep(0)

        for _ in range(scaled(150)):
            hits += await cancelled(rng, work())
        await producer.flush(PATIENCE_S)
        assert [(await entry.result()).offset for entry in deliveries] == list(range(len(deliveries)))
        assert hits == scaled(150)
        for _ in range(scaled(30)):
            other = connected.producer()
            await other.send("t", b"other")
            await cancelled(rng, other.close())
            await other.close()
            with pytest.raises(errors.Closed):
                await other.send("t", b"late")
        await producer.close()
        ours = []
        async with connected.consumer("t") as consumer:
            while len(ours) < len(deliveries):
                ours += [r.value for r in await consumer.poll(timeout=PATIENCE_S) if r.value != b"other"]
        assert ours == numbers(len(deliveries))


async def test_cancelled_polls_and_loops_miss_nothing(zfabric_url):
    rng, hits = random.Random(SEED), 0
    async with zfabric.aio.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as connected:
        await connected.topics.create("t")
        async with connected.producer() as producer, connected.consumer("t") as consumer:
            seen = []

            async def poll():
                while True:
                    seen.extend([record.offset for record in await consumer.poll(3, timeout=PATIENCE_S)])
                    await asyncio.sleep(0)

            async def iterate():
                async for record in consumer:
                    seen.append(record.offset)
                    await asyncio.sleep(0)

            for _ in range(scaled(150)):
                await producer.send_many("t", [b"v"] * 5)
                hits += await cancelled(rng, rng.choice([poll, iterate])())
            while len(seen) < scaled(150) * 5:
                seen.extend([record.offset for record in await consumer.poll(timeout=PATIENCE_S)])
            assert seen == list(range(scaled(150) * 5))
            assert hits == scaled(150)


async def test_a_cancelled_close_closes_all_the_same(zfabric_url):
    rng = random.Random(SEED)
    for _ in range(scaled(20)):
        connected = zfabric.aio.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST)
        await connected.topics.create("t", if_absent=True)
        producer, consumer = connected.producer(linger=5.0), connected.consumer("t")
        await consumer.open()
        await producer.send("t", b"v")
        await cancelled(rng, connected.close())
        await connected.close()
        for call in (producer.send("t", b"v"), consumer.poll(), connected.topics.list()):
            with pytest.raises(errors.Closed):
                await call


# Loops and threads.


async def there_and_back(url, topic="t"):
    async with zfabric.aio.connect(url, timeout=PATIENCE_S, settings=FAST) as connected:
        await connected.topics.create(topic, if_absent=True)
        async with connected.producer() as producer, connected.consumer(topic, start="latest") as consumer:
            waiting = asyncio.create_task(consumer.poll(timeout=PATIENCE_S))
            await (await producer.send(topic, b"v")).result(timeout=PATIENCE_S)
            return [record.value for record in await waiting]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_one_event_loop_after_another_works(zfabric_url, run):
    assert [run(there_and_back(zfabric_url)) for _ in range(3)] == [[b"v"]] * 3


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_an_asynchronous_fabric_goes_on_in_the_next_loop_once_the_first_is_closed(zfabric_url, factory):
    connected = zfabric.aio.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST)
    with contextlib.closing(factory()) as first:
        first.run_until_complete(connected.topics.create("t"))
        producer, consumer = connected.producer(), connected.consumer("t")
        first.run_until_complete(consumer.open())
        first.run_until_complete(producer.send("t", b"first"))
        with contextlib.closing(factory()) as second, pytest.raises(errors.NotSupported):
            second.run_until_complete(connected.topics.list())
    with contextlib.closing(factory()) as third:
        third.run_until_complete(producer.send("t", b"third"))
        third.run_until_complete(producer.flush(PATIENCE_S))
        values = []
        while len(values) < 2:
            values += [r.value for r in third.run_until_complete(consumer.poll(timeout=PATIENCE_S))]
        assert values == [b"first", b"third"]
    asyncio.run(connected.close())


def test_several_loops_in_several_threads_work_at_once(zfabric_url):
    results = []
    threads = [
        threading.Thread(target=lambda name=name: results.append(asyncio.run(there_and_back(zfabric_url, name))))
        for name in ("a", "b", "c")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[b"v"]] * 3


async def test_the_synchronous_twin_works_within_a_running_loop(zfabric_url):
    """As in a cell of Jupyter, whose kernel is a loop; beside the asynchronous twin in that same loop."""
    with zfabric.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as connected:
        connected.topics.create("t")
        assert await there_and_back(zfabric_url, "t") == [b"v"]
        with connected.producer() as producer:
            assert producer.send("t", b"w").result(timeout=PATIENCE_S).offset == 1
        polled = await asyncio.to_thread(read, connected)
        assert [record.value for record in polled] == [b"v", b"w"]
        assert await asyncio.to_thread(asyncio.run, there_and_back(zfabric_url, "other")) == [b"v"]


def test_threads_send_while_another_waits_and_each_wait_ends_with_its_own_result(fabric):
    with fabric.consumer("t") as consumer, fabric.producer() as producer:
        seen, failures = [], []

        def wait():
            while len(seen) < 400:
                seen.extend(consumer.poll(timeout=PATIENCE_S))

        def work(name):
            try:
                for number in range(100):
                    delivery = producer.send("t", b"%d %d" % (name, number))
                    if number % 3 == 0:
                        delivery.result(timeout=PATIENCE_S)
                    if number % 10 == 0:
                        assert "t" in fabric.topics.list()
            except BaseException as error:  # noqa: BLE001 - the test's own thread hands it over
                failures.append(error)

        threads = [threading.Thread(target=wait), *(threading.Thread(target=work, args=(n,)) for n in range(4))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [record.offset for record in seen] == list(range(400))
        for name in range(4):
            mine = [record.value for record in seen if record.value.startswith(b"%d " % name)]
            assert mine == [b"%d %d" % (name, number) for number in range(100)]


# Forks.


def in_child(work):
    """Run ``work`` in a forked child, which then ends as a program does; return what it returned, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writer, repr(work()).encode())
            status = 0
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(writer, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        text = said.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, text
    return text


def outcome(call):
    try:
        return call()
    except errors.Forked:
        return "Forked"


def test_a_child_may_touch_nothing_of_its_parents_and_the_parent_goes_on(fabric):
    """At a moment when the parent has records under way, unread ones, and a thread that waits."""
    with fabric.producer() as producer, fabric.consumer("t") as consumer:
        producer.send_many("t", numbers(1000))
        assert [record.offset for record in consumer.poll(10, timeout=PATIENCE_S)] == list(range(10))
        waiting = threading.Thread(target=fabric.consumer("t", start="latest").poll, kwargs={"timeout": PATIENCE_S})
        waiting.start()
        delivery = producer.send("t", b"under way")
        calls = [
            lambda: producer.send("t", b"never"),
            lambda: producer.send_many("t", [b"never"]),
            lambda: producer.send("unknown", b"never"),
            producer.flush,
            lambda: consumer.poll(timeout=0.0),
            lambda: consumer.poll_batches(timeout=0.0),
            lambda: next(iter(consumer)),
            lambda: consumer.seek(0, 0),
            fabric.topics.list,
            fabric.status,
            fabric.producer,
            lambda: fabric.consumer("t"),
        ]
        assert in_child(lambda: [outcome(call) for call in calls]) == repr(["Forked"] * len(calls))
        assert (
            in_child(lambda: [outcome(entry.close) for entry in (producer, consumer, fabric)]) == "[None, None, None]"
        )
        assert delivery.result(timeout=PATIENCE_S).offset == 1000
        seen = []
        while len(seen) < 991:
            seen += consumer.poll(timeout=PATIENCE_S)
        assert [record.offset for record in seen] == list(range(10, 1001))
        waiting.join()
    assert len(read(fabric)) == 1001


def test_children_connect_anew_and_their_ends_do_not_end_the_leader(fabric, zfabric_url):
    pid = fabric.status()[0].pid

    def work():
        with zfabric.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as own, own.producer() as producer:
            return producer.send("t", b"of a child").result(timeout=PATIENCE_S).offset

    assert [in_child(work) for _ in range(3)] == ["0", "1", "2"]
    time.sleep(0.5)  # Five times the leader's grace: nobody would be left if the parent's share had gone.
    assert fabric.status()[0].pid == pid
    assert [record.value for record in read(fabric)] == [b"of a child"] * 3


def test_an_interpreter_that_forked_ends_normally_in_both(zfabric_url):
    """The child's end takes nothing down: no socket, no lock, no record."""
    with zfabric.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as connected:
        connected.topics.create("t")
        process = multiprocessing.get_context("fork").Process(target=lambda: None)
        with connected.producer() as producer:
            for number in range(20):
                producer.send("t", b"%d" % number)
                if number == 10:
                    process.start()
            process.join()
        assert process.exitcode == 0
        assert [record.value for record in read(connected)] == numbers(20)


def produce_as_child(url, name):
    with zfabric.connect(url, timeout=PATIENCE_S) as own, own.producer() as producer:
        for number in range(50):
            producer.send("t", b"%d %d" % (name, number))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_produce(fabric, zfabric_url, method):
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=produce_as_child, args=(zfabric_url, name)) for name in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    values = [record.value for record in read(fabric)]
    for name in range(2):
        mine = [value for value in values if value.startswith(b"%d " % name)]
        assert mine == [b"%d %d" % (name, number) for number in range(50)]


# Kills.


def test_a_poll_under_way_while_the_leader_is_killed_returns_what_is_sent_afterwards(fabric):
    """The same call, which nobody has to repeat."""
    for durability in ("fsync", "memory"):
        fabric.topics.create(durability, durability=durability)
        with fabric.consumer(durability) as consumer, fabric.producer() as producer:
            producer.send(durability, b"before").result(timeout=PATIENCE_S)
            assert [record.value for record in consumer.poll(timeout=PATIENCE_S)] == [b"before"]
            for number in range(scaled(4)):
                polled = []
                waiting = threading.Thread(target=lambda got=polled: got.extend(consumer.poll(timeout=PATIENCE_S)))
                waiting.start()
                time.sleep(random.Random(number).choice([0.0, 0.05, 0.7]))
                kill_leader(fabric)
                producer.send(durability, b"%d" % number).result(timeout=PATIENCE_S)
                waiting.join()
                assert [record.value for record in polled] == [b"%d" % number]


def test_a_killed_client_takes_nobody_with_it(fabric, zfabric_url):
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            with zfabric.connect(zfabric_url, settings=FAST) as own, own.consumer("t") as consumer:
                consumer.poll(timeout=PATIENCE_S)
                os._exit(0)
        pids.append(pid)
    with fabric.producer() as producer, fabric.consumer("t") as consumer:
        for number, pid in enumerate(pids):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            producer.send("t", b"%d" % number).result(timeout=PATIENCE_S)
            assert [record.value for record in consumer.poll(timeout=PATIENCE_S)] == [b"%d" % number]
