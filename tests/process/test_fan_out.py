"""Fan-out to slow, frozen and many consumers: each gets all, in order, and the leader's memory stays bounded."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

import zfabric
from zfabric.settings import LeaderSettings

MIB = 1 << 20
PATIENCE_S = 60.0
VALUE_BYTES = 64 << 10
RECORDS = 1_024
CONNECTED = 3
"""State of a Unix domain socket in /proc/net/unix."""

READER = """
import sys, zfabric
url, count = sys.argv[1], int(sys.argv[2])
with zfabric.connect(url, timeout=60) as fabric, fabric.consumer("t") as consumer:
    print("here", flush=True)
    sys.stdin.readline()
    offsets = []
    while len(offsets) < count:
        offsets += [record.offset for record in consumer.poll(count, timeout=60)]
    print(offsets == list(range(count)), flush=True)
"""
POOR = """
import resource, sys, zfabric
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
with zfabric.connect(sys.argv[1], timeout=60) as fabric:
    consumers = [fabric.consumer("t") for _ in range(100)]
    with fabric.producer() as producer:
        producer.send("t", b"v").result(timeout=60)
        print([len(consumer.poll(timeout=60)) for consumer in consumers] == [1] * 100)
"""


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def connect(url, **settings):
    settings = LeaderSettings(grace_ms=100, publish_queue=16, **settings)
    return zfabric.connect(url, timeout=PATIENCE_S, settings=settings)


@pytest.fixture(params=[0, 16], ids=["libzmq", "lanes"])
def fabric(zfabric_url, request):
    """With or without lanes: whoever connects first decides."""
    with connect(zfabric_url, lanes_max=request.param) as connected:
        connected.topics.create("t")
        yield connected


def drain(consumer):
    offsets = []
    while len(offsets) < RECORDS:
        found = consumer.poll(RECORDS, timeout=PATIENCE_S)
        assert found
        offsets += [record.offset for record in found]
    return offsets


class Peak:
    """The most anonymous memory that the leader was seen to hold."""

    def __init__(self, fabric):
        self._fabric = fabric
        self._over = threading.Event()
        self.bytes = self._look()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _look(self):
        return self._fabric.status()[0].rss_anon_bytes

    def _watch(self):
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._look())

    def end(self):
        self._over.set()
        self._thread.join()
        return self.bytes


@contextlib.contextmanager
def frozen_reader(fabric, url):
    """One more consumer, in a process of its own that stops whole, with its sockets."""
    others = fabric.status()[0].subscriptions
    command = [sys.executable, "-c", READER, url, str(RECORDS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"here\n"
            until(lambda: fabric.status()[0].subscriptions == others + 1)
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def test_slow_consumers_cost_the_others_nothing_and_miss_nothing(fabric, zfabric_url):
    """A burst of 64 MiB: one consumer does not poll, one is frozen, two read along. The slow ones fetch it later."""
    with contextlib.ExitStack() as stack:
        slow, *quick = [stack.enter_context(connect(zfabric_url)).consumer("t") for _ in range(3)]
        results = []
        threads = [threading.Thread(target=lambda consumer=one: results.append(drain(consumer))) for one in quick]
        until(lambda: fabric.status()[0].subscriptions == 3)
        frozen = stack.enter_context(frozen_reader(fabric, zfabric_url))
        peak = Peak(fabric)
        before = peak.bytes
        for thread in threads:
            thread.start()
        with fabric.producer() as producer:
            for _ in range(RECORDS):
                producer.send("t", os.urandom(16) + bytes(VALUE_BYTES - 16))
        for thread in threads:
            thread.join()
        assert results == [list(range(RECORDS))] * 2
        assert peak.end() < before + 48 * MIB
        assert drain(slow) == list(range(RECORDS))
        frozen.send_signal(signal.SIGCONT)
        assert frozen.communicate(b"\n", timeout=PATIENCE_S)[0] == b"True\n"


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8_192:
        pytest.skip("a thousand consumers take 4,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8_192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_consumers_are_served_and_what_they_took_is_given_back(fabric, zfabric_url):
    """Fifty topics, twenty consumers each: one connection and 25 KB each at the leader."""
    for number in range(50):
        fabric.topics.create(f"t{number}")
    info = fabric.status()[0]
    ours, theirs = descriptors("self"), descriptors(info.pid)
    with contextlib.ExitStack() as stack:
        fabrics = [stack.enter_context(connect(zfabric_url)) for _ in range(4)]
        consumers = [fabrics[number % 4].consumer(f"t{number % 50}") for number in range(1_000)]
        until(lambda: fabric.status()[0].subscriptions == 1_000)
        assert descriptors(info.pid) <= theirs + 1_020
        assert fabric.status()[0].rss_anon_bytes < info.rss_anon_bytes + 1_000 * 40_000
        with fabric.producer() as producer:
            for number in range(50):
                producer.send(f"t{number}", b"v")
        assert all(len(consumer.poll(timeout=PATIENCE_S)) == 1 for consumer in consumers)
        for consumer in consumers[:500]:
            consumer.close()
        until(lambda: fabric.status()[0].subscriptions == 500)
        until(lambda: descriptors(info.pid) <= theirs + 520)
    until(lambda: fabric.status()[0].subscriptions == 0)
    until(lambda: descriptors(info.pid) <= theirs)
    until(lambda: descriptors("self") <= ours)


def test_consumers_without_a_descriptor_left_fetch_and_say_so_once_in_a_while(fabric, zfabric_url):
    done = subprocess.run([sys.executable, "-c", POOR, zfabric_url], capture_output=True, timeout=100)
    assert done.stdout == b"True\n", done.stderr.decode()
    assert 1 <= done.stderr.count(b"session_refused") <= 20


def test_a_frozen_reader_of_a_lane_is_dropped_once_something_waits_for_it(zfabric_url):
    """And finds everything when it goes on."""
    with connect(zfabric_url) as fabric, fabric.producer() as producer:
        fabric.topics.create("t")
        with frozen_reader(fabric, zfabric_url) as frozen:
            assert lanes(fabric) == 1
            for _ in range(RECORDS):
                producer.send("t", bytes(VALUE_BYTES))
            producer.flush()
            until(lambda: fabric.status()[0].subscriptions == 0)
            assert lanes(fabric) == 0
            frozen.send_signal(signal.SIGCONT)
            out, _ = frozen.communicate(b"go\n", timeout=PATIENCE_S)
            assert out == b"True\n"


def lanes(fabric):
    """Return how many lanes the leader of this directory has, as the kernel counts them."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        found = [line.split() for line in file if "@zfabric-" in line]
    connected = {f"socket:[{entry[6]}]" for entry in found if int(entry[5], 16) == CONNECTED}
    return len(connected & open_by(fabric.status()[0].pid))


