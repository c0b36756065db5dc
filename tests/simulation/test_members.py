"""Members and services as clients see them, in virtual time."""

from __future__ import annotations

from zfabric.testing.simulation import Simulation
from zfabric.wire import messages
from zfabric.wire.card import ServiceCard
from zfabric.wire.messages import Type


def test_a_leader_that_was_started_again_is_the_same_member_without_its_services():
    service = ServiceCard("s", "1", "sim://s", 7)
    with Simulation(seed=1) as simulation, simulation.connect() as fabric:
        fabric.topics.create("t")
        fabric.ask(Type.ANNOUNCE, messages.Announce(service, 3_000), "announcement")
        [member] = fabric.members()
        assert ([topic.name for topic in member.topics], [entry.name for entry in member.services]) == (["t"], ["s"])
        simulation.kill_leader(0)
        simulation.advance(10.0)
        [again] = fabric.members()
        assert (again.id, again.services) == (member.id, [])
