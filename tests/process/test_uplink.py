"""``zfabric uplink`` and the uplink of the SDK, with real processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, LeaderProcess, free_port
from zfabric import aio, errors
from zfabric.settings import LeaderSettings
from zfabric.testing import temporary_fabric
from zfabric.uplink import Uplink
from zfabric.uplink.aio import Uplink as AsyncUplink
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Metadata

ZFABRIC = [sys.executable, "-m", "zfabric"]


@pytest.fixture
def fabrics():
    with temporary_fabric() as source, temporary_fabric() as hub:
        source.topics.create("sensor.a", partitions=2)
        source.topics.create("other")
        yield source, hub


@pytest.fixture
def urls(fabrics):
    return ("--from", fabrics[0].url, "--to", fabrics[1].url)


def fill(fabric, topic, count, first=0):
    with fabric.producer() as producer:
        for number in range(first, first + count):
            producer.send(topic, b"%d" % number, partition=number % 2)


def numbers(fabric, topic):
    """The values of each partition, in the order of their offsets."""
    ends = {part.partition: part.end_offset for part in fabric.topics.describe(topic).partitions}
    found = {number: [] for number in ends}
    with fabric.consumer(topic) as consumer:
        while any(position < ends[number] for number, position in consumer.position.items()):
            for record in consumer.poll(10_000, timeout=PATIENCE_S):
                found[record.partition].append(int(record.value))
    return found


def run(*arguments):
    return subprocess.run([*ZFABRIC, "uplink", *arguments], capture_output=True, timeout=100, check=False)


@contextlib.contextmanager
def started(*arguments):
    """Give an uplink as a process, which ends with the test."""
    command = [*ZFABRIC, "uplink", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as uplink:
        try:
            yield uplink
        finally:
            uplink.kill()


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


# The command.


def test_once_ships_what_is_there_and_says_so(fabrics, urls):
    source, hub = fabrics
    fill(source, "sensor.a", 100)
    done = run(*urls, "--topic", "sensor.*", "--prefix", "site1.", "--once")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"100 records shipped of 1 topic, 0 records behind" in done.stderr
    assert numbers(hub, "site1.sensor.a") == numbers(source, "sensor.a")
    assert hub.topics.list() == ["site1.sensor.a"]
    assert b"0 records shipped" in run(*urls, "--topic", "sensor.*", "--prefix", "site1.", "--once").stderr


@pytest.mark.usefixtures("unmeasured")
def test_json_has_a_line_an_event_and_a_report_an_interval(fabrics, urls):
    source, _ = fabrics
    origin = source.ask(Type.METADATA, Metadata([]), "the fabric's id").fabric
    fill(source, "sensor.a", 50)
    with started(*urls, "--topic", "sensor.*", "--json", "--interval", "0.2", "--group", "shipper") as uplink:
        lines = (json.loads(line) for line in uplink.stdout)
        first = next(lines)
        assert (first["event"], first["topic"], first["partition"]) == ("begun", "sensor.a", None)
        report = next(line for line in lines if line["event"] == "status" and line["records"] == 50)
        assert (report["topics"], report["lag"], report["skipped"], report["problem"]) == (["sensor.a"], 0, 0, None)
        assert report["partitions"][1] == {
            "topic": "sensor.a", "partition": 1, "target": "sensor.a", "offset": 25, "end": 25, "lag": 0,
            "records": 25, "skipped": 0, "origin": origin, "target_partition": 1,
        }  # fmt: skip
        fill(source, "sensor.a", 10, first=50)
        assert next(line for line in lines if line["event"] == "status" and line["records"] == 60)
        uplink.send_signal(signal.SIGTERM)
        *_, last = lines
        assert (last["event"], last["records"]) == ("status", 60)
        assert uplink.wait(PATIENCE_S) == 143
        assert uplink.stderr.read() == b""
    assert sum(entry.offset for entry in source.groups.describe("shipper")) == 60


@pytest.mark.usefixtures("unmeasured")
def test_ctrl_c_ends_it_and_a_closed_pipe_is_no_error(fabrics, urls):
    with started(*urls, "--topic", "*", "--json") as uplink:
        assert uplink.stdout.readline()
        uplink.send_signal(signal.SIGINT)
        assert uplink.wait(PATIENCE_S) == 130
    with started(*urls, "--topic", "*", "--json", "--interval", "0.1") as uplink:
        assert uplink.stdout.readline()
        uplink.stdout.close()
        assert (uplink.wait(PATIENCE_S), uplink.stderr.read()) == (0, b"")


def test_of_two_commands_the_earlier_one_ends_and_says_why(fabrics, urls):
    source, hub = fabrics
    with started(*urls, "--topic", "sensor.*", "--json") as first:
        assert json.loads(first.stdout.readline())["event"] == "begun"
        fill(source, "sensor.a", 10)
        until(lambda: "sensor.a" in hub.topics.list() and len(numbers(hub, "sensor.a")[0]) == 5)
        assert run(*urls, "--topic", "sensor.*", "--once").returncode == 0
        fill(source, "sensor.a", 10, first=10)
        assert first.wait(PATIENCE_S) == 1
        assert b"another uplink ships topic 'sensor.a'" in first.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), 2),
        (("--topic", "a", "--bandwidth", "0"), 2),
        (("--topic", "a", "--bandwidth", "fast"), 2),
        (("--topic", "a", "--buffer", "1"), 2),
        (("--topic", "a", "--prefix", "a/b"), 2),
        (("--topic", ""), 2),
        (("--topic", "a", "--group", "-"), 2),
        (("--topic", "a", "--compression", "gzip"), 2),
        (("--topic", "sensor.a", "--once", "--no-create"), 4),
        (("--topic", "nowhere", "--once"), 4),
        (("--topic", "a", "--to", "zf+peer://plant"), 2),
    ],
)
def test_what_it_cannot_do_is_named(urls, arguments, status):
    done = run(*urls, *arguments)
    assert (done.returncode, done.stdout, b"Traceback" in done.stderr) == (status, b"", False)
    assert done.stderr


@pytest.mark.parametrize("way", ["from", "to"])
def test_urls_that_lead_nowhere_are_refused_or_unreachable(fabrics, way, tmp_path):
    def attempt(url, patience="0.3"):
        both = {"from": fabrics[0].url, "to": fabrics[1].url, way: url}
        options = ("--topic", "*", "--once", "--give-up", patience, "--timeout", patience)
        return run("--from", both["from"], "--to", both["to"], *options)

    assert attempt(f"zf://127.0.0.1:{free_port()}").returncode == 3
    soon = run("--from", fabrics[0].url, "--to", f"zf://127.0.0.1:{free_port()}", "--topic", "*", "--give-up", "0.3")
    assert b"within 0.3 s" in soon.stderr  # Not the 10 s of --timeout.
    if way == "from":  # The target's is made.
        assert attempt(f"zf+file:{tmp_path}/none").returncode == 4
    assert attempt("http://x").returncode == 2
    assert attempt(fabrics[way == "from"].url, "60").returncode == 2  # To itself.


def test_the_targets_directory_is_made_unless_nothing_is_to_be_made_there(fabrics, tmp_path):
    fill(fabrics[0], "sensor.a", 4)
    hub = f"zf+file:{tmp_path}/hub"
    ways = ("--from", fabrics[0].url, "--to", hub, "--topic", "sensor.*", "--once")
    assert run(*ways, "--no-create").returncode == 4
    assert not (tmp_path / "hub").exists()
    assert run(*ways).returncode == 0
    with zfabric.connect(hub) as there:
        assert numbers(there, "sensor.a") == {0: [0, 2], 1: [1, 3]}


# The SDK.


async def test_the_asynchronous_uplink_ships_too(fabrics):
    fill(fabrics[0], "sensor.a", 200)
    async with aio.connect(fabrics[0].url) as source, aio.connect(fabrics[1].url) as hub:
        uplink = AsyncUplink(source, hub, topics="sensor.*", compression="lz4")
        await uplink.run(once=True)
        task = asyncio.create_task(uplink.run(watch=lambda: uplink.status().records < 250 or uplink.stop()))
        await asyncio.to_thread(fill, fabrics[0], "sensor.a", 50, 200)
        async with asyncio.timeout(PATIENCE_S):
            await task
    assert numbers(fabrics[1], "sensor.a") == numbers(fabrics[0], "sensor.a")


def test_a_record_that_is_too_large_for_the_hub_stops_its_topic_and_no_other(fabrics):
    source, hub = fabrics
    hub.topics.create("other", record_bytes_max=100)
    with source.producer() as producer:
        producer.send("other", b"small")
        producer.send("other", b"x" * 200)
    fill(source, "sensor.a", 10)
    uplink = Uplink(source, hub, topics="*")
    until(lambda: uplink.advance(0.1) and uplink.status().problem is not None and uplink.status().records >= 10)
    assert "record_bytes_max" in uplink.status().problem
    with pytest.raises(errors.RecordTooLarge):
        uplink.run(once=True)
    hub.topics.alter("other", record_bytes_max=1_000)
    uplink.run(once=True)
    assert hub.topics.describe("other").partitions[0].end_offset == 2


def test_kill_9_of_the_uplink_and_of_both_leaders_loses_and_repeats_nothing(tmp_path):
    rng = random.Random(11)
    settings = LeaderSettings()
    with (
        LeaderProcess(str(tmp_path / "source"), settings) as plant,
        LeaderProcess(str(tmp_path / "hub"), settings) as centre,
        zfabric.connect(plant.url, timeout=PATIENCE_S) as source,
        zfabric.connect(centre.url, timeout=PATIENCE_S) as hub,
    ):
        source.topics.create("sensor.a", partitions=2)
        arguments = ["--from", plant.url, "--to", centre.url, "--topic", "sensor.*", "--timeout", "2"]
        uplink = subprocess.Popen([*ZFABRIC, "uplink", *arguments], stderr=subprocess.DEVNULL)
        written = 0
        try:
            for turn in range(9):
                fill(source, "sensor.a", 400, first=written)
                written += 400
                time.sleep(rng.random() * 0.2)
                if turn % 3 == 0:
                    uplink.send_signal(signal.SIGKILL)
                    uplink.wait()
                    uplink = subprocess.Popen([*ZFABRIC, "uplink", *arguments], stderr=subprocess.DEVNULL)
                victim = (plant, centre)[turn % 2]
                victim.kill()
                victim.again()
            until(lambda: "sensor.a" in hub.topics.list())

            def arrived():
                assert uplink.poll() is None
                return sum(part.end_offset for part in hub.topics.describe("sensor.a").partitions) >= written

            until(arrived)
        finally:
            uplink.kill()
            uplink.wait()
        assert numbers(hub, "sensor.a") == {number: list(range(number, written, 2)) for number in range(2)}
