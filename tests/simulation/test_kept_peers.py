"""Peers that keep what others lead: readers find copies while origins are away, and instead of many origins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from zfabric import errors
from zfabric.core.leader import keys
from zfabric.core.leader.copies import Keep, KeptBatch
from zfabric.model import TopicConfig
from zfabric.testing.simulation import Simulation, Weather
from zfabric.wire import batch, card
from zfabric.wire.gossip import Member, Status
from zfabric.wire.messages import Command, Type
from zfabric.wire.replication import KeptPlace

ROOT = Path(__file__).parents[2]


def send(fabric, values, topic="t"):
    with fabric.producer() as producer:
        return [producer.send(topic, value).result(30.0) for value in values]


def read(consumer, count, seconds=60.0):
    records = []
    while len(records) < count and seconds > 0:
        records += consumer.poll(timeout=1.0)
        seconds -= 1.0
    return [record.value for record in records]


@pytest.fixture
def simulation():
    """Peer 0 originates, peer 1 keeps, peer 2 reads."""
    with Simulation(seed=3, peers=3, keep={1: ["t"]}) as entry:
        entry.advance(1.0)
        entry.restart = False
        yield entry


def test_an_origin_that_is_away_is_read_at_its_keeper_by_a_new_consumer(simulation):
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t", replicas=2)
    send(origin, [b"1", b"2"])
    simulation.kill_leader(0)
    simulation.advance(5.0)
    with simulation.connect("c", peer=2) as fabric, fabric.consumer("t", group="g") as consumer:
        assert read(consumer, 2) == [b"1", b"2"]
        consumer.commit()


def test_a_consumer_that_asks_an_origin_just_killed_does_not_wait_for_its_answer_once_it_has_failed(simulation):
    """It was asked where the log begins before anybody knew that it is away; a keeper can say that."""
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t", replicas=2)
    send(origin, [b"1", b"2"])
    with simulation.connect("c", peer=2) as fabric:
        with fabric.consumer("t") as before:
            assert read(before, 2) == [b"1", b"2"]
        simulation.advance(5.0)
        simulation.kill_leader(0)
        with fabric.consumer("t") as consumer:
            assert read(consumer, 2, seconds=20.0) == [b"1", b"2"]


def test_a_consumer_goes_on_at_the_keeper_and_back_at_the_origin_and_misses_and_repeats_nothing(simulation):
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t", replicas=2)
    with simulation.connect("c", peer=2) as fabric, fabric.consumer("t", group="g") as consumer:
        for round_ in range(3):
            send(origin, [b"%d" % round_])
            assert read(consumer, 1) == [b"%d" % round_]
            send(origin, [b"%d last" % round_])
            simulation.kill_leader(0)
            assert read(consumer, 1) == [b"%d last" % round_]
            simulation.advance(5.0)
            consumer.commit()
            simulation.start_leader(0)
            simulation.advance(3.0)
        send(origin, [b"end"])
        assert read(consumer, 1) == [b"end"]
        assert consumer.poll(timeout=5.0) == []
    with simulation.connect("d", peer=2) as fabric, fabric.consumer("t", group="g") as consumer:
        assert read(consumer, 1) == [b"end"]


def test_the_keeper_itself_reads_its_copies_when_the_origin_is_away(simulation):
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t", replicas=2)
    send(origin, [b"1"])
    simulation.kill_leader(0)
    simulation.advance(5.0)
    with simulation.connect("k", peer=1) as fabric:
        assert fabric.topics.list() == ["t"]
        info = fabric.topics.describe("t")
        assert [(part.end_offset, part.online) for part in info.partitions] == [(1, True)]
        assert [copy.end_offset for copy in info.copies] == [1]
        with fabric.consumer("t") as consumer:
            assert read(consumer, 1) == [b"1"]


def spoil(process, value):
    """Flip a bit in every batch of a leader that holds this value."""
    for key, row in process.disk.items():
        if key[:1] == keys.BATCH and value in row:
            process.disk._values[key] = row[:-1] + bytes([row[-1] ^ 1])


def stored_batches(process):
    return {key: value for key, value in process.disk.items() if key[:1] == keys.BATCH}


@pytest.fixture
def four():
    """Peer 0 originates three batches, peers 1 and 2 keep, peer 3 reads."""
    with Simulation(seed=3, peers=4, keep={1: ["t"], 2: ["t"]}) as entry:
        entry.advance(1.0)
        entry.restart = False
        with entry.connect("a", peer=0) as origin:
            origin.topics.create("t", replicas=3)
            send(origin, [b"one", b"two", b"three"])
        entry.advance(15.0)  # Until everybody has heard who keeps it.
        yield entry


@pytest.mark.parametrize("spoiled", [[0], [0, 1], [0, 2]])
def test_what_is_damaged_at_the_origin_is_read_at_a_keeper(four, spoiled):
    for number in spoiled:
        spoil(four.processes[number], b"two")
    with four.connect("c", peer=3) as fabric, fabric.consumer("t") as consumer:
        assert read(consumer, 3) == [b"one", b"two", b"three"]
        with four.connect("a", peer=0) as origin:
            send(origin, [b"four"])
        assert read(consumer, 1) == [b"four"]


@pytest.mark.parametrize("spoiled", [[0], [0, 1]])
def test_an_origin_asks_its_keepers_for_what_its_own_disk_has_lost(four, spoiled):
    """As soon as a reader has found it, though it keeps nothing itself; the bytes are the same as before."""
    before = stored_batches(four.processes[0])
    for number in spoiled:
        spoil(four.processes[number], b"two")
    four.advance(5.0)
    with four.connect("a", peer=0) as fabric, fabric.consumer("t") as consumer:
        assert read(consumer, 3) == [b"one", b"two", b"three"]
        four.advance(60.0)
        info = fabric.status()[0]
        assert (info.damaged, info.mended) == (1, 1)
    assert stored_batches(four.processes[0]) == before


@pytest.mark.parametrize("spoiled", [1, 2])
def test_what_is_damaged_at_a_keeper_is_read_at_another_one_while_the_origin_is_away(four, spoiled):
    four.kill_leader(0)
    four.advance(10.0)
    spoil(four.processes[spoiled], b"two")
    with four.connect("c", peer=3) as fabric, fabric.consumer("t") as consumer:
        assert read(consumer, 3) == [b"one", b"two", b"three"]


def test_what_is_damaged_everywhere_is_an_error_and_the_rest_is_read(four):
    for number in range(3):
        spoil(four.processes[number], b"two")
    with four.connect("c", peer=3) as fabric, fabric.consumer("t") as consumer:
        assert read(consumer, 1) == [b"one"]
        with pytest.raises(errors.CorruptBatch) as told:
            consumer.poll(timeout=60.0)
        assert (told.value.offset, told.value.next_offset) == (1, 2)
        consumer.seek(told.value.partition, told.value.next_offset)
        assert read(consumer, 1) == [b"three"]


@pytest.mark.parametrize("mended", [0, 1, 2])
def test_what_is_mended_after_its_readers_were_told_is_read_without_a_seek_and_told_no_more(four, mended):
    before = stored_batches(four.processes[mended])
    for number in range(3):
        spoil(four.processes[number], b"two")
    with four.connect("c", peer=3) as fabric, fabric.consumer("t", group="g") as consumer:
        assert read(consumer, 1) == [b"one"]
        with pytest.raises(errors.CorruptBatch):
            consumer.poll(timeout=60.0)
        send(fabric, [b"of another origin"])
        assert read(consumer, 1) == [b"of another origin"]
        assert read(consumer, 1, 30.0) == []
        assert (consumer.failures, len(consumer.problems)) == (1, 1)
        four.processes[mended].disk._values.update(before)
        assert read(consumer, 2) == [b"two", b"three"]
        assert (consumer.failures, consumer.problems) == (1, {})
        consumer.commit()
    with four.connect("c", peer=3) as fabric, fabric.consumer("t", group="g") as consumer:
        assert read(consumer, 1, 10.0) == []


def test_damage_that_retention_has_removed_meanwhile_is_passed_over_where_missing_records_are_skipped(four):
    with four.connect("a", peer=0) as origin:
        origin.topics.alter("t", retention=60.0)
        for number in range(3):
            spoil(four.processes[number], b"two")
        with four.connect("c", peer=3) as fabric, fabric.consumer("t", missing="skip") as consumer:
            assert read(consumer, 1) == [b"one"]
            with pytest.raises(errors.CorruptBatch):
                consumer.poll(timeout=60.0)
            four.advance(300.0)
            send(origin, [b"four"])
            assert read(consumer, 1) == [b"four"]
            assert (consumer.skipped, consumer.failures, consumer.problems) == (2, 1, {})


def test_a_keeper_keeps_what_each_origin_keeps_also_after_that_has_changed_its_mind():
    """Whatever settings the topic has at the keeper, where it was made for the first origin that was seen."""
    with Simulation(seed=3, peers=4, keep={2: ["t"]}) as simulation:
        simulation.advance(1.0)
        simulation.restart = False
        simulation.partition("peer-0", 1)
        simulation.partition("peer-1", 0)
        simulation.advance(30.0)
        first, second, keeper = (simulation.connect(f"p{number}", peer=number) for number in range(3))
        first.topics.create("t", retention=60.0)
        simulation.advance(20.0)
        second.topics.create("t", retention=120.0)
        simulation.heal()
        simulation.advance(20.0)
        send(first, [b"1"])
        send(second, [b"2"])
        simulation.advance(100.0)
        assert sorted(copy.end_offset - copy.start_offset for copy in keeper.topics.describe("t").copies) == [0, 1]
        second.topics.alter("t", retention=None)
        simulation.advance(20.0)
        keeper.topics.alter("t", retention=10.0)
        simulation.advance(600.0)
        simulation.kill_leader(1)
        simulation.advance(60.0)
        with simulation.connect("c", peer=3) as fabric, fabric.consumer("t") as consumer:
            assert read(consumer, 1) == [b"2"]


def test_of_many_origins_a_consumer_reads_at_the_keepers_alone(monkeypatch):
    """As many connections as keepers; here with a bound of two origins, and three keepers."""
    from zfabric.core.client import origins, routes

    monkeypatch.setattr(routes, "DIRECT_MAX", 2)
    monkeypatch.setattr(origins, "DIRECT_MAX", 2)
    count = 12
    with Simulation(seed=4, peers=count + 3, keep={number: ["t"] for number in range(count, count + 3)}) as simulation:
        simulation.advance(1.0)
        for number in range(count):
            fabric = simulation.connect(f"p{number}", peer=number)
            if number == 0:
                fabric.topics.create("t", replicas=2)
            send(fabric, [b"%d" % number])
            fabric.close()
        simulation.advance(30.0)
        with simulation.connect("c", peer=count) as fabric, fabric.consumer("t") as consumer:
            found = read(consumer, count)
            assert sorted(found) == sorted(b"%d" % number for number in range(count))
            connections = fabric._core.requests.sessions
            assert len(connections) <= 3


def few_are_many(monkeypatch):
    """Read at keepers whatever they have, however few origins there are."""
    from zfabric.core.client import origins, routes

    monkeypatch.setattr(routes, "DIRECT_MAX", 0)
    monkeypatch.setattr(origins, "DIRECT_MAX", 0)


def test_a_keeper_that_has_not_got_as_far_as_a_reader_is_not_waited_for_while_the_origin_is_there(
    simulation, monkeypatch
):
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t")
    send(origin, [b"1", b"2"])
    simulation.advance(5.0)
    simulation.partition("peer-1", 0)  # The keeper gets no more.
    send(origin, [b"3", b"4", b"5"])
    few_are_many(monkeypatch)
    with simulation.connect("c", peer=2) as fabric:
        with fabric.consumer("t", start=4) as consumer:
            assert read(consumer, 1, seconds=20.0) == [b"5"]
        with pytest.raises(errors.OffsetOutOfRange), fabric.consumer("t", start=7) as consumer:
            read(consumer, 1, seconds=20.0)


def test_a_keeper_that_is_behind_is_waited_for_when_there_is_nobody_else(simulation):
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t")
    send(origin, [b"1", b"2"])
    simulation.advance(5.0)
    simulation.partition("peer-1", 0)
    send(origin, [b"3"])
    with simulation.connect("c", peer=2) as fabric, fabric.consumer("t") as consumer:
        assert read(consumer, 3) == [b"1", b"2", b"3"]
        simulation.kill_leader(0)
        simulation.advance(20.0)
        assert consumer.poll(timeout=5.0) == []
        simulation.heal()
        simulation.start_leader(0)
        send(simulation.connect("again", peer=0), [b"4"])
        assert read(consumer, 1, seconds=10.0) == [b"4"]


def test_a_reader_of_what_comes_next_gets_nothing_older_where_its_keeper_is_behind(simulation, monkeypatch):
    """All members have heard from the origin how far it is."""
    origin = simulation.connect("a", peer=0)
    origin.topics.create("t")
    send(origin, [b"1", b"2"])
    simulation.advance(5.0)
    simulation.partition("peer-1", 0)  # The keeper gets no more.
    send(origin, [b"3", b"4", b"5"])
    simulation.advance(10.0)
    few_are_many(monkeypatch)
    with simulation.connect("c", peer=2) as fabric, fabric.consumer("t", start="latest") as consumer:
        assert consumer.poll(timeout=1.0) == []
        send(origin, [b"6"])
        assert read(consumer, 1) == [b"6"]


def test_a_new_reader_at_a_new_keeper_begins_where_its_origin_does(simulation, monkeypatch):
    """The copy begins at 0, and skips to what the origin still has."""
    few_are_many(monkeypatch)
    origin = simulation.connect("a", peer=0)
    simulation.kill_leader(1)
    origin.topics.create("t", retention_bytes=200)
    send(origin, [b"%d" % number for number in range(50)])
    start = origin.topics.describe("t").partitions[0].start_offset
    assert start > 10
    simulation.start_leader(1)
    with simulation.connect("c", peer=2) as fabric:
        for _ in range(20):
            with fabric.consumer("t") as consumer:
                assert read(consumer, 50 - start, seconds=5.0) == [b"%d" % number for number in range(start, 50)]
            simulation.advance(0.3)


def test_deleting_the_own_part_of_a_topic_at_a_peer_that_keeps_leaves_the_copies_of_others(simulation):
    origin, keeper = simulation.connect("a", peer=0), simulation.connect("k", peer=1)
    origin.topics.create("t")
    send(origin, [b"1"])
    send(keeper, [b"own"])
    simulation.advance(5.0)
    simulation.kill_leader(0)
    simulation.advance(5.0)
    keeper.topics.delete("t")
    with simulation.connect("c", peer=2) as fabric, fabric.consumer("t") as consumer:
        assert read(consumer, 2, seconds=10.0) == [b"1"]
    keeper.topics.create("t")
    send(keeper, [b"again"])
    with simulation.connect("d", peer=2) as fabric, fabric.consumer("t") as consumer:
        assert sorted(read(consumer, 2)) == [b"1", b"again"]


def hold(process, origins):
    """Let a keeper have a copy of one record of each of these origins."""
    placement, leader, disk = process._turn._controller, process.leader, process.disk
    txn = disk.write()
    kept = [KeptPlace(number + 1, origin, 0, 0, 1) for number, origin in enumerate(origins)]
    meta = msgspec.structs.replace(placement._new("t", TopicConfig()), kept=kept)
    placement._next_partition = len(origins) + 1
    placement._write_topic(meta, txn)
    leader.handle(b"", Command(Type.ASSIGN, 0, 0, placement.assignment(0, leader.assignment_version), ()), txn)
    batches = []
    for place in kept:
        payload = batch.encode_columns(0, None, [place.origin.encode()], None)
        raw, payload = batch.seal(
            payload, codec=0, flags=0, count=1, base_timestamp=1, max_timestamp=1, producer_id=0, producer_epoch=0,
            base_sequence=0, last_sequence=0, partition=1,
        )  # fmt: skip
        raw = batch.stamp(raw, 1, 1, 1, 0, 1)
        batches.append(KeptBatch(place.id, batch.parse(raw), raw, payload))
    leader.handle(b"", Command(Type.KEEP, 0, 0, Keep(batches, [], [], {}, [], [], [], []), ()), txn)
    leader.flush(txn)
    disk.commit()
    leader.settled()
    leader.take_effects()
    placement.take_effects()
    process._schedule(0)


def test_ten_thousand_origins_through_three_keepers_cost_a_consumer_three_connections():
    """One at a peer of its own has that one's leader besides; one without goes in by a member that is no keeper."""
    with Simulation(seed=5, peers=4) as simulation:
        simulation.advance(1.0)
        origins = [f"{number:016x}" for number in range(10_000)]
        for process in simulation.processes[1:]:
            hold(process, origins)
        for origin in origins:
            metadata = card.fitting(card.Card(kind="peer", fabric=origin, topics=[card.TopicCard("t")]))
            member = Member(origin.encode(), 1, 1, Status.ALIVE, f"sim://{origin}", 0, metadata)
            simulation.processes[0].roster.note(member)
        simulation.advance(5.0)
        with simulation.connect("c") as fabric, fabric.consumer("t") as consumer:
            seen = []
            while len(seen) < len(origins) and (records := consumer.poll(5_000, timeout=60.0)):
                seen += [record.value.decode() for record in records]
            assert sorted(seen) == origins
            own, *keepers = (process.endpoint for process in simulation.processes)
            assert fabric._core.requests.sessions == sorted([own, *keepers])
        with simulation.connect("d", role="client") as fabric, fabric.consumer("t") as consumer:
            assert len(consumer.poll(5_000, timeout=60.0)) > 0
            simulation.advance(3.0)
            assert fabric._core.requests.sessions == sorted(keepers)


