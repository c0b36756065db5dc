"""The uplink of a mesh in virtual time: every origin's records once and in order at the hub, wherever they are read."""

from __future__ import annotations

import pytest
from test_kept_peers import spoil, stored_batches

from zfabric import errors
from zfabric.core.client.origins import mesh_number
from zfabric.testing.simulation import Simulation, Weather
from zfabric.uplink import Uplink
from zfabric.uplink.aio import Uplink as AsyncUplink

TOPIC = "sensor.heat"


@pytest.fixture
def plant():
    """Three peers, the second of which keeps what the others have; who is killed stays away."""
    with Simulation(seed=11, peers=3, keep={1: ["sensor.*"]}) as made:
        made.advance(1.0)
        made.restart = False
        yield made


@pytest.fixture
def hub(plant):
    with Simulation(beside=plant) as made, made.connect() as fabric:
        yield fabric


@pytest.fixture
def sensors(plant):
    """The fabrics of the peers 0 and 2, which have the topic."""
    fabrics = {peer: plant.connect(f"sensor-{peer}", peer=peer) for peer in (0, 2)}
    for fabric in fabrics.values():
        fabric.topics.create(TOPIC, if_absent=True)
    return fabrics


@pytest.fixture
def start(plant, hub):
    """Return a function that starts an uplink: at the keeper, as it would be in a plant."""
    return lambda **options: Uplink(
        plant.connect("uplink", peer=1, timeout=2.0), hub, topics="sensor.*", **{"rescan": 1.0, **options}
    )


def fill(fabric, name, first, count, **options):
    with fabric.producer(acks="leader") as producer:
        for number in range(first, first + count):
            producer.send(TOPIC, f"{name}:{number}".encode(), **options)
            if number % 3 == 2:
                producer.flush()


def ship_until(uplink, hub, count):
    for _ in range(3_000):
        if arrived(hub) >= count:
            return
        uplink.advance()
    raise AssertionError(f"{arrived(hub)} of {count} have arrived; {uplink.status().problem}")


def arrived(hub):
    return sum(part.end_offset for part in hub.topics.describe(TOPIC).partitions) if TOPIC in hub.topics.list() else 0


def by_sensor(hub):
    """What the hub has: numbers in the order of their offsets, by the sensor's name and the hub's partition."""
    found = {}
    count = arrived(hub)
    with hub.consumer(TOPIC) as consumer:
        while count:
            for record in consumer.poll(10_000, timeout=60.0):
                name, _, number = record.value.decode().partition(":")
                found.setdefault((name, record.partition), []).append(int(number))
                count -= 1
    return found


def names(found):
    return {name: numbers for (name, _), numbers in found.items()}


def test_origins_go_to_partitions_of_the_hub_by_a_rule_and_stay_there_though_it_grows(plant, hub, sensors, start):
    """Mesh-wide number modulo the hub's partitions; where some of an origin is the rest goes as well."""
    hub.topics.create(TOPIC, partitions=5)
    numbers = {peer: mesh_number(plant.processes[peer].fabric, 0) for peer in sensors}
    assert len({number % 5 for number in numbers.values()}) == 2
    assert any(number % 5 != number % 7 for number in numbers.values())
    for peer, fabric in sensors.items():
        fill(fabric, peer, 0, 9)
    uplink = start(origin_headers=True)
    ship_until(uplink, hub, 18)
    shown = {part.partition: part for part in uplink.status().partitions}
    assert {number: part.target_partition for number, part in shown.items()} == {n: n % 5 for n in numbers.values()}
    assert {part.origin for part in shown.values()} == {plant.processes[peer].fabric for peer in sensors}
    hub.topics.alter(TOPIC, partitions=7)
    for peer, fabric in sensors.items():
        fill(fabric, peer, 9, 9)
    ship_until(start(origin_headers=True), hub, 36)
    assert by_sensor(hub) == {(str(peer), number % 5): list(range(18)) for peer, number in numbers.items()}
    with hub.consumer(TOPIC) as consumer:
        places = {record.headers["zf-origin"] for record in consumer.poll(10_000, timeout=60.0)}
    assert f"{plant.processes[0].fabric}/{TOPIC}/0/17".encode() in places


