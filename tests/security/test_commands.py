"""Bad commands and bad batches, one at a time, to a real leader (reliability.md, section 5: 14 to 22)."""

from __future__ import annotations

import struct

import msgspec
import pytest

import zfabric
from tests.process import leaders as process_leaders
from tests.security.attack import (
    MIB,
    Node,
    one_record,
    packed,
    partition_id,
    sealed,
    stranger,
)
from zfabric import errors
from zfabric.wire import batch, codecs, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Attach, Metadata

pytestmark = pytest.mark.usefixtures("others")

encode = msgspec.msgpack.encode
I64, U64 = (1 << 63) - 1, (1 << 64) - 1
NUMBERS = [-1, -(1 << 63), 1 << 32, 1 << 63, U64]


@pytest.fixture(scope="module")
def place(node):
    """Id of a partition."""
    with zfabric.connect(node.url, timeout=30) as fabric:
        fabric.topics.create("t", if_absent=True)
        return partition_id(fabric, "t")


def refused(node, *frames, kind=errors.ProtocolViolation):
    """Send one message: it is answered with an error of that kind and counted, and the session lives on."""
    before = node.status().errors
    with stranger(node.port) as attacker:
        answer = attacker.ask(*frames)
        assert isinstance(answer, kind), answer
        assert attacker.hello()
    assert node.status().errors == before + 1
    return answer


def produce(header, payload, flags=0):
    """Return a PRODUCE."""
    return messages.produce(9, flags, header, payload)


# The command frame.


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_by_name(node, version):
    error = refused(node, packed(Type.HELLO, encode(["x", 1, 1]), version=version), kind=errors.UnsupportedVersion)
    assert (error.version, error.lowest, error.highest) == (version, 1, 1)


@pytest.mark.parametrize("spoken", [(2, 9), (0, 0)])
def test_a_client_of_another_version_is_refused_by_name(node, spoken):
    refused(node, packed(Type.HELLO, encode(["x", *spoken])), kind=errors.UnsupportedVersion)


@pytest.mark.parametrize("kind", sorted(set(range(0, 256, 17)) | {1, 4, 6, 8, 15, 41, 98}))
def test_an_unknown_command_is_refused(node, kind):
    refused(node, packed(kind, b"\x90"))


@pytest.mark.parametrize("kind", [Type.WELCOME, Type.ERROR, Type.GOODBYE, Type.DONE, Type.PRODUCED, Type.ASSIGN])
def test_a_leaders_own_words_are_refused_from_a_client(node, kind):
    bodies = {
        Type.WELCOME: encode([1, "f", 0, 5]), Type.ERROR: encode([1, {}]), Type.PRODUCED: bytes(22),
        Type.ASSIGN: encode(["f", 1, [], []]),
    }  # fmt: skip
    refused(node, packed(kind, bodies.get(kind, b"\x90")))


@pytest.mark.parametrize("kind", [Type.KEEP, Type.ADOPT, Type.FOLLOWED, Type.OFFER, Type.HELD])
def test_what_a_keeper_says_to_itself_and_an_offer_to_whoever_keeps_nothing_are_refused(node, kind):
    bodies = {
        Type.ADOPT: encode(["o", []]), Type.OFFER: encode(["o"]), Type.FOLLOWED: encode(["o", 1, 1, 1, []]),
        Type.HELD: encode([9]),
    }  # fmt: skip
    frames = [packed(kind, bodies.get(kind, b"\x90"))]
    refused(node, *frames, *([b""] if kind == Type.FOLLOWED else []))


def test_whoever_asks_another_fabric_is_told_which_one_this_is(node):
    asked = packed(Type.FOLLOW, encode(["another", "k", 1000, 0, 0, 0, 0, []]))
    refused(node, asked, kind=errors.WrongFabric)
    refused(node, packed(Type.SHARE, encode(["another", []])), kind=errors.WrongFabric)


@pytest.mark.parametrize("flags", [1, 1 << 31])
def test_unknown_flags_are_refused(node, flags):
    refused(node, packed(Type.STATUS, b"\x90", flags=flags))


def test_unknown_flags_of_a_produce_are_refused(node, place):
    refused(node, *produce(*sealed(one_record(), place), flags=4))


def test_a_command_before_hello_is_answered(node):
    """A reconnect is invisible to a leader."""
    with stranger(node.port) as client:
        assert client.ask(packed(Type.STATUS, b"\x90")).values["pid"] == node.pid


# The body.