def open_by(pid):
    """Return what the descriptors of a process are."""
    directory, names = f"/proc/{pid}/fd", set()
    for number in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            names.add(os.readlink(f"{directory}/{number}"))
    return names


def test_whoever_has_a_lane_has_one_again_after_the_leader_was_killed_and_missed_nothing(zfabric_url):
    with connect(zfabric_url) as fabric, fabric.producer() as producer:
        fabric.topics.create("t")
        with contextlib.ExitStack() as stack:
            consumers = [stack.enter_context(connect(zfabric_url)).consumer("t") for _ in range(20)]
            found = [[] for _ in consumers]
            for turn in range(3):
                until(lambda: lanes(fabric) == LeaderSettings().lanes_max)
                until(lambda: fabric.status()[0].subscriptions == len(consumers))
                for number in range(100):
                    producer.send("t", b"%d" % (turn * 100 + number)).result(PATIENCE_S)
                for values, consumer in zip(found, consumers, strict=True):
                    while len(values) < 100 * (turn + 1):
                        records = consumer.poll(timeout=PATIENCE_S)
                        assert records
                        values += [int(record.value) for record in records]
                os.kill(fabric.status()[0].pid, signal.SIGKILL)
        assert found == [list(range(300))] * len(consumers)
        until(lambda: lanes(fabric) == 0)
