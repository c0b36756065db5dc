"""Two keepers on wires that are cut and heal: what acks="all" waits for, and what it does not."""

from __future__ import annotations

import contextlib
import shutil

import pytest

import zfabric
from tests.network.namespaces import Machine, require
from tests.network.test_plant import serve
from tests.process.leaders import PATIENCE_S, free_port
from tests.process.test_sdk import until
from zfabric import errors


@pytest.fixture
def stack():
    with contextlib.ExitStack() as made:
        yield made


def test_all_waits_for_a_keeper_that_can_be_reached_and_for_no_other(tmp_path, stack):
    """One keeper is enough (replicas=2): one may be cut off, or come back with an empty disk, and nobody waits."""
    require()
    machines = [stack.enter_context(Machine(number)) for number in range(2)]
    port = free_port()
    serve(stack, tmp_path / "origin", f"0.0.0.0:{port}")

    def keep(number, on):
        with contextlib.ExitStack() as keeping:
            machine = machines[number]
            options = ("--keep", "sensor.*", "--follow", f"{machine.here}:{port}")
            serve(keeping, tmp_path / f"keeper-{number}", f"{machine.there}:7400", *options, machine=machine)
            on.push(keeping.pop_all())

    first = stack.enter_context(contextlib.ExitStack())
    keep(0, first)
    keep(1, stack)
    fabric = stack.enter_context(zfabric.connect(f"zf://127.0.0.1:{port}", timeout=PATIENCE_S))
    fabric.topics.create("sensor.x", replicas=2)

    def confirmed():
        (part,) = fabric.topics.describe("sensor.x").partitions
        return sorted(part.keepers.values()), part.end_offset

    def send(count, **options):
        with fabric.producer(**options) as producer:
            for _ in range(count):
                producer.send("sensor.x", b"v").result(PATIENCE_S)

    send(20)
    machines[0].cut("INPUT", "OUTPUT")
    send(20)  # The other one has them.
    machines[1].cut("INPUT", "OUTPUT")
    send(10, acks="leader")
    with pytest.raises(errors.DeliveryTimeout):
        send(1, delivery_timeout=2.0)
    for machine in machines:
        machine.heal()
    send(10)
    assert until(lambda: confirmed() == ([61, 61], 61), PATIENCE_S)  # What timed out is stored all the same.
    first.close()
    shutil.rmtree(tmp_path / "keeper-0")
    send(10)
    keep(0, first)
    assert until(lambda: confirmed()[0][-2:] == [71, 71], PATIENCE_S)
    send(10)
