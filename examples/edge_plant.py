"""An edge plant: sensors that log whatever happens, a keeper beside them, and an uplink to a hub far away.

    sensor ──┐                  each its own directory and leader: a reading is safe when it is on the sensor's own disk
    sensor ──┼── keeper         has copies of them all, so they outlive a sensor that burns down
    sensor ──┘      └─ uplink ──── hub      every reading once, in each sensor's order, over a link that comes and goes

On real machines, each of these under a service manager, which may kill and start it at any time:

    zfabric serve --data keeper --listen 10.0.0.9:7400 --insecure --leaders 1 --mesh plant --keep 'sensor.*'
    zfabric uplink --from 'zf+peer://plant?role=client&seed=10.0.0.9:7400' --to zf://hub:7400 --topic 'sensor.*'

Run it: python examples/edge_plant.py. It cuts links, kills a sensor for good and the uplink on the way, with kill -9.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import zfabric
from zfabric.testing import frozen_leader, kill_leader

SENSORS = ["boiler", "pump", "valve"]
READINGS = 300
ZFABRIC = [sys.executable, "-m", "zfabric"]
# All processes are in groups of their own: Ctrl-C is for this one, which ends them.


def sensor(name: str, url: str) -> None:
    """One sensor: the body of its process. It takes a series of readings for each line that it is told."""
    with zfabric.connect(url) as fabric:
        # A bounded disk; with acks="all" a reading is on two disks, the sensor's and the keeper's.
        fabric.topics.create("sensor.heat", replicas=2, retention_bytes=64 << 20, if_absent=True)
        print(fabric.status()[0].pid, flush=True)
        taken = 0
        for acks in map(str.strip, sys.stdin):  # "leader" does not need the network, "all" waits for the keeper.
            with fabric.producer(acks=acks) as producer:
                for number in range(taken, taken + READINGS):
                    producer.send("sensor.heat", b"%d" % number, key=name.encode())
            taken += READINGS
            print(taken, flush=True)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: a process that we could not note any more would run for ever."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *caught: came.append(caught))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


class Sensor:
    """A sensor as its plant sees it."""

    def __init__(self, name: str, url: str) -> None:
        command = [sys.executable, __file__, name, url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, process_group=0, **pipes)
        self.taken = 0

    def take(self, acks: str) -> None:
        """Let it take a series, and wait until that is acknowledged."""
        self.process.stdin.write(f"{acks}\n")
        self.process.stdin.flush()
        self.taken = int(self.process.stdout.readline())

    def burn(self, leader: int) -> None:
        """Kill all that runs on it."""
        self.process.kill()
        os.kill(leader, signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def node(directory: str, *options: str) -> Iterator[zfabric.Fabric]:
    """Run ``zfabric serve`` on a free port."""
    command = [*ZFABRIC, "serve", "--data", directory, "--listen", "127.0.0.1:0", "--leaders", "1", "--json", *options]
    with contextlib.ExitStack() as running:
        with undisturbed():
            process = subprocess.Popen(command, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            running.enter_context(process)
            running.callback(process.terminate)
        yield running.enter_context(zfabric.connect(json.loads(process.stdout.readline())["url"]))


@contextlib.contextmanager
def uplink(source: str, target: str) -> Iterator[None]:
    """Run ``zfabric uplink``, and end it with kill -9."""
    command = [*ZFABRIC, "uplink", "--from", source, "--to", target, "--topic", "sensor.*", "--rescan", "1"]
    with contextlib.ExitStack() as running:
        with undisturbed():
            process = running.enter_context(subprocess.Popen(command, process_group=0, stderr=subprocess.DEVNULL))
            running.callback(process.kill)
        yield


def read(fabric: zfabric.Fabric, count: int) -> dict[str, list[int]]:
    """Read so many records; returns each sensor's readings in the order in which they came."""
    found: dict[str, list[int]] = {}
    deadline = time.monotonic() + 60.0
    with fabric.consumer("sensor.heat") as consumer:
        while count > 0 and time.monotonic() < deadline:
            for record in consumer.poll(10_000):
                found.setdefault(record.key.decode(), []).append(int(record.value))
                count -= 1
    return found


def main(directory: str) -> None:
    """Run a plant through a bad day."""
    mesh = f"plant-{directory.rpartition('/')[2]}"
    with (
        node(f"{directory}/hub") as hub,
        node(f"{directory}/keeper", "--mesh", mesh, "--no-beacon", "--keep", "sensor.*") as keeper,
        contextlib.ExitStack() as running,
    ):
        hub.topics.create("sensor.heat", partitions=4)  # Sensors spread over them, each one's readings in one.
        seed = keeper.url.removeprefix("zf://")
        plant = f"zf+peer://{mesh}?role=client&seed={seed}"
        sensors = {}
        for name in SENSORS:
            with undisturbed():
                sensors[name] = Sensor(name, f"zf+peer://{mesh}?data={directory}/{name}&beacon=0&seed={seed}")
                running.callback(sensors[name].process.communicate)
        leaders = {name: int(each.process.stdout.readline()) for name, each in sensors.items()}

        with uplink(plant, hub.url):
            for each in sensors.values():
                each.take("leader")
            read(hub, READINGS)  # Some have arrived.
            with frozen_leader(hub), frozen_leader(keeper):  # Nobody answers: for the sensors the network is down.
                for each in sensors.values():
                    each.take("leader")
            kill_leader(hub)
            for each in sensors.values():
                each.take("all")  # These, and so all before them, are at the keeper as well.
        sensors["boiler"].burn(leaders["boiler"])

        with zfabric.connect(plant) as office:
            found = read(office, sum(each.taken for each in sensors.values()))
        assert found["boiler"] == list(range(sensors["boiler"].taken))
        print(f"the boiler's sensor is gone; the keeper has its {len(found['boiler'])} readings")

        with uplink(plant, hub.url):  # Another one; the hub knows where to go on.
            for name in ("pump", "valve"):
                sensors[name].take("leader")
            total = sum(each.taken for each in sensors.values())
            found = read(hub, total)
        assert found == {name: list(range(each.taken)) for name, each in sensors.items()}
        assert total == sum(part.end_offset for part in hub.topics.describe("sensor.heat").partitions)
        print(f"the hub has all {total:,} readings of {len(SENSORS)} sensors, each once and in order")


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            sensor(*sys.argv[1:])
        else:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
                main(place)
    except KeyboardInterrupt:
        sys.exit(130)
