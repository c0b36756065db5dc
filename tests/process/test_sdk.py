"""The SDK against real leader processes: what users are promised, one promise a test."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime

import pytest

import zfabric
from zfabric import errors
from zfabric.testing import kill_leader

PATIENCE_S = 60.0


def until(condition, seconds=PATIENCE_S):
    """Wait for a condition; tells whether it came."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def fill(fabric, topic, values, **options):
    with fabric.producer(**options) as producer:
        for value in values:
            producer.send(topic, value)


def read(fabric, topic, count, **options):
    records = []
    with fabric.consumer(topic, **options) as consumer:
        while len(records) < count:
            got = consumer.poll(timeout=PATIENCE_S)
            if not got:
                break
            records += got
    return records


@pytest.fixture
def fabric(zfabric_fabric):
    zfabric_fabric.topics.create("t")
    return zfabric_fabric


@pytest.mark.parametrize("durability", ["fsync", "os", "memory"])
def test_each_durability_is_named_and_read_back(fabric, durability):
    fabric.topics.create("d", durability=durability)
    with fabric.producer() as producer:
        assert producer.send("d", b"v").result(timeout=PATIENCE_S).durability == durability
    assert [record.value for record in read(fabric, "d", 1)] == [b"v"]
    assert fabric.topics.describe("d").partitions[0].durability == durability


def test_os_topics_survive_kill_9(fabric):
    fabric.topics.create("d", durability="os")
    fill(fabric, "d", [b"%d" % number for number in range(100)])
    kill_leader(fabric)
    assert [record.value for record in read(fabric, "d", 100)] == [b"%d" % number for number in range(100)]


def test_a_memory_topic_never_gives_an_offset_twice(fabric):
    fabric.topics.create("d", durability="memory")
    with fabric.producer() as producer:
        before = producer.send("d", b"lost").result(timeout=PATIENCE_S).offset
        kill_leader(fabric)
        after = producer.send("d", b"kept").result(timeout=PATIENCE_S).offset
    assert after > before
    assert [record.value for record in read(fabric, "d", 1)] == [b"kept"]


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_compressed_records_come_back_the_same(fabric, compression):
    values = [b"x" * number for number in range(300)]
    fill(fabric, "t", values, compression=compression)
    assert [record.value for record in read(fabric, "t", 300)] == values


def test_keys_headers_and_timestamps_come_back(fabric):
    with fabric.producer() as producer:
        producer.send("t", None, key=b"k", headers={"a": b"1"}, timestamp=12345)
        producer.send("t", b"", timestamp=-5)
    first, second = read(fabric, "t", 2)
    assert (first.key, first.value, first.headers, first.timestamp) == (b"k", None, {"a": b"1"}, 12345)
    assert (second.key, second.value, second.headers, second.timestamp) == (None, b"", {}, -5)


def test_batches_have_columns(fabric):
    with fabric.producer() as producer:
        assert producer.send_many("t", [b"%d" % number for number in range(1000)]) == 1000
    with fabric.consumer("t") as consumer:
        batches = consumer.poll_batches(timeout=PATIENCE_S)
        assert sum(map(len, batches)) == 1000
        assert [offset for batch in batches for offset in batch.offsets] == list(range(1000))
        assert batches[0].values[:2] == [b"0", b"1"]
        assert batches[0].keys[0] is None
        assert consumer.position == {0: 1000}


def test_send_many_with_keys_keeps_a_key_in_its_partition(fabric):
    fabric.topics.create("k", partitions=4)
    with fabric.producer() as producer:
        keys = [b"%d" % (number % 10) for number in range(200)]
        assert producer.send_many("k", [b"v"] * 200, keys) == 200
    records = read(fabric, "k", 200)
    places = {record.key: {r.partition for r in records if r.key == record.key} for record in records}
    assert all(len(partitions) == 1 for partitions in places.values())


@pytest.mark.parametrize("batch_bytes", [1000, 256 << 10, 32 << 20])
def test_large_values_fit_into_batches_that_a_leader_takes(fabric, batch_bytes):
    """A batch may exceed the largest record by 1 MiB, whatever the producer was told about batch_bytes."""
    values = [bytes([number]) * 100_000 for number in range(20)] + [b"x" * ((1 << 20) - 16)] * 2
    with fabric.producer(batch_bytes=batch_bytes) as producer:
        assert producer.send_many("t", values) == len(values)
        for value in values:
            producer.send("t", value)
        producer.flush(60)
    assert [record.value for record in read(fabric, "t", 2 * len(values))] == values * 2


