"""A mesh in which something is amiss at one origin: told once, and all others go on."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.testing.simulation import Simulation


@pytest.fixture
def simulation():
    with Simulation(seed=6, peers=3) as entry:
        entry.advance(1.0)
        yield entry


def send(fabric, values):
    with fabric.producer() as producer:
        for value in values:
            producer.send("t", value).result(30.0)


def read(consumer, count, seconds=60.0):
    records = []
    while len(records) < count and seconds > 0:
        records += consumer.poll(timeout=1.0)
        seconds -= 1.0
    return [record.value for record in records]


def age_out(simulation):
    """Have a group commit in the middle of what peer 0 has, which then is removed; returns all peers' fabrics."""
    fabrics = [simulation.connect(f"p{number}", peer=number) for number in range(3)]
    fabrics[0].topics.create("t", retention=60.0)
    send(fabrics[0], [b"0"] * 4)
    with fabrics[2].consumer("t", group="g") as consumer:
        assert len(read(consumer, 4)) == 4
        [number] = consumer.position
        consumer.commit({number: 2})
    simulation.advance(600.0)
    send(fabrics[0], [b"0 again"])
    simulation.advance(5.0)
    return fabrics


def raised(consumer, seconds=10):
    found = []
    for _ in range(seconds):
        try:
            assert consumer.poll(timeout=1.0) == []
        except errors.ZFabricError as error:
            found.append(error)
    return found


def test_one_that_has_removed_what_a_group_wants_is_told_once_by_name_and_stops_nobody_else(simulation):
    first, second, reader = age_out(simulation)
    with reader.consumer("t", group="g") as consumer:
        with pytest.raises(errors.OffsetOutOfRange) as told:
            read(consumer, 1)
        error = told.value
        send(second, [b"1"])
        assert read(consumer, 1) == [b"1"]
        assert raised(consumer) == []
        described = {part.partition: part for part in reader.topics.describe("t").partitions}
        assert error.origin == described[error.partition].origin
        assert (error.offset, error.start, error.end) == (2, 4, 5)
        assert f"of origin {error.origin}: offset 2 is outside the log; allowed: 4 to 5" in str(error)
        assert consumer.problems == {error.partition: error}
        send(second, [b"2", b"3"])
        send(first, [b"unseen"])
        assert read(consumer, 2) == [b"2", b"3"]
        assert raised(consumer) == []
        consumer.commit()
        consumer.seek(error.partition, error.start)
        assert read(consumer, 2) == [b"0 again", b"unseen"]
        assert (consumer.problems, consumer.failures) == ({}, 1)


def test_where_it_is_the_only_one_it_is_told_after_each_timeout_until_another_one_comes(simulation):
    _, second, reader = age_out(simulation)
    with reader.consumer("t", group="g") as consumer:
        with pytest.raises(errors.OffsetOutOfRange):
            read(consumer, 1)
        before = simulation.now
        assert len(raised(consumer, 4)) == 4
        assert simulation.now - before >= 4.0, "to be told again and again must not keep a processor busy"
        with pytest.raises(errors.OffsetOutOfRange):
            next(iter(consumer))
        send(second, [b"1"])
        simulation.advance(5.0)
        assert read(consumer, 1) == [b"1"]
        assert raised(consumer) == []


def test_one_that_skips_what_is_missing_counts_it_and_is_told_nothing(simulation):
    _, second, reader = age_out(simulation)
    with reader.consumer("t", group="g", missing="skip") as consumer:
        send(second, [b"1"])
        assert sorted(read(consumer, 2)) == [b"0 again", b"1"]
        assert (consumer.skipped, consumer.failures, raised(consumer)) == (2, 0, [])


def test_a_member_that_takes_over_is_told_as_well(simulation):
    _, second, reader = age_out(simulation)
    send(second, [b"1"])
    members = [fabric.consumer("t", group="g") for fabric in (second, reader)]
    told = [errors_of(member) for member in members]
    assert sorted(map(len, told)) == [0, 1]
    failing = 0 if told[0] else 1
    members[failing].close()
    [again] = errors_of(members[1 - failing])
    [before] = told[failing]
    assert (again.partition, again is before) == (before.partition, False)


def errors_of(member):
    """Return what a member is told in a while, each once."""
    found = {}
    for _ in range(8):
        try:
            member.poll(timeout=1.0)
        except errors.OffsetOutOfRange as error:
            found[id(error)] = error
    return list(found.values())