def test_a_look_for_topics_which_takes_long_waits_for_what_moves(plant, hub, sensors, start):
    """A member that does not answer, and is not known to be away, holds up each look for a second."""
    for peer, fabric in sensors.items():
        fill(fabric, peer, 0, 6)
    uplink = start(rescan=0.5)
    plant.processes[2].freeze(20.0)
    while not any(notice.kind == "begun" for notice in uplink.take_notices()):
        uplink.advance()
    began = plant.world.now
    ship_until(uplink, hub, 6)
    assert plant.world.now - began < 0.5 * 10**9
    uplink.close()


def test_an_origin_that_appears_while_it_runs_is_shipped_from_its_start(plant, hub, sensors, start):
    fill(sensors[0], "a", 0, 6)
    uplink = start()
    ship_until(uplink, hub, 6)
    late = plant.connect("late", peer=1)
    late.topics.list()
    fill(late, "late", 0, 6)
    ship_until(uplink, hub, 12)
    assert names(by_sensor(hub)) == {"a": list(range(6)), "late": list(range(6))}


def test_what_an_origin_that_is_away_has_left_at_its_keeper_is_shipped_and_the_rest_when_it_is_back(
    plant, hub, sensors, start
):
    fill(sensors[0], "a", 0, 6)
    uplink = start()
    ship_until(uplink, hub, 6)
    sensors[0].topics.alter(TOPIC, replicas=2)
    with sensors[0].producer() as producer:
        producer.send(TOPIC, b"a:6").result(60.0)  # The keeper has it.
    plant.kill_leader(0)
    ship_until(uplink, hub, 7)
    ship_until(start(), hub, 7)  # Another one, while the origin is away.
    plant.start_leader(0)
    fill(sensors[0], "a", 7, 5)
    fill(sensors[2], "b", 0, 5)
    ship_until(start(), hub, 17)
    assert names(by_sensor(hub)) == {"a": list(range(12)), "b": list(range(5))}


def test_a_copy_that_is_behind_the_hub_is_no_source_that_was_set_back(plant, hub, sensors, start):
    """The hub got the newest records from the origin, the keeper did not: the rest comes from the origin, in order."""
    fill(sensors[0], "a", 0, 3)
    ship_until(start(), hub, 3)
    plant.advance(20.0)  # The keeper has them too.
    plant.partition(plant.processes[1].name, 0)
    fill(sensors[0], "a", 3, 6)
    apart = Uplink(plant.connect("apart", peer=0), hub, topics="sensor.*", rescan=1.0)
    ship_until(apart, hub, 9)
    plant.kill_leader(0)
    plant.heal()
    plant.advance(20.0)
    uplink = start()
    for _ in range(20):
        uplink.advance()
    assert isinstance(uplink.status().problem, str)
    assert "is away" in uplink.status().problem
    plant.start_leader(0)
    fill(sensors[0], "a", 9, 3)
    ship_until(uplink, hub, 12)
    assert names(by_sensor(hub)) == {"a": list(range(12))}


def test_an_origin_that_is_away_and_not_kept_holds_up_no_other(plant, hub, sensors, start):
    uplink = start()
    fill(sensors[2], "b", 0, 3)
    ship_until(uplink, hub, 3)
    plant.partition(plant.processes[1].name, 2)
    plant.partition("uplink", 2)
    fill(sensors[2], "b", 3, 3)
    for count in range(1, 4):
        fill(sensors[0], "a", 3 * count - 3, 3)
        ship_until(uplink, hub, 3 + 3 * count)
    plant.heal()
    ship_until(uplink, hub, 15)
    assert names(by_sensor(hub)) == {"a": list(range(9)), "b": list(range(6))}


