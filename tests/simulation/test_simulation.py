"""The simulation as users' tests see it: the SDK itself, in virtual time."""

import pytest

from zfabric import errors
from zfabric.testing.simulation import Simulation, Weather


@pytest.fixture
def simulation():
    with Simulation(seed=1) as made:
        yield made


def values(consumer, count):
    seen = []
    while len(seen) < count:
        records = consumer.poll(timeout=60.0)
        assert records
        seen += [record.value for record in records]
    return seen


def test_the_synchronous_sdk_runs_in_virtual_time(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t", partitions=2)
        with fabric.producer() as producer, fabric.consumer("t", group="g") as consumer:
            sent = [b"%d" % number for number in range(50)]
            for value in sent:
                producer.send("t", value, key=value)
            producer.flush()
            assert sorted(values(consumer, 50)) == sorted(sent)
            consumer.commit()
        assert sum(part.end_offset for part in fabric.topics.describe("t").partitions) == 50
        assert [info.id for info in fabric.status()] == [0]
        assert {(entry.group, entry.topic) for entry in fabric.groups.describe()} == {("g", "t")}


def test_fabrics_producers_and_consumers_say_what_they_are_in_virtual_time_too(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer, fabric.consumer("t") as consumer:
            producer.send("t", b"1").result(10.0)
            assert all(repr(each).endswith(": open>") for each in (fabric, producer, consumer))
    assert repr(fabric).endswith(": closed>")


def test_hours_pass_at_once_and_retention_with_them(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t", retention=3600.0)
        with fabric.producer() as producer:
            producer.send("t", b"old")
            producer.flush()
        before = simulation.now
        simulation.advance(10_000.0)
        assert simulation.now - before == pytest.approx(10_000.0)
        assert fabric.topics.describe("t").partitions[0].start_offset == 1


def test_coroutines_run_side_by_side_on_the_asynchronous_sdk(simulation):
    async def send(number):
        async with simulation.connect_async() as fabric, fabric.producer() as producer:
            await simulation.sleep(number)
            return (await (await producer.send("t", b"%d" % number)).result()).offset

    async def read():
        async with simulation.connect_async() as fabric, fabric.consumer("t") as consumer:
            seen = []
            while len(seen) < 3:
                seen += [record.value for record in await consumer.poll()]
            return seen

    simulation.connect().topics.create("t")
    assert simulation.run(read(), send(3), send(1), send(2)) == [[b"1", b"2", b"3"], 2, 0, 1]


def test_what_a_coroutine_raises_comes_out_with_the_seed(simulation):
    async def fail():
        await simulation.sleep(1.0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        simulation.run(fail())


def test_a_run_that_does_not_end_is_ended(simulation):
    async def wait():
        while True:
            await simulation.sleep(1.0)

    with pytest.raises(TimeoutError, match="seed 1"):
        simulation.run(wait(), seconds=100.0)


@pytest.mark.parametrize("fault", ["kill_leader", "power_cut"])
def test_an_acknowledged_record_survives(simulation, fault):
    with simulation.connect() as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer, fabric.consumer("t") as consumer:
            for number in range(20):
                producer.send("t", b"%d" % number)
                producer.flush()
                getattr(simulation, fault)(0)
            assert values(consumer, 20) == [b"%d" % number for number in range(20)]
    assert simulation.processes[0].deaths == 20


def test_a_leader_that_is_not_started_again_is_unreachable(simulation):
    fabric = simulation.connect(timeout=5.0)
    simulation.restart = False
    simulation.kill_leader(0)
    with pytest.raises(errors.Unreachable):
        fabric.topics.list()
    simulation.start_leader(0)
    assert fabric.topics.list() == []


def test_a_partition_holds_until_it_heals(simulation):
    cut, other = simulation.connect("cut", timeout=3.0), simulation.connect("other")
    cut.topics.create("t")
    simulation.partition("cut", 0)
    with pytest.raises(errors.RequestTimeout):
        cut.topics.list()
    assert other.topics.list() == ["t"]
    simulation.heal()
    assert cut.topics.list() == ["t"]


def test_a_full_disk_refuses_and_recovers(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t")
        with fabric.producer(delivery_timeout=2.0) as producer:
            simulation.fill_disk(0)
            delivery = producer.send("t", b"v")
            with pytest.raises(errors.DeliveryTimeout, match=r"last refused: .*below the reserve"):
                delivery.result(10.0)
            producer.flush()  # The failure was told already.
            producer.send("t", b"v")
            with pytest.raises(errors.DeliveryError, match="below the reserve"):
                producer.flush()
            simulation.fill_disk(0, full=False)
            assert producer.send("t", b"v").result(10.0).offset == 0


def test_an_embedded_leader_is_started_by_whoever_needs_it():
    with Simulation(seed=2, embedded=True) as simulation, simulation.connect() as fabric:
        assert simulation.processes[0].starts == 0
        fabric.topics.create("t")
        with fabric.producer() as producer:
            for _ in range(10):
                producer.send("t", b"v").result()
                simulation.kill_leader(0)
            assert producer.send("t", b"v").result().offset == 10


def test_a_killed_client_sends_nothing_more(simulation):
    fabric, other = simulation.connect(), simulation.connect()
    fabric.topics.create("t")
    fabric.producer().send("t", b"v")
    simulation.kill_client(fabric)
    simulation.advance(10.0)
    assert other.topics.describe("t").partitions[0].end_offset <= 1
    with pytest.raises(errors.Closed):
        fabric.topics.list()


def test_a_frozen_leader_goes_on(simulation):
    with simulation.connect(timeout=60.0) as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer:
            simulation.freeze_leader(0, 20.0)
            before = simulation.now
            assert producer.send("t", b"v").result().offset == 0
            assert simulation.now - before > 19.0


@pytest.mark.parametrize("seed", range(3))
def test_a_client_is_never_deaf_over_hundreds_of_restarts(seed):
    """The worst complaint about messaging clients: they reconnect, and hear nothing any more."""
    weather = Weather(delay=0.001, spikes=0.01, publication_loss=0.2, loss=0.005)
    with Simulation(seed, leaders=2, weather=weather) as simulation, simulation.connect(timeout=60.0) as fabric:
        fabric.topics.create("t", partitions=4)
        with fabric.producer() as producer, fabric.consumer("t") as consumer:
            heard = set()
            for number in range(200):
                producer.send("t", b"%d" % number, partition=number % 4)
                simulation.kill_leader(simulation.world.random.randrange(2))
                deadline = simulation.now + 60.0
                while b"%d" % number not in heard:
                    assert simulation.now < deadline
                    heard |= {record.value for record in consumer.poll(timeout=1.0)}
    assert sum(process.deaths for process in simulation.processes) > 150


def test_keyed_sends_and_a_bulk_of_keyless_ones_share_partitions(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t", partitions=4)
        with fabric.producer(delivery_timeout=10.0) as producer:
            deliveries = [producer.send("t", b"v%d" % number, key=b"k%d" % number) for number in range(100)]
            assert producer.send_many("t", [b"x"] * 100) == 100
            producer.flush()
            assert all(delivery.result().offset >= 0 for delivery in deliveries)
        assert sum(part.end_offset for part in fabric.topics.describe("t").partitions) == 200


def test_a_new_producer_finds_leaders_that_were_not_back_when_it_asked():
    with Simulation(seed=1, leaders=2) as simulation:
        simulation.connect().topics.create("t", partitions=4)
        simulation.kill_leader(0)
        simulation.kill_leader(1)
        with simulation.connect().producer() as producer:
            assert [producer.send("t", b"v", partition=number).result(20.0).offset for number in range(4)] == [0] * 4


def test_a_value_that_the_deserializer_rejects_stops_there_and_loses_nothing(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer:
            for value in (b"1", b"no number", b"3", b"4"):
                producer.send("t", value)
        with fabric.consumer("t", group="g", deserializer=lambda topic, value: int(value)) as consumer:
            assert [record.value for record in consumer.poll()] == [1]
            for _ in range(2):
                with pytest.raises(errors.DeserializerFailed) as caught:
                    consumer.poll()
            found = caught.value
            assert (found.topic, found.partition, found.offset, found.next_offset) == ("t", 0, 1, 2)
            assert isinstance(found.__cause__, ValueError)
            assert consumer.position == {0: 1}
            consumer.seek(0, found.next_offset)
            assert [record.value for record in consumer.poll()] == [3, 4]
        with fabric.consumer("t", deserializer=lambda topic, value: int(value)) as consumer:
            records = iter(consumer)
            assert next(records).value == 1
            with pytest.raises(errors.DeserializerFailed):
                next(records)
            assert consumer.position == {0: 1}


def test_an_application_sequence_is_new_stored_or_refused(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t")
        with fabric.producer(name="app") as producer:
            assert producer.send("t", b"a", partition=0, sequence=1000).result().offset == 0
            assert producer.send("t", b"a", partition=0, sequence=1000).result().offset == -1  # Stored before.
            producer.send("t", b"b", partition=0, sequence=2000)
            with pytest.raises(errors.InvalidArgument, match="more than 2,000"):
                producer.send("t", b"c", partition=0, sequence=1500)
            producer.flush()
        assert fabric.topics.describe("t").partitions[0].end_offset == 2


def test_a_sequence_that_was_given_up_may_be_sent_again(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t")
        producer = fabric.producer(name="app", delivery_timeout=2.0)
        producer.send("t", b"a", partition=0, sequence=1).result()
        simulation.fill_disk(0)
        with pytest.raises(errors.DeliveryTimeout):
            producer.send("t", b"b", partition=0, sequence=2).result()
        simulation.fill_disk(0, full=False)
        assert producer.send("t", b"b", partition=0, sequence=2).result().offset == 1
        producer.close()  # The failure was told already.


def test_what_was_removed_is_skipped_when_a_consumer_opens(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t", retention=10.0)
        with fabric.producer() as producer:
            producer.send("t", b"old").result()
            simulation.advance(100.0)
            producer.send("t", b"new").result()
        with fabric.consumer("t", start=0, missing="skip") as consumer:
            assert [record.value for record in consumer.poll()] == [b"new"]
        with pytest.raises(errors.OffsetOutOfRange):
            fabric.consumer("t", start=0, missing="raise")


def test_lone_records_of_many_producers_are_spread(simulation):
    with simulation.connect() as fabric:
        fabric.topics.create("t", partitions=4)
        for _ in range(20):
            with fabric.producer() as producer:
                producer.send("t", b"v")
        assert all(part.end_offset > 0 for part in fabric.topics.describe("t").partitions)


def test_a_copy_that_is_killed_and_started_again_goes_on_behind_what_it_stored(simulation):
    """``poll_batches`` to ``send_batch``: the offset is the sequence, the place where it goes is the authority."""
    fabric = simulation.connect()
    fabric.topics.create("from")
    fabric.topics.create("to")
    with fabric.producer() as producer:
        for number in range(300):
            producer.send("from", b"%d" % number, key=b"k%d" % (number % 7))
            if number % 10 == 9:
                producer.flush()
    for _ in range(40):
        copier = simulation.connect(timeout=60.0)
        producer = copier.producer(name="copy")
        last = producer.stored("to")[0]
        with copier.consumer("from", start=last + 1) as consumer:
            for _ in range(2):
                for batch in consumer.poll_batches(2, timeout=0.1):
                    producer.send_batch("to", batch, partition=0, after=last)
                    last = batch.offsets[-1]
                simulation.advance(simulation.world.random.random() * 0.001)
        simulation.kill_client(copier)
        if simulation.world.random.random() < 0.3:
            simulation.kill_leader(0)
    with fabric.consumer("to") as consumer:
        records = [record for record in iter(lambda: consumer.poll(1, 5.0), []) for record in record]
    assert [record.value for record in records] == [b"%d" % number for number in range(300)]
    assert [record.key for record in records[:8]] == [b"k0", b"k1", b"k2", b"k3", b"k4", b"k5", b"k6", b"k0"]


def test_two_fabrics_share_one_world_and_keep_apart():
    with Simulation(seed=3, leaders=2) as plant, Simulation(leaders=2, beside=plant) as hub:
        here, there = plant.connect("here"), hub.connect("there", timeout=3.0)
        here.topics.create("t", partitions=2)
        assert (here.topics.list(), there.topics.list()) == (["t"], [])
        there.topics.create("t", partitions=2)
        for number, fabric in enumerate((here, there)):
            with fabric.producer() as producer:
                assert [producer.send("t", b"%d" % number, partition=at).result().offset for at in (0, 1)] == [0, 0]
        before = plant.now
        hub.partition("there", 0)
        with pytest.raises(errors.RequestTimeout):
            there.topics.list()
        assert here.topics.list() == ["t"]
        assert hub.now == plant.now > before + 2.9
