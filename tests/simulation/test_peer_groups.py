"""Groups without a coordinator: who reads what, and what a change costs (see ``core/client/share.py``)."""

import pytest

from zfabric.testing.simulation import Simulation


class Group:
    """A topic at three peers, and consumers of one group, polled in turn."""

    def __init__(self, seed):
        self.simulation = Simulation(seed, peers=3)
        self.simulation.advance(1.0)
        self.fabrics = [self.simulation.connect(f"app-{peer}", peer=peer) for peer in range(3)]
        self.fabrics[0].topics.create("t", partitions=4)
        self.producers = [fabric.producer() for fabric in self.fabrics]
        self.members = {}
        self.got = {}
        self.sent = 0

    def send(self, count):
        for producer in self.producers:
            for _ in range(count):
                producer.send("t", b"%d" % self.sent, key=b"%d" % self.sent)
                self.sent += 1
            producer.flush()

    def join(self, name, peer):
        fabric = self.simulation.connect(name, peer=peer)
        self.members[name] = fabric, fabric.consumer("t", group="g")
        self.got[name] = []

    def poll(self, seconds, *names, commit=False):
        end = self.simulation.now + seconds
        while self.simulation.now < end:
            for name in names or self.members:
                self.got[name] += self.members[name][1].poll(timeout=0.1)
                if commit:
                    self.members[name][1].commit()

    def shares(self):
        return [set(consumer.assignment) for _, consumer in self.members.values()]

    def all(self):
        return sorted(int(record.value) for records in self.got.values() for record in records)


@pytest.fixture
def group():
    entry = Group(1)
    with entry.simulation:
        yield entry


def test_members_share_all_partitions_of_all_origins_and_read_each_record_once(group):
    group.send(20)
    for number in range(3):
        group.join(f"m{number}", number)
    group.poll(10.0)
    assert sorted(map(len, group.shares())) >= [1, 1, 1]
    assert len(set().union(*group.shares())) == sum(map(len, group.shares())) == 12
    assert group.all() == list(range(60))
    group.send(20)
    group.poll(5.0)
    assert group.all() == list(range(120))


def test_the_only_member_at_the_only_peer_begins_at_once():
    with Simulation(seed=1, peers=2) as simulation:
        simulation.restart = False
        simulation.kill_leader(1)
        simulation.advance(20.0)
        fabric = simulation.connect()
        fabric.topics.create("t")
        with fabric.producer() as producer:
            producer.send("t", b"v").result(30.0)
        fabric.members()
        before = simulation.now
        with fabric.consumer("t", group="g") as consumer:
            assert [record.value for record in consumer.poll(timeout=60.0)] == [b"v"]
        assert simulation.now - before < 5.0


def test_members_of_a_group_are_no_services(group):
    """They are announced in the same way, and gossip carries them in the same card."""
    group.join("m0", 0)
    group.poll(3.0)
    assert group.fabrics[1].services() == []
    assert [member.services for member in group.fabrics[1].members()] == [[], [], []]


def test_processes_of_one_peer_share_as_well(group):
    for number in range(3):
        group.join(f"m{number}", 0)
    group.send(20)
    group.poll(10.0)
    assert sum(map(len, group.shares())) == 12
    assert group.all() == list(range(60))


def test_a_peer_may_have_more_members_than_its_card_has_room_for(group):
    """The others ask it for the rest, and notice who goes."""
    for number in range(20):
        group.join(f"m{number}", 0)
    group.join("other", 1)
    group.send(10)
    group.poll(20.0)
    seen = group.members["other"][1]._core._share._seen()
    assert len(seen) == 21
    assert len(set(seen.values())) == 1  # All agree.
    assert sum(map(len, group.shares())) == len(set().union(*group.shares())) == 12
    assert group.all() == list(range(30))
    for number in range(1, 20):
        group.simulation.kill_client(group.members.pop(f"m{number}")[0])
    group.poll(8.0)
    assert sum(map(len, group.shares())) == 12


def test_who_joins_gets_a_part_and_nothing_is_read_twice_because_it_was_committed(group):
    group.send(20)
    group.join("m0", 0)
    group.poll(5.0)
    assert group.shares() == [set(group.members["m0"][1].assignment)]
    assert len(group.shares()[0]) == 12
    group.join("m1", 1)
    group.send(20)
    group.poll(8.0)
    assert all(group.shares())
    assert sum(map(len, group.shares())) == 12
    assert group.all() == list(range(120))


