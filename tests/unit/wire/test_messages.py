"""Golden bytes of every command: what stands here is what other versions and other languages read and write."""

from __future__ import annotations

import msgspec
import pytest

from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.card import ServiceCard
from zfabric.wire.membership import Announce, MemberIs, Members, MembersAre
from zfabric.wire.messages import Type
from zfabric.wire.metadata import (
    AlterTopic,
    Assign,
    AssignedTopic,
    Attach,
    CreateTopic,
    DeleteTopic,
    LeaderAddress,
    Metadata,
    MetadataIs,
    PartitionEnd,
    PartitionPlace,
    TopicIs,
    TopicMeta,
)
from zfabric.wire.replication import (
    Adopt,
    AdoptedTopic,
    Follow,
    Followed,
    FollowedPart,
    FollowPart,
    Held,
    KeptPlace,
    Offer,
    Share,
    SharedOffset,
)

META = TopicMeta("t", 1, TopicConfig(), [PartitionPlace(1, 0, 0)])
KEPT = KeptPlace(2, "o", 0, 0, 7)
REQUEST = 9
MEMBER = MemberIs(b"\1" * 16, 0, 4, "tcp://h:1", b"\x90", 250, 1000)
SERVICE = ServiceCard("s", "1", "tcp://h:1", 7)
EXAMPLES = {
    Type.HELLO: (
        messages.Hello("py", 1, 1),
        "7a66010200000000090000000000000093a270790101",
    ),
    Type.WELCOME: (
        messages.Welcome(1, "f", 2, 1 << 24, "zf"),
        "7a6601030000000009000000000000009501a16602ce01000000a27a66",
    ),
    Type.ERROR: (
        messages.failure_body(errors.NotLeader(leader=2, partition=7)),
        "7a660105000000000900000000000000921882a66c656164657202a9706172746974696f6e07",
    ),
    Type.GOODBYE: (
        messages.Empty(),
        "7a66010700000000090000000000000090",
    ),
    Type.DONE: (
        messages.Empty(),
        "7a66010900000000090000000000000090",
    ),
    Type.METADATA: (
        Metadata(["t"]),
        "7a66010a0000000009000000000000009191a174",
    ),
    Type.METADATA_IS: (
        MetadataIs("f", [LeaderAddress(0, "tcp://*:1", "tcp://*:2")], [META], ["u"]),
        (
            "7a66010b000000000900000000000000"
            "94a166919300a97463703a2f2f2a3a31a97463703a2f2f2a3a329195a1740198a56673796e63ffff"
            "a664656c657465ce05265c0000ce001000000191930100009091a175"
        ),
    ),
    Type.CREATE_TOPIC: (
        CreateTopic("t", 2, TopicConfig(), if_absent=True, token=5),
        "7a66010c00000000090000000000000095a1740298a56673796e63ffffa664656c657465ce05265c0000ce0010000001c305",
    ),
    Type.TOPIC_IS: (
        TopicIs(META),
        "7a66010d0000000009000000000000009195a1740198a56673796e63ffffa664656c657465ce05265c0000ce0010000001919301000090",
    ),
    Type.DELETE_TOPIC: (
        DeleteTopic("t", 5),
        "7a66010e00000000090000000000000092a17405",
    ),
    Type.ALTER_TOPIC: (
        AlterTopic("t", TopicConfig(retention_ms=1000), 4),
        "7a66011000000000090000000000000093a17498a56673796e63cd03e8ffa664656c657465ce05265c0000ce001000000104",
    ),
    Type.DESCRIBE: (
        messages.Describe([1, 70_000]),
        "7a660112000000000900000000000000919201ce00011170",
    ),
    Type.DESCRIBED: (
        messages.Described([messages.PartitionIs(1, 3, 10, 20, 4096, 2, "fsync", 1.5, [("k", 18)], 1000, 21, "p")]),
        "7a66011300000000090000000000000091919c01030a14cd100002a56673796e63cb3ff80000000000009192a16b12cd03e815a170",
    ),
    Type.INIT_PRODUCER: (
        messages.InitProducer(1, (1 << 64) - 1, 5, 2),
        "7a6601160000000009000000000000009401cfffffffffffffffff0502",
    ),
    Type.PRODUCER_IS: (
        messages.ProducerIs(3, 70, (5, 1000)),
        "7a6601170000000009000000000000009303469205cd03e8",
    ),
    Type.FETCH: (
        messages.Fetch(
            1 << 20, [messages.FetchPart(1, 10, 9, 3, 1000, 4, 900), messages.FetchPart(2, 0)], 65_536, True
        ),
        "7a66011800000000090000000000000094ce001000009297010a0903cd03e804cd03849702000000000000ce00010000c3",
    ),
    Type.FIND_OFFSETS: (
        messages.FindOffsets([messages.FindOffset(1, -2), messages.FindOffset(2, 1_700_000_000_000)]),
        "7a66011a00000000090000000000000091929201fe9202cf0000018bcfe56800",
    ),
    Type.OFFSETS_ARE: (
        messages.OffsetsAre([messages.OffsetIs(1, 12, 10, 20)]),
        "7a66011b000000000900000000000000919194010c0a14",
    ),
    Type.COMMIT_OFFSETS: (
        messages.CommitOffsets("g", [messages.CommitOffset(1, 12, 14, 3, 1000, 9, 900)], force=True),
        "7a66011c00000000090000000000000093a1679197010c0e03cd03e809cd0384c3",
    ),
    Type.GET_OFFSETS: (
        messages.GetOffsets("g", [1, 2]),
        "7a66011e00000000090000000000000092a167920102",
    ),
    Type.COMMITTED_ARE: (
        messages.CommittedAre([messages.Committed("g", 1, 12, 2000, 20, 3, 1000)]),
        "7a66011f000000000900000000000000929197a167010ccd07d01403cd03e8c2",
    ),
    Type.LIST_GROUPS: (
        messages.ListGroups("g", 1, "a"),
        "7a66012000000000090000000000000093a16701a161",
    ),
    Type.DELETE_GROUP: (
        messages.DeleteGroup("g"),
        "7a66012200000000090000000000000091a167",
    ),
    Type.STATUS: (
        messages.Empty(),
        "7a66012400000000090000000000000090",
    ),
    Type.STATUS_IS: (
        messages.StatusIs({"pid": 7, "uptime_s": 0.5, "endpoint": "e"}),
        "7a6601250000000009000000000000009183a370696407a8757074696d655f73cb3fe0000000000000a8656e64706f696e74a165",
    ),
    Type.ATTACH: (
        Attach(1, "tcp://*:3", "tcp://*:4", 9, [PartitionEnd(7, 300)], b"s3"),
        "7a6601260000000009000000000000009601a97463703a2f2f2a3a33a97463703a2f2f2a3a3409919207cd012cc4027333",
    ),
    Type.ASSIGN: (
        Assign("f", 9, [AssignedTopic(1, "t", TopicConfig(), [PartitionPlace(1, 0, 1)], [KEPT])], [3], 8),
        (
            "7a660127000000000900000000000000"
            "95a16609919501a17498a56673796e63ffffa664656c657465ce05265c0000ce0010000001919301"
            "0001919602a16f000007c0910308"
        ),
    ),
    Type.MEMBERS: (
        Members(5, 2),
        "7a660128000000000900000000000000920502",
    ),
    Type.MEMBERS_ARE: (
        MembersAre(
            5,
            3,
            "m",
            b"\1" * 16,
            [MemberIs(b"\1" * 16, 0, 4, "tcp://h:1", b"\x90", 250, 1000, 9)],
            False,
            [SERVICE],
        ),
        (
            "7a660129000000000900000000000000970503a16dc410010101010101010101010101010101019198c4100101010101010101010101"
            "01010101010004a97463703a2f2f683a31c40190ccfacd03e809c29198a173a131a97463703a2f2f683a31076400a0a0"
        ),
    ),
    Type.ANNOUNCE: (
        Announce(SERVICE, 3000),
        "7a66012a0000000009000000000000009298a173a131a97463703a2f2f683a31076400a0a0cd0bb8",
    ),
    Type.FOLLOW: (
        Follow("o", "k", 1 << 20, 5000, 3, 4, 9, [FollowPart(7, 12, 3, 1000)], 65536, True),
        "7a6601320000000009000000000000009aa16fa16bce00100000cd13880304099194070c03cd03e8ce00010000c3",
    ),
    Type.HELD: (
        Held(200_000),
        "7a66013900000000090000000000000091ce00030d40",
    ),
    Type.OFFER: (
        Offer("o"),
        "7a66013400000000090000000000000091a16f",
    ),
    Type.SHARE: (
        Share("o", [SharedOffset(7, "g", 1, 12, 1000, False, 3, 900)]),
        "7a66013600000000090000000000000092a16f919807a167010ccd03e8c203cd0384",
    ),
    Type.ADOPT: (
        Adopt("o", [AdoptedTopic("t", TopicConfig(), [(0, 7)])], [2]),
        "7a66013700000000090000000000000093a16f9193a17498a56673796e63ffffa664656c657465ce05265c0000ce0010000001919200079102",
    ),
}
"""By type: a body, and the frame of request 9 that carries it."""