def test_parts_that_were_made_apart_keep_their_settings_and_are_read_together(simulation):
    """Each is described by what an acknowledgement means there."""
    for name, number in (("peer-0", 1), ("peer-1", 0)):
        simulation.partition(name, number)
    simulation.advance(30.0)
    first, second = (simulation.connect(f"p{number}", peer=number) for number in range(2))
    first.topics.create("t", retention=100.0)
    second.topics.create("t", partitions=2, durability="memory")
    send(first, [b"stored"])
    send(second, [b"in memory"])
    simulation.heal()
    simulation.advance(30.0)
    described = {fabric: fabric.topics.describe("t") for fabric in (first, second)}
    assert [info.config.durability for info in described.values()] == ["fsync", "memory"]
    for info in described.values():
        assert sorted(part.durability for part in info.partitions) == ["fsync", "memory", "memory"]
    with simulation.connect("reader", peer=2) as fabric, fabric.consumer("t") as consumer:
        assert sorted(read(consumer, 2)) == [b"in memory", b"stored"]


def test_all_peers_make_their_parts_alike_where_others_differ_and_are_told_who_does():
    """Not as whom they saw first: else they would never agree."""
    with Simulation(seed=6, peers=6) as simulation:
        simulation.advance(1.0)
        for one in range(3):
            for other in range(3):
                if one != other:
                    simulation.partition(f"peer-{one}", other)
        simulation.advance(30.0)
        makers = [simulation.connect(f"p{number}", peer=number) for number in range(3)]
        for maker, days in zip(makers, (1, 2, 2), strict=True):
            maker.topics.create("t", retention=days * 86_400.0)
        simulation.heal()
        simulation.advance(30.0)
        looking, *joining = [simulation.connect(f"p{number}", peer=number) for number in (3, 4, 5)]
        for fabric in joining:
            send(fabric, [b"v"])
        [odd] = [member.fabric for member in makers[0].members() if member.local]
        for fabric in (looking, *joining):
            info = fabric.topics.describe("t")
            assert (info.config.retention_ms, list(info.others)) == (2 * 86_400_000, [odd])
            assert info.others[odd].retention_ms == 86_400_000
        assert len(makers[0].topics.describe("t").others) == 4
        makers[0].topics.alter("t", retention=2 * 86_400.0)
        simulation.advance(60.0)
        assert [fabric.topics.describe("t").others for fabric in (*makers, looking)] == [{}] * 4


def test_who_waits_for_more_keepers_than_there_are_is_told_so(simulation):
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t", replicas=3)
    told = r"acks='all' waits for 2 keepers; 'zfabric topic describe t'"
    with origin.producer(delivery_timeout=10.0) as producer, pytest.raises(errors.DeliveryTimeout, match=told):
        producer.send("t", b"1").result(30.0)
    with origin.producer(acks="leader") as producer:
        assert producer.send("t", b"2").result(30.0).offset == 1


def test_a_peer_that_has_just_started_lists_what_others_have_and_one_that_is_alone_waits_for_a_moment():
    with Simulation(seed=6, peers=2) as simulation:
        simulation.restart = False
        simulation.kill_leader(1)
        simulation.advance(1.0)
        simulation.connect("p0", peer=0).topics.create("t")
        simulation.advance(10.0)
        simulation.start_leader(1)
        assert simulation.connect("p1", peer=1).topics.list() == ["t"]
        simulation.kill_leader(0)
        simulation.advance(60.0)
        fabric, before = simulation.connect("alone", peer=1), simulation.now
        assert fabric.topics.list() == []
        assert simulation.now - before < 3.5
        before = simulation.now
        assert fabric.topics.list() == []
        assert simulation.now - before < 0.5


def test_a_topic_is_not_unknown_as_long_as_the_own_leader_has_not_said_who_there_is(simulation):
    """As where a machine with too much to do starts one."""
    simulation.connect("p0", peer=0).topics.create("t")
    simulation.advance(10.0)
    fabric = simulation.connect("p1", peer=1, timeout=30.0)
    simulation.freeze_leader(1, 6.0)
    with fabric.consumer("t") as consumer:
        assert len(consumer.assignment) == 1
    before = simulation.now
    with pytest.raises(errors.UnknownTopic):
        fabric.consumer("typo")
    assert 3.0 <= simulation.now - before < 3.5


def test_topics_of_others_are_found_one_after_another_without_a_pause_between_them(simulation):
    """To send to many of them for the first time takes a question and the making of each."""
    first, second = (simulation.connect(f"p{number}", peer=number) for number in range(2))
    names = [f"t{number}" for number in range(40)]
    for name in names:
        first.topics.create(name)
    simulation.advance(10.0)
    with second.producer() as producer:
        producer.send(names[0], b"x").result(30.0)
        before = simulation.now
        for name in names[1:]:
            producer.send(name, b"x").result(30.0)
        assert simulation.now - before < 1.0
