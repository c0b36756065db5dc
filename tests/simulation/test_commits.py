"""Commits among peers that come and go: bounded, and stored when that can be done (``core/client/committing.py``)."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.testing.simulation import Simulation


def send(fabric, *values):
    with fabric.producer() as producer:
        return [producer.send("t", value).result(30.0) for value in values]


def read(consumer, count, seconds=30.0):
    records = []
    while len(records) < count and seconds > 0:
        records += consumer.poll(timeout=1.0)
        seconds -= 1.0
    return [record.value for record in records]


class Plant:
    """Peer 0 originates, peer 1 may keep, peer 2 reads, and has read what there is."""

    def __init__(self, simulation):
        self.simulation = simulation
        self.origin = simulation.connect("a", peer=0)
        self.origin.topics.create("t")
        send(self.origin, b"1", b"2")
        self.fabric = simulation.connect("c", peer=2)
        send(self.fabric, b"own")
        self.consumer = self.fabric.consumer("t", group="g")
        assert len(read(self.consumer, 3)) == 3
        simulation.advance(5.0)

    def commit(self):
        """Commit; returns how long that took."""
        before = self.simulation.now
        self.consumer.commit()
        return self.simulation.now - before

    def committed(self):
        return sorted(entry.offset for entry in self.fabric.groups.describe("g"))


@pytest.fixture(params=[[], ["t"]], ids=["alone", "kept"])
def plant(request):
    with Simulation(seed=3, peers=3, keep={1: request.param} if request.param else {}) as simulation:
        simulation.advance(1.0)
        simulation.restart = False
        yield Plant(simulation)


def test_a_commit_does_not_wait_long_for_an_origin_that_has_just_died_and_is_stored_when_it_is_back(plant):
    plant.simulation.kill_leader(0)
    assert plant.commit() < 2.0
    assert plant.commit() < 0.5  # Nor another one, now that this is known.
    plant.simulation.start_leader(0)
    plant.consumer.poll(timeout=5.0)
    assert plant.committed() == [1, 2]
    plant.consumer.close()
    with plant.fabric.consumer("t", group="g") as consumer:
        assert consumer.poll(timeout=10.0) == []


def test_what_is_owed_to_an_origin_that_stays_away_is_stored_at_its_keeper(plant):
    plant.simulation.kill_leader(0)
    assert plant.commit() < 2.0
    plant.consumer.poll(timeout=15.0)
    kept = plant.simulation.processes[1].leader.kept
    assert plant.committed() == ([1, 2] if kept else [1])


def test_an_origin_that_stands_still_for_a_moment_is_waited_for(plant):
    """It is connected: what returns from the call is durable."""
    plant.simulation.freeze_leader(0, 1.8)
    assert plant.commit() >= 1.7
    plant.simulation.kill_leader(0)
    plant.simulation.start_leader(0)
    plant.consumer.close()
    assert plant.committed() == [1, 2]


def test_what_a_later_commit_says_counts_and_not_what_was_owed(plant):
    plant.simulation.kill_leader(0)
    plant.commit()
    [number] = [number for number, position in plant.consumer.position.items() if position == 2]
    plant.simulation.start_leader(0)
    send(plant.simulation.connect("again", peer=0), b"3")
    assert read(plant.consumer, 1) == [b"3"]
    plant.consumer.commit({number: 3})
    plant.consumer.poll(timeout=3.0)
    assert plant.committed() == [1, 3]


def test_an_offset_that_an_origin_does_not_have_is_named_by_the_number_that_users_know(plant):
    [number] = [number for number, position in plant.consumer.position.items() if position == 2]
    with pytest.raises(errors.OffsetOutOfRange) as told:
        plant.consumer.commit({number: 9})
    assert (told.value.partition, told.value.end) == (number, 2)