HEADER = (
    "f1010000010000000800000008000000e803000000000000e803000000000000050000000000000002000000070000000000000007000000"
    "000000000d0ea1e4"
)
"""Of a batch of one record: sequence 7 of producer 5 in its epoch 2, timestamp 1000."""
UNSTAMPED = "0100000000000000010000000000000000000000000000000000000000000000"
STAMPED = "0100000003000000010000002800000000000000d0070000000000009affbc7b"
"""For partition id 1; and as leader epoch 3 appended it at offset 40, time 2000."""
PAYLOAD = "9400c091c40176"


def frame(kind):
    return bytes.fromhex(EXAMPLES[kind][1])


def test_there_is_an_example_of_every_command():
    binary = {Type.PRODUCE, Type.PRODUCED, Type.FETCHED, Type.FOLLOWED}
    inner = {Type.KEEP}
    assert set(EXAMPLES) | binary | inner == set(Type)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.name)
def test_a_command_is_these_bytes(kind):
    body, _ = EXAMPLES[kind]
    assert messages.command(kind, REQUEST, body).hex() == frame(kind).hex()
    assert messages.read([frame(kind)]) == (kind, 0, REQUEST, body, [])


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.name)
def test_fields_of_a_newer_version_are_ignored(kind):
    """A reader ignores fields after the ones it knows."""
    body, _ = EXAMPLES[kind]
    values = msgspec.msgpack.decode(frame(kind)[messages.COMMAND_BYTES :])
    newer = frame(kind)[: messages.COMMAND_BYTES] + msgspec.msgpack.encode([*values, {"new": 1}])
    if len(values) == len(body.__struct_fields__):
        assert messages.read([newer]).body == body