def come_and_go(seed):
    """Play a seed; returns what was sent, what was read, and when it was over."""
    with Simulation(seed=seed, peers=4, keep={2: ["t"], 3: ["t"]}) as simulation:
        simulation.advance(1.0)
        random = simulation.world.random
        fabrics = [simulation.connect(f"p{number}", peer=number) for number in range(2)]
        for fabric in fabrics:
            fabric.topics.create("t", replicas=2)
        reader = simulation.connect("c", peer=3)
        consumer = reader.consumer("t")
        simulation.network.weather = Weather(loss=0.01, duplicate=0.02, reorder=0.02)
        sent, seen = [], []
        for number in range(30):
            value = b"%d" % number
            send(fabrics[number % 2], [value])
            sent.append(value)
            seen += [record.value for record in consumer.poll(timeout=0.2)]
            if random.random() < 0.4:
                simulation.kill_leader(random.randrange(3))
        simulation.advance(20.0)
        while records := consumer.poll(timeout=10.0):
            seen += [record.value for record in records]
        return sent, seen, simulation.now


@pytest.mark.parametrize("seed", range(4))
def test_with_origins_and_keepers_that_come_and_go_everything_is_read_once(seed):
    sent, seen, _ = come_and_go(seed)
    assert sorted(seen) == sorted(sent)


def test_a_seed_is_the_same_run_in_every_process():
    """Nothing depends on how texts are hashed there."""
    program = "from tests.simulation.test_kept_peers import come_and_go; print(come_and_go(1))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True, timeout=100,
        )
        for number in ("1", "3")
    ]  # fmt: skip
    assert runs[0].stdout == runs[1].stdout