@pytest.mark.parametrize("body", [
    b"", b"\xc1", b"\x93\x01", b"\x90\x00", b"\x90\xc1", b"\xc0", b"\xa1x", b"\x80", encode([1] * 10), encode([[]]),
], ids=lambda body: body.hex())  # fmt: skip
@pytest.mark.parametrize("kind", [Type.FETCH, Type.COMMIT_OFFSETS, Type.CREATE_TOPIC])
def test_truncated_wrong_and_trailing_msgpack_is_refused(node, kind, body):
    """16."""
    refused(node, packed(kind, body))


@pytest.mark.parametrize("claim", [
    b"\xdd\xff\xff\xff\xff", b"\x92\x01\xdd\xff\xff\xff\xff\x92\x01\x01", b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01",
], ids=lambda body: body.hex())  # fmt: skip
def test_lengths_of_four_billion_are_refused_without_memory(node, claim):
    """17."""
    before = node.memory()
    for kind in (Type.FETCH, Type.METADATA, Type.GET_OFFSETS, Type.ATTACH):
        refused(node, packed(kind, claim))
    assert node.memory() < before + 20 * MIB


@pytest.mark.parametrize("deeper", [b"\x91", b"\x81\xa1x", b"\x92\x01"])
@pytest.mark.parametrize("depth", [600, 100_000, 1_000_000])
def test_endless_nesting_is_refused(node, depth, deeper):
    """18."""
    refused(node, packed(Type.FETCH, deeper * depth))


@pytest.mark.parametrize(("kind", "body"), [
    (Type.FETCH, b"\x92\x01\xdd" + struct.pack(">I", 2_000_000) + b"\x80" * 2_000_000),
    (Type.FETCH, b"\x92\x01\xdd" + struct.pack(">I", 600_000) + b"\x92\0\0" * 600_000),
    (Type.FETCH, b"\x92\x01\xdd" + struct.pack(">I", 150_000) + b"\x92\0\0" * 150_000),
    (Type.DESCRIBE, b"\x91\xdd" + struct.pack(">I", 400_000) + b"\1" * 400_000),
    (Type.GET_OFFSETS, b"\x92\xa1g\xdd" + struct.pack(">I", 400_000) + b"\1" * 400_000),
    (Type.FIND_OFFSETS, b"\x91\xdd" + struct.pack(">I", 150_000) + b"\x92\0\0" * 150_000),
    (Type.COMMIT_OFFSETS, b"\x92\xa1g\xdd" + struct.pack(">I", 150_000) + b"\x92\0\0" * 150_000),
    (Type.METADATA, b"\x91\xdd" + struct.pack(">I", 400_000) + b"\xa0" * 400_000),
], ids=["maps", "too large", "fetch", "describe", "offsets", "times", "commits", "names"])  # fmt: skip
def test_many_small_things_are_refused_without_memory(node, kind, body):
    """19: decoded, each takes a hundred times its bytes."""
    before = node.memory()
    for _ in range(5):
        refused(node, packed(kind, body))
    assert node.memory() < before + 20 * MIB


def test_one_topic_asked_for_ten_thousand_times_is_told_once(node):
    with zfabric.connect(node.url, timeout=30) as fabric:
        fabric.topics.create("wide", partitions=1_000, if_absent=True)
    with stranger(node.port) as client:
        answer = client.ask(messages.command(Type.METADATA, 9, Metadata(["wide"] * 10_000)))
    assert len(answer.topics) == 1


@pytest.mark.parametrize("body", [
    b"\x91\x91\xa2\xff\xfe", b"\x91\x91\xa3\xed\xa0\x80",  # bad UTF-8; a lone surrogate
    b"\x91\x91\xc4\1a", b"\x91\x91\x01", b"\x91\x81\xa1a\1",
    b"\x91\xd4\1\0", b"\x91\xcb\x7f\xf8\0\0\0\0\0\0", b"\x91\xcf" + b"\xff" * 8,  # ExtType, NaN, u64
], ids=lambda body: body.hex())  # fmt: skip
def test_wrong_text_keys_and_kinds_are_refused(node, body):
    """20."""
    refused(node, packed(Type.METADATA, body))


@pytest.mark.parametrize("body", [
    b"\x81\1\1", b"\x82\xa1a\1\xa1a\1", b"\x92\xcb\x7f\xf8\0\0\0\0\0\0\x90", b"\x92\xcf" + b"\xff" * 8 + b"\x90",
    b"\x92\x01\x91\x92\xca\x7f\xc0\0\0\0", b"\x92\xd6\1\0\0\0\0\x90",
], ids=lambda body: body.hex())  # fmt: skip
def test_maps_nan_and_huge_numbers_are_refused(node, body):
    """20: integer keys, duplicate keys, NaN, the largest u64."""
    refused(node, packed(Type.FETCH, body), kind=(errors.ProtocolViolation, errors.InvalidArgument))


