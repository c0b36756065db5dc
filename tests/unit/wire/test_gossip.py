"""Gossip on the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.wire import gossip
from zfabric.wire.gossip import Codec, Member, Status, Type

KEY = b"k" * 32
A, B = b"a" * 16, b"b" * 16
ALIVE = Member(B, 9, 3, Status.ALIVE, "tcp://10.0.0.2:7400", 1, b"meta")
SUSPECT = Member(B, 9, 3, Status.SUSPECT, accuser=A)
ME = Member(A, 7, 1, Status.ALIVE, "tcp://10.0.0.1:7400")


def raw(*members):
    return [msgspec.Raw(gossip.encode(member)) for member in members]


def body_of(kind):
    return {
        Type.PING: gossip.Ping(5, B, raw(ALIVE, SUSPECT)),
        Type.ACK: gossip.Ack(5, 1, raw(SUSPECT)),
        Type.PING_REQ: gossip.PingReq(5, B, "tcp://10.0.0.2:7400", []),
        Type.NACK: gossip.Nack(5, []),
        Type.PUSH_PULL: gossip.PushPull(5, 0, ME, 2, bytes(16)),
        Type.STATE: gossip.State(5, ME, 2, [0, 1], False, raw(ALIVE)),
        Type.GOSSIP: gossip.Gossip(raw(ALIVE)),
    }[kind]


def frame_of(kind=Type.PING, body=None, key=KEY, mesh="plant"):
    return Codec(mesh, key).write(kind, A, 7, 1, body_of(kind) if body is None else body)


GOLDEN = {
    Type.PING: (
        "7a67010200000000d66889ffa83b57f96161616161616161616161616161616107000000000000000100000000000000"
        "9305c410626262626262626262626262626262629298c41062626262626262626262626262626262090300b37463703a"
        "2f2f31302e302e302e323a3734303001c4046d657461c4100000000000000000000000000000000098c4106262626262"
        "6262626262626262626262090301a000c400c4106161616161616161616161616161616179c4db8c4973cee2c912b2e6"
        "2fcdc089"
    ),
    Type.ACK: (
        "7a67010300000000d66889ffa83b57f96161616161616161616161616161616107000000000000000100000000000000"
        "9305019198c41062626262626262626262626262626262090301a000c400c41061616161616161616161616161616161"
        "8dcc9f325fdcde75d535c3e397203a03"
    ),
    Type.PING_REQ: (
        "7a67010400000000d66889ffa83b57f96161616161616161616161616161616107000000000000000100000000000000"
        "9405c41062626262626262626262626262626262b37463703a2f2f31302e302e302e323a37343030903c535c6547ef8e"
        "cef44fd42d28a15fdb"
    ),
    Type.NACK: (
        "7a67010500000000d66889ffa83b57f96161616161616161616161616161616107000000000000000100000000000000"
        "92059073be903295fa7bdeb242ee5584c61e9f"
    ),
    Type.PUSH_PULL: (
        "7a67010600000000d66889ffa83b57f96161616161616161616161616161616107000000000000000100000000000000"
        "95050098c41061616161616161616161616161616161070100b37463703a2f2f31302e302e302e313a3734303000c400"
        "c4100000000000000000000000000000000002c410000000000000000000000000000000005678427dcd453ecef75111"
        "105787c046"
    ),
    Type.STATE: (
        "7a67010700000000d66889ffa83b57f96161616161616161616161616161616107000000000000000100000000000000"
        "960598c41061616161616161616161616161616161070100b37463703a2f2f31302e302e302e313a3734303000c400c4"
        "100000000000000000000000000000000002920001c29198c41062626262626262626262626262626262090300b37463"
        "703a2f2f31302e302e302e323a3734303001c4046d657461c410000000000000000000000000000000005bb9cbdb1ba4"
        "32dda7be25af9a497456"
    ),
    Type.GOSSIP: (
        "7a67010800000000d66889ffa83b57f96161616161616161616161616161616107000000000000000100000000000000"
        "919198c41062626262626262626262626262626262090300b37463703a2f2f31302e302e302e323a3734303001c4046d"
        "657461c410000000000000000000000000000000005c068e4b52fafd74a49f4a97a2cc1cb1"
    ),
}


@pytest.mark.parametrize("kind", list(Type), ids=lambda kind: kind.name)
def test_the_bytes_of_version_1_never_change(kind):
    assert frame_of(kind).hex() == GOLDEN[kind]


def test_without_a_key_there_is_the_same_format():
    frame = frame_of(key=None)
    assert frame[: -gossip.MAC_BYTES] == frame_of()[: -gossip.MAC_BYTES]
    assert Codec("plant").read(frame).body.sequence == 5


@pytest.mark.parametrize("kind", list(Type), ids=lambda kind: kind.name)
def test_what_is_written_is_read(kind):
    message = Codec("plant", KEY).read(frame_of(kind))
    assert (message.type, message.sender, message.instance, message.number) == (kind, A, 7, 1)
    assert message.body == body_of(kind)


def test_news_are_decoded():
    assert Codec("plant", KEY).read(frame_of(Type.PING)).updates == [ALIVE, SUSPECT]
    assert Codec("plant", KEY).read(frame_of(Type.STATE)).updates == [ALIVE]


def test_the_same_news_are_decoded_once():
    codec = Codec("plant", KEY)
    assert codec.read(frame_of(Type.PING)).updates[0] is codec.read(frame_of(Type.GOSSIP)).updates[0]


def test_what_is_remembered_of_news_is_bounded():
    memo = {}
    codec = Codec("plant", KEY, memo=memo, memo_max=4)
    for number in range(20):
        member = Member(B, 9, 1 + number, Status.ALIVE, "x")
        assert codec.read(frame_of(Type.GOSSIP, gossip.Gossip(raw(member)))).updates == [member]
        assert len(memo) <= 4


@pytest.mark.parametrize("endpoint", ["@", "@zz", "@00", "tcp://x\n", "a b"])
def test_a_connection_of_somebody_else_is_no_endpoint(endpoint):
    """A shell calls its connections so: whoever could name one would have it speak there, or fall over it."""
    me = Member(A, 7, 1, Status.ALIVE, endpoint)
    with pytest.raises(errors.ProtocolViolation):
        Codec("plant", KEY).read(frame_of(Type.PUSH_PULL, gossip.PushPull(1, 0, me, 1, bytes(8))))
    with pytest.raises(errors.ProtocolViolation):
        Codec("plant", KEY).read(frame_of(Type.GOSSIP, gossip.Gossip(raw(me))))


def test_only_the_living_say_where_they_are():
    full = Member(B, 9, 3, Status.SUSPECT, "tcp://10.0.0.2:7400", 1, b"meta", A)
    assert gossip.encode(full) == gossip.encode(SUSPECT)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_refused(at, change):
    frame = bytearray(frame_of())
    frame[at % len(frame)] ^= change
    with pytest.raises((errors.ProtocolViolation, errors.UnsupportedVersion)):
        Codec("plant", KEY).read(bytes(frame))


def refusal(frame):
    with pytest.raises(errors.ProtocolViolation) as caught:
        Codec("plant", KEY).read(frame)
    return caught.value.values["refusal"]


def test_a_frame_of_another_mesh_is_refused():
    assert refusal(frame_of(mesh="office")) == "mesh"


def test_a_frame_with_another_key_is_refused():
    assert refusal(frame_of(key=b"x" * 32)) == "mac"
    assert refusal(frame_of(key=None)) == "mac"


def test_another_version_is_refused():
    frame = bytearray(frame_of())
    frame[2] = 2
    with pytest.raises(errors.UnsupportedVersion):
        Codec("plant", KEY).read(bytes(frame))


@pytest.mark.parametrize("frame", [b"", b"zg", bytes(64), bytes(gossip.STATE_BYTES_MAX + 1)], ids=len)
def test_what_is_too_short_or_too_long_is_refused(frame):
    assert refusal(frame) == "size"


def signed(kind, packed, sender=A, flags=0):
    codec = Codec("plant", KEY)
    data = gossip.HEADER.pack(b"zg", 1, kind, flags, codec.hash, sender, 7, 1) + packed
    return data + codec.sign(data)


BAD = {
    "nothing": b"\xc1",
    "trailing": msgspec.msgpack.encode([5, B, []]) + b"\0",
    "a claim of 4 G elements": b"\xdd\xff\xff\xff\xff",
    "no sequence": msgspec.msgpack.encode([-1, B, []]),
    "a short id": msgspec.msgpack.encode([5, b"b", []]),
    "too many news": msgspec.msgpack.encode([5, B, [[]] * 129]),
    "an update about nobody": msgspec.msgpack.encode([5, B, [[bytes(16), 1, 1, 0, "x"]]]),
    "one alive nowhere": msgspec.msgpack.encode([5, B, [[B, 1, 1, 0]]]),
    "one failed somewhere": msgspec.msgpack.encode([5, B, [[B, 1, 1, 2, "x"]]]),
    "incarnation 0": msgspec.msgpack.encode([5, B, [[B, 1, 0, 0, "x"]]]),
    "a huge incarnation": msgspec.msgpack.encode([5, B, [[B, 1, 1 << 63, 0, "x"]]]),
    "status 4": msgspec.msgpack.encode([5, B, [[B, 1, 1, 4, "x"]]]),
    "an endpoint with a blank": msgspec.msgpack.encode([5, B, [[B, 1, 1, 0, "x y"]]]),
    "an endpoint of 129 bytes": msgspec.msgpack.encode([5, B, [[B, 1, 1, 0, "x" * 129]]]),
    "metadata of 1,025 bytes": msgspec.msgpack.encode([5, B, [[B, 1, 1, 0, "x", 1, bytes(1025)]]]),
    "deep nesting": b"\x93\x05\xc4\x10" + B + b"\x91" + b"\x91" * 1000 + b"\x90",
}


@pytest.mark.parametrize("name", BAD)
def test_a_signed_body_that_is_none_is_refused(name):
    """The bearer of a key may send garbage too."""
    assert refusal(signed(Type.PING, BAD[name])) == "format"


def test_a_sender_without_an_id_is_refused():
    assert refusal(signed(Type.NACK, msgspec.msgpack.encode([5, []]), sender=bytes(16))) == "format"


def test_flags_that_nobody_knows_are_refused():
    assert refusal(signed(Type.NACK, msgspec.msgpack.encode([5, []]), flags=1)) == "size"


def test_a_type_that_nobody_knows_is_refused():
    assert refusal(signed(9, msgspec.msgpack.encode([5, []]))) == "size"


@pytest.mark.parametrize(
    "body",
    [
        gossip.PushPull(5, 0, ALIVE, 2, bytes(16)),
        gossip.PushPull(5, 0, Member(A, 8, 1, Status.ALIVE, "x"), 2, bytes(16)),
        gossip.PushPull(5, 0, ME, 3, bytes(24)),
        gossip.PushPull(5, 0, ME, 2, bytes(8)),
        gossip.PushPull(5, 0, Member(A, 7, 1, Status.ALIVE), 2, bytes(16)),
    ],
    ids=["another's record", "another instance's", "three buckets", "too few hashes", "nowhere"],
)
def test_a_comparison_that_makes_no_sense_is_refused(body):
    assert refusal(signed(Type.PUSH_PULL, msgspec.msgpack.encode(body))) == "format"


def test_a_wish_for_buckets_that_are_not_there_is_refused():
    body = gossip.State(5, ME, 2, [2], False, [])
    assert refusal(signed(Type.STATE, msgspec.msgpack.encode(body))) == "format"


@pytest.mark.parametrize("kind", [Type.PING, Type.ACK, Type.PING_REQ, Type.NACK])
def test_small_frames_fit_a_packet(kind):
    assert gossip.BYTES_MAX[kind] == 1_400


def test_the_largest_update_fits_a_small_frame():
    largest = Member(B, (1 << 63) - 1, gossip.INCARNATION_MAX, Status.ALIVE, "x" * 128, (1 << 32) - 1, bytes(1024))
    body = gossip.Ping((1 << 63) - 1, B, raw(largest))
    assert len(frame_of(Type.PING, body)) <= 1_400


@pytest.mark.parametrize("key", [b"", b"x" * 15, b"x" * 65])
def test_a_key_that_is_too_short_or_too_long_is_refused(key):
    with pytest.raises(errors.InvalidArgument):
        Codec("plant", key)


def hashes_of(members):
    hashes = [0] * gossip.BUCKETS_MAX
    for member in members:
        hashes[member.id[0]] ^= gossip.fingerprint(member)
    return hashes


def test_hashes_differ_where_members_differ():
    members = [Member(bytes([n]) * 16, n, 1, Status.ALIVE, "x") for n in range(1, 64)]
    changed = [*members[:10], msgspec.structs.replace(members[10], incarnation=2), *members[11:]]
    one, other = (gossip.fold(hashes_of(of), 8) for of in (members, changed))
    assert [n for n in range(8) if one[n] != other[n]] == [members[10].id[0] % 8]
    assert gossip.unpack_hashes(gossip.pack_hashes(one)) == tuple(one)


def test_who_has_failed_or_left_counts_as_absent():
    """One side may have forgotten it before the other; that must not differ for ever."""
    failed = Member(B, 9, 3, Status.FAILED, "x")
    assert gossip.fingerprint(failed) == 0
    assert gossip.fingerprint(ALIVE) == gossip.fingerprint(msgspec.structs.replace(ALIVE, status=1)) != 0


@pytest.mark.parametrize(("members", "buckets"), [(1, 1), (15, 1), (16, 2), (100, 8), (1_000, 64), (100_000, 256)])
def test_a_bucket_holds_about_sixteen_members(members, buckets):
    assert gossip.buckets_for(members) == buckets
