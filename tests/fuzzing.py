"""What is fuzzed: functions of bytes, each of which may raise nothing but what its decoder promises.

Hypothesis runs them with every test (``tests/unit/test_fuzzing.py``), atheris for longer (``tools/fuzz``). What comes
out besides is a bug: another exception, a broken assertion, or a result that does not survive its own encoder.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import Random

import msgspec

from zfabric import errors
from zfabric.core.client.client import Client
from zfabric.core.client.consumer import Consumer
from zfabric.core.effects import CloseSession, OpenSession, Send
from zfabric.core.mesh.membership import Mesh
from zfabric.model import TopicConfig
from zfabric.modes import url
from zfabric.modes.options import decode as decode_options
from zfabric.server import config
from zfabric.wire import batch, beacon, calls, card, codecs, gossip, messages
from zfabric.wire.crc import crc32c
from zfabric.wire.membership import Announce, MembersAre
from zfabric.wire.messages import Type
from zfabric.wire.metadata import CreateTopic, LeaderAddress, MetadataIs, PartitionPlace, TopicMeta
from zfabric.wire.received import RecordBatch, lone, stamp_of
from zfabric.wire.replication import Follow, FollowPart, Held, Share, SharedOffset

PLACE = 7
RAW_MAX = 1 << 16
refusals: deque[BaseException] = deque(maxlen=100)
"""The latest errors by which a decoder refused something, as it may."""


class refusing(suppress):  # noqa: N801 - as contextlib's own
    """Lets a decoder refuse its input by one of these errors; which, is among the :data:`refusals` then."""

    def __exit__(self, kind, error, trace):  # type: ignore[no-untyped-def]
        """Note what the decoder said, if it is one of them."""
        suppressed = super().__exit__(kind, error, trace)
        if suppressed and error is not None:
            refusals.append(error)
        return suppressed


def _pieces(data: bytes, most: int) -> list[bytes]:
    """Cut data into frames: a length byte before each but the last; 255 stands for a command frame's own bytes."""
    frames = []
    while data and len(frames) < most:
        length = data[0]
        frames.append(data[1 : 1 + length])
        data = data[1 + length :]
    return [*frames, data] if data else frames


def read(data: bytes) -> None:
    """A message of any frames."""
    with refusing(errors.ProtocolViolation, errors.UnsupportedVersion):
        messages.read(_pieces(data, 10))


def body(data: bytes) -> None:
    """A command of any type with any body; what is understood is encoded, and understood again."""
    kinds = sorted({*messages.BODIES, Type.PRODUCE, Type.PRODUCED})
    kind = kinds[data[0] % len(kinds)] if data else Type.HELLO
    frames = [messages.COMMAND.pack(messages.SIGNATURE, 1, kind, 0, 9) + data[1:]]
    with refusing(errors.ProtocolViolation):
        command = messages.read([*frames, b""] if kind in {Type.FETCHED, Type.FOLLOWED, Type.PRODUCE} else frames)
        assert command.request == 9
        if kind in messages.BODIES:
            again = messages.command(kind, 9, command.body)
            assert messages.read([again, *command.rest]).body == command.body
        if kind == Type.ERROR:
            assert isinstance(errors.from_wire(command.body.code, command.body.values), errors.ZFabricError)


def split(data: bytes) -> None:
    """Batches one behind the other, each of them damaged or right, and decoded if it is right."""
    with refusing(errors.ProtocolViolation):
        for header, raw, payload in batch.split(data):
            assert len(raw) == batch.HEADER_BYTES
            damaged = batch.damage(raw, payload, header, header.partition, header.base_offset)
            stamp = stamp_of(header.partition, header.leader_epoch)
            expected = lone([b"", raw, payload], stamp, header.base_offset, "t", 0)
            if expected is not None:
                assert not damaged
                assert expected == (RecordBatch("t", 0, header, payload).records()[0], header.append_time)
            if not damaged:
                _decode(header, payload)