NAMES = [
    "../../x", "/etc/passwd", "a\0b", "x" * 10_000, "", ".", "..", "-x", "a b", "a/b", "a\nb", "\u043erders",
    "orders\u200b", "\uff4frders", "ordérs", "\u202esredro", "orders\n",
]  # fmt: skip
"""Among them a Cyrillic letter, a zero-width space, a full-width letter, text from right to left."""


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_strange_names_name_nothing(node, place, name):
    """21: a name is ASCII of few kinds, so none looks like another and none is a path."""
    kinds = (errors.InvalidArgument, errors.ProtocolViolation)
    refused(node, packed(Type.CREATE_TOPIC, encode([name, 1, ["fsync"]])), kind=kinds)
    refused(node, packed(Type.DELETE_TOPIC, encode([name])), kind=kinds)
    refused(node, packed(Type.ALTER_TOPIC, encode([name, ["fsync"]])), kind=kinds)
    refused(node, packed(Type.COMMIT_OFFSETS, encode([name, [[place, 0]]])), kind=kinds)
    refused(node, packed(Type.GET_OFFSETS, encode([name, [place]])), kind=kinds)
    refused(node, packed(Type.DELETE_GROUP, encode([name])), kind=kinds)
    if name:  # An empty one stands for all groups, and for the beginning.
        refused(node, packed(Type.LIST_GROUPS, encode([name])), kind=kinds)
        refused(node, packed(Type.LIST_GROUPS, encode(["", place, name])), kind=kinds)


# Numbers.


def with_number(place, number):
    """Every command with every number of it replaced, one at a time."""
    config = ["fsync", -1, -1, "delete", 0, 0, 1_000]
    yield Type.HELLO, ["x", number, number]
    yield Type.CREATE_TOPIC, ["new", number, config]
    for index in (1, 2, 4, 5, 6):
        wrong = [*config[:index], number, *config[index + 1 :]]
        if (index, number) not in {(1, -1), (2, -1), (1, 1 << 32), (2, 1 << 32), (4, 1 << 32)}:
            yield Type.CREATE_TOPIC, ["new", 1, wrong]
    yield Type.ALTER_TOPIC, ["t", ["fsync"], number]
    yield Type.DESCRIBE, [[place, number]]
    yield Type.INIT_PRODUCER, [number, 5]
    if not 0 < number <= U64:
        yield Type.INIT_PRODUCER, [place, number]
    yield Type.FETCH, [number, [[place, 0]]]
    yield Type.FIND_OFFSETS, [[[number, 0]]]
    yield Type.COMMIT_OFFSETS, ["g", [[place, number]]]
    yield Type.COMMIT_OFFSETS, ["g", [[number, 0]], True]
    yield Type.GET_OFFSETS, ["g", [place, number]]
    yield Type.LIST_GROUPS, ["", number]
    yield Type.ATTACH, [number, "tcp://x:1", "tcp://x:1", 0]
    yield Type.ATTACH, [1, "tcp://x:1", "tcp://x:1", number]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_out_of_range_are_refused(node, place, number):
    """22: offsets, partitions, epochs, sequences."""
    cases = list(with_number(place, number))
    before = node.status().errors
    with stranger(node.port) as attacker:
        for kind, body in cases:
            answer = attacker.ask(packed(kind, encode(body)))
            assert isinstance(answer, errors.ZFabricError), (kind, body, answer)
        assert attacker.hello()
    assert node.status().errors == before + len(cases)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_fetch_from_nowhere_fails_for_its_part_alone(node, place, number):
    with stranger(node.port) as attacker:
        if not 0 <= number <= I64:
            answer = attacker.ask(packed(Type.FETCH, encode([1_000, [[place, number]]])))
            assert isinstance(answer, errors.ProtocolViolation)
        else:
            answer = attacker.ask(packed(Type.FETCH, encode([1_000, [[place, number], [place, 0]]])))
            bad, good = answer.parts
            assert errors.OffsetOutOfRange.code == bad.failure.code
            assert good.failure is None


# Batches.


def good(place, **fields):
    """A PRODUCE of one record with some header fields forged."""
    return produce(*sealed(one_record(), place, **fields))


