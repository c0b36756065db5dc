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
            with pytest.raises(errors.DeliveryError):
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
