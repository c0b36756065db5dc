"""The uplink in virtual time: hours of cuts, crashes on both sides, and every record once and in order at the hub."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.core.leader import keys
from zfabric.settings import LeaderSettings
from zfabric.testing.simulation import Simulation, Weather
from zfabric.uplink import Uplink
from zfabric.uplink.aio import Uplink as AsyncUplink

HOUR = 3600.0


@pytest.fixture
def plant():
    with Simulation(seed=5) as made:
        yield made


@pytest.fixture
def hub(plant):
    with Simulation(beside=plant) as made:
        yield made


def fill(fabric, topic, values, **options):
    """Store values, in batches of three."""
    with fabric.producer() as producer:
        for at, value in enumerate(values):
            producer.send(topic, value, **options)
            if at % 3 == 2:
                producer.flush()


def records(fabric, topic):
    """All that a topic holds, in the order of partitions and offsets."""
    ends = {part.partition: part.end_offset for part in fabric.topics.describe(topic).partitions}
    found = []
    with fabric.consumer(topic, missing="skip") as consumer:
        while any(position < ends[number] for number, position in consumer.position.items()):
            found += consumer.poll(10_000, timeout=60.0)
    return sorted(found, key=lambda record: (record.partition, record.offset))


def ship_until(uplink, reached):
    """Let an uplink go on until something is so."""
    for _ in range(1_000):
        if reached():
            return
        uplink.advance()
    raise AssertionError("it did not come to pass")


def values(fabric, topic):
    return [record.value for record in records(fabric, topic)]


def numbers(first, last):
    return [b"%d" % number for number in range(first, last)]


def test_topics_that_match_arrive_with_keys_headers_timestamps_and_configuration(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("sensor.a", partitions=2, retention=7 * 86_400.0, record_bytes_max=4_000)
    here.topics.create("sensor.b", cleanup="compact")
    here.topics.create("other")
    with here.producer() as producer:
        for at in range(40):
            producer.send("sensor.a", b"%d" % at, key=b"k%d" % at, headers={"h": b"%d" % at}, timestamp=at)
            producer.send("sensor.b", b"%d" % at, key=b"k%d" % (at % 3))
        producer.send("sensor.b", None, key=b"k1")
    Uplink(here, there, topics="sensor.*", prefix="site1.").run(once=True)
    assert there.topics.list() == ["site1.sensor.a", "site1.sensor.b"]
    for topic in ("sensor.a", "sensor.b"):
        assert there.topics.describe(f"site1.{topic}").config == here.topics.describe(topic).config
        assert [record[1:] for record in records(there, f"site1.{topic}")] == [
            record[1:] for record in records(here, topic)
        ]


def test_how_far_it_is_behind_is_told_once_both_sides_were_heard_and_grows_while_the_hub_is_away(plant, hub):
    here, there = plant.connect(), hub.connect("uplink", timeout=5.0)
    here.topics.create("t")
    fill(here, "t", numbers(0, 30))
    hub.partition("uplink", 0)
    uplink = Uplink(here, there, topics="t", delivery_timeout=10.0)
    for _ in range(3):
        uplink.advance()
    assert (uplink.status().lag, uplink.status().topics) == (None, [])  # Not 0: nobody could say so.
    hub.heal()
    ship_until(uplink, lambda: uplink.status().lag == 0)
    hub.partition("uplink", 0)
    fill(here, "t", numbers(30, 60))
    ship_until(uplink, lambda: uplink.status().problem is not None)
    fill(here, "t", numbers(60, 90))
    ship_until(uplink, lambda: uplink.status().lag == 60)
    hub.heal()
    ship_until(uplink, lambda: uplink.status().lag == 0)
    assert values(there, "t") == numbers(0, 90)


def test_a_hub_that_takes_nothing_is_told_with_its_reason_long_before_it_is_given_up(plant, hub):
    here, there = plant.connect(), hub.connect("uplink")
    here.topics.create("t")
    uplink = Uplink(here, there, topics="t", delivery_timeout=3_600.0)
    ship_until(uplink, lambda: uplink.status().lag == 0)
    hub.fill_disk(0)
    fill(here, "t", numbers(0, 3))
    ship_until(uplink, lambda: uplink.status().problem)
    assert "reserve" in uplink.status().problem
    assert uplink.status().sent_bytes < 20 * 130  # It is tried again at longer and longer intervals, in 15 s.
    hub.fill_disk(0, full=False)
    ship_until(uplink, lambda: uplink.status().lag == 0)
    assert uplink.status().problem is None
    hub.partition("uplink", 0)
    fill(here, "t", numbers(3, 6))
    ship_until(uplink, lambda: uplink.status().problem)
    assert "for 15 s; there is no connection to sim://" in uplink.status().problem
    hub.heal()
    ship_until(uplink, lambda: uplink.status().lag == 0)
    assert [notice.kind for notice in uplink.take_notices()] == ["begun", "trouble", "trouble"]


def test_a_name_that_the_source_does_not_have_is_told_and_with_once_an_error(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("sensor.a")
    fill(here, "sensor.a", numbers(0, 3))
    uplink = Uplink(here, there, topics=["sensor.*", "valve.*", "sensor.b"])
    with pytest.raises(errors.UnknownTopic) as caught:
        uplink.run(once=True)
    assert caught.value.topic == "sensor.b"
    assert values(there, "sensor.a") == numbers(0, 3)
    waiting = [notice.topic for notice in uplink.take_notices() if notice.kind == "waiting"]
    assert waiting == ["valve.*", "sensor.b"]
    here.topics.create("sensor.b")
    Uplink(here, there, topics=["sensor.*", "valve.*", "sensor.b"]).run(once=True)


def test_nothing_is_shipped_into_a_mesh(plant):
    """A record's place there is one of many, so nobody could say what has arrived."""
    with Simulation(peers=2, beside=plant) as mesh, pytest.raises(errors.InvalidArgument) as caught:
        Uplink(plant.connect(), mesh.connect(), topics="t")
    assert caught.value.name == "target"


