"""Links that carry less per second than one batch holds: all arrives, at about the rate of the link."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys

import pytest

import zfabric
from tests.network.namespaces import serving
from tests.network.test_plant import serve
from tests.process.leaders import PATIENCE_S, free_port
from tests.process.test_sdk import until
from zfabric import errors
from zfabric.testing import temporary_fabric

ZFABRIC = [sys.executable, "-m", "zfabric"]
RECORD_BYTES = 1_000
BACKLOG = 500


@pytest.fixture
def hub(machine, tmp_path):
    """A node on our end of the wire."""
    with serving(machine, str(tmp_path / "hub")) as fabric:
        yield fabric


def carried(machine, direction):
    """Bytes that the machine has sent (``tx``) or received (``rx``)."""
    shown = subprocess.run(machine.command("ip", "-j", "-s", "link", "show", "wire"), capture_output=True, check=True)
    return json.loads(shown.stdout)[0]["stats64"][direction]["bytes"]


def run(machine, *command):
    """Run a command on the machine to its end."""
    return subprocess.run(machine.command(*command), capture_output=True, timeout=PATIENCE_S, check=True).stdout


def test_a_backlog_leaves_over_a_slow_link(machine, hub):
    """A batch of it takes eight seconds: longer than a leader may be silent, and longer than heartbeats wait.

    A connection may be lost once before the link is known to be slow, and what it carried is sent twice.
    """
    rng = random.Random(1)
    with temporary_fabric() as device:
        device.topics.create("sensor.a", partitions=1)
        with device.producer() as producer:
            for _ in range(BACKLOG):
                producer.send("sensor.a", rng.randbytes(RECORD_BYTES))
        machine.slow("500kbit")
        uplink = ["uplink", "--from", device.url, "--to", hub.url, "--topic", "*", "--once", "--json"]
        done = run(machine, *ZFABRIC, *uplink)
    assert json.loads(done.splitlines()[-1])["records"] == BACKLOG
    assert hub.topics.describe("sensor.a").partitions[0].end_offset == BACKLOG
    assert carried(machine, "tx") < 2.3 * BACKLOG * RECORD_BYTES


PRODUCE = """
import random, sys, zfabric
with zfabric.connect(sys.argv[1]) as fabric, fabric.producer() as producer:
    print(producer.send("big", random.Random(2).randbytes(900_000)).result(100).offset)
"""
CONSUME = """
import sys, zfabric
with zfabric.connect(sys.argv[1]) as fabric, fabric.consumer("big") as consumer:
    records = []
    while sum(len(record.value) for record in records) < int(sys.argv[2]):
        records += consumer.poll(10_000, timeout=100)
    print(len(records))
"""


def test_a_large_record_is_acknowledged_over_a_slow_link(machine, hub):
    """Its one frame takes seven seconds."""
    hub.topics.create("big", partitions=1)
    machine.slow("1mbit")
    assert run(machine, sys.executable, "-c", PRODUCE, hub.url) == b"0\n"
    assert carried(machine, "tx") < 2.3 * 900_000


def test_a_backlog_is_read_over_a_slow_link_and_nothing_of_it_is_sent_twice(machine, hub):
    """A batch of it takes longer than heartbeats wait."""
    rng = random.Random(1)
    hub.topics.create("big", partitions=1)
    with hub.producer() as producer:
        for _ in range(BACKLOG):
            producer.send("big", rng.randbytes(RECORD_BYTES))
    machine.slow("500kbit")
    run(machine, sys.executable, "-c", CONSUME, hub.url, str(BACKLOG * RECORD_BYTES))
    assert carried(machine, "rx") < 1.3 * BACKLOG * RECORD_BYTES


LISTEN = """
import sys, zfabric
with zfabric.connect(sys.argv[1]) as fabric, fabric.consumer("big", start="latest") as consumer:
    consumer.poll(1, timeout=1)
    print("listening", flush=True)
    [record] = consumer.poll(1, timeout=100)
    print(len(record.value))
"""


def test_what_is_published_over_a_slow_link_is_read_though_its_frame_takes_longer_than_heartbeats_wait(machine, hub):
    """It may come twice: published, and by the FETCH that asks in the meantime whether something was missed."""
    hub.topics.create("big", partitions=1)
    command = machine.command(sys.executable, "-c", LISTEN, hub.url)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout.readline() == "listening\n"
            machine.slow("1mbit")
            with hub.producer() as producer:
                producer.send("big", random.Random(3).randbytes(800_000)).result(PATIENCE_S)
            assert listener.communicate(timeout=2 * PATIENCE_S) == ("800000\n", None)
        finally:
            listener.kill()
    assert carried(machine, "rx") < 2.5 * 800_000


@pytest.mark.parametrize("dialled", [False, True], ids=["asked", "dials"])
def test_a_keeper_gets_a_backlog_and_a_large_record_over_a_slow_link_and_nothing_of_it_twice(
    machine, tmp_path, dialled
):
    """One frame takes longer than heartbeats wait. An origin that dials its keeper is asked on that connection."""
    keeper_at, origin_at = f"{machine.here}:{free_port()}", f"{machine.there}:7400"
    rng = random.Random(1)
    with contextlib.ExitStack() as stack:
        options = ["--keeper", keeper_at] if dialled else []
        serve(stack, tmp_path / "origin", origin_at, *options, machine=machine)
        with zfabric.connect(f"zf://{origin_at}", timeout=PATIENCE_S) as origin:
            origin.topics.create("sensor.x", partitions=1)
            with origin.producer() as producer:
                producer.send("sensor.x", rng.randbytes(600_000))
                for _ in range(50):
                    producer.send("sensor.x", rng.randbytes(RECORD_BYTES))
        machine.slow("500kbit")
        before = carried(machine, "tx")
        options = [] if dialled else ["--follow", origin_at]
        serve(stack, tmp_path / "keeper", keeper_at, "--keep", "sensor.*", *options)
        with zfabric.connect(f"zf://{keeper_at}", timeout=PATIENCE_S) as keeper:

            def kept():
                try:
                    return [copy.end_offset for copy in keeper.topics.describe("sensor.x").copies]
                except errors.UnknownTopic:
                    return []

            assert until(lambda: kept() == [51], 2 * PATIENCE_S)
    assert carried(machine, "tx") - before < 1.3 * 650_000
