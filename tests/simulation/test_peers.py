"""Peers of one mesh, each with a leader of its own, read as one fabric by the real clients (design section 6)."""

import pytest

from zfabric import errors
from zfabric.core.client.origins import mesh_number
from zfabric.testing.simulation import Simulation, Weather


@pytest.fixture
def simulation():
    with Simulation(seed=1, peers=3) as entry:
        entry.advance(1.0)  # They know of each other.
        yield entry


def connected(simulation, **options):
    return [simulation.connect(f"app-{peer}", peer=peer, **options) for peer in range(len(simulation.processes))]


def send(fabric, values, topic="t", **options):
    """Send each value and return where it went."""
    with fabric.producer() as producer:
        return [producer.send(topic, value, **options).result(30.0) for value in values]


def read(consumer, count, seconds=30.0):
    """Read until there are ``count`` records."""
    records = []
    while len(records) < count and seconds > 0:
        records += consumer.poll(timeout=1.0)
        seconds -= 1.0
    return records


def values(records):
    return sorted(record.value for record in records)


def test_a_consumer_reads_what_every_peer_has_produced(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    for number, fabric in enumerate(fabrics):
        send(fabric, [b"%d" % number])
    for fabric in fabrics:
        with fabric.consumer("t") as consumer:
            assert values(read(consumer, 3)) == [b"0", b"1", b"2"]
            assert len(consumer.assignment) == 3


def test_a_topic_is_described_though_its_peer_was_not_met_yet():
    """As by a command of a peer that starts with it: nobody is known when the question comes."""
    with Simulation(seed=1, peers=2) as simulation:
        simulation.kill_leader(1)
        first = simulation.connect("first", peer=0)
        first.topics.create("t")
        simulation.start_leader(1)
        second = simulation.connect("second", peer=1)
        assert len(second.topics.describe("t").partitions) == 1
        with pytest.raises(errors.UnknownTopic):
            second.topics.describe("nowhere")
        with pytest.raises(errors.UnknownTopic):
            second.topics.alter("t", retention=60.0)  # Only the own part, and there is none.


def test_a_partition_has_the_same_number_for_everybody(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t", partitions=3)
    sent = {(meta.partition, meta.offset) for fabric in fabrics for meta in send(fabric, [b"a", b"b"], partition=2)}
    assert {partition for partition, _ in sent} == {mesh_number(process.fabric, 2) for process in simulation.processes}
    for fabric in fabrics:
        with fabric.consumer("t") as consumer:
            assert {(record.partition, record.offset) for record in read(consumer, 6)} == sent
    parts = {part.partition: part for part in fabrics[1].topics.describe("t").partitions}
    assert len(parts) == 9
    assert {number: parts[number].end_offset for number, _ in sent} == dict.fromkeys({n for n, _ in sent}, 2)
    assert {part.origin for part in parts.values()} == {process.fabric for process in simulation.processes}


def test_a_number_fits_a_float_and_is_the_same_in_every_version():
    assert mesh_number("00000000000000aa", 7) == 3238294361654946
    assert max(mesh_number(f"{fabric:016x}", 0) for fabric in range(1_000)) < 1 << 52


def test_a_topic_of_others_is_adopted_with_its_configuration_when_it_is_first_produced_to(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t", partitions=4, retention=3_600.0, record_bytes_max=99)
    assert fabrics[1].topics.list() == ["t"]
    assert len(fabrics[1].topics.describe("t").partitions) == 4
    send(fabrics[1], [b"v"])
    info = fabrics[2].topics.describe("t")
    assert len(info.partitions) == 8
    assert info.config.record_bytes_max == 99
    with pytest.raises(errors.RecordTooLarge):
        send(fabrics[1], [b"v" * 100])


@pytest.mark.parametrize("call", [lambda f: f.consumer("none"), lambda f: f.producer().send("none", b"v")])
def test_a_topic_that_nobody_has_is_unknown_after_a_moment(simulation, call):
    before = simulation.now
    with pytest.raises(errors.UnknownTopic):
        call(simulation.connect())
    assert simulation.now - before < 5.0


def test_an_origin_that_appears_later_is_read_from_its_start(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    with fabrics[0].consumer("t") as consumer:
        assert len(consumer.assignment) == 1
        send(fabrics[2], [b"first", b"second"])
        assert values(read(consumer, 2)) == [b"first", b"second"]
        assert len(consumer.assignment) == 2


def test_an_origin_that_appears_later_is_read_from_its_end_where_that_was_asked_for(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    with fabrics[0].consumer("t", start="latest") as consumer:
        simulation.partition("app-0", 2)
        send(fabrics[2], [b"old"])
        simulation.advance(5.0)
        simulation.heal()
        while len(consumer.assignment) < 2 or min(consumer.position.values()) < 0:
            consumer.poll(timeout=0.1)
        send(fabrics[2], [b"new"])
        assert values(read(consumer, 1)) == [b"new"]


def test_an_origin_that_is_away_holds_up_nobody_and_is_read_on_when_it_is_back(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    with fabrics[0].consumer("t") as consumer:
        for number, fabric in enumerate(fabrics):
            send(fabric, [b"%d" % number])
        assert len(read(consumer, 3)) == 3
        simulation.restart = False
        simulation.kill_leader(2)
        simulation.advance(60.0)
        send(fabrics[1], [b"1 again"])
        assert values(read(consumer, 1)) == [b"1 again"]
        simulation.start_leader(2)
        send(fabrics[2], [b"2 again"])
        assert values(read(consumer, 1)) == [b"2 again"]
        assert len(consumer.assignment) == 3


def test_opening_does_not_wait_for_an_origin_that_is_away(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    for number, fabric in enumerate(fabrics):
        send(fabric, [b"%d" % number])
    simulation.restart = False
    simulation.kill_leader(1)
    before = simulation.now
    consumer = fabrics[0].consumer("t")
    assert simulation.now - before < 3.0
    assert values(read(consumer, 2)) == [b"0", b"2"]
    simulation.start_leader(1)
    assert values(read(consumer, 1)) == [b"1"]
    online = {part.origin: part.online for part in fabrics[0].topics.describe("t").partitions}
    assert all(online.values())
    simulation.kill_leader(1)
    simulation.advance(5.0)
    online = {part.origin: part.online for part in fabrics[0].topics.describe("t").partitions}
    assert online == {process.fabric: number != 1 for number, process in enumerate(simulation.processes)}


@pytest.mark.parametrize("call", ["topics.describe", "groups.describe", "groups.delete"])
def test_what_is_asked_of_everybody_waits_once_however_many_peers_are_frozen(call):
    """The mesh notices later."""
    with Simulation(seed=3, peers=5) as simulation:
        fabrics = connected(simulation)
        fabrics[0].topics.create("t")
        for fabric in fabrics:
            send(fabric, [b"v"])
        with fabrics[0].consumer("t", group="g") as consumer:
            assert len(read(consumer, 5)) == 5
            consumer.commit()
        for number in (1, 2, 4):
            simulation.freeze_leader(number, 60.0)
        frozen = {simulation.processes[number].fabric for number in (1, 2, 4)}
        before = simulation.now
        if call == "topics.describe":
            parts = fabrics[0].topics.describe("t").partitions
            assert {part.origin for part in parts if not part.online} == frozen
            most = 2.5
        elif call == "groups.describe":
            assert len(fabrics[3].groups.describe("g")) == 2
            most = 2.5
        else:
            with pytest.raises(errors.OriginAway) as told:
                fabrics[0].groups.delete("g")
            assert told.value.origin in frozen
            most = 14.5  # Of these, ten for the deletion itself: the fabric's timeout.
        assert simulation.now - before < most


def test_a_wiped_disk_is_another_origin_and_is_never_mixed_up_with_the_one_before(simulation):
    """The same address, the same topic, the same ids and offsets: only the fabric id tells them apart."""
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    with fabrics[0].consumer("t") as consumer:
        sent = send(fabrics[1], [b"before 0", b"before 1", b"before 2"])
        assert values(read(consumer, 3)) == [b"before 0", b"before 1", b"before 2"]
        old = sent[0].partition
        simulation.wipe_disk(1)
        simulation.advance(1.0)
        sent = send(simulation.connect(peer=1), [b"after %d" % number for number in range(6)])
        records = read(consumer, 6)
        assert [(record.partition, record.offset, record.value) for record in records] == [
            (sent[0].partition, number, b"after %d" % number) for number in range(6)
        ]
        assert consumer.position[old] == 3
        assert sent[0].partition not in {old, *(record.partition for record in records if record.offset > 5)}
        assert set(consumer.assignment) > {old, sent[0].partition}


def test_the_own_disk_may_be_exchanged_under_a_client(simulation):
    """Of all origins the own one has the address that is never looked up."""
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    with fabrics[0].consumer("t") as consumer:
        old = send(fabrics[0], [b"old 0", b"old 1"])[0]
        send(fabrics[1], [b"other"])
        assert len(read(consumer, 3)) == 3
        simulation.wipe_disk(0)
        simulation.advance(2.0)
        new = send(fabrics[0], [b"new 0", b"new 1", b"new 2"])
        assert values(read(consumer, 3)) == [b"new 0", b"new 1", b"new 2"]
        assert old.partition != new[0].partition
        assert consumer.position[old.partition] == 2


@pytest.mark.parametrize("idle", [0.0, 10.0])
def test_a_producer_goes_on_after_its_own_disk_was_exchanged_because_others_have_the_topic(simulation, idle):
    """The topic is adopted again, and what was on its way to the old disk is delivered, as the new one's."""
    fabrics = connected(simulation)
    fabrics[0].topics.create("t", partitions=2)
    send(fabrics[1], [b"other"])
    with fabrics[0].producer() as producer:
        old = producer.send("t", b"old", partition=1).result(30.0)
        simulation.wipe_disk(0)
        simulation.advance(idle)
        new = producer.send("t", b"new", partition=1).result(30.0)
    assert (new.partition, new.offset) == (mesh_number(simulation.processes[0].fabric, 1), 0)
    assert new.partition != old.partition
    with fabrics[1].consumer("t", partitions=[new.partition]) as consumer:
        assert values(read(consumer, 1)) == [b"new"]


def test_a_producer_of_a_topic_that_was_on_the_exchanged_disk_alone_is_told_that_it_is_unknown(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    with fabrics[0].producer() as producer:
        producer.send("t", b"old").result(30.0)
        simulation.wipe_disk(0)
        with pytest.raises(errors.UnknownTopic):
            producer.send("t", b"new").result(30.0)


def test_a_start_that_an_origin_does_not_have_which_was_away_at_first_is_an_error_once_it_is_there(simulation):
    """Nobody waits for the opening any more then: whoever takes records is told, after what others have."""
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    for fabric in fabrics:
        send(fabric, [b"0", b"1", b"2"])
    simulation.advance(5.0)  # Their cards show it, which the client has not looked at lately.
    with fabrics[0].consumer("t", start=1) as consumer:
        assert values(read(consumer, 6)) == [b"1"] * 3 + [b"2"] * 3
    simulation.restart = False
    simulation.kill_leader(2)
    for fabric in fabrics[:2]:
        send(fabric, [b"3", b"4"])
    with fabrics[0].consumer("t", start=4) as consumer:
        assert values(read(consumer, 2)) == [b"4", b"4"]
        simulation.start_leader(2)
        with pytest.raises(errors.OffsetOutOfRange) as raised:
            read(consumer, 1)
        number = mesh_number(simulation.processes[2].fabric, 0)
        assert (raised.value.partition, raised.value.offset, raised.value.end) == (number, 4, 3)
        consumer.seek(number, 2)
        assert values(read(consumer, 1)) == [b"2"]


def test_of_a_partition_that_there_is_not_the_error_says_whose_there_are(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t", partitions=7)
    with fabrics[1].consumer("t") as consumer, pytest.raises(errors.UnknownPartition) as raised:
        consumer.seek(5, 0)
    mine = simulation.processes[0].fabric
    assert raised.value.last == max(mesh_number(mine, number) for number in range(7))
    assert sum(f"{mesh_number(mine, number)} of {mine}" in raised.value.allowed for number in range(7)) == 5
    assert " and 2 more; " in raised.value.allowed


@pytest.mark.parametrize("seed", range(8))
def test_what_a_reader_gets_of_a_place_is_of_one_disk_however_often_disks_are_exchanged(seed):
    """Publications and answers of the new disk must not be taken for those of the old one, in any order of events."""
    with Simulation(seed, peers=2, weather=Weather(delay=0.01, spikes=0.05, publication_loss=0.1)) as simulation:
        simulation.advance(1.0)
        reader = simulation.connect("reader", peer=0)
        reader.topics.create("t")
        origins = {}
        with reader.consumer("t") as consumer:
            seen = []
            for life in range(5):
                with simulation.connect(peer=1, timeout=30.0).producer() as producer:
                    for number in range(simulation.world.random.randrange(1, 20)):
                        meta = producer.send("t", b"%d:%d" % (life, number)).result(60.0)
                        assert origins.setdefault(meta.partition, life) == life
                        seen += consumer.poll(timeout=0.0)
                simulation.wipe_disk(1)
                simulation.advance(simulation.world.random.random())
            seen += consumer.poll(timeout=5.0)
    for record in seen:
        assert record.value == b"%d:%d" % (origins[record.partition], record.offset)


def test_producing_needs_nobody_but_the_own_leader(simulation):
    """Store and forward: the link is down, and comes back."""
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    send(fabrics[2], [b"before"])
    for other in (0, 1):
        for at in ("app-2", "peer-2"):
            simulation.partition(at, other)
        for at in (f"app-{other}", f"peer-{other}"):
            simulation.partition(at, 2)
    simulation.advance(10.0)
    send(fabrics[2], [b"%d" % number for number in range(10)])
    with fabrics[0].consumer("t") as consumer:
        assert read(consumer, 1, seconds=10.0) == []
        simulation.heal()
        assert len(read(consumer, 11)) == 11


def test_a_topic_that_one_origin_deletes_goes_on_at_the_others(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    for fabric in fabrics:
        send(fabric, [b"v"])
    with fabrics[0].consumer("t") as consumer:
        assert len(read(consumer, 3)) == 3
        fabrics[1].topics.delete("t")
        simulation.advance(60.0)
        assert consumer.poll(timeout=1.0) == []
        send(fabrics[2], [b"more"])
        assert values(read(consumer, 1)) == [b"more"]
        send(fabrics[1], [b"new"])  # Adopted again.
        assert values(read(consumer, 1)) == [b"new"]


def test_given_partitions_are_read_whenever_their_origin_is_seen(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    mine = mesh_number(simulation.processes[2].fabric, 0)
    with fabrics[0].consumer("t", partitions=[mine]) as consumer:
        send(fabrics[1], [b"other"])
        send(fabrics[2], [b"wanted"])
        assert values(read(consumer, 1)) == [b"wanted"]
        assert consumer.assignment == [mine]


def test_an_offset_is_committed_at_its_origin_and_found_from_every_peer(simulation):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    for fabric in fabrics:
        send(fabric, [b"a", b"b"])
    with fabrics[0].consumer("t", group="g") as consumer:
        assert len(read(consumer, 6)) == 6
        consumer.commit()
    assert fabrics[2].groups.list() == ["g"]
    assert [(entry.offset, entry.lag) for entry in fabrics[1].groups.describe("g")] == [(2, 0)] * 3
    send(fabrics[1], [b"c"])
    with fabrics[2].consumer("t", group="g") as consumer:
        assert values(read(consumer, 1)) == [b"c"]
    fabrics[1].groups.reset("g", "t", to="earliest")
    with fabrics[2].consumer("t", group="g") as consumer:
        assert len(read(consumer, 7)) == 7
    fabrics[0].groups.delete("g")
    assert fabrics[1].groups.list() == []


@pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["just now", "for long"])
def test_a_group_is_reset_and_deleted_wherever_it_can_be_and_an_origin_that_is_away_is_named(simulation, seconds):
    fabrics = connected(simulation)
    fabrics[0].topics.create("t")
    for fabric in fabrics:
        send(fabric, [b"a", b"b"])
    with fabrics[0].consumer("t", group="g") as consumer:
        assert len(read(consumer, 6)) == 6
        consumer.commit()
    simulation.restart = False
    simulation.kill_leader(2)
    simulation.advance(seconds)
    with pytest.raises(errors.OriginAway) as told:
        fabrics[0].groups.reset("g", "t", to="earliest")
    assert (told.value.origin, told.value.retriable) == (simulation.processes[2].fabric, True)
    assert [entry.offset for entry in fabrics[1].groups.describe("g")] == [0, 0]
    with pytest.raises(errors.OriginAway):
        fabrics[0].groups.delete("g")
    assert fabrics[0].groups.list() == []
    simulation.start_leader(2)
    simulation.advance(5.0)
    assert [entry.offset for entry in fabrics[1].groups.describe("g")] == [2]
    fabrics[0].groups.delete("g")
    assert fabrics[1].groups.list() == []