def test_starting_points(fabric):
    fill(fabric, "t", [b"old"])
    with fabric.consumer("t", start="latest") as latest:
        time.sleep(0.05)
        moment = datetime.now(tz=UTC)
        time.sleep(0.05)
        fill(fabric, "t", [b"new"])
        assert [record.value for record in latest.poll(timeout=PATIENCE_S)] == [b"new"]
    assert [record.value for record in read(fabric, "t", 1, start=1)] == [b"new"]
    assert [record.value for record in read(fabric, "t", 1, start=moment)] == [b"new"]
    assert [record.value for record in read(fabric, "t", 1, start=moment.isoformat())] == [b"new"]


def test_seek_position_lag_pause_and_resume(fabric):
    fill(fabric, "t", [b"%d" % number for number in range(10)])
    with fabric.consumer("t") as consumer:
        assert len(consumer.poll(4, timeout=PATIENCE_S)) == 4
        assert consumer.position == {0: 4}
        assert consumer.lag == {0: 6}
        assert consumer.assignment == [0]
        consumer.seek(0, 8)
        assert [record.offset for record in consumer.poll(timeout=PATIENCE_S)] == [8, 9]
        consumer.seek(0, "earliest")
        consumer.pause()
        assert consumer.poll(timeout=0.2) == []
        consumer.resume(0)
        assert consumer.poll(1, timeout=PATIENCE_S)[0].offset == 0
        with pytest.raises(errors.OffsetOutOfRange):
            consumer.seek(0, 11)
        with pytest.raises(errors.UnknownPartition):
            consumer.seek(7, 0)


def test_a_loop_gets_records_one_by_one_as_they_are_sent(fabric):
    """The position is behind each when it is yielded; whatever is called in between, none is missing or comes twice."""
    with fabric.consumer("t", start="latest") as consumer, fabric.producer() as producer:

        def send(number):
            producer.send("t", b"%d" % number, partition=0)

        send(0)
        for record in consumer:
            assert record.value == b"%d" % record.offset
            assert (consumer.position, consumer.lag) == ({0: record.offset + 1}, {0: 0})
            if record.offset == 9:
                break
            send(record.offset + 1)
        send(10)
        assert [record.value for record in consumer.poll(timeout=PATIENCE_S)] == [b"10"]
        assert consumer.poll(timeout=0.01) == []
        send(11)
        assert next(iter(consumer)).value == b"11"
        consumer.seek(0, 11)
        assert [record.value for record in consumer.poll(timeout=PATIENCE_S)] == [b"11"]


def test_a_record_that_cannot_be_deserialized_is_raised_again_until_it_is_sought_past(fabric):
    with fabric.consumer("t", start="latest", deserializer=lambda _, value: int(value)) as consumer:
        with fabric.producer() as producer:
            for value in (b"x", b"7"):
                assert consumer.poll(timeout=0.01) == []
                producer.send("t", value, partition=0).result(timeout=PATIENCE_S)
                if value == b"x":

                    def poll():
                        consumer.poll(timeout=PATIENCE_S)

                    for attempt in (poll, iter(consumer).__next__, iter(consumer).__next__, poll):
                        with pytest.raises(errors.DeserializerFailed):
                            attempt()
                    assert consumer.position == {0: 0}
                    consumer.seek(0, 1)
        assert next(iter(consumer)).value == 7


def test_a_partition_that_is_removed_within_a_loop_is_yielded_no_more(fabric):
    fabric.topics.create("two", partitions=2)
    with fabric.producer() as producer:
        for number in range(10):
            producer.send("two", b"v", partition=number % 2)
    with fabric.consumer("two", partitions=[0, 1]) as consumer:
        for record in consumer:
            assert consumer.assignment == [0, 1]
            first = record.partition
            consumer.remove(first)
            break
        rest = [next(iter(consumer)).partition for _ in range(3)]
        assert (rest, consumer.assignment) == ([1 - first] * 3, [1 - first])


