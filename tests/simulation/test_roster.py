"""What clients read about a mesh, against the mesh itself, in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from zfabric.core.cluster.roster import FORGOTTEN, Roster
from zfabric.server.gossip import inform
from zfabric.settings import MeshSettings
from zfabric.sim.mesh import MeshWorld
from zfabric.sim.world import SECOND
from zfabric.wire.gossip import Status
from zfabric.wire.membership import Members

COUNT = 12
SETTINGS = MeshSettings(failed_keep_ns=120 * SECOND, left_keep_ns=60 * SECOND)


class Watched:
    """A mesh whose members have rosters, and a client of the first that reads only what changed."""

    def __init__(self, seed):
        self.world = MeshWorld(seed, loss=0.05, settings=SETTINGS)
        self.rosters = {}
        self.world.watch = self._watch
        for _ in range(COUNT):
            self.add()
        self.table = {}
        self.run = self.version = 0

    def add(self):
        seeds = [self.world.hosts[0].endpoint] if self.world.hosts else []
        number = len(self.world.hosts)
        self.rosters[number] = Roster(number + 1)
        return self.world.add(seeds=seeds)

    def _watch(self, host, event, now):
        self.rosters[host.number].clock(now, now // 1_000_000)
        inform(self.rosters[host.number], host.mesh, event)

    def read(self):
        """Read like a client."""
        more = True
        while more:
            body = self.rosters[0].answer(Members(self.run, self.version))
            if body.run != self.run:
                self.table.clear()
            self.run, self.version, more = body.run, body.version, body.more
            for member in body.members:
                self.table[member.id] = member
        return {
            key: (m.status, m.incarnation) for key, m in self.table.items() if m.status != FORGOTTEN and key != body.me
        }

    def truth(self):
        """What the first member's mesh holds."""
        return {member.id: (member.status, member.incarnation) for member in self.world.hosts[0].mesh.members()}


@pytest.mark.parametrize("seed", range(2))
def test_a_client_reads_what_the_mesh_knows_whatever_happens(seed):
    """Crashes, pauses, leaves, rejoins, and members that are forgotten: the copy never differs."""
    watched, random = Watched(seed), Random(seed)
    world = watched.world
    world.run(5.0)
    for _ in range(8):
        living = [host for host in world.live() if host.number]
        chosen = random.choice(living)
        what = random.randrange(5)
        if what == 0 and len(living) > 4:
            world.crash(chosen)
        elif what == 1 and len(living) > 4:
            world.leave(chosen)
        elif what == 2:
            world.pause(chosen, 4.0)
        elif what == 3:
            world.update(chosen, random.randbytes(20))
        else:
            watched.add()
        world.run(random.random() * 20)
        assert watched.read() == watched.truth()
    world.run(250.0)
    assert watched.read() == watched.truth()
    assert {status for status, _ in watched.read().values()} == {Status.ALIVE}


def test_all_that_leave_at_the_same_time_are_soon_done():
    """Nobody is left to tell: a machine that is shut down does not wait for the longest time."""
    world = MeshWorld(1)
    hosts = world.grow(3)
    world.run(3.0)
    for host in hosts:
        world.leave(host)
    assert world.until(lambda: all(host.mesh.left for host in hosts), 1.0)