def test_what_a_member_had_that_leaves_goes_to_the_others_at_once(group):
    for number in range(3):
        group.join(f"m{number}", number)
    group.send(20)
    group.poll(10.0)
    left = group.members.pop("m2")[1]
    left.commit()
    left.close()
    group.send(20)
    group.poll(2.5)
    assert sum(map(len, group.shares())) == 12
    assert group.all() == list(range(120))


def test_what_a_killed_member_had_moves_within_seconds_and_is_read_again_from_its_commit(group):
    for number in range(3):
        group.join(f"m{number}", number)
    group.send(20)
    group.poll(10.0, commit=True)
    group.send(20)
    group.poll(0.4)  # Not committed by anybody.
    group.simulation.kill_client(group.members.pop("m2")[0])
    group.poll(5.0)
    assert sum(map(len, group.shares())) == 12
    assert set(group.all()) == set(range(120))
    again = len(group.all()) - 120
    assert again <= sum(1 for record in group.got["m2"] if int(record.value) >= 60)


def test_a_member_whose_application_stays_away_holds_up_a_change_for_a_few_seconds_only(group):
    group.join("m0", 0)
    group.send(20)
    group.poll(5.0)
    group.join("m1", 1)
    group.send(20)
    group.poll(6.0, "m1")  # m0 has not come back for more: it may still work on what it got.
    taken = set(group.members["m1"][1].assignment)
    assert 0 < len(taken) < 12
    group.poll(3.0)
    assert taken.isdisjoint(group.members["m0"][1].assignment)
    assert set(group.all()) == set(range(120))


def test_a_divided_mesh_reads_on_in_both_parts_and_agrees_again(group):
    """At least once: each part is a group of its own, and nothing is left out."""
    for number in range(2):
        group.join(f"m{number}", number)
    group.poll(5.0)
    simulation = group.simulation
    for one, other in ((0, 1), (1, 0), (2, 1), (1, 2)):
        simulation.partition(f"peer-{one}", other)
        simulation.partition(f"m{one}", other)
    group.send(20)
    group.poll(15.0)
    simulation.heal()
    group.poll(15.0)
    assert sum(map(len, group.shares())) == 12
    assert set(group.all()) == set(range(60))


def test_what_comes_after_a_group_began_at_the_end_is_left_out_by_nobody_though_its_member_dies_before_a_commit(group):
    group.send(5)
    fabric = group.simulation.connect("m0", peer=0)
    consumer = fabric.consumer("t", group="g", start="latest")
    end = group.simulation.now + 5.0
    while group.simulation.now < end:
        assert consumer.poll(timeout=0.1) == []
    assert len(consumer.assignment) == 12
    group.simulation.kill_client(fabric)
    group.send(5)
    group.simulation.advance(3.0)
    with group.fabrics[1].consumer("t", group="g", start="latest") as successor:
        seen, end = [], group.simulation.now + 10.0
        while group.simulation.now < end:
            seen += [int(record.value) for record in successor.poll(timeout=0.5)]
    assert sorted(seen) == list(range(15, 30))


@pytest.mark.parametrize("seed", range(10))
def test_members_that_come_and_go_leave_nothing_out(seed):
    entry = Group(seed)
    random = entry.simulation.world.random
    with entry.simulation:
        for turn in range(12):
            entry.send(3)
            if len(entry.members) < 3 and random.random() < 0.6:
                entry.join(f"m{turn}", random.randrange(3))
            elif entry.members and random.random() < 0.6:
                name = random.choice(sorted(entry.members))
                fabric, consumer = entry.members.pop(name)
                if random.random() < 0.5:
                    entry.simulation.kill_client(fabric)
                else:
                    consumer.close()
            if random.random() < 0.3:
                entry.simulation.kill_leader(random.randrange(3))
            if entry.members:
                entry.poll(random.uniform(0.1, 3.0), commit=random.random() < 0.5)
        entry.join("last", 0)
        entry.poll(20.0)
        assert set(entry.all()) == set(range(entry.sent))