def test_a_group_goes_on_where_it_committed(fabric):
    fill(fabric, "t", [b"%d" % number for number in range(10)])
    with fabric.consumer("t", group="g") as consumer:
        for record in consumer:
            if record.offset == 3:
                consumer.commit()
                break
    assert read(fabric, "t", 1, group="g")[0].offset == 4
    assert [(entry.offset, entry.lag) for entry in fabric.groups.describe("g")] == [(4, 6)]
    fabric.groups.reset("g", "t", to="earliest")
    assert read(fabric, "t", 1, group="g")[0].offset == 0
    assert fabric.groups.list() == ["g"]
    fabric.groups.delete("g")
    assert fabric.groups.list() == fabric.groups.describe() == []


def test_a_group_that_has_committed_nothing_is_not_found(fabric):
    """As with topics: describe and delete say so, instead of doing nothing."""
    for call in (fabric.groups.describe, fabric.groups.delete):
        with pytest.raises(zfabric.NotFound) as told:
            call("zz")
        assert (told.value.kind, told.value.name) == ("group", "zz")
    fabric.groups.reset("zz", "t", to="earliest")
    assert fabric.groups.list() == ["zz"]
    fabric.groups.delete("zz")


def test_a_named_producer_with_sequences_is_exactly_once_over_restarts(fabric):
    for _ in range(3):
        with fabric.producer(name="shipper") as producer:
            for number in range(20):
                producer.send("t", b"%d" % number, partition=0, sequence=number)
    assert [record.value for record in read(fabric, "t", 20)] == [b"%d" % number for number in range(20)]
    assert fabric.topics.describe("t").partitions[0].end_offset == 20


def test_a_newer_instance_fences_the_older(fabric):
    older, newer = fabric.producer(name="one"), fabric.producer(name="one")
    older.send("t", b"a", partition=0).result(timeout=PATIENCE_S)
    newer.send("t", b"b", partition=0).result(timeout=PATIENCE_S)
    with pytest.raises(errors.ProducerFenced):
        older.send("t", b"c", partition=0).result(timeout=PATIENCE_S)
    with pytest.raises(errors.ProducerFenced):
        older.send("t", b"d", partition=0)
    older.close()  # All that failed was told already.
    with pytest.raises(errors.Closed):
        older.send("t", b"e", partition=0)


def test_a_full_buffer_is_refused_when_told_not_to_wait(fabric):
    with fabric.producer(buffer_bytes=1_000, block=False, linger=30.0) as producer:
        producer.send("t", b"x" * 2_000)
        with pytest.raises(errors.BufferFull) as refused:
            producer.send("t", b"y")
        assert refused.value.retriable
        assert refused.value.limit == 1_000


def test_callbacks_are_called_with_the_delivery(fabric):
    called = []
    with fabric.producer() as producer:
        producer.send("t", b"v", on_delivery=lambda delivery, error: called.append((delivery.metadata().offset, error)))
    assert until(lambda: called == [(0, None)])


def test_a_delivery_is_resolved_though_nobody_waits(fabric):
    with fabric.producer() as producer:
        delivery = producer.send("t", b"v")
        assert until(lambda: delivery.done)


def test_flush_names_what_failed(fabric):
    fabric.topics.create("gone")
    producer = fabric.producer(linger=5.0)
    producer.send("gone", b"v")
    fabric.topics.delete("gone")
    with pytest.raises(errors.DeliveryError) as failed:
        producer.flush(timeout=PATIENCE_S)
    assert failed.value.records == 1
    assert "gone" in failed.value.detail


def test_a_topic_made_again_is_written_by_the_same_producer(fabric):
    fabric.topics.create("again")
    with fabric.producer() as producer:
        assert producer.send("again", b"1").result(timeout=PATIENCE_S).offset == 0
        assert producer.send("again", b"2").result(timeout=PATIENCE_S).offset == 1
        fabric.topics.delete("again")
        fabric.topics.create("again")
        assert producer.send("again", b"3").result(timeout=PATIENCE_S).offset == 0
    assert [record.value for record in read(fabric, "again", 1)] == [b"3"]


