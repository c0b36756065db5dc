"""The uplink over a real link that is cut, loses, and resets: every record once and in order."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.network.namespaces import serving
from tests.process.leaders import PATIENCE_S
from zfabric.testing import temporary_fabric

ZFABRIC = [sys.executable, "-m", "zfabric"]


@pytest.fixture
def hub(machine, tmp_path):
    """A node on our end of the wire, whatever address that has."""
    with serving(machine, str(tmp_path / "hub"), "--leaders", "2", host="0.0.0.0") as fabric:
        yield fabric


@pytest.fixture
def device():
    with temporary_fabric() as fabric:
        fabric.topics.create("sensor.a", partitions=2)
        yield fabric


@pytest.fixture
def uplink(machine, device, hub):
    """How to start the command on the machine; what was started is killed at the end."""
    running = []

    def start(host=None, run=machine.command):
        ways = (
            "--from",
            device.url,
            "--to",
            address(hub, host or machine.here),
            "--topic",
            "*",
            "--timeout",
            "2",
            "--json",
        )
        command = run(*ZFABRIC, "uplink", *ways)
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def address(hub, host):
    return f"zf://{host}:{hub.url.rpartition(':')[2]}"


def fill(device, first, count):
    with device.producer() as producer:
        for number in range(first, first + count):
            producer.send("sensor.a", b"%d" % number, partition=number % 2)


def arrived(hub):
    if "sensor.a" not in hub.topics.list():
        return 0
    return sum(part.end_offset for part in hub.topics.describe("sensor.a").partitions)


def wait_for(hub, count):
    deadline = time.monotonic() + PATIENCE_S
    while arrived(hub) < count:
        assert time.monotonic() < deadline, f"{arrived(hub)} of {count}"
        time.sleep(0.02)


def check(hub, count):
    found = {0: [], 1: []}
    with hub.consumer("sensor.a") as consumer:
        while sum(map(len, found.values())) < arrived(hub):
            for record in consumer.poll(10_000, timeout=PATIENCE_S):
                found[record.partition].append(int(record.value))
    assert found == {number: list(range(number, count, 2)) for number in range(2)}


FAULTS = {
    "cut": lambda machine: machine.cut("INPUT", "OUTPUT"),
    "deaf": lambda machine: machine.cut("INPUT"),  # What it sends arrives; no acknowledgement comes back.
    "mute": lambda machine: machine.cut("OUTPUT"),
    "reset": lambda machine: machine.reset(),
    "unplugged": lambda machine: machine.unplug(),
}


@pytest.mark.parametrize(("fault", "seconds"), [("cut", 4.0), ("deaf", 4.0), ("reset", 0.5)])
def test_what_was_under_way_when_the_link_failed_arrives_once(machine, device, hub, uplink, fault, seconds):
    """Silence for longer than heartbeats bear it: connections end, and others are made."""
    fill(device, 0, 500)
    uplink()
    wait_for(hub, 500)
    FAULTS[fault](machine)
    fill(device, 500, 2_000)
    time.sleep(seconds)
    machine.heal()
    fill(device, 2_500, 100)
    wait_for(hub, 2_600)
    check(hub, 2_600)


def test_a_hub_that_moves_is_found_by_its_name_by_an_edge_that_has_moved_too(machine, device, hub, uplink, tmp_path):
    """Nothing ends the connections but that nobody answers: neither side is told."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{machine.here} hub.example\n")
    fill(device, 0, 500)
    uplink("hub.example", lambda *command: machine.naming(str(hosts), *command))
    wait_for(hub, 500)
    machine.move()
    hosts.write_text(f"{machine.here} hub.example\n")
    fill(device, 500, 500)
    wait_for(hub, 1_000)
    check(hub, 1_000)


def test_a_link_that_loses_packets_and_fails_again_and_again_under_kills_loses_and_repeats_nothing(
    machine, device, hub, uplink
):
    rng = random.Random(3)
    process = uplink()
    written = 0
    for turn in range(10):
        fill(device, written, 500)
        written += 500
        machine.heal()
        if turn % 2:
            machine.lose(0.1)
        else:
            FAULTS[rng.choice(list(FAULTS))](machine)
        time.sleep(rng.random())
        if turn % 4 == 3:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = uplink()
    machine.heal()
    wait_for(hub, written)
    check(hub, written)


def test_a_bandwidth_limit_is_what_the_wire_carries(machine, device, hub):
    """The kernel counts: TCP, heartbeats and retransmissions included."""
    rng = random.Random(5)
    with device.producer(batch_bytes=8_000) as producer:
        for _ in range(400):
            producer.send("sensor.a", rng.randbytes(500), partition=0)
            producer.flush()
    command = [*ZFABRIC, "uplink", "--from", device.url, "--to", address(hub, machine.here)]
    before, began = sent(machine), time.monotonic()
    options = ["--topic", "*", "--once", "--json", "--bandwidth", "50000", "--compression", "none"]
    done = subprocess.run(machine.command(*command, *options), capture_output=True, timeout=100)
    seconds, size = time.monotonic() - began, sent(machine) - before
    assert done.returncode == 0, done.stderr
    assert size > 200_000
    assert seconds > (size - 2 * 50_000) / 50_000 * 0.9
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 400


def sent(machine):
    """Bytes that the machine has sent."""
    shown = subprocess.run(machine.command("ip", "-j", "-s", "link", "show", "wire"), capture_output=True, check=True)
    return json.loads(shown.stdout)[0]["stats64"]["tx"]["bytes"]
