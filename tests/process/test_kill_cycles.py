"""kill -9 of leaders, supervisors, producers and consumers, hundreds of times: nothing acknowledged is lost, repeated
or reordered, and everybody else goes on by themselves with the objects they have.

``ZFABRIC_TEST_SCALE`` multiplies the numbers of kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

import zfabric
import zfabric.aio
from tests.process.flow import PATIENCE_S, AsyncFlow, Flow
from tests.process.leaders import Node
from tests.scale import scaled
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory

FAST = LeaderSettings(grace_ms=200)
SEED = 9

pytestmark = pytest.mark.timeout(600)


def kill_embedded(directory: DataDirectory) -> bool:
    """Kill whoever leads the directory, also while it starts; tells whether somebody did."""
    holder = directory.holder()
    if holder is None or not holder["pid"]:
        return False
    os.kill(holder["pid"], signal.SIGKILL)
    return True


def directory_of(url: str) -> DataDirectory:
    return DataDirectory.check(url.removeprefix("zf+file:"))


def test_hundreds_of_kills_of_a_leader_lose_nothing_and_nobody_is_deaf(zfabric_url):
    """Half of the leaders have served before they are killed, the others may still be starting."""
    rng = random.Random(SEED)
    with zfabric.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as fabric:
        fabric.topics.create("t", partitions=2)
        directory = directory_of(zfabric_url)
        with Flow(zfabric_url, "t", 2, FAST) as flow:
            kills = 0
            while kills < scaled(200):
                if kills % 2 == 0:
                    flow.await_progress()
                time.sleep(rng.choice([0.0, 0.003, 0.01, 0.03]))
                kills += kill_embedded(directory)
            flow.await_progress()
            assert flow.finish() > scaled(200)


async def test_the_asynchronous_twin_is_not_deaf_either(zfabric_url):
    rng = random.Random(SEED)
    async with zfabric.aio.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as fabric:
        await fabric.topics.create("t")
        directory = directory_of(zfabric_url)
        async with AsyncFlow(zfabric_url, "t", FAST) as flow:
            kills = 0
            while kills < scaled(60):
                if kills % 2 == 0:
                    await flow.await_progress()
                await asyncio.sleep(rng.choice([0.0, 0.003, 0.01, 0.03]))
                kills += kill_embedded(directory)
            await flow.await_progress()
            assert await flow.finish() > scaled(60)


# A node.


@pytest.fixture
def node(tmp_path):
    with Node(str(tmp_path / "node")) as running:
        yield running


def test_a_node_brings_its_leaders_back_one_or_all_at_once(node):
    rng = random.Random(SEED)
    with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric:
        fabric.topics.create("t", partitions=2)
        with Flow(node.url, "t", 2) as flow:
            for _ in range(scaled(30)):
                flow.await_progress()
                time.sleep(rng.choice([0.0, 0.003, 0.01]))
                running = node.leaders()
                for victim in rng.sample(running, rng.randint(1, len(running))):
                    with contextlib.suppress(psutil.NoSuchProcess):  # One of the last round, reaped meanwhile.
                        victim.kill()
            flow.await_progress()
            assert flow.finish() > scaled(30)


def test_a_killed_supervisor_and_all_of_a_node_at_once(node):
    """The clients wait and go on; what the next supervisor finds is complete."""
    with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric:
        fabric.topics.create("t", partitions=2)
        with Flow(node.url, "t", 2) as flow:
            for round_number in range(scaled(8)):
                flow.await_progress()
                node.kill(leaders=round_number % 2 == 0)
                node.start()
            flow.await_progress()
            assert flow.finish() > scaled(8)


# Clients.


def killed_clients(kind, url, count):
    """Start the program of ``killed_clients.py``."""
    command = [sys.executable, "-m", "tests.process.killed_clients", kind, url, str(count), str(SEED)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root)


def said_by(program):
    output, _ = program.communicate(timeout=300)
    assert program.returncode == 0
    return json.loads(output)


def read_all(fabric):
    end = fabric.topics.describe("t").partitions[0].end_offset
    values = []
    with fabric.consumer("t") as consumer:
        while len(values) < end:
            found = consumer.poll(100_000, timeout=PATIENCE_S)
            assert found
            assert [record.offset for record in found] == list(range(len(values), len(values) + len(found)))
            values += [record.value for record in found]
    return values


@pytest.fixture
def fabric(zfabric_url):
    with zfabric.connect(zfabric_url, timeout=PATIENCE_S, settings=FAST) as connected:
        connected.topics.create("t")
        yield connected


def check_producers(values, said):
    """What each was told is at its offset, and its records are the first that it sent, once and in order."""
    per_child = {}
    for value in values:
        child, number = map(int, value.split())
        per_child.setdefault(child, []).append(number)
    for child, told in enumerate(said):
        numbers = per_child.get(child, [])
        assert numbers == list(range(len(numbers)))
        assert len(told) <= len(numbers) <= len(told) + 1
        assert all(values[offset] == b"%d %d" % (child, number) for number, offset in told)


def test_what_killed_producers_were_told_is_there(fabric):
    program = killed_clients("produce", fabric.url, scaled(60))
    check_producers_after(fabric, program)


def check_producers_after(fabric, program):
    said = said_by(program)
    check_producers(read_all(fabric), said)


def test_producers_and_leaders_killed_at_once(fabric):
    program = killed_clients("produce", fabric.url, scaled(30))
    directory, rng = directory_of(fabric.url), random.Random(SEED)
    while program.poll() is None:
        time.sleep(rng.choice([0.1, 0.3, 0.5]))
        kill_embedded(directory)
        fabric.topics.list()  # The next one has served: on a busy machine none would come to it otherwise.
    check_producers_after(fabric, program)


def test_a_named_producer_that_is_killed_again_and_again_writes_each_number_once(fabric):
    """Exactly once, end to end: it repeats what it was not told, under the same sequence."""
    said = said_by(killed_clients("resume", fabric.url, scaled(40)))
    told = max(number for one in said for number, _ in one)
    values = [int(value) for value in read_all(fabric)]
    assert values == list(range(len(values)))
    assert told < len(values) <= told + 2


def test_killed_consumers_go_on_where_the_group_committed(fabric):
    """I9: the next one begins at the last commit, which never went back, and nothing is skipped."""
    with fabric.producer() as producer:
        producer.send_many("t", [b"v"] * 20_000)  # More than all of them read.
    said = said_by(killed_clients("consume", fabric.url, scaled(40)))
    committed, seen = 0, Counter()
    for one in said:
        offsets = [value for kind, value in one if kind == 0]
        if offsets:
            # A commit may have been stored whose answer the killed one did not hear.
            assert committed <= offsets[0] <= max(seen, default=-1) + 1
            assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
            seen.update(offsets)
        commits = [value for kind, value in one if kind == 1]
        assert commits == sorted(commits)
        committed = max([committed, *commits])
    assert sorted(seen) == list(range(len(seen)))
    (found,) = fabric.groups.describe("g")
    assert committed <= found.offset <= max(seen) + 1
