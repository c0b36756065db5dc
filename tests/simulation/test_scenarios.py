"""Single stories in virtual time, both halves of everything being real: what a random storm meets too rarely."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from zfabric import errors
from zfabric.core.leader import reading
from zfabric.testing.simulation import Simulation, Weather


@pytest.fixture
def simulation():
    with Simulation(seed=1) as made:
        yield made


@pytest.fixture
def fabric(simulation):
    with simulation.connect() as connected:
        yield connected


def read(consumer, count, seconds=60.0):
    seen = []
    while len(seen) < count:
        records = consumer.poll(10_000, timeout=seconds)
        assert records, f"{len(seen)} of {count} records came"
        seen += [record.value for record in records]
    return seen


def numbers(count, first=0):
    return [b"%d" % number for number in range(first, first + count)]


# Producers.


def test_what_nobody_acknowledges_goes_on_after_a_lost_connection(simulation, fabric):
    """Whatever is lost with the connection, what is sent later arrives."""
    fabric.topics.create("t")
    with fabric.producer(acks="none") as producer, fabric.consumer("t") as consumer:
        for round_ in range(5):
            producer.send("t", b"before")
            simulation.network.break_some(1.0)
            producer.send("t", b"lost, perhaps")
            simulation.advance(1.0)
            producer.send("t", b"%d" % round_)
            simulation.advance(1.0)
        simulation.kill_leader(0)
        simulation.advance(2.0)
        producer.send("t", b"last")
        simulation.advance(1.0)
        seen = [record.value for record in consumer.poll(1_000)]
    assert {b"last", *numbers(5)} <= set(seen)


def test_a_fenced_instance_never_takes_over_the_sequences_of_its_successor(simulation, fabric):
    """The first one gives up while it hears nothing, and begins a new epoch: which must not be the second one's."""
    fabric.topics.create("t")
    old = simulation.connect("old").producer(name="p", delivery_timeout=2.0)
    assert old.send("t", b"old 0").result().offset == 0
    simulation.partition("old", 0)
    lost = old.send("t", b"old, in doubt")
    with pytest.raises(errors.DeliveryTimeout):
        lost.result()
    new = fabric.producer(name="p")
    first = new.send("t", b"new 0").result()
    simulation.heal()
    with pytest.raises(errors.ProducerFenced):
        old.send("t", b"old, again").result(30.0)
    second = new.send("t", b"new 1").result()
    assert second.offset > first.offset
    with fabric.consumer("t") as consumer:
        seen = read(consumer, second.offset + 1)
    assert [value for value in seen if value.startswith(b"new")] == [b"new 0", b"new 1"]
    assert b"old, again" not in seen


def test_a_named_producer_outlives_its_leader_on_every_kind_of_topic(simulation, fabric):
    for durability in ("fsync", "os", "memory"):
        fabric.topics.create(durability, durability=durability)
    with fabric.producer(name="p") as producer:
        for round_ in range(5):
            for topic in ("fsync", "os", "memory"):
                for sequence in range(3):
                    producer.send(topic, b"v", partition=0, sequence=3 * round_ + sequence).result(30.0)
            (simulation.kill_leader if round_ % 2 else simulation.power_cut)(0)
        producer.flush(30.0)
    assert fabric.topics.describe("fsync").partitions[0].end_offset == 15


def test_partitions_that_are_added_are_used_by_producers_and_read_by_consumers(simulation, fabric):
    """Both find out by themselves, though nothing fails: keys go where other producers take them."""
    fabric.topics.create("t")
    other = simulation.connect()
    with other.producer() as producer, other.consumer("t", start="latest", group="g") as consumer:
        producer.send("t", b"0", key=b"k").result()
        assert read(consumer, 1) == [b"0"]
        fabric.topics.alter("t", partitions=8)
        sent = []
        for number in range(60):
            sent.append(producer.send("t", b"%d" % number, key=b"%d" % number).result())
            simulation.advance(1.0)
        assert len({meta.partition for meta in sent}) > 1
        assert sorted(read(consumer, 60)) == sorted(numbers(60))
        assert consumer.assignment == list(range(8))
        consumer.commit()
    lags = {entry.partition: entry.lag for entry in fabric.groups.describe("g")}
    assert set(lags.values()) == {0}


# Topics that are deleted, and made again.


@pytest.mark.parametrize("partitions", [1, 2, 5])
def test_a_topic_made_again_takes_what_is_sent_later(simulation, fabric, partitions):
    fabric.topics.create("t", partitions=2)
    other = simulation.connect()
    with other.producer() as producer:
        for number in range(20):
            producer.send("t", b"old", key=b"%d" % number)
        producer.flush()
        fabric.topics.delete("t")
        fabric.topics.create("t", partitions=partitions)
        deliveries = [producer.send("t", b"new", key=b"%d" % number) for number in range(20)]
        stored = 0
        for delivery in deliveries:
            try:
                stored += delivery.result(30.0).offset >= 0
            except (errors.UnknownTopic, errors.UnknownPartition):
                assert partitions == 1, "a key of a partition that is no more"
        for number in range(20):
            producer.send("t", b"newer", key=b"%d" % number)
        producer.flush(30.0)
    assert sum(part.end_offset for part in fabric.topics.describe("t").partitions) == stored + 20