@pytest.mark.parametrize("fields", [
    {"magic": 0}, {"magic": 0xF2}, {"format": 0}, {"format": 9}, {"codec": 3}, {"codec": 255}, {"flags": 1},
    {"flags": 4}, {"flags": 255}, {"records": 0}, {"records": (1 << 32) - 1}, {"records": (1 << 20) + 1},
    {"payload_length": 0}, {"payload_length": 1}, {"payload_length": (1 << 32) - 1}, {"raw_length": 0},
    {"raw_length": (1 << 32) - 1}, {"raw_length": (1 << 32) - 1, "codec": 2}, {"base_timestamp": 1},
    {"base_timestamp": -(1 << 63)}, {"max_timestamp": -1}, {"max_timestamp": I64}, {"base_sequence": 5},
    {"base_sequence": U64, "last_sequence": U64}, {"last_sequence": U64}, {"last_sequence": 7},
], ids=str)  # fmt: skip
def test_a_batch_header_out_of_range_is_refused(node, place, fields):
    """14 to 22: each field of the header has a range."""
    refused(node, *good(place, **fields))


def test_a_batch_of_another_checksum_is_refused(node, place):
    error = refused(node, *good(place, payload_crc=1), kind=errors.CorruptFrame)
    assert error.partition == place


def test_an_empty_payload_is_refused(node, place):
    """14."""
    header, _ = sealed(one_record(), place)
    forged = batch.parse(header)._replace(payload_length=0, raw_length=0, payload_crc=0)
    refused(node, *produce(batch.HEADER.pack(*forged), b""))


def test_the_largest_record_is_taken_and_one_byte_more_is_refused(node, place):
    """15: by default 1 MiB a record, and 1 MiB for everything around it."""
    with stranger(node.port) as attacker:
        room = 2 * MIB - len(one_record(b"x" * MIB)) + MIB
        taken = attacker.ask(*produce(*sealed(one_record(b"x" * room), place)))
        assert taken.epoch >= 1
        answer = attacker.ask(*produce(*sealed(one_record(b"x" * (room + 1)), place)))
        assert isinstance(answer, errors.ProtocolViolation)


@pytest.mark.parametrize("number", [0, 99_999, (1 << 32) - 1])
def test_a_batch_for_a_partition_that_is_not_led_here_is_refused(node, number):
    refused(node, *produce(*sealed(one_record(), number)), kind=errors.NotLeader)


def test_a_refused_batch_without_an_answer_is_counted(node, place):
    before = node.status().errors
    with stranger(node.port) as attacker:
        attacker.say(*produce(*sealed(one_record(), place, payload_crc=1), flags=1))
        assert attacker.hello()
    assert node.status().errors == before + 1


def test_a_producer_of_forged_sequences_and_epochs_is_refused(node, place):
    with stranger(node.port) as attacker:
        first = {"producer_id": 3, "producer_epoch": (1 << 32) - 1}
        assert attacker.ask(*good(place, **first)).duplicate == 0
        again = attacker.ask(*good(place, **first))
        assert again.duplicate == 1
        late = {"base_sequence": 1 << 62, "last_sequence": 1 << 62}
        assert isinstance(attacker.ask(*good(place, **first, **late)), errors.OutOfOrderSequence)
        assert isinstance(attacker.ask(*good(place, producer_id=3)), errors.ProducerFenced)
        assert isinstance(attacker.ask(*good(place, producer_id=4, **late)), errors.UnknownProducer)
        named = attacker.ask(messages.command(Type.INIT_PRODUCER, 9, messages.InitProducer(place, 3)))
        assert isinstance(named, errors.LimitExceeded), "the epochs are used up"


# What only the reader can see: the leader never looks into a payload.


def poison(name):
    """A batch that is right for a leader, and wrong for its reader."""
    bomb = bytes(90 * MIB)
    raw = {
        "no columns": b"\xc1", "three columns": encode([0, None, []]),
        "wrong count": one_record(b"a")[:-1] + b"\xc0\xc0",
        "two values": batch.encode_columns(0, None, [b"a", b"b"], None),
        "billions": b"\x94\x00\xc0\xdd\xff\xff\xff\xff\xc0", "text": batch.encode_columns(0, None, ["a"], None),
        "nested": b"\x94" + b"\x91" * 100_000, "int keys": b"\x94\x00\xc0\xc0\x81\1\xc4\1a",
        "many headers": batch.encode_columns(0, None, [b"v"], {str(n): b"" for n in range(1_000)}),
        "a million maps": b"\x94\x00\xc0\xc0\xdd\x00\x1e\x84\x80" + b"\x80" * 2_000_000,
    }  # fmt: skip
    if name in raw:
        return raw[name], {}
    codec = {"lz4 garbage": codecs.LZ4, "zstd garbage": codecs.ZSTD, "lz4 bomb": codecs.LZ4, "zstd bomb": codecs.ZSTD}[
        name
    ]
    if name.endswith("garbage"):
        return b"garbage" * 20, {"codec": codec, "raw_length": 1_000}
    return codecs.compress(codec, bomb), {"codec": codec, "raw_length": 1_000}