@pytest.mark.parametrize(
    ("kind", "fields", "body"),
    [
        (Type.INIT_PRODUCER, 2, messages.InitProducer(1, (1 << 64) - 1)),
        (Type.PRODUCER_IS, 2, messages.ProducerIs(3, 70)),
        (Type.CREATE_TOPIC, 3, CreateTopic("t", 2, TopicConfig())),
        (Type.DELETE_TOPIC, 1, DeleteTopic("t")),
        (Type.ALTER_TOPIC, 2, AlterTopic("t", TopicConfig(retention_ms=1000))),
        (Type.COMMIT_OFFSETS, 2, messages.CommitOffsets("g", [messages.CommitOffset(1, 12, 14, 3, 1000, 9, 900)])),
        (
            Type.FETCH,
            2,
            messages.Fetch(1 << 20, [messages.FetchPart(1, 10, 9, 3, 1000, 4, 900), messages.FetchPart(2, 0)]),
        ),
        (Type.FOLLOW, 8, Follow("o", "k", 1 << 20, 5000, 3, 4, 9, [FollowPart(7, 12, 3, 1000)])),
        (Type.WELCOME, 4, messages.Welcome(1, "f", 2, 1 << 24)),
        (Type.METADATA, 0, Metadata()),
        (Type.MEMBERS, 0, Members()),
        (Type.ATTACH, 4, Attach(1, "tcp://*:3", "tcp://*:4", 9)),
    ],
)
def test_fields_that_an_older_version_does_not_send_take_their_defaults(kind, fields, body):
    values = msgspec.msgpack.decode(frame(kind)[messages.COMMAND_BYTES :])
    older = frame(kind)[: messages.COMMAND_BYTES] + msgspec.msgpack.encode(values[:fields])
    assert messages.read([older]).body == body


