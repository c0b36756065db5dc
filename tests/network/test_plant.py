"""A plant on real wires: two sensors, a keeper and a hub; wires are cut, lossy and reset, and a sensor reboots."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import psutil
import pytest

import zfabric
from tests.network.namespaces import Machine, require
from tests.process.leaders import PATIENCE_S, free_port
from tests.process.test_sdk import until

ZFABRIC = [sys.executable, "-m", "zfabric"]
SENSOR = """
import select, sys, zfabric
with zfabric.connect(sys.argv[1], timeout=60) as fabric:
    fabric.topics.create("sensor.heat", if_absent=True)
    with fabric.producer(name="readings", acks="leader") as producer:
        number = max(producer.stored("sensor.heat").values()) + 1
        while not select.select([sys.stdin], [], [], 0.005)[0]:
            producer.send("sensor.heat", b"%d" % number, key=sys.argv[2].encode(), sequence=number).result(60)
            number += 1
            print(number, flush=True)
    sys.stdin.readline()
    print(number, flush=True)
    print("stopped", flush=True)
    sys.stdin.read()
"""
"""Takes readings from where it was until it is told to stop, then stays; says how many are acknowledged."""


class Sensor:
    """A peer on a machine of its own."""

    def __init__(self, machine, name, mesh, directory, seed):
        self.machine, self.name, self.directory = machine, name, directory
        self._url = f"zf+peer://{mesh}?data={directory}&listen={machine.there}&insecure=1&beacon=0&seed={seed}"
        self.log = directory.with_suffix(".log")
        self.log.touch()
        self.process = None

    def acknowledged(self):
        said = [line for line in self.log.read_text().splitlines() if line.isdecimal()]
        return int(said[-1]) if said else 0

    def start(self):
        command = self.machine.command(sys.executable, "-c", SENSOR, self._url, self.name)
        with self.log.open("a") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out)

    def stop(self):
        """Let it take no more readings; it is there still."""
        self.process.stdin.write(b"stop\n")
        self.process.stdin.flush()
        assert until(lambda: "stopped" in self.log.read_text(), PATIENCE_S)

    def kill(self):
        """End all that runs there: the application and the leader, each with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if f'"data":"{self.directory}"' in " ".join(process.cmdline()):
                    process.kill()
                    process.wait(PATIENCE_S)


@pytest.fixture
def stack():
    with contextlib.ExitStack() as made:
        yield made


def serve(stack, data, listen, *options, machine=None):
    command = [*ZFABRIC, "serve", "--data", str(data), "--listen", listen, "--leaders", "1", "--insecure", *options]
    node = stack.enter_context(
        subprocess.Popen(machine.command(*command) if machine else command, stdout=subprocess.PIPE)
    )
    stack.callback(node.terminate)
    assert node.stdout.readline()


def test_every_reading_of_a_plant_with_bad_wires_arrives_once_and_in_order(tmp_path, stack):
    require()
    machines = [stack.enter_context(Machine(number)) for number in range(3)]
    far = machines[2]  # The hub's; the sensors are on the others, the keeper and the uplink here.
    port, mesh = free_port(), f"plant-{os.getpid()}"
    serve(stack, tmp_path / "hub", f"{far.there}:7400", machine=far)
    serve(
        stack,
        tmp_path / "keeper",
        f"0.0.0.0:{port}",
        "--mesh",
        mesh,
        "--no-beacon",
        "--keep",
        "sensor.*",
        "--advertise",
        machines[0].here,
    )
    for machine in machines[:2]:  # Sensors reach each other by way of here.
        subprocess.run(machine.command("ip", "route", "add", "default", "via", machine.here), check=True)
    sensors = [
        Sensor(machine, name, mesh, tmp_path / name, f"{machine.here}:{port}")
        for machine, name in zip(machines, ("boiler", "pump"), strict=False)
    ]
    for sensor in sensors:
        stack.callback(sensor.kill)
        sensor.start()
    plant = f"zf+peer://{mesh}?role=client&seed={machines[0].here}:{port}"
    hub = stack.enter_context(zfabric.connect(f"zf://{far.there}:7400", timeout=PATIENCE_S))
    command = [
        *ZFABRIC,
        "uplink",
        "--from",
        plant,
        "--to",
        hub.url,
        "--topic",
        "sensor.*",
        "--rescan",
        "1",
        "--timeout",
        "2",
    ]
    uplink = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
    stack.callback(uplink.kill)

    def arrived():
        if "sensor.heat" not in hub.topics.list():
            return 0
        return sum(part.end_offset for part in hub.topics.describe("sensor.heat").partitions)

    assert until(lambda: arrived() > 100, PATIENCE_S)
    boiler, pump = sensors
    boiler.machine.cut("INPUT", "OUTPUT")
    time.sleep(4.0)  # Its peers take it for failed, and it goes on.
    boiler.machine.heal()
    for machine in machines:
        machine.lose(0.05)
    time.sleep(3.0)
    for machine in machines:
        machine.heal()
    far.reset()
    time.sleep(0.5)
    far.heal()
    pump.kill()
    before = pump.acknowledged()
    boiler.machine.reset()
    time.sleep(0.5)
    boiler.machine.heal()
    pump.start()
    assert until(lambda: pump.acknowledged() > before + 100, PATIENCE_S)
    for sensor in sensors:
        sensor.stop()
    found = {sensor.name: [] for sensor in sensors}
    with hub.consumer("sensor.heat") as consumer:

        def enough():
            for record in consumer.poll(10_000, timeout=0.5):
                found[record.key.decode()].append(int(record.value))
            return all(len(found[sensor.name]) >= sensor.acknowledged() for sensor in sensors)

        assert until(enough, PATIENCE_S), {name: len(numbers) for name, numbers in found.items()}
        enough()
    for sensor in sensors:
        numbers = found[sensor.name]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) == sensor.acknowledged()