def test_a_wiped_origin_is_another_one_and_loses_nothing_that_was_kept(plant, hub, sensors, start):
    fill(sensors[0], "old", 0, 6)
    plant.advance(20.0)  # At the keeper.
    plant.wipe_disk(0)
    plant.start_leader(0)
    plant.advance(5.0)
    replaced = plant.connect("replaced", peer=0)
    replaced.topics.create(TOPIC, if_absent=True)
    fill(replaced, "new", 0, 9)
    ship_until(start(), hub, 15)
    assert names(by_sensor(hub)) == {"old": list(range(6)), "new": list(range(9))}


def test_a_topic_that_an_origin_makes_anew_is_another_log(plant, hub, sensors, start):
    """Nothing of it is taken for what goes on behind the offsets of the one before."""
    fill(sensors[0], "old", 0, 6)
    uplink = start(rescan=60.0)
    ship_until(uplink, hub, 6)
    plant.advance(20.0)
    for _ in range(3):
        uplink.advance()  # It reads where the topic will be another one.
    sensors[0].topics.delete(TOPIC)
    sensors[0].topics.create(TOPIC)
    fill(sensors[0], "new", 0, 12)
    ship_until(uplink, hub, 18)
    for _ in range(30):
        uplink.advance()
    assert names(by_sensor(hub)) == {"old": list(range(6)), "new": list(range(12))}


def test_what_has_arrived_is_committed_at_the_origin(plant, hub, sensors, start):
    fill(sensors[0], "a", 0, 6)
    fill(sensors[2], "b", 0, 9)
    start().run(once=True)
    committed = [entry for entry in sensors[0].groups.describe() if entry.group.startswith("uplink.")]
    assert sorted((entry.offset, entry.lag) for entry in committed) == [(6, 0), (9, 0)]


def test_of_two_uplinks_of_a_mesh_the_later_one_works(plant, hub, sensors, start):
    fill(sensors[0], "a", 0, 6)
    first = start()
    ship_until(first, hub, 6)
    second = Uplink(plant.connect("second", peer=2), hub, topics="sensor.*", rescan=1.0)
    second.advance()  # It begins.
    fill(sensors[0], "a", 6, 6)
    with pytest.raises(errors.UplinkFenced):
        ship_until(first, hub, 12)
    ship_until(second, hub, 12)
    assert names(by_sensor(hub)) == {"a": list(range(12))}


class Storm:
    """Sensors that write, an uplink that is killed and started, and links, leaders and disks that fail."""

    def __init__(self, plant, hub):
        self.plant, self.hub = plant, hub
        self.random = plant.world.random
        self.over = False

    async def pause(self, mean):
        await self.plant.sleep(self.random.expovariate(1 / mean))

    async def produce(self, peer, count):
        async with self.plant.connect_async(f"sensor-{peer}", peer=peer, timeout=600.0) as fabric:
            await fabric.topics.create(TOPIC, if_absent=True)
            async with fabric.producer(delivery_timeout=3_000.0) as producer:
                for number in range(count):
                    await producer.send(TOPIC, b"%d:%d" % (peer, number))
                    await self.pause(3.0)

    async def ship(self):
        """The last uplink runs to the end."""
        while True:
            fabrics = [self.plant.connect_async("uplink", peer=1), self.hub.connect_async("uplink")]
            task = self.plant.start(AsyncUplink(*fabrics, topics="sensor.*", delivery_timeout=20.0, rescan=5.0).run())
            await self.pause(120.0)
            if self.over:
                return
            task.kill()
            self.plant.kill_client(fabrics[0])
            self.hub.kill_client(fabrics[1])

    async def fail(self):
        faults = [self.cut_hub, self.cut_peers, self.kill, self.power_cut, self.freeze]
        while not self.over:
            await self.pause(40.0)
            await self.random.choice(faults)()

    async def cut_hub(self):
        self.hub.partition("uplink", 0)
        await self.pause(30.0)
        self.hub.heal()

    async def cut_peers(self):
        peer = self.random.choice([0, 2])
        for other in ("uplink", self.plant.processes[1].name):
            self.plant.partition(other, peer)
        await self.pause(60.0)
        self.plant.heal()

    async def kill(self):
        self.random.choice([self.plant, self.hub]).kill_leader(0)

    async def power_cut(self):
        self.plant.power_cut(self.random.randrange(3))

    async def freeze(self):
        self.plant.freeze_leader(self.random.randrange(3), 20.0)


