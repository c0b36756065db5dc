"""kill -9 at any instant: nothing acknowledged is lost, repeated or reordered, and everybody goes on by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import zfabric
from zfabric.settings import LeaderSettings
from zfabric.testing import kill_leader

KILLS = 40
FAST = LeaderSettings(grace_ms=200)


@pytest.mark.timeout(240)
def test_forty_kills_of_the_leader_lose_nothing_and_nobody_is_deaf(zfabric_url):
    """I1, I8: each record acknowledged once is read once, in order, by a consumer that was there all the time."""
    with zfabric.connect(zfabric_url, timeout=30.0, settings=FAST) as fabric:
        fabric.topics.create("t", partitions=2)
        seen: dict[int, list[int]] = {0: [], 1: []}
        offsets: dict[int, list[int]] = {0: [], 1: []}
        stop = threading.Event()
        failures: list[BaseException] = []

        def read() -> None:
            try:
                with zfabric.connect(zfabric_url, timeout=30.0, settings=FAST) as own, own.consumer("t") as consumer:
                    while not stop.is_set() or any(consumer.lag.values()):
                        for record in consumer.poll(timeout=0.2):
                            seen[record.partition].append(int(record.value or b"-1"))
                            offsets[record.partition].append(record.offset)
            except BaseException as error:  # noqa: BLE001 - the test's own thread hands it over
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        sent = 0
        with fabric.producer() as producer:
            for _ in range(KILLS):
                for _ in range(50):
                    producer.send("t", b"%d" % sent, partition=sent % 2)
                    sent += 1
                kill_leader(fabric)
                producer.send("t", b"%d" % sent, partition=sent % 2).result(timeout=30)
                sent += 1
            producer.flush(30)
        deadline = time.monotonic() + 30
        while len(seen[0]) + len(seen[1]) < sent and time.monotonic() < deadline and not failures:
            time.sleep(0.02)
        stop.set()
        reader.join()
        assert failures == []
        assert seen == {0: list(range(0, sent, 2)), 1: list(range(1, sent, 2))}
        assert offsets == {0: list(range(len(seen[0]))), 1: list(range(len(seen[1])))}


PRODUCE = """
import os, sys, zfabric
with zfabric.connect(sys.argv[1], timeout=30.0) as fabric, fabric.producer() as producer:
    for number in range(10**9):
        producer.send("t", b"%d" % number).result(timeout=30)
        os.write(1, b"%d\\n" % number)
"""


@pytest.mark.timeout(120)
def test_what_a_killed_producer_was_told_is_there(zfabric_url):
    with zfabric.connect(zfabric_url, timeout=30.0, settings=FAST) as fabric:
        for attempt in range(5):
            fabric.topics.create(f"t{attempt}")
            code = PRODUCE.replace('"t"', f'"t{attempt}"')
            child = subprocess.Popen([sys.executable, "-c", code, zfabric_url], stdout=subprocess.PIPE)
            assert child.stdout is not None
            told = [int(child.stdout.readline()) for _ in range(30 + 7 * attempt)]
            os.kill(child.pid, signal.SIGKILL)
            told += [int(line) for line in child.stdout.read().splitlines() if line]
            child.stdout.close()
            child.wait()
            with fabric.consumer(f"t{attempt}") as consumer:
                values = [int(record.value or b"-1") for record in consumer.poll(100_000, timeout=5.0)]
            assert values[: len(told)] == told
            assert values == list(range(len(values)))


@pytest.mark.timeout(120)
def test_all_processes_killed_at_once_and_the_directory_opens_again(zfabric_url):
    with zfabric.connect(zfabric_url, timeout=30.0, settings=FAST) as fabric:
        fabric.topics.create("t")
        for round_number in range(5):
            child = subprocess.Popen([sys.executable, "-c", PRODUCE, zfabric_url], stdout=subprocess.PIPE)
            assert child.stdout is not None
            for _ in range(20):
                child.stdout.readline()
            kill_leader(fabric)
            os.kill(child.pid, signal.SIGKILL)
            child.stdout.close()
            child.wait()
            assert fabric.topics.describe("t").partitions[0].end_offset >= 20 * (round_number + 1)