POISONS = [
    "no columns", "three columns", "wrong count", "two values", "billions", "text", "nested", "int keys",
    "many headers", "a million maps", "lz4 garbage", "zstd garbage", "lz4 bomb", "zstd bomb",
]  # fmt: skip


@pytest.mark.parametrize("name", POISONS)
def test_a_payload_that_is_not_what_its_header_says_is_an_error_of_its_reader_alone(node, name):
    """Records before and after it are read; memory stays bounded at both ends."""
    topic = "poison-" + name.replace(" ", "-")
    with zfabric.connect(node.url, timeout=30) as fabric:
        fabric.topics.create(topic)
        place = partition_id(fabric, topic)
        with fabric.producer() as producer, stranger(node.port) as attacker:
            producer.send(topic, b"before").result(timeout=60)
            payload, fields = poison(name)
            fields.setdefault("raw_length", len(payload))
            forged = sealed(payload, place, **fields)
            assert attacker.ask(*produce(*forged)).base_offset == 1
            producer.send(topic, b"after").result(timeout=60)
            assert isinstance(attacker.ask(packed(Type.FIND_OFFSETS, encode([[[place, 1]]]))), messages.OffsetsAre)
        with fabric.consumer(topic) as consumer:
            assert [record.value for record in consumer.poll(timeout=30)] == [b"before"]
            with pytest.raises(errors.CorruptBatch) as found:
                consumer.poll(timeout=30)
            assert (found.value.topic, found.value.offset, found.value.next_offset) == (topic, 1, 2)
            consumer.seek(0, found.value.next_offset)
            assert [record.value for record in consumer.poll(timeout=30)] == [b"after"]
            consumer.seek(0, 1)
            whole = consumer.poll_batches(timeout=30)
            with pytest.raises(errors.CorruptBatch):
                assert whole[0].values


def test_a_poisoned_batch_in_a_compacted_topic_ends_the_pass_not_the_leader(tmp_path):
    node = Node(tmp_path, maintenance_ms=20)
    try:
        with zfabric.connect(node.url, timeout=30) as fabric:
            fabric.topics.create("t", cleanup="compact")
            place = partition_id(fabric, "t")
            with stranger(node.port) as attacker, fabric.producer() as producer:
                assert attacker.ask(*produce(*sealed(b"\xc1", place))).base_offset == 0
                for number in range(300):
                    producer.send("t", bytes(10_000), key=b"%d" % (number % 3))
                producer.flush()
                before = node.status().errors
                producer.send("t", b"v", key=b"k").result(timeout=60)
                assert before >= 1 or node.status().errors >= 1
        assert node.same(), node.log.read_text()[-3_000:]
    finally:
        node.stop()


def test_a_client_that_attaches_as_a_leader_gets_nothing_that_others_produce(tmp_path):
    """A node's leaders share a secret. Who leads, and where, stays as it was; nobody's records go elsewhere."""
    with process_leaders.Node(str(tmp_path)) as node, zfabric.connect(node.url, timeout=30) as fabric:
        fabric.topics.create("t", partitions=2)
        before = [(leader.id, leader.endpoint, leader.pid) for leader in fabric.status()]
        with stranger(int(node.url.rpartition(":")[2])) as attacker:
            for secret in (b"", bytes(32)):
                attach = Attach(1, "tcp://127.0.0.1:9", "tcp://127.0.0.1:9", 0, secret=secret)
                refused = attacker.ask(messages.command(Type.ATTACH, 7, attach))
                assert isinstance(refused, errors.ProtocolViolation)
        with zfabric.connect(node.url, timeout=30) as another:
            assert [(leader.id, leader.endpoint, leader.pid) for leader in another.status()] == before
            with another.producer() as producer:
                for number in range(2):
                    assert producer.send("t", b"v", partition=number).result(timeout=60).offset == 0
