"""What a producer was told to call is called: once, soon, whoever else waits for what."""

from __future__ import annotations

import threading

import pytest

import zfabric
from zfabric import errors
from zfabric.settings import LeaderSettings

PATIENCE_S = 30.0


@pytest.fixture
def fabric(zfabric_url):
    with zfabric.connect(zfabric_url, timeout=PATIENCE_S, settings=LeaderSettings(grace_ms=100)) as connected:
        connected.topics.create("t")
        connected.topics.create("quiet")
        yield connected


class Calls:
    """Counts calls by delivery; ``enough`` is set at ``wanted`` of them."""

    def __init__(self, wanted=1):
        self.wanted = wanted
        self.seen = []
        self.enough = threading.Event()

    def __call__(self, delivery, error):
        assert error is None
        self.seen.append(delivery)
        if len(self.seen) >= self.wanted:
            self.enough.set()


@pytest.fixture
def reader(fabric):
    """A thread that waits for a record that does not come."""
    consumer = fabric.consumer("quiet")

    def read():
        try:
            for _ in consumer:
                return
        except errors.Closed:
            return

    thread = threading.Thread(target=read)
    thread.start()
    yield consumer
    consumer.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("acks", ["all", "none"])
def test_a_callback_is_called_while_another_thread_waits_for_something_else(fabric, reader, acks):
    calls = Calls()
    with fabric.producer(acks=acks) as producer:
        producer.send("t", b"v", on_delivery=calls)
        assert calls.enough.wait(PATIENCE_S)


@pytest.mark.parametrize("acks", ["all", "none"])
def test_a_callback_is_called_though_nobody_waits_at_all(fabric, acks):
    calls = Calls()
    with fabric.producer(acks=acks) as producer:
        producer.send("t", b"v", on_delivery=calls)
        assert calls.enough.wait(PATIENCE_S)


def test_a_callback_may_send_and_wait_itself(fabric, reader):
    offsets, done = [], threading.Event()
    with fabric.producer() as producer:

        def again(delivery, error):
            offsets.append(delivery.metadata().offset)
            offsets.append(producer.send("t", b"2").result(PATIENCE_S).offset)
            done.set()

        producer.send("t", b"1", on_delivery=again)
        assert done.wait(PATIENCE_S)
    assert offsets == [0, 1]


def test_each_callback_is_called_once_whoever_runs_it(fabric, reader):
    calls = Calls(wanted=2_000)
    with fabric.producer() as producer:

        def send():
            for _ in range(500):
                producer.send("t", b"v", on_delivery=calls)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        producer.flush()
        assert calls.enough.wait(PATIENCE_S)
    assert len({id(delivery) for delivery in calls.seen}) == len(calls.seen) == 2_000
