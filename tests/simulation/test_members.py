"""Members and services as clients see them, in virtual time."""

from __future__ import annotations

from zfabric.testing.simulation import Simulation
from zfabric.wire.card import ServiceCard
from zfabric.wire.membership import Announce
from zfabric.wire.messages import Type


def test_a_leader_that_was_started_again_is_the_same_member_without_its_services():
    service = ServiceCard("s", "1", "sim://s", 7)
    with Simulation(seed=1) as simulation, simulation.connect() as fabric:
        fabric.topics.create("t")
        fabric.ask(Type.ANNOUNCE, Announce(service, 3_000), "announcement")
        [member] = fabric.members()
        assert ([topic.name for topic in member.topics], [entry.name for entry in member.services]) == (["t"], ["s"])
        simulation.kill_leader(0)
        simulation.advance(10.0)
        [again] = fabric.members()
        assert (again.id, again.services) == (member.id, [])


def test_end_offsets_of_all_leaders_are_told_within_twenty_seconds():
    """Each tells every ten; those of a leader that was started again are known at once."""
    with Simulation(seed=2, leaders=3) as simulation, simulation.connect() as fabric:
        fabric.topics.create("t", partitions=6)
        with fabric.producer() as producer:
            for number in range(60):
                producer.send("t", b"v", partition=number % 6)
            producer.flush()
            simulation.advance(20.0)
            assert fabric.members()[0].topics[0].end == 60
            for leader in range(3):
                simulation.kill_leader(leader)
            simulation.advance(20.0)
            assert fabric.members()[0].topics[0].end == 60


def test_a_watch_follows_the_only_member_in_virtual_time():
    with (
        Simulation(seed=3) as simulation,
        simulation.connect() as fabric,
        fabric.watch_members(timeout=30.0) as watch,
    ):
        assert next(watch).kind == "joined"
        fabric.topics.create("t")
        change = next(watch)
        assert (change.kind, [topic.name for topic in change.member.topics]) == ("updated", ["t"])
        before = simulation.now
        assert list(watch) == []
        assert simulation.now - before >= 30.0