def test_an_offset_that_an_older_version_commits_tells_or_shares_says_nothing_of_what_is_before_it():
    older = {
        "7a66011c00000000090000000000000093a1679192010cc3": messages.CommitOffset(1, 12),
        "7a66011f000000000900000000000000929195a16701ff0014c2": messages.Committed("g", 1, -1, 0, 20),
    }
    for frame, part in older.items():
        assert messages.read([bytes.fromhex(frame)]).body.parts == [part]
    shared = messages.read([bytes.fromhex("7a66013600000000090000000000000092a16f919607a167010ccd03e8c2")]).body
    assert shared.commits == [SharedOffset(7, "g", 1, 12, 1000)]


def test_an_assignment_without_its_beginning_is_one_of_all():
    values = msgspec.msgpack.decode(frame(Type.ASSIGN)[messages.COMMAND_BYTES :])
    older = frame(Type.ASSIGN)[: messages.COMMAND_BYTES] + msgspec.msgpack.encode(values[:4])
    assert messages.read([older]).body.since == 0


def test_a_produce_is_a_command_a_header_and_a_payload():
    header, payload = batch.seal(
        batch.encode_columns(0, None, [b"v"], None), codec=0, flags=0, count=1, base_timestamp=1000,
        max_timestamp=1000, producer_id=5, producer_epoch=2, base_sequence=7, last_sequence=7, partition=1,
    )  # fmt: skip
    frames = messages.produce(REQUEST, messages.FLAG_LEADER_ONLY, header, payload)
    golden = ["7a660114020000000900000000000000" + HEADER + UNSTAMPED, PAYLOAD + "c0"]
    assert [part.hex() for part in frames] == golden
    command = messages.read([bytes.fromhex(part) for part in golden])
    assert command[:3] == (Type.PRODUCE, messages.FLAG_LEADER_ONLY, REQUEST)
    assert (command.body.header, command.body.payload) == (header, payload)


def test_a_produced_is_fixed_binary():
    golden = "7a6601150000000009000000000000002800000000000000e803000000000000030000000101"
    assert messages.produced(REQUEST, 40, 1000, 3, 1, 1).hex() == golden
    command = messages.read([bytes.fromhex(golden)])
    assert (command.type, command.request, command.body) == (Type.PRODUCED, REQUEST, (40, 1000, 3, 1, 1))


def test_a_followed_carries_its_batches_in_one_frame():
    stored = HEADER + STAMPED + PAYLOAD + "c0"
    refusal = errors.NotLeader(leader=2, partition=7)
    parts = [FollowedPart(1, 10, 41, 111), FollowedPart(2, 0, 0, 0, (refusal.code, refusal.values))]
    body = Followed("o", 3, 4, 9, parts, [SharedOffset(7, "g", 1, 12, 1000)], True)
    golden = [
        (
            "7a66013300000000090000000000000097a16f0304099295010a296fc09502000000921882a66c656164657202"
            "a9706172746974696f6e07919807a167010ccd03e8c20000c3"
        ),
        stored,
    ]
    assert messages.command(Type.FOLLOWED, REQUEST, body).hex() == golden[0]
    command = messages.read([bytes.fromhex(part) for part in golden])
    assert (command.body, command.rest[0].hex()) == (body, stored)


def test_a_topic_of_a_version_without_keepers_is_one_that_has_none():
    older = "7a66010d0000000009000000000000009194a1740197a56673796e63ffffa664656c657465ce05265c0000ce001000009193010000"
    assert messages.read([bytes.fromhex(older)]).body == TopicIs(META)