def produced(data: bytes) -> None:
    """What a producer may send."""
    with refusing(errors.ProtocolViolation, errors.CorruptFrame):
        header = batch.parse(data)
        payload = data[batch.HEADER_BYTES :]
        batch.check_produced(header, payload, RAW_MAX)
        _decode(header, payload)


def columns(data: bytes) -> None:
    """A header and a payload whose checksums are right, whatever they say."""
    with refusing(errors.ProtocolViolation):
        header, payload = batch.parse(data), data[batch.HEADER_BYTES :]
        _decode(header._replace(records=header.records % 64), payload)
        _decode(header._replace(records=2, codec=header.codec % 3, flags=header.flags % 4, format=1), payload)


def _decode(header: batch.BatchHeader, payload: bytes | memoryview) -> None:
    header = header._replace(raw_length=header.raw_length % RAW_MAX)
    entry = RecordBatch("t", 0, header, payload)
    with refusing(errors.CorruptBatch):
        records = entry.records()
        assert len(records) == header.records
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        assert all(type(record.headers) is dict for record in records)


def decompress(data: bytes) -> None:
    """Compressed data of any codec and any claimed length."""
    if len(data) < 4:
        return
    length = int.from_bytes(data[1:4], "little") % RAW_MAX
    with refusing(errors.ProtocolViolation):
        assert len(codecs.decompress(data[0] % 4, data[4:], length)) == (length if data[0] % 4 else len(data) - 4)


def address(data: bytes) -> None:
    """A URL."""
    with refusing(errors.ConfigurationError, errors.NotSupported, UnicodeDecodeError):
        target = url.parse(data.decode())
        assert target.mode in {"embedded", "node"}
        assert target.mode == "embedded" or 1 <= target.port <= 65_535


def toml(data: bytes) -> None:
    """A configuration file."""
    file = os.memfd_create("toml")
    try:
        os.write(file, data)
        with refusing(errors.ConfigurationError):
            config.load(f"/proc/self/fd/{file}", {})
    finally:
        os.close(file)


def options(data: bytes) -> None:
    """The argument of a leader process."""
    with refusing(errors.ConfigurationError, UnicodeDecodeError):
        decode_options(data.decode())


def consumer(data: bytes) -> None:
    """A client whose leader answers FETCH with the data, publishes it, and then says it."""
    for said in (data, _mended(data)):
        world = _World(said)
        world.run()
        offsets = [record.offset for record in world.taken]
        assert offsets == sorted(set(offsets))


def _mended(data: bytes) -> bytes:
    """The same with a header whose length, place and checksums are right, and few records: a leader that lies well."""
    if len(data) < batch.HEADER_BYTES:
        return data
    header, payload = batch.parse(data), data[batch.HEADER_BYTES :]
    changed = header._replace(
        magic=batch.MAGIC, records=header.records % 64, payload_length=len(payload), payload_crc=crc32c(payload),
        raw_length=header.raw_length % RAW_MAX,
    )  # fmt: skip
    span, base = header.span % 128, header.base_offset % 4
    return batch.stamp(batch.HEADER.pack(*changed), PLACE, 1, span, base, 0) + payload