def test_an_uplink_that_is_started_again_goes_on_behind_what_the_hub_has(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    for round_ in range(3):
        fill(here, "t", numbers(10 * round_, 10 * round_ + 10))
        uplink = Uplink(here, there, topics="t")
        uplink.run(once=True)
        status = uplink.status()
        assert (status.records, status.lag, status.in_flight_bytes) == (10, 0, 0)
    assert values(there, "t") == numbers(0, 30)
    [committed] = here.groups.describe()
    assert (committed.topic, committed.offset, committed.lag) == ("t", 30, 0)


def test_two_sources_share_a_topic_of_the_hub_and_are_not_mixed_up(plant, hub):
    with Simulation(beside=hub) as second:
        fabrics, there = [plant.connect(), second.connect()], hub.connect()
        for at, fabric in enumerate(fabrics):
            fabric.topics.create("t")
            fill(fabric, "t", [b"%d:%d" % (at, number) for number in range(20)])
        for _ in range(2):
            for fabric in fabrics:
                Uplink(fabric, there, topics="t", origin_headers=True).run(once=True)
        found = records(there, "t")
        assert len(found) == 40
        for at in (0, 1):
            assert [record.value for record in found if record.value.startswith(b"%d:" % at)] == [
                b"%d:%d" % (at, number) for number in range(20)
            ]
        assert found[3].headers["zf-origin"].endswith(b"simulated/t/0/3")


@pytest.mark.parametrize("count", [3, 30])
def test_a_topic_that_is_made_anew_at_the_source_is_another_origin(plant, hub, count):
    """Its offsets begin again: none of its records is taken for one of the topic before, or shipped as one."""
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    fill(here, "t", numbers(0, 10))
    uplink = Uplink(here, there, topics="t", rescan=60.0)
    ship_until(uplink, lambda: uplink.status().records >= 10)
    here.topics.delete("t")
    here.topics.create("t")
    fill(here, "t", numbers(100, 100 + count))
    ship_until(uplink, lambda: uplink.status().records >= 10 + count)
    plant.advance(10.0)
    assert values(there, "t") == numbers(0, 10) + numbers(100, 100 + count)
    assert "again" not in [notice.kind for notice in uplink.take_notices()]  # The hub has lost nothing.


def test_what_retention_removed_while_the_link_was_away_is_a_gap_that_is_told(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t", retention=HOUR)
    fill(here, "t", numbers(0, 9))
    Uplink(here, there, topics="t").run(once=True)
    fill(here, "t", numbers(9, 18))
    plant.advance(3 * HOUR)
    fill(here, "t", numbers(18, 20))
    assert here.topics.describe("t").partitions[0].start_offset == 18
    uplink = Uplink(here, there, topics="t")
    uplink.run(once=True)
    assert values(there, "t")[-2:] == numbers(18, 20)
    assert uplink.status().skipped == 9
    [gap] = [notice for notice in uplink.take_notices() if notice.kind == "gap"]
    assert (gap.topic, gap.partition, gap.first, gap.next) == ("t", 0, 9, 18)


def test_months_offline_with_reboots_and_everything_gone_end_in_one_gap_and_no_duplicate():
    """The hub remembers the origin though it was idle for much longer than a week, and though both lost power."""
    seldom = LeaderSettings(maintenance_ms=3_600_000)
    with Simulation(settings=seldom) as plant, Simulation(settings=seldom, beside=plant) as hub:
        here, there = plant.connect(timeout=60.0), hub.connect(timeout=60.0)
        here.topics.create("t", retention=5 * 86_400.0)
        fill(here, "t", numbers(0, 9))
        Uplink(here, there, topics="t").run(once=True)
        fill(here, "t", numbers(9, 15))
        plant.advance(100 * 86_400.0)
        for simulation in (plant, hub):
            simulation.power_cut(0)
        fill(here, "t", numbers(15, 18))
        uplink = Uplink(here, there, topics="t")
        uplink.run(once=True)
        assert there.topics.describe("t").partitions[0].end_offset == 12
        assert values(there, "t")[-3:] == numbers(15, 18)
        assert [(gap.first, gap.next) for gap in uplink.take_notices() if gap.kind == "gap"] == [(9, 15)]


def test_what_is_damaged_at_the_source_is_a_gap_that_is_told(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    fill(here, "t", numbers(0, 12))
    disk, place = plant.processes[0].disk, here.topics.describe("t").partitions[0].id
    stored = [key for key, _ in disk.items() if key.startswith(keys.prefix(keys.BATCH, place))]
    hurt = stored[len(stored) // 2]
    disk.change(hurt, bytes(byte ^ 1 for byte in disk.value_at(hurt)))
    first = keys.split_batch(hurt)[1]
    following = keys.split_batch(stored[len(stored) // 2 + 1])[1]
    uplink = Uplink(here, there, topics="t")
    uplink.run(once=True)
    assert values(there, "t") == numbers(0, first) + numbers(following, 12)
    assert uplink.status().skipped == following - first
    gaps = [notice for notice in uplink.take_notices() if notice.kind == "gap"]
    assert (gaps[0].first, gaps[-1].next) == (first, following)


def test_a_source_that_removes_faster_than_the_link_carries_is_followed_with_gaps_that_are_told(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t", retention_bytes=2_000)
    there.topics.create("t")
    uplink = Uplink(plant.connect("uplink", timeout=60.0), there, topics="t", rescan=600.0)
    uplink.advance()
    written = 0
    for _ in range(10):
        plant.partition("uplink", 0)
        fill(here, "t", numbers(written, written + 120))  # More than is kept.
        plant.advance(1.0)
        plant.heal()
        written += 120
        for _ in range(5):
            uplink.advance()
    uplink.run(once=True)
    arrived = [int(value) for value in values(there, "t")]
    gaps = [(notice.first, notice.next) for notice in uplink.take_notices() if notice.kind == "gap"]
    missed = [offset for first, following in gaps for offset in range(first, following)]
    status = uplink.status()
    assert missed
    assert sorted(arrived + missed) == list(range(written))
    assert (status.skipped, status.lag) == (len(missed), 0)


def test_a_source_that_was_set_back_is_told_and_nothing_of_it_is_dropped_in_silence(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    fill(here, "t", numbers(0, 10))
    info = here.topics.describe("t")
    identity = f"uplink.simulated.{info.id}"
    there.topics.create("t")
    with there.producer(name=identity) as producer:  # As if the source had had more before it was set back.
        producer.send("t", b"later", partition=0, sequence=50).result()
    uplink = Uplink(here, there, topics="t")
    with pytest.raises(errors.SourceRewound) as caught:
        uplink.run(once=True)
    assert (caught.value.topic, caught.value.partition, caught.value.end, caught.value.stored) == ("t", 0, 10, 50)


def set_back(simulation, backup):
    """Restore what the disk of the only leader held; whoever is connected gets another one."""
    process = simulation.processes[0]
    process.kill()
    txn = process.disk.write()
    for entry in process.disk.items():
        txn.delete(entry[0])
    for key, value in backup:
        txn.put(key, value)
    process.disk.commit()
    simulation.start_leader(0)


@pytest.mark.parametrize("starts", [0, 3])
@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("more", [1, 30])
def test_a_source_that_is_set_back_is_an_error_also_when_it_has_grown_past_what_was_shipped(
    plant, hub, more, away, starts
):
    """Its leader's epoch is the same number as before, or a lower one if its leader was started since the backup."""
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    fill(here, "t", numbers(0, 6))
    backup = plant.processes[0].disk.items()
    for _ in range(starts):
        plant.kill_leader(0)
        plant.advance(5.0)
    fill(here, "t", numbers(6, 15))
    uplink = Uplink(here, there, topics="t")
    ship_until(uplink, lambda: uplink.status().records == 15)
    if away:
        uplink.close()
        here.close()
    set_back(plant, backup)
    fill(plant.connect(), "t", [b"new"] * more)
    if away:
        uplink = Uplink(plant.connect(), there, topics="t")
    ship_until(uplink, lambda: uplink.status().problem is not None)
    with pytest.raises(errors.SourceRewound) as caught:
        uplink.run(once=True)
    assert (caught.value.partition, caught.value.stored) == (0, 14)
    if away or starts:
        assert caught.value.end <= 14  # Where they part is not known better than that.
    else:
        assert caught.value.end == 6  # It has read all of it.
    assert values(there, "t") == numbers(0, 15)


@pytest.mark.parametrize("away", [False, True])
def test_a_hub_that_was_set_back_gets_again_what_it_has_lost_and_that_is_told(plant, hub, away):
    """Under an uplink its next batch would leave a hole, which the hub could not see: sequences have gaps."""
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    fill(here, "t", numbers(0, 6))
    uplink = Uplink(here, there, topics="t")
    ship_until(uplink, lambda: uplink.status().records == 6)
    backup = hub.processes[0].disk.items()
    fill(here, "t", numbers(6, 15))
    ship_until(uplink, lambda: uplink.status().records == 15)
    if away:
        uplink.close()
    set_back(hub, backup)
    if away:
        uplink = Uplink(here, hub.connect(), topics="t")
    fill(here, "t", numbers(15, 20))
    reader = hub.connect()
    ship_until(uplink, lambda: reader.topics.describe("t").partitions[0].end_offset >= 20)
    assert values(reader, "t") == numbers(0, 20)
    again = [notice for notice in uplink.take_notices() if notice.kind == "again"]
    assert [(notice.partition, notice.first, notice.next) for notice in again] == [(0, 6, 15)]


@pytest.mark.parametrize("options", [{"prefix": "b."}, {"group": "g"}])
def test_what_was_committed_for_another_place_makes_no_hub_one_that_was_set_back(plant, hub, options):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    fill(here, "t", numbers(0, 6))
    Uplink(here, there, topics="t", group=options.get("group"), prefix="a.").run(once=True)
    uplink = Uplink(here, there, topics="t", **options)
    uplink.run(once=True)
    assert [notice.kind for notice in uplink.take_notices()] == ["begun"]
    assert values(there, f"{options.get('prefix', '')}t") == numbers(0, 6)


def test_of_two_uplinks_of_one_topic_the_earlier_one_ends_with_a_typed_error(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    fill(here, "t", numbers(0, 5))
    first, second = Uplink(here, there, topics="t"), Uplink(here, there, topics="t*", group="another")
    first.advance()
    first.advance()
    second.run(once=True)
    fill(here, "t", numbers(5, 10))
    with pytest.raises(errors.UplinkFenced) as caught:
        ship_until(first, lambda: False)
    assert caught.value.topic == "t"
    second.run(once=True)
    assert values(there, "t") == numbers(0, 10)


def test_new_topics_and_partitions_are_found_and_deleted_ones_forgotten(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("s.a")
    fill(here, "s.a", numbers(0, 3))
    uplink = Uplink(here, there, topics=["s.*"], rescan=2.0)
    uplink.run(once=True)
    here.topics.create("s.b")
    fill(here, "s.b", numbers(0, 4))
    here.topics.alter("s.a", partitions=2)
    fill(here, "s.a", numbers(3, 5), partition=1)
    here.topics.create("x")
    deadline = plant.now + 100.0
    while uplink.status().records < 9:
        assert plant.now < deadline
        uplink.advance()
    assert (values(there, "s.a"), values(there, "s.b"), there.topics.list()) == (
        numbers(0, 5), numbers(0, 4), ["s.a", "s.b"],
    )  # fmt: skip
    here.topics.delete("s.b")
    while "s.b" in uplink.status().topics:
        assert plant.now < deadline
        uplink.advance()
    assert uplink.status().records == 9
    assert [notice.topic for notice in uplink.take_notices() if notice.kind == "gone"] == ["s.b"]


def test_without_create_a_topic_that_the_hub_lacks_is_an_error_and_others_go_on(plant, hub):
    here, there = plant.connect(), hub.connect()
    for topic in ("a", "b", "c"):
        here.topics.create(topic, partitions=2 if topic == "c" else 1)
        fill(here, topic, numbers(0, 3), partition=0)
    there.topics.create("b")
    there.topics.create("c")
    uplink = Uplink(here, there, topics="*", create=False)
    for _ in range(10):
        uplink.advance()
    assert values(there, "b") == numbers(0, 3)
    assert {notice.topic for notice in uplink.take_notices() if notice.kind == "trouble"} == {"a", "c"}
    with pytest.raises(errors.NotFound):
        uplink.run(once=True)


def test_a_fabric_is_not_shipped_to_itself(plant):
    uplink = Uplink(plant.connect(), plant.connect(), topics="*")
    with pytest.raises(errors.InvalidArgument, match="another fabric"):
        uplink.run(once=True)


def test_a_bandwidth_limit_holds_over_the_whole_time(plant, hub):
    here, there = plant.connect(), hub.connect()
    here.topics.create("t")
    for _ in range(20):
        with here.producer() as producer:
            producer.send_many("t", [plant.world.random.randbytes(1_000) for _ in range(20)])
    uplink = Uplink(here, there, topics="t", bandwidth=10_000.0, compression="none")
    before = plant.now
    uplink.run(once=True)
    status = uplink.status()
    assert (status.records, status.lag) == (400, 0)
    assert plant.now - before >= (status.sent_bytes - 2 * 10_000 - 2 * 21_000) / 10_000.0
    assert plant.now - before <= status.sent_bytes / 10_000.0 + 10.0


def test_a_bandwidth_limit_holds_though_what_was_stored_at_once_is_large(plant, hub):
    """One batch of 200 kB is 20 seconds' worth: it goes in small parts, and what else there is goes in between."""
    here, there = plant.connect(), hub.connect()
    for topic in ("bulk", "other"):
        here.topics.create(topic)
    blob = [plant.world.random.randbytes(1_000) for _ in range(400)]
    with here.producer() as producer:
        producer.send_many("bulk", blob)
    uplink = Uplink(here, there, topics="*", bandwidth=10_000.0, compression="none", rescan=1.0)
    began, most = plant.now, 0.0
    ship_until(uplink, lambda: uplink.status().records > 20)
    fill(here, "other", [b"late"])
    asked = plant.now

    def arrived():
        nonlocal most
        most = max(most, uplink.status().sent_bytes - 10_000.0 * (plant.now - began))
        return len(uplink.status().partitions) == 2 and there.topics.describe("other").partitions[0].end_offset == 1

    ship_until(uplink, arrived)
    assert plant.now - asked < 15.0  # And not after the bulk, half a minute from now.
    assert uplink.status().lag > 100
    while uplink.status().lag:
        uplink.advance()
        arrived()
    assert most < 2 * 10_000 + 4_096 + 1_000
    assert values(there, "bulk") == blob


def test_what_is_read_and_not_acknowledged_is_bounded(plant, hub):
    """Back pressure: with the hub away, the uplink reads a buffer's worth and waits."""
    here, there = plant.connect(), hub.connect(timeout=5.0)
    here.topics.create("t")
    for _ in range(50):
        with here.producer() as producer:
            producer.send_many("t", [b"x" * 1_000] * 20)
    uplink = Uplink(here, there, topics="t", buffer_bytes=64 << 10, compression="none")
    uplink.advance()
    hub.restart = False
    hub.kill_leader(0)
    for _ in range(50):
        uplink.advance()
        assert uplink.status().in_flight_bytes <= (64 << 10) + 21_000
    assert uplink.status().in_flight_bytes > 32 << 10
    hub.start_leader(0)
    uplink.run(once=True)
    assert there.topics.describe("t").partitions[0].end_offset == 1_000


def test_what_an_earlier_attempt_had_under_way_does_not_disturb_the_next_one(plant, hub):
    """Its deliveries are given up when it is closed, and the news arrives while the next one is at work."""
    here, there = plant.connect(), hub.connect(timeout=5.0)
    here.topics.create("t")
    uplink = Uplink(here, there, topics="t")
    uplink.advance()
    hub.restart = False
    hub.kill_leader(0)
    fill(here, "t", numbers(0, 9))
    for _ in range(5):
        uplink.advance()
    assert uplink.status().in_flight_bytes > 0
    uplink.close()
    hub.start_leader(0)
    uplink.take_notices()
    uplink.run(once=True)
    assert values(there, "t") == numbers(0, 9)
    assert [notice.kind for notice in uplink.take_notices()] == ["begun"]


def test_an_uplink_gives_up_when_it_is_told_to(plant, hub):
    here, there = plant.connect(), hub.connect(timeout=5.0)
    here.topics.create("t")
    fill(here, "t", numbers(0, 3))
    hub.restart = False
    hub.kill_leader(0)
    before = plant.now
    with pytest.raises(errors.Unreachable):
        Uplink(here, there, topics="t").run(once=True, give_up=60.0)
    assert 60.0 <= plant.now - before < 120.0


def test_records_of_an_os_topic_are_on_the_disk_of_the_source_before_they_are_shipped(plant, hub):
    """Else a power cut would give offsets that the hub has seen to other records."""
    here, there = plant.connect(timeout=60.0), hub.connect(timeout=60.0)
    here.topics.create("t", durability="os")
    uplink = Uplink(here, there, topics="t")
    sent = []
    for round_ in range(30):
        new = [b"%d.%d" % (round_, at) for at in range(3)]
        fill(here, "t", new)
        sent += new
        uplink.advance()
        if round_ % 3 == 2:
            plant.power_cut(0)
    plant.advance(5.0)
    uplink.run(once=True)
    while uplink.status().lag:
        uplink.advance()
    assert not [
        notice for notice in uplink.take_notices() if "SourceRewound" in notice.text or "set back" in notice.text
    ]
    found = values(there, "t")
    assert found == values(here, "t")  # What the power cut took was never shipped.
    assert len(found) > 30


class Site:
    """A device that writes, an uplink that is killed and started, and a link and leaders that fail, side by side."""

    TOPICS = ("sensor.a",)

    def __init__(self, plant, hub):
        self.plant, self.hub = plant, hub
        self.random = plant.world.random
        self.sent = {(topic, number): [] for topic in self.TOPICS for number in range(2)}
        self.over = False
        self.kills = 0

    def choose(self):
        return self.random.choice([self.plant, self.hub])

    async def pause(self, mean):
        await self.plant.sleep(self.random.expovariate(1 / mean))

    async def produce(self, count):
        async with self.plant.connect_async("device", timeout=600.0) as fabric:
            for topic in self.TOPICS:
                await fabric.topics.create(topic, partitions=2, if_absent=True)
            async with fabric.producer(delivery_timeout=3_000.0) as producer:
                for number in range(count):
                    topic, partition = place = self.random.choice(list(self.sent))
                    self.sent[place].append(b"%d" % number)
                    await producer.send(topic, b"%d" % number, partition=partition)
                    await self.pause(6.0)

    async def run_uplinks(self):
        """The last one runs to the end."""
        while True:
            fabrics = [self.plant.connect_async("uplink"), self.hub.connect_async("uplink")]
            patience = self.random.choice([5.0, 60.0, 600.0])
            uplink = AsyncUplink(*fabrics, topics="sensor.*", delivery_timeout=patience, compression="lz4", rescan=30.0)
            task = self.plant.start(uplink.run())
            await self.pause(400.0)
            if self.over:
                return
            task.kill()
            self.plant.kill_client(fabrics[0])
            self.hub.kill_client(fabrics[1])
            self.kills += 1
            await self.pause(60.0)

    async def fail(self):
        faults = [self.cut, self.cut, self.cut, self.kill, self.lose_power, self.freeze]
        while not self.over:
            await self.pause(120.0)
            await self.random.choice(faults)()

    async def cut(self):
        self.hub.partition("uplink", self.random.randrange(2))
        await self.plant.sleep(self.random.choice([5.0, 60.0, 900.0]) * self.random.random())
        self.hub.heal()

    async def kill(self):
        self.choose().kill_leader(self.random.randrange(2))

    async def lose_power(self):
        self.choose().power_cut(self.random.randrange(2))

    async def freeze(self):
        self.choose().freeze_leader(self.random.randrange(2), 20.0)

    def arrived(self, reader):
        return sum(part.end_offset for topic in self.TOPICS for part in reader.topics.describe(topic).partitions)


@pytest.mark.parametrize("seed", range(2))
def test_hours_of_cuts_crashes_and_kills_end_with_every_record_once_and_in_order(seed):
    """The link is cut for up to a quarter of an hour, both sides and the uplink are killed, the weather is bad."""
    weather = Weather(delay=0.02, spikes=0.01, loss=0.001, duplicate=0.005, breaks=0.001, publication_loss=0.05)
    with Simulation(seed, leaders=2, weather=weather) as plant, Simulation(leaders=2, beside=plant) as hub:
        site = Site(plant, hub)
        producing = plant.start(site.produce(800))
        plant.start(site.run_uplinks())
        plant.start(site.fail())
        assert plant.world.run_until(lambda: producing.done and site.kills > 3, 12 * HOUR)
        site.over = True
        plant.heal()
        reader = hub.connect("reader", timeout=600.0)
        deadline = plant.now + HOUR
        while site.arrived(reader) < 800:
            assert plant.now < deadline, site.arrived(reader)
            plant.advance(30.0)
        assert site.arrived(reader) == 800
        assert plant.now > HOUR
        for topic in site.TOPICS:
            found = records(reader, topic)
            for number in range(2):
                assert [record.value for record in found if record.partition == number] == site.sent[topic, number]
