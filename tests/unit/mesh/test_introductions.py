"""Beacons: when one is sent, and who is met."""

from __future__ import annotations

from random import Random

import pytest

from zfabric.core.mesh.introductions import MEET_NS, WAITING_MAX, Introductions
from zfabric.sim.mesh import MeshWorld
from zfabric.wire.beacon import Beacon
from zfabric.wire.gossip import Member, Status

SECOND = 1_000_000_000
LATER = 5_000 * SECOND


def strangers(count):
    return [Beacon(bytes([7, number]) + bytes(14), f"tcp://10.0.0.{number}:1") for number in range(1, count + 1)]


class Lan:
    """Members on one local network: what one sends all hear, itself included."""

    def __init__(self, seed, size):
        self.world = MeshWorld(seed)
        self.sent = 0
        self.machines = {}
        for _ in range(size):
            self.add()

    def add(self):
        host = self.world.add()
        self.machines[host] = Introductions(host.mesh, Random(host.number), self.world.now)
        return host

    def run(self, seconds):
        for _ in range(int(seconds * 10)):
            for host, machine in self.machines.items():
                if machine.tick(self.world.now):
                    self.sent += 1
                    for other in self.machines.values():
                        other.hear(Beacon(host.id, host.endpoint), self.world.now)
                self.world._after(host)
            self.world.run(0.1)


@pytest.mark.parametrize("seed", range(3))
def test_members_of_one_network_find_each_other_without_seeds(seed):
    lan = Lan(seed, 12)
    lan.run(20.0)
    assert lan.world.agree()
    lan.add()
    lan.run(10.0)
    assert lan.world.agree()


def test_all_members_together_send_about_one_beacon_a_second():
    lan = Lan(1, 20)
    lan.run(40.0)
    before = lan.sent
    lan.run(60.0)
    assert 30 < lan.sent - before < 120


def test_one_that_is_alone_sends_every_second():
    lan = Lan(1, 1)
    lan.run(20.0)
    assert 14 < lan.sent < 28


def met(host):
    return [effect.endpoint for effect in host.mesh.take_effects()]


@pytest.fixture
def alone():
    lan = Lan(1, 1)
    [(host, machine)] = lan.machines.items()
    host.mesh.take_effects()
    return host, machine


def test_a_stranger_is_met_once_and_what_is_known_never(alone):
    host, machine = alone
    [stranger] = strangers(1)
    machine.hear(stranger, LATER)
    machine.hear(stranger, LATER)
    machine.hear(Beacon(host.id, "tcp://10.0.0.9:1"), LATER)
    machine.tick(LATER)
    machine.tick(LATER + SECOND)
    assert met(host) == [stranger.endpoint]


def test_a_member_is_met_where_it_was_not_known_to_be(alone):
    """It may have got another address while it could tell nobody."""
    host, machine = alone
    [member] = strangers(1)
    host.mesh.restore([Member(member.sender, 1, 1, Status.ALIVE, member.endpoint)])
    machine.hear(member, LATER)
    machine.tick(LATER)
    machine.hear(Beacon(member.sender, "tcp://10.0.0.9:1"), LATER)
    machine.tick(LATER + MEET_NS)
    assert met(host) == ["tcp://10.0.0.9:1"]


def test_a_flood_meets_one_at_a_time_and_has_a_bound(alone):
    host, machine = alone
    for stranger in strangers(WAITING_MAX + 10):
        machine.hear(stranger, LATER)
    assert (machine.heard, machine.refused) == (WAITING_MAX + 10, 10)
    for step in range(20):
        machine.tick(LATER + step * MEET_NS // 2)
    assert len(met(host)) == 10


def test_an_endpoint_that_cannot_be_one_is_not_met(alone):
    host, machine = alone
    for endpoint in ("", "a b", "x" * 129, host.endpoint):
        host.mesh.meet(endpoint, LATER)
    assert met(host) == []
    assert machine.refused == 0
