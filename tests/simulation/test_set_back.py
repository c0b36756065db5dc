"""An origin whose directory was replaced by an older state of itself, as its readers see it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from zfabric import errors
from zfabric.testing.simulation import Simulation


def send(fabric, name, count):
    with fabric.producer() as producer:
        return [producer.send("t", b"%s %d" % (name, number)).result(30.0) for number in range(count)]


def read(consumer, count, seconds=30.0):
    records = []
    while len(records) < count and seconds > 0:
        records += consumer.poll(timeout=1.0)
        seconds -= 1.0
    return [record.value for record in records]


def set_back(simulation, number, items):
    """Give a peer an older state of its disk."""
    process = simulation.processes[number]
    process.kill()
    txn = process.disk.write()
    for entry in process.disk.items():
        txn.delete(entry[0])
    for key, value in items:
        txn.put(key, value)
    process.disk.commit()
    process.start()


def originate(simulation, lost):
    """Have peer 0 originate three records, and so many more after a backup, which is returned."""
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t")
    send(origin, b"both", 3)
    backup = simulation.processes[0].disk.items()
    send(origin, b"lost", lost)
    return backup


@contextmanager
def kept(seed, lost):
    """Peer 0 originates three records, and so many more after a backup; peer 1 keeps all. Gives the backup too."""
    with Simulation(seed=seed, peers=3, keep={1: ["t"]}) as simulation:
        simulation.advance(1.0)
        simulation.restart = False
        yield simulation, originate(simulation, lost)


@pytest.fixture
def simulation():
    with Simulation(seed=2, peers=3) as entry:
        entry.advance(1.0)
        entry.restart = False
        yield entry


@pytest.mark.parametrize("cold", [False, True], ids=["of a running one", "of one that stood still"])
@pytest.mark.parametrize("more", [1, 2, 9])
def test_a_reader_of_an_origin_that_was_set_back_is_told_and_misses_nothing_of_what_came_instead(
    simulation, cold, more
):
    origin, reader = simulation.connect("a", peer=0), simulation.connect("b", peer=1)
    origin.topics.create("t")
    send(origin, b"both", 3)
    if cold:
        simulation.processes[0].kill()
    backup = simulation.processes[0].disk.items()
    if cold:
        simulation.start_leader(0)
    with reader.consumer("t", group="g") as consumer:
        assert len(read(consumer, 3)) == 3
        send(origin, b"lost", 2)
        assert read(consumer, 2) == [b"lost 0", b"lost 1"]
        set_back(simulation, 0, backup)
        sent = send(simulation.connect("a again", peer=0), b"new", more)
        assert sent[0].offset == 3
        with pytest.raises(errors.LogRewound) as told:
            read(consumer, 1)
        assert (told.value.parted, told.value.partition) == (3, sent[0].partition)
        consumer.seek(told.value.partition, told.value.parted)
        assert read(consumer, more) == [b"new %d" % number for number in range(more)]
        assert consumer.poll(timeout=5.0) == []


def test_a_group_that_comes_back_is_told_though_it_has_received_nothing_since(simulation):
    """It has asked where it was, and the origin is away until it is another one."""
    backup = originate(simulation, 2)
    reader = simulation.connect("b", peer=1)
    with reader.consumer("t", group="g") as consumer:
        assert len(read(consumer, 5)) == 5
        consumer.commit()
    with reader.consumer("t", group="g") as consumer:
        assert consumer.poll(timeout=5.0) == []
        set_back(simulation, 0, backup)
        send(simulation.connect("a again", peer=0), b"new", 5)
        with pytest.raises(errors.LogRewound) as told:
            read(consumer, 1)
        consumer.seek(told.value.partition, told.value.parted)
        assert read(consumer, 8 - told.value.parted)[-5:] == [b"new %d" % number for number in range(5)]


def test_what_was_processed_of_a_log_that_was_set_back_is_not_committed_in_the_one_that_there_is(simulation):
    backup = originate(simulation, 2)
    reader = simulation.connect("b", peer=1)
    with reader.consumer("t", group="g") as consumer:
        assert len(read(consumer, 5)) == 5
        set_back(simulation, 0, backup)
        send(simulation.connect("a again", peer=0), b"new", 5)
        with pytest.raises(errors.LogRewound):
            consumer.commit()
    with simulation.connect("c", peer=2) as fabric, fabric.consumer("t", group="g") as consumer:
        assert read(consumer, 8)[-5:] == [b"new %d" % number for number in range(5)]


def test_one_that_skips_what_is_missing_goes_on_where_the_logs_part(simulation):
    origin, reader = simulation.connect("a", peer=0), simulation.connect("b", peer=1)
    origin.topics.create("t")
    send(origin, b"both", 3)
    backup = simulation.processes[0].disk.items()
    with reader.consumer("t", missing="skip") as consumer:
        send(origin, b"lost", 2)
        assert len(read(consumer, 5)) == 5
        set_back(simulation, 0, backup)
        send(simulation.connect("a again", peer=0), b"new", 4)
        assert read(consumer, 4) == [b"new %d" % number for number in range(4)]


def test_an_origin_that_only_starts_again_tells_its_readers_nothing(simulation):
    origin, reader = simulation.connect("a", peer=0), simulation.connect("b", peer=1)
    origin.topics.create("t")
    with reader.consumer("t") as consumer:
        for life in range(4):
            send(origin, b"%d" % life, 3)
            assert len(read(consumer, 3)) == 3
            simulation.processes[0].kill()
            simulation.start_leader(0)


def test_a_keeper_that_has_the_log_as_it_was_is_no_place_for_readers_of_the_one_that_there_is(monkeypatch):
    """Its copy stays as it is and says so; who has read at the origin goes on there."""
    from zfabric.core.client import origins, routes

    with kept(seed=3, lost=9) as (simulation, backup):
        simulation.advance(5.0)
        set_back(simulation, 0, backup)
        origin = simulation.connect("a again", peer=0)
        send(origin, b"new", 4)
        with simulation.connect("b", peer=2) as fabric, fabric.consumer("t") as consumer:
            assert len(read(consumer, 7)) == 7
            monkeypatch.setattr(routes, "DIRECT_MAX", 0)
            monkeypatch.setattr(origins, "DIRECT_MAX", 0)
            consumer._core.take_up()
            simulation.advance(5.0)
            send(origin, b"more", 2)
            assert read(consumer, 2) == [b"more 0", b"more 1"]


def test_what_groups_have_committed_in_the_log_as_it_was_is_not_told_to_the_one_that_there_is():
    """By a keeper: once that has grown so far, its offsets would leave out what came instead."""
    with kept(seed=4, lost=5) as (simulation, backup), simulation.connect("b", peer=2) as fabric:
        with fabric.consumer("t", group="g") as consumer:
            assert len(read(consumer, 8)) == 8
            consumer.commit()
        simulation.advance(5.0)
        set_back(simulation, 0, backup)
        send(simulation.connect("a again", peer=0), b"new", 9)
        simulation.advance(40.0)
        simulation.processes[1].kill()
        simulation.start_leader(1)  # It tells all once more.
        simulation.advance(40.0)
        with fabric.consumer("t", group="g") as consumer:
            assert read(consumer, 12) == [b"both %d" % n for n in range(3)] + [b"new %d" % n for n in range(9)]


def test_of_many_origins_one_that_was_set_back_is_read_itself_and_not_at_the_keeper_of_its_old_log(monkeypatch):
    """Keepers are where many origins are read, but their copies of that one do not go on."""
    from zfabric.core.client import origins, routes

    monkeypatch.setattr(routes, "DIRECT_MAX", 0)
    monkeypatch.setattr(origins, "DIRECT_MAX", 0)
    with kept(seed=5, lost=2) as (simulation, backup):
        simulation.advance(5.0)
        set_back(simulation, 0, backup)
        origin = simulation.connect("a again", peer=0)
        send(origin, b"new", 4)
        simulation.advance(40.0)
        with simulation.connect("b", peer=2) as fabric, fabric.consumer("t", missing="skip") as consumer:
            seen = read(consumer, 9, seconds=20.0)
            assert seen[-4:] == [b"new %d" % number for number in range(4)]
            simulation.advance(120.0)
            send(origin, b"more", 2)
            assert read(consumer, 2) == [b"more 0", b"more 1"]