class _World:
    """A client with one consumer, and a leader that is honest until it comes to batches."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.now = 1
        self.client = Client("tcp://x:1", "zf://x:1", "x", Random(1), software="fuzz", locate=False)
        self.consumer = Consumer(self.client, "t", group=None, start=0, numbers=None, skip_missing=None)
        self.client.add(self.consumer)
        self.subscriptions: set[int] = set()
        self.sessions: set[int] = set()
        self.taken: list = []

    def run(self) -> None:
        self.consumer.open(self.now, self.now + 10**9)
        for _ in range(12):
            for effect in self.client.take_effects():
                self._perform(effect)
            for session in list(self.subscriptions):
                pieces = _pieces(self.data, 3)
                self.client.receive(session, [messages.PARTITION.pack(PLACE), *pieces[:2]], self.now)
                self.client.receive(session, pieces or [b""], self.now)
                self.client.receive(
                    session,
                    [messages.PARTITION.pack(PLACE), self.data[: batch.HEADER_BYTES], self.data[batch.HEADER_BYTES :]],
                    self.now,
                )
            with refusing(errors.CorruptBatch, errors.OffsetOutOfRange):
                self.taken += self.consumer.take(100)
            self.now += 20_000_000
            self.client.tick(self.now)
        for session in list(self.sessions):
            self.client.receive(session, _pieces(self.data, 3) or [b""], self.now)

    def _perform(self, effect: object) -> None:
        if isinstance(effect, OpenSession):
            (self.subscriptions if effect.subscribe else self.sessions).add(effect.session)
            self.client.connected(effect.session, self.now)
        elif isinstance(effect, CloseSession):
            self.subscriptions.discard(effect.session)
            self.sessions.discard(effect.session)
        elif isinstance(effect, Send):
            command = messages.read([bytes(frame) for frame in effect.frames])
            self.client.receive(effect.session, self._answer(command), self.now)

    def _answer(self, command: messages.Command) -> list[bytes]:
        kind, request = command.type, command.request
        if kind == Type.FETCH:
            part = messages.FetchedPart(PLACE, 0, 1 << 20, 1, len(self.data))
            return [messages.command(Type.FETCHED, request, messages.Fetched([part])), self.data]
        topic = TopicMeta("t", 1, TopicConfig(), [PartitionPlace(PLACE, 0, 0)])
        here = LeaderAddress(0, "tcp://x:1", "tcp://x:2")
        honest = {
            Type.HELLO: (Type.WELCOME, messages.Welcome(1, "f", 0, 1 << 20)),
            Type.METADATA: (Type.METADATA_IS, MetadataIs("f", [here], [topic], [])),
            Type.FIND_OFFSETS: (Type.OFFSETS_ARE, messages.OffsetsAre([messages.OffsetIs(PLACE, 0, 0, 1 << 20)])),
        }
        return [messages.command(honest[kind][0], request, honest[kind][1])]


_PEER = bytes(range(16))
_SERVICE = card.ServiceCard("s", "1", "tcp://h:1", 7)


def gossiped(data: bytes) -> None:
    """A frame as it is, and the same bytes as a body of each type that is signed, heard by a member from another."""
    codec = gossip.Codec("m")
    with refusing(errors.ProtocolViolation, errors.UnsupportedVersion):
        message = codec.read(data)
        assert codec.read(codec.write(*message[:5])).body == message.body
    mesh = Mesh(codec, id=b"m" * 16, instance=1, endpoint="tcp://m:1", random=Random(1), now=1)
    mesh.restore([gossip.Member(_PEER, 1, 1, gossip.Status.ALIVE, "tcp://p:1")])
    now = 1
    for number, kind in enumerate((*gossip.Type, 0, 255), 1):
        head = gossip.HEADER.pack(gossip.SIGNATURE, gossip.VERSION, kind, 0, codec.hash, _PEER, 1, number)
        mesh.receive("tcp://p:1", head + data + codec.sign(head + data), now)
        mesh.receive("tcp://p:1", data, now)
        now += 400_000_000
        mesh.tick(now)
        for effect in mesh.take_effects():
            assert len(effect.frame) <= gossip.STATE_BYTES_MAX
            assert codec.read(effect.frame).sender == mesh.me.id
        assert mesh.me.incarnation <= gossip.INCARNATION_MAX


def beaconed(data: bytes) -> None:
    """A beacon as it is, and the same bytes signed."""
    codec = gossip.Codec("m")
    for said in (data, data + codec.sign(data), _addressed(codec, data)):
        with refusing(errors.ProtocolViolation):
            found = beacon.read(codec, said)
            assert beacon.write(codec, found) == said


def _addressed(codec: gossip.Codec, data: bytes) -> bytes:
    """Return a beacon of this mesh whose sender and endpoint are the data."""
    head = beacon.SIGNATURE + bytes((beacon.VERSION, max(0, len(data) - 16) % 256)) + codec.hash + data
    return head + codec.sign(head)


def carded(data: bytes) -> None:
    """What a member says of itself."""
    found = card.read(data)
    if found is not None:
        told = card.read(card.fitting(found))
        assert told is not None
        assert told == found or told.more


def called(data: bytes) -> None:
    """What a caller says to an instance, or an instance to a caller."""
    frames = _pieces(data, 3)
    with refusing(errors.ProtocolViolation, errors.UnsupportedVersion):
        asked = calls.read_asked(frames)
        plain = calls.read_plain([b"peer", *frames])
        if plain is not None:
            named = (*plain[:3], str(plain[3], "utf-8"), *plain[4:])
            assert named == (asked.number, asked.instance, asked.remaining_us, asked.method, asked.headers, asked.body)
        calls.read_headers(asked.headers)
        if asked.type in {calls.REQUEST, calls.NOTIFY}:
            again = calls.request(
                asked.type, asked.number, asked.instance, asked.remaining_us, asked.method.encode(), asked.headers,
                asked.body, flags=asked.flags, window=asked.window,
            )  # fmt: skip
            assert calls.read_asked(again) == asked
    with refusing(errors.ProtocolViolation, errors.UnsupportedVersion):
        answer = calls.read_answered(frames)
        reply = calls.read_reply(frames)
        usual = answer.type == calls.REPLY and len(frames) == 1
        assert reply == ((answer.flags, answer.number, answer.body) if usual else None)
        if answer.failure is not None:
            assert isinstance(errors.from_wire(answer.failure.code, answer.failure.values), errors.ZFabricError)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "read": read, "body": body, "split": split, "produced": produced, "columns": columns, "decompress": decompress,
    "address": address, "toml": toml, "options": options, "consumer": consumer, "gossiped": gossiped,
    "beaconed": beaconed, "carded": carded, "called": called,
}  # fmt: skip


def _gossip() -> list[bytes]:
    """Frames, and bodies without their header and MAC."""
    codec = gossip.Codec("m")
    me = gossip.Member(_PEER, 1, 2, gossip.Status.ALIVE, "tcp://p:1", 1, b"meta")
    other = gossip.Member(b"o" * 16, 3, 4, gossip.Status.ALIVE, "tcp://o:1")
    bad = gossip.Member(b"m" * 16, 1, 1, gossip.Status.FAILED, accuser=_PEER)
    news = [msgspec.Raw(gossip.encode(member)) for member in (me, other, bad)]
    frames = [
        codec.write(gossip.Type.PING, _PEER, 1, 1, gossip.Ping(5, b"m" * 16, news)),
        codec.write(gossip.Type.PING_REQ, _PEER, 1, 1, gossip.PingReq(5, b"o" * 16, "tcp://o:1", news)),
        codec.write(gossip.Type.PUSH_PULL, _PEER, 1, 1, gossip.PushPull(5, 0, me, 2, bytes(16))),
        codec.write(gossip.Type.STATE, _PEER, 1, 1, gossip.State(0, me, 2, [0, 1], True, news)),
    ]
    return [*frames, *(frame[gossip.HEADER.size : -gossip.MAC_BYTES] for frame in frames)]


def _calls() -> list[list[bytes]]:
    """Commands of services; the last one has its body in a frame of its own, as large ones do."""
    asked = calls.request(calls.REQUEST, 9, 0, 10, b"s.m", calls.headers({"a": b"1"}), b"x", flags=1, window=8)
    error = errors.UnknownMethod(service="s", method="m", known="health")
    answers = [calls.reply(9, b"x"), calls.chunk(9, 0, b"x"), calls.failure(calls.REFUSED, 9, error)]
    whole = [bytes(frames[0]) for frames in (asked, calls.credit(9, 1), calls.bare(calls.PING, 1), *answers)]
    reply = bytes(calls.reply(9, b"x")[0])
    return [*([frame] for frame in whole), [reply[:-1], b"x"]]


def seeds(name: str) -> list[bytes]:
    """Return inputs that are right, for a fuzzer to begin with."""
    stamped = []
    for codec in (codecs.NONE, codecs.LZ4, codecs.ZSTD):
        payload = batch.encode_columns([0, 1], [b"k", None], [b"v" * 50, None], [{"a": b"1"}, None])
        header, payload = batch.seal(
            payload, codec=codec, flags=0, count=2, base_timestamp=5, max_timestamp=6, producer_id=1,
            producer_epoch=0, base_sequence=0, last_sequence=1, partition=PLACE,
        )  # fmt: skip
        stamped.append(batch.stamp(header, PLACE, 1, 2, 0, 9) + payload)
    compacted = batch.encode_columns(0, [b"a", b"b"], [b"1", b"2"], None, [0, 3])
    header, payload = batch.seal(
        compacted, codec=0, flags=batch.COMPACTED, count=2, base_timestamp=5, max_timestamp=5, producer_id=0,
        producer_epoch=0, base_sequence=0, last_sequence=1, partition=PLACE,
    )  # fmt: skip
    stamped.append(batch.stamp(header, PLACE, 1, 4, 0, 9) + payload)
    commands = [
        messages.command(Type.HELLO, 1, messages.Hello("x", 1, 1)),
        messages.command(
            Type.FETCH, 1, messages.Fetch(100, [messages.FetchPart(1, 2), messages.FetchPart(1, 2, 2, 1, 500, 0, 400)])
        ),
        messages.command(Type.FOLLOW, 1, Follow("f", "k", 100, 5, 1, 2, 3, [FollowPart(1, 2, 3, 400)], 65_536, True)),
        messages.command(Type.HELD, 1, Held(100)),
        messages.command(Type.SHARE, 1, Share("f", [SharedOffset(1, "g", 0, 2, 500, False, 3, 400)])),
        messages.command(
            Type.COMMIT_OFFSETS, 1, messages.CommitOffsets("g", [messages.CommitOffset(1, 2, 2, 1, 500, 0, 400)])
        ),
        messages.failure(3, errors.OffsetOutOfRange(topic="t", partition=1, offset=9, start=0, end=5)),
        messages.command(Type.CREATE_TOPIC, 1, CreateTopic("t", 1, TopicConfig())),
        messages.command(Type.ANNOUNCE, 1, Announce(_SERVICE, 3_000)),
        messages.command(Type.MEMBERS_ARE, 1, MembersAre(1, 2, "m", _PEER, [], True, [_SERVICE])),
    ]
    kinds = sorted({*messages.BODIES, Type.PRODUCE, Type.PRODUCED})
    return {
        "read": [bytes([len(command)]) + command for command in commands],
        "body": [bytes([kinds.index(command[3])]) + command[messages.COMMAND_BYTES :] for command in commands],
        "decompress": [bytes([codec, 100, 0, 0]) + codecs.compress(codec, bytes(100)) for codec in (1, 2)],
        "address": [b"zf://127.0.0.1:7400", b"zf+file:///a/b", b"zf://[::1]:1", b"zf+peer://m", b"zf://a,b"],
        "toml": [b"[leader]\nturn_bytes = 5000\n", b"leader = 5\n", b'[leader]\nlog_level = "INFO"\n'],
        "called": [b"".join(bytes([len(frame)]) + frame for frame in frames) for frames in _calls()],
        "gossiped": _gossip(),
        "beaconed": [beacon.write(gossip.Codec("m"), beacon.Beacon(_PEER, "tcp://p:1")), _PEER + b"tcp://p:1"],
        "carded": [card.fitting(card.Card(topics=[card.TopicCard("t")], services=[_SERVICE]))],
        "options": [b'{"data":"x","settings":{"turn_bytes":5000}}'],
    }.get(name, [*stamped, b"".join(stamped)])