def test_a_named_producer_goes_on_with_a_topic_made_again(simulation, fabric):
    fabric.topics.create("t", partitions=2)
    with simulation.connect().producer(name="p") as producer:
        producer.send("t", b"old", partition=0, sequence=7).result()
        fabric.topics.delete("t")
        fabric.topics.create("t", partitions=2)
        assert producer.send("t", b"new", partition=1, sequence=8).result(30.0).offset == 0


def test_a_consumer_is_told_that_its_topic_is_gone_or_another_one(simulation, fabric):
    fabric.topics.create("t")
    with fabric.producer() as producer:
        producer.send_many("t", numbers(10))
        producer.flush()
        with simulation.connect().consumer("t") as consumer:
            assert read(consumer, 10) == numbers(10)
            fabric.topics.delete("t")
            with pytest.raises(errors.UnknownTopic):
                consumer.poll(timeout=10.0)
            fabric.topics.create("t")
            producer.send_many("t", numbers(20, 100))
            producer.flush()
            simulation.advance(40.0)
            consumer.seek(0, "earliest")
            assert read(consumer, 20) == numbers(20, 100)


def test_a_consumer_that_skips_what_is_missing_reads_the_topic_made_again(simulation, fabric):
    fabric.topics.create("t", partitions=2)
    with simulation.connect().consumer("t", missing="skip") as consumer, fabric.producer() as producer:
        for round_ in range(4):
            sent = numbers(30, 100 * round_)
            for number, value in enumerate(sent):
                producer.send("t", value, partition=number % 2)
            producer.flush()
            assert sorted(read(consumer, 30)) == sorted(sent)
            fabric.topics.delete("t")
            simulation.advance(3.0)
            fabric.topics.create("t", partitions=2)


def test_offsets_of_groups_go_with_their_topic(simulation, fabric):
    fabric.topics.create("t")
    with fabric.producer() as producer:
        producer.send_many("t", numbers(10))
        producer.flush()
    for _ in range(2):
        with fabric.consumer("t", group="g") as consumer:
            if read(consumer, 10):
                consumer.commit()
        assert [entry.offset for entry in fabric.groups.describe("g")] == [10]
        fabric.topics.delete("t")
        simulation.advance(5.0)
        assert fabric.groups.list() == []
        fabric.topics.create("t")
        with fabric.producer() as producer:
            producer.send_many("t", numbers(10))
            producer.flush()


# Leaders.


def test_all_groups_are_listed_however_many_answers_it_takes(simulation, fabric, monkeypatch):
    monkeypatch.setattr(reading, "LISTED_MAX", 3)
    fabric.topics.create("t", partitions=4)
    names = [f"g{number}" for number in range(5)]
    for name in names:
        fabric.groups.reset(name, "t", to="latest")
    assert fabric.groups.list() == names
    places = [(entry.group, entry.partition) for entry in fabric.groups.describe()]
    assert places == [(name, partition) for name in names for partition in range(4)]
    assert [entry.partition for entry in fabric.groups.describe("g3")] == [0, 1, 2, 3]
    fabric.groups.delete("g3")
    with pytest.raises(errors.NotFound):
        fabric.groups.describe("g3")


def test_a_start_by_time_is_found_though_it_takes_many_turns(simulation, fabric, monkeypatch):
    """Meanwhile others are answered."""
    monkeypatch.setattr(reading, "SEARCH_BYTES", 4096)
    fabric.topics.create("t", retention_bytes=40_000)
    with fabric.producer() as producer:
        producer.send("t", b"far future", timestamp=1 << 42).result()
        for number in range(200):
            producer.send("t", b"%0200d" % number, timestamp=1_000 + number).result()
    start = fabric.topics.describe("t").partitions[0].start_offset
    assert start > 1
    with (
        fabric.consumer("t", start=datetime.fromtimestamp(1.190, UTC)) as one,
        fabric.consumer("t", start="earliest") as other,
    ):
        assert int(one.poll(1, timeout=5.0)[0].value) == 190
        assert other.poll(1, timeout=5.0)[0].offset == start


def test_a_leader_that_is_stopped_answers_what_waits_for_a_shared_commit(simulation, fabric):
    """And so loses nothing of those who want no answer."""
    fabric.topics.create("t", commit_interval=20.0)
    with fabric.producer() as asking, fabric.producer(acks="none") as silent:
        delivery = asking.send("t", b"asked")
        silent.send("t", b"not asked")
        simulation.advance(1.0)
        assert not delivery.done
        simulation.processes[0].stop()
        simulation.start_leader(0)
        assert fabric.topics.describe("t").partitions[0].end_offset == 2
        assert delivery.result(60.0).offset == 0