def test_threads_share_a_producer(fabric):
    with fabric.producer() as producer:

        def work(name):
            for number in range(300):
                producer.send("t", b"%d-%d" % (name, number))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    values = [record.value for record in read(fabric, "t", 1200)]
    assert len(set(values)) == 1200
    for name in range(4):
        mine = [value for value in values if value.startswith(b"%d-" % name)]
        assert mine == [b"%d-%d" % (name, number) for number in range(300)]


def test_retention_moves_the_start_and_a_late_consumer_is_told(fabric):
    fabric.topics.create("r", retention_bytes=20_000)
    with fabric.producer(batch_bytes=2_000) as producer:
        for number in range(500):
            producer.send("r", b"%0200d" % number)
        producer.flush()
        assert until(lambda: fabric.topics.describe("r").partitions[0].bytes <= 20_000)  # Then it goes no further.
    start = fabric.topics.describe("r").partitions[0].start_offset
    assert start > 0
    with pytest.raises(errors.OffsetOutOfRange) as told:
        fabric.consumer("r", start=0)
    assert told.value.start == start
    assert read(fabric, "r", 1, start="earliest")[0].offset == start


def test_shared_commits_still_acknowledge(fabric):
    fabric.topics.create("c", commit_interval=0.2)
    with fabric.producer() as producer:
        deliveries = [producer.send("c", b"v", partition=0) for _ in range(50)]
        assert [delivery.result(timeout=PATIENCE_S).offset for delivery in deliveries] == list(range(50))


def test_compaction_keeps_the_latest_of_each_key(fabric):
    fabric.topics.create("table", cleanup="compact", tombstone_retention=0.0)
    with fabric.producer(batch_bytes=8_000) as producer:
        for number in range(30_000):
            producer.send("table", b"%0100d" % number, key=b"%d" % (number % 7))
        producer.send("table", None, key=b"0")
        producer.flush()
        assert until(lambda: fabric.topics.describe("table").partitions[0].bytes < 1_500_000)
        with pytest.raises(errors.InvalidArgument):
            producer.send("table", b"keyless")
    latest = {}
    with fabric.consumer("table") as consumer:
        offsets, end = [], fabric.topics.describe("table").partitions[0].end_offset
        while consumer.position[0] < end:
            records = consumer.poll(10_000, timeout=PATIENCE_S)
            assert records
            offsets += [record.offset for record in records]
            latest.update({record.key: record.value for record in records})
    assert offsets == sorted(set(offsets))
    assert len(offsets) < 15_000
    assert {key: int(value) for key, value in latest.items() if value is not None} == {
        b"%d" % key: max(n for n in range(30_000) if n % 7 == key) for key in range(1, 7)
    }


def test_two_fabrics_of_one_process_share_the_directory(fabric, zfabric_url):
    fill(fabric, "t", [b"v"])
    with zfabric.connect(zfabric_url) as other:
        assert read(other, "t", 1)[0].value == b"v"
        assert other.status()[0].pid == fabric.status()[0].pid


def test_a_forked_child_is_told(fabric):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fabric.topics.list()
        except errors.Forked:
            os.write(writer, b"forked")
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"forked"
    os.close(reader)
    assert "t" in fabric.topics.list()


WRONG = [
    lambda f, p: f.topics.create("../x"),
    lambda f, p: f.topics.create("x" * 300),
    lambda f, p: f.topics.create("a\0b"),
    lambda f, p: f.topics.create(7),
    lambda f, p: f.topics.create("x", partitions=0),
    lambda f, p: f.topics.create("x", partitions="4"),
    lambda f, p: f.topics.create("x", durability="paper"),
    lambda f, p: f.topics.create("x", retention="long"),
    lambda f, p: f.topics.create("x", retention_bytes=1.5),
    lambda f, p: f.topics.create("x", record_bytes_max=0),
    lambda f, p: f.topics.create("x", durability="memory", cleanup="compact"),
    lambda f, p: f.topics.alter("t", nonsense=1),
    lambda f, p: p.send("t", "text"),
    lambda f, p: p.send("t", 5),
    lambda f, p: p.send("t", b"v", key="text"),
    lambda f, p: p.send("t", b"v", headers={"a": "text"}),
    lambda f, p: p.send("t", b"v", headers={1: b"x"}),
    lambda f, p: p.send("t", b"v", partition=-1),
    lambda f, p: p.send("t", b"v", partition="0"),
    lambda f, p: p.send("t", b"v", timestamp=1 << 70),
    lambda f, p: p.send("t", b"v", sequence=1),
    lambda f, p: p.send_many("t", ["text"]),
    lambda f, p: p.send_many("t", [b"a", b"b"], [b"k"]),
    lambda f, p: f.producer(acks="most"),
    lambda f, p: f.producer(linger=-1),
    lambda f, p: f.producer(compression="rar"),
    lambda f, p: f.producer(name="a b"),
    lambda f, p: f.consumer("t", group="a/b"),
    lambda f, p: f.consumer("t", start="whenever"),
    lambda f, p: f.consumer("t", start=-1),
    lambda f, p: f.consumer("t", start=1.5),
    lambda f, p: f.consumer("t", missing="panic"),
    lambda f, p: f.consumer("t").poll(0),
    lambda f, p: f.consumer("t").commit(),
    lambda f, p: zfabric.connect(timeout=0),
]