def test_a_fetched_carries_its_batches_in_one_frame():
    stored = HEADER + STAMPED + PAYLOAD + "c0"
    refusal = messages.failure_body(errors.NotLeader(leader=2, partition=7))
    body = messages.Fetched([
        messages.FetchedPart(1, 10, 41, 3, len(stored) // 2),
        messages.FetchedPart(2, 0, 0, 3, 0, refusal),
    ])  # fmt: skip
    golden = [
        "7a660119000000000900000000000000919297010a290368c0c2970200000300921882a66c656164657202a9706172746974696f6e07c2",
        stored,
    ]
    assert messages.command(Type.FETCHED, REQUEST, body).hex() == golden[0]
    command = messages.read([bytes.fromhex(part) for part in golden])
    assert (command.body, command.rest[0].hex()) == (body, stored)
    [(header, raw, payload)] = batch.split(command.rest[0])
    assert batch.damage(raw, payload, header, 1, 40) == ""
    assert (header.base_offset, header.leader_epoch, header.span, header.append_time) == (40, 3, 1, 2000)


def test_a_fetched_in_parts_is_the_same_as_in_one_frame():
    head = messages.command(Type.FETCHED, REQUEST, messages.Fetched([messages.FetchedPart(1, 0, 9, 3, 5)]))
    parted, whole = messages.read([head, b"ab", b"cd", b"e"]), messages.read([head, b"abcde"])
    assert (parted.body, [*parted.rest]) == (whole.body, [*whole.rest])
    with pytest.raises(errors.ProtocolViolation):
        messages.read([head, *[b""] * messages.FETCHED_FRAMES_MAX])


def test_what_is_published_begins_with_the_partition_in_four_bytes():
    """ZeroMQ matches by prefix: a fixed width keeps 1 from matching 10."""
    assert messages.PARTITION.pack(1).hex() == "00000001"
    assert messages.HEAD.pack(41, 3).hex() == "290000000000000003000000"
    assert messages.HEAD.unpack(bytes.fromhex("290000000000000003000000")) == (41, 3)


def test_numbers_of_commands_are_never_reused():
    assert {kind.name: kind.value for kind in Type} == {
        "HELLO": 2, "WELCOME": 3, "ERROR": 5, "GOODBYE": 7, "DONE": 9, "METADATA": 10, "METADATA_IS": 11,
        "CREATE_TOPIC": 12, "TOPIC_IS": 13, "DELETE_TOPIC": 14, "ALTER_TOPIC": 16, "DESCRIBE": 18, "DESCRIBED": 19,
        "PRODUCE": 20, "PRODUCED": 21, "INIT_PRODUCER": 22, "PRODUCER_IS": 23, "FETCH": 24, "FETCHED": 25,
        "FIND_OFFSETS": 26, "OFFSETS_ARE": 27, "COMMIT_OFFSETS": 28, "GET_OFFSETS": 30, "COMMITTED_ARE": 31,
        "LIST_GROUPS": 32, "DELETE_GROUP": 34, "STATUS": 36, "STATUS_IS": 37, "ATTACH": 38, "ASSIGN": 39,
        "MEMBERS": 40, "MEMBERS_ARE": 41, "ANNOUNCE": 42, "FOLLOW": 50, "FOLLOWED": 51, "OFFER": 52, "KEEP": 53,
        "SHARE": 54, "ADOPT": 55, "HELD": 57,
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(messages.ANSWERS))
def test_every_request_has_an_answer_that_is_none_itself(kind):
    assert messages.ANSWERS[kind] % 2 == 1


# What is no command.


@pytest.mark.parametrize("length", range(messages.COMMAND_BYTES))
def test_a_frame_that_is_cut_is_refused(length):
    with pytest.raises(errors.ProtocolViolation):
        messages.read([frame(Type.HELLO)[:length]])


def test_another_version_is_refused_and_its_request_can_be_answered():
    other = bytearray(frame(Type.HELLO))
    other[2] = 2
    with pytest.raises(errors.UnsupportedVersion) as refused:
        messages.read([bytes(other)])
    assert (refused.value.version, refused.value.highest, messages.request_id(bytes(other))) == (2, 1, REQUEST)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"xx" + frame(Type.HELLO)[2:]],
        [frame(Type.HELLO)[:3] + b"\x01" + frame(Type.HELLO)[4:]],
        [frame(Type.HELLO)[:4] + b"\x01" + frame(Type.HELLO)[5:]],
        [frame(Type.HELLO), b""],
        [frame(Type.HELLO)[:-1]],
        [frame(Type.HELLO) + b"\x00"],
        [messages.command(Type.FETCHED, REQUEST, messages.Fetched([]))],
        [bytes.fromhex("7a660114040000000900000000000000" + HEADER + UNSTAMPED), b"p"],
        [bytes.fromhex("7a660114000000000900000000000000" + HEADER + UNSTAMPED)],
        [bytes.fromhex("7a660114000000000900000000000000" + HEADER), b"p"],
        [bytes.fromhex("7a6601150000000009000000000000002800")],
    ],
)
def test_what_is_none_is_refused(frames):
    with pytest.raises(errors.ProtocolViolation):
        messages.read(frames)