@pytest.mark.parametrize("seed", range(3))
def test_sensors_keeper_hub_and_uplink_that_fail_again_and_again_lose_and_repeat_nothing(seed):
    weather = Weather(delay=0.02, spikes=0.01, loss=0.001, duplicate=0.005, breaks=0.001, publication_loss=0.05)
    with (
        Simulation(seed, peers=3, weather=weather, keep={1: ["sensor.*"]}) as plant,
        Simulation(beside=plant) as made,
        made.connect("reader", timeout=600.0) as hub,
    ):
        hub.topics.create(TOPIC, partitions=3)
        storm = Storm(plant, made)
        producing = [plant.start(storm.produce(peer, 150)) for peer in (0, 2)]
        plant.start(storm.ship())
        plant.start(storm.fail())
        assert plant.world.run_until(lambda: all(task.done for task in producing), 12 * 3600.0)
        storm.over = True
        plant.heal()
        deadline = plant.now + 3600.0
        while arrived(hub) < 300:
            assert plant.now < deadline, arrived(hub)
            plant.advance(30.0)
        plant.advance(300.0)
        found = by_sensor(hub)
        assert len(found) == 2
        assert names(found) == {"0": list(range(150)), "2": list(range(150))}


@pytest.fixture(params=["a mesh", "a node"])
def spoiled(request):
    """A source that keepers follow, and which has a damaged batch that nobody has whole; and how to mend it."""
    mesh = request.param == "a mesh"
    with Simulation(seed=3, **({"peers": 4, "keep": {1: [TOPIC], 2: [TOPIC]}} if mesh else {})) as made:
        made.advance(1.0)
        source = made.connect("a", timeout=5.0)
        source.topics.create(TOPIC, replicas=3)
        with source.producer(acks="leader") as producer:
            for number in range(3):  # A batch each.
                producer.send(TOPIC, b"a:%d" % number).result(60.0)
        made.advance(15.0)
        before = stored_batches(made.processes[0])
        for process in made.processes:
            spoil(process, b"a:1")
        yield made, source, lambda: made.processes[0].disk._values.update(before)


@pytest.mark.parametrize("mended", [True, False])
def test_what_keepers_may_mend_is_passed_over_only_after_some_time(spoiled, mended):
    """And waited for at rest."""
    plant, source, mend = spoiled
    with Simulation(beside=plant) as there, there.connect() as hub:
        uplink = Uplink(source, hub, topics="sensor.*")
        ship_until(uplink, hub, 1)
        turns, began = 0, plant.world.now
        while plant.world.now - began < 20 * 10**9:
            uplink.advance()
            turns += 1
        assert turns < 200
        assert (arrived(hub), uplink.status().skipped) == (1, 0)
        assert "offset 1; passed over unless keepers mend it" in uplink.status().problem
        if mended:
            mend()
        uplink.run(once=True, give_up=2.0)
        assert names(by_sensor(hub)) == {"a": [0, 1, 2] if mended else [0, 2]}
        assert (uplink.status().skipped, uplink.status().problem) == (0 if mended else 1, None)
        kinds = [notice.kind for notice in uplink.take_notices()]
        assert [kind for kind in kinds if kind != "begun"] == ["trouble", *([] if mended else ["gap"])]