def test_an_assignment_that_is_lost_is_made_up_for():
    with Simulation(seed=3, leaders=3) as simulation, simulation.connect(timeout=60.0) as fabric:
        simulation.advance(1.0)
        for number in range(30):
            simulation.network.weather = Weather(loss=0.3)
            try:
                fabric.topics.create(f"t{number}", partitions=3)
            except errors.RequestTimeout:
                continue
            finally:
                simulation.network.weather = Weather.fair()
        simulation.advance(2.0)
        for name in fabric.topics.list():
            assert len(fabric.topics.describe(name).partitions) == 3


def test_what_was_created_or_deleted_is_told_so_though_the_answer_was_lost():
    """The command is repeated, and the leader knows that it is: also one that was started again meanwhile."""
    with Simulation(seed=4) as simulation, simulation.connect(timeout=60.0) as fabric:
        for number in range(40):
            simulation.network.weather = Weather(breaks=0.2)
            if number % 4 == 0:
                simulation.world.after(simulation.world.random.randrange(2_000_000), simulation.kill_leader)
            fabric.topics.create("t")
            fabric.topics.delete("t")
            simulation.network.weather = Weather.fair()
            assert fabric.topics.list() == []


# Consumers.


def test_a_backlog_is_read_without_pauses_however_full_the_buffer_was(simulation, fabric):
    """Room that is made by taking is used at once: half a second for each half of the buffer would add up."""
    fabric.topics.create("t")
    with fabric.producer() as producer:
        for _ in range(40):
            producer.send_many("t", [bytes(100_000)] * 10)
            producer.flush()
    with simulation.connect().consumer("t", buffer_bytes=2 << 20) as consumer:
        began = simulation.now
        read(consumer, 400)
        assert simulation.now - began < 1.0


@pytest.mark.parametrize("idle_seconds", [0.0, 1.0, 3600.0])
def test_a_record_whose_publication_and_beacon_are_lost_comes_within_five_seconds(simulation, fabric, idle_seconds):
    """However long nothing came: the consumer asks less and less often, and never less than once in 4 s."""
    fabric.topics.create("t", partitions=2)
    with fabric.producer() as producer, fabric.consumer("t") as consumer:
        producer.send("t", b"before", partition=0).result()
        assert read(consumer, 1) == [b"before"]
        simulation.advance(idle_seconds)
        simulation.network.weather.publication_loss = 1.0
        for round_ in range(3):
            producer.send("t", b"%d" % round_, partition=round_ % 2).result()
            assert read(consumer, 1, seconds=5.0) == [b"%d" % round_]


def test_a_deep_backlog_of_one_partition_keeps_no_other_waiting(simulation, fabric):
    fabric.topics.create("t", partitions=2)
    with fabric.producer() as producer:
        for _ in range(60):
            producer.send("t", bytes(1_000_000), partition=0)
        producer.send("t", b"other", partition=1)
        producer.flush()
    with simulation.connect().consumer("t") as consumer:
        before = []
        while not any(record.partition == 1 for record in before):
            before += consumer.poll(timeout=10.0)
    assert len(before) < 20


def test_a_memory_topic_is_read_on_over_restarts_of_its_leader(simulation, fabric):
    fabric.topics.create("t", durability="memory")
    with fabric.producer() as producer, fabric.consumer("t", group="g") as consumer:
        for round_ in range(6):
            value = b"%d" % round_
            producer.send("t", value).result(30.0)
            assert read(consumer, 1) == [value]
            consumer.commit()
            simulation.kill_leader(0)
            simulation.advance(1.0)


def test_a_clock_that_is_set_back_a_year_stops_nothing(simulation, fabric):
    fabric.topics.create("t", retention=3600.0)
    with fabric.producer() as producer, fabric.consumer("t") as consumer:
        wall = simulation.world.wall_ms
        for shift in (0, -31_536_000_000, 3_000_000):
            simulation.world.wall_ms = lambda shift=shift: wall() + shift
            producer.send_many("t", numbers(10))
            producer.flush(30.0)
            assert read(consumer, 10) == numbers(10)
            simulation.advance(5.0)


# Clients.


def test_a_client_that_makes_a_producer_and_a_consumer_for_each_job_keeps_none_of_them(simulation, fabric):
    fabric.topics.create("t")
    for number in range(50):
        with fabric.producer() as producer, fabric.consumer("t", start="latest") as consumer:
            producer.send("t", b"%d" % number)
            assert read(consumer, 1) == [b"%d" % number]
    fabric.groups.reset("g", "t", to="latest")
    assert (len(fabric._core.producers), len(fabric._core.readers), len(fabric._core._sources)) == (0, 0, 0)
    assert len(fabric._open) <= 1