@pytest.mark.parametrize("call", WRONG, ids=range(len(WRONG)))
def test_wrong_arguments_are_named_and_nothing_breaks(fabric, call):
    producer = fabric.producer()
    with pytest.raises(errors.InvalidArgument) as refused:
        call(fabric, producer)
    assert refused.value.name
    assert refused.value.allowed
    assert producer.send("t", b"still fine").result(timeout=PATIENCE_S).offset >= 0


def test_other_mistakes_have_their_own_errors(fabric, tmp_path):
    with fabric.producer() as producer:
        with pytest.raises(errors.UnknownTopic):
            producer.send("nowhere", b"v")
        with pytest.raises(errors.RecordTooLarge):
            producer.send("t", b"x" * ((1 << 20) + 1))
        with pytest.raises(errors.UnknownPartition):
            producer.send("t", b"v", partition=9)
    with pytest.raises(errors.Closed):
        producer.send("t", b"v")
    with pytest.raises(errors.AlreadyExists):
        fabric.topics.create("t")
    with pytest.raises(errors.UnknownTopic):
        fabric.topics.delete("nowhere")
    with pytest.raises(errors.ConfigurationError):
        zfabric.connect("http://x")
    with pytest.raises(errors.NotSupported):
        zfabric.connect("zf://a,b")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(errors.DirectoryFormat):
        zfabric.connect(f"zf+file:{tmp_path / 'other'}")
    with zfabric.connect("zf://127.0.0.1:1", timeout=0.3) as nobody, pytest.raises(errors.Unreachable):
        nobody.topics.list()


NODE_ASTRAY = "zf://nowhere.invalid:7400"
SEED_ASTRAY = "zf+peer://m?role=client&seed=nowhere.invalid:7400"


@pytest.mark.parametrize(
    ("url", "call"),
    [
        (NODE_ASTRAY, lambda fabric: next(iter(fabric.consumer("t")))),
        (NODE_ASTRAY, lambda fabric: fabric.request("s.m", b"")),
        (SEED_ASTRAY, lambda fabric: fabric.topics.list()),
    ],
    ids=["read", "request", "seed"],
)
def test_a_host_whose_name_leads_nowhere_is_named_and_nobody_told_to_start_a_node_there(url, call):
    with (
        zfabric.connect(url, timeout=1.5) as fabric,
        pytest.raises((errors.Unreachable, errors.ServiceUnavailable)) as refused,
    ):
        call(fabric)
    assert "no address of the host 'nowhere.invalid' was found" in str(refused.value)
    assert "zfabric serve" not in str(refused.value)


def test_no_topic_is_called_unknown_while_nobody_has_answered():
    """Also while a longer question of the same fabric waits for the same silent seed."""
    with zfabric.connect(SEED_ASTRAY, timeout=1.0) as fabric:
        for call in (fabric.topics.list, lambda: fabric.consumer("t").poll(timeout=1)):
            with pytest.raises(errors.Unreachable) as refused:
                call()
            assert refused.value.seconds == 1.0


def test_a_service_of_a_node_whose_name_leads_nowhere_is_unreachable():
    """Not an error of the socket module: it is looked up for the interface to listen on."""
    with zfabric.connect(NODE_ASTRAY) as fabric, pytest.raises(errors.Unreachable) as refused:
        fabric.service("s")
    assert "no address of the host 'nowhere.invalid' was found" in str(refused.value)
