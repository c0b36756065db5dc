"""Commands between clients and leaders, frame by frame.

Every message begins with one command frame whose first 16 bytes are fixed (little-endian):

======  ====  ===========  ==========================================================================================
offset  type  field        meaning
======  ====  ===========  ==========================================================================================
0       2s    signature    ``zf``
2       u8    version      protocol version, agreed by HELLO and WELCOME; both sides refuse one they do not speak
3       u8    type         a number of :class:`Type`; numbers are never reused
4       u32   flags        PRODUCE: 1 = no answer wanted (``acks="none"``), 2 = answer from the leader alone
8       u64   request id   chosen by the client, repeated in the answer; 0 in what the leader sends unasked
======  ====  ===========  ==========================================================================================

What follows in that frame is the body: a msgpack array (the structs below, fields in order; a reader ignores fields
after the ones it knows, a missing one takes its default), except on the hot path, where it is fixed binary:

- PRODUCE: command + batch header (96 bytes), then one frame with the payload.
- PRODUCED: command + ``<QqIBB``: base offset, append time (ms), leader epoch, durability (0 fsync, 1 os, 2 memory),
  duplicate (1: it was stored before, this is the original answer; base offset 2**64-1: older than remembered).
- FETCHED, FOLLOWED: command + body, then one frame with all batches of all partitions, one behind the other; several
  where parts are wanted.

Published (PUB/SUB) messages carry no command frame: ``[partition id u32 big-endian][batch header][payload]`` is a
batch, ``[partition id][HEAD: end offset u64, leader epoch u32, little-endian]`` tells that nothing is missing up to
the end offset. The id has a fixed width because ZeroMQ matches subscriptions by prefix.

A session begins with HELLO, answered by WELCOME or by ERROR (UnsupportedVersion). A leader answers any other first
command as well, since reconnects are invisible to it; the version stands in every command. Silence is answered by
repeating the command: each of them may be repeated safely. Garbage is answered with ERROR where a request id can be
read, and dropped where not; the session lives on.

Body fields named ``partition`` are partition ids (u32, unique in the fabric), not numbers within a topic. Every number
and every list has its range in its type, so nothing behind the decoder meets one that it cannot store or loop over.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from zfabric import errors
from zfabric.model import Buffer
from zfabric.settings import FETCH_PART_BYTES_MIN, FETCHED_BYTES_MAX
from zfabric.wire.batch import HEADER_BYTES
from zfabric.wire.body import ASKED, Body, Count, Id, Signed, Text
from zfabric.wire.membership import Announce, Members, MembersAre
from zfabric.wire.metadata import (
    AlterTopic,
    Assign,
    Attach,
    CreateTopic,
    DeleteTopic,
    Metadata,
    MetadataIs,
    TopicIs,
)
from zfabric.wire.replication import Adopt, Follow, Followed, Held, Offer, Share

SIGNATURE: Final = b"zf"
VERSION: Final = 1
LOWEST_VERSION: Final = 1

COMMAND: Final = struct.Struct("<2sBBIQ")
COMMAND_BYTES: Final = COMMAND.size
PRODUCED: Final = struct.Struct("<QqIBB")
PARTITION: Final = struct.Struct(">I")
HEAD: Final = struct.Struct("<QI")

FLAG_NO_ANSWER: Final = 1
FLAG_LEADER_ONLY: Final = 2
_PRODUCE_FLAGS: Final = 3
FETCHED_FRAMES_MAX: Final = FETCHED_BYTES_MAX // FETCH_PART_BYTES_MIN + 2
DURABILITIES: Final = ("fsync", "os", "memory")
UNKNOWN_OFFSET: Final = (1 << 64) - 1


class Type(IntEnum):
    """Numbers of the commands; requests are even, answers odd."""

    HELLO = 2
    WELCOME = 3
    ERROR = 5
    GOODBYE = 7
    DONE = 9
    METADATA = 10
    METADATA_IS = 11
    CREATE_TOPIC = 12
    TOPIC_IS = 13
    DELETE_TOPIC = 14
    ALTER_TOPIC = 16
    DESCRIBE = 18
    DESCRIBED = 19
    PRODUCE = 20
    PRODUCED = 21
    INIT_PRODUCER = 22
    PRODUCER_IS = 23
    FETCH = 24
    FETCHED = 25
    FIND_OFFSETS = 26
    OFFSETS_ARE = 27
    COMMIT_OFFSETS = 28
    GET_OFFSETS = 30
    COMMITTED_ARE = 31
    LIST_GROUPS = 32
    DELETE_GROUP = 34
    STATUS = 36
    STATUS_IS = 37
    ATTACH = 38
    ASSIGN = 39
    MEMBERS = 40
    MEMBERS_ARE = 41
    ANNOUNCE = 42
    FOLLOW = 50
    FOLLOWED = 51
    OFFER = 52
    KEEP = 53  # Within one process: batches for its own log.
    SHARE = 54
    ADOPT = 55  # Within one process.
    HELD = 57


class Hello(Body, frozen=True):
    """First command of a session: who is there and which versions it speaks."""

    software: Text
    lowest: int
    highest: int


class Welcome(Body, frozen=True):
    """The leader's half of the handshake: the agreed version, who it is, and its bounds (bytes)."""

    version: Id
    fabric: Text
    leader: Id
    frame_bytes_max: Count
    software: Text = ""


class Failure(Body, frozen=True):
    """Body of ERROR: code and values of a class in ``zfabric.errors``."""

    code: Id
    values: dict[str, str | int | float | None]


class Empty(Body, frozen=True):
    """Body of GOODBYE, DONE and of requests that need no words."""


class Describe(Body, frozen=True):
    """Ask a leader about its partitions."""

    partitions: Annotated[list[Id], ASKED]


class PartitionIs(Body, frozen=True):
    """What a leader knows of one partition; sizes in bytes.

    ``keepers``: fabric id and confirmed offset of each that has followed since the leader started. Of a copy:
    ``heard_ms`` is when its origin was heard of (ms since 1970, 0: never), ``origin_end`` the end offset that it had
    then, ``problem`` why the copy does not go on, or "".
    """

    partition: Id
    epoch: Count
    start_offset: Count
    end_offset: Count
    bytes: Count
    batches: Count
    durability: str
    write_amplification: float
    keepers: list[tuple[Text, Count]] = msgspec.field(default_factory=list)
    heard_ms: Count = 0
    origin_end: Count = 0
    problem: str = ""


class Described(Body, frozen=True):
    """Answer to DESCRIBE."""

    partitions: Annotated[list[PartitionIs], ASKED]


class InitProducer(Body, frozen=True):
    """A named producer asks for an epoch on this partition.

    ``instance`` is one object of that name (random, not 0), ``attempt`` how many epochs it has used up here. Its first
    attempt fences the earlier instances. A later one is refused once another instance has begun. The same attempt
    again, however late, gets the same answer. Instance 0 begins anew each time.
    """

    partition: Id
    producer: int
    instance: Count = 0
    attempt: Id = 0


class ProducerIs(Body, frozen=True):
    """The epoch to use; the last application sequence stored (-1: none), and where it was read (``batch.py``)."""

    epoch: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    last_sequence: Signed
    read: tuple[Id, Signed] = (0, 0)


class FetchPart(Body, frozen=True):
    """Read a partition from an offset on.

    All before ``seen`` was read already, and ``epoch`` and ``append_time`` (ms) are those of its last batch: the
    leader answers LogRewound if it has another log, and the asker would miss something of that. ``first`` and
    ``first_time`` are the base offset and the time of the first batch that was read of that epoch. Times of 0 are not
    known.
    """

    partition: Id
    offset: Count
    seen: Count = 0
    epoch: Count = 0
    append_time: Signed = 0
    first: Count = 0
    first_time: Signed = 0


class Fetch(Body, frozen=True):
    """Read committed batches of several partitions: at most ``max_bytes``, at least one batch if there is one.

    They come in frames of at most ``part_bytes``, each complete one a sign of life on a slow link; 0: in one frame.
    ``held``: HELD is wanted ahead of a large answer.
    """

    max_bytes: Count
    parts: Annotated[list[FetchPart], ASKED]
    part_bytes: Count = 0
    held: bool = False


class FetchedPart(Body, frozen=True):
    """Result for one partition: an error, or ``length`` bytes of batches in the following frame, the log's bounds.

    ``parted``: it is a copy, and its origin has another log by now.
    """

    partition: Id
    start_offset: Count
    end_offset: Count
    epoch: Count
    length: Count
    failure: Failure | None = None
    parted: bool = False


class Fetched(Body, frozen=True):
    """Answer to FETCH, parts in the order asked for; parts beyond ``max_bytes`` are left out."""

    parts: Annotated[list[FetchedPart], ASKED]


class FindOffset(Body, frozen=True):
    """Ask for the first offset at or after a timestamp (ms since 1970); -1: the end, -2: the start."""

    partition: Id
    timestamp: Signed


class FindOffsets(Body, frozen=True):
    """Several of these."""

    parts: Annotated[list[FindOffset], ASKED]


class OffsetIs(Body, frozen=True):
    """An offset, and the bounds of its log."""

    partition: Id
    offset: Count
    start_offset: Count
    end_offset: Count


class OffsetsAre(Body, frozen=True):
    """Answer to FIND_OFFSETS."""

    parts: Annotated[list[OffsetIs], ASKED]


class CommitOffset(FetchPart, frozen=True):
    """A group has processed everything below this offset; the rest says, as in FETCH, which log it has read."""


class CommitOffsets(Body, frozen=True):
    """Store them, in one transaction; ``force`` allows to go back (a reset)."""

    group: str
    parts: Annotated[list[CommitOffset], ASKED]
    force: bool = False


class GetOffsets(Body, frozen=True):
    """Ask what a group has committed in these partitions."""

    group: str
    partitions: Annotated[list[Id], ASKED]


class Committed(Body, frozen=True):
    """What a group committed: offset -1 for nothing; timestamp in ms; the log's end; which batch is before it."""

    group: str
    partition: Id
    offset: Signed
    timestamp: Signed
    end_offset: Count
    epoch: Count = 0
    append_time: Signed = 0


class ListGroups(Body, frozen=True):
    """Ask what groups have committed, or one of them: what stands behind ``after`` in ``partition``, then others."""

    group: str = ""
    partition: Id = 0
    after: str = ""


class CommittedAre(Body, frozen=True):
    """Answer to GET_OFFSETS, and to LIST_GROUPS: in the order of partition and name; ``more``: ask behind the last."""

    parts: list[Committed]
    more: bool = False


class DeleteGroup(Body, frozen=True):
    """Forget what a group committed on this leader."""

    group: str


class StatusIs(Body, frozen=True):
    """Counters of a leader process, by name."""

    values: dict[str, int | float | str]


class Produce(NamedTuple):
    """A PRODUCE as read: raw batch header, payload to look at, and the same payload to pass on."""

    header: Buffer
    payload: Buffer
    part: object


class Produced(NamedTuple):
    """A PRODUCED as read."""

    base_offset: int
    append_time: int
    epoch: int
    durability: int
    duplicate: int


_EMPTY_TYPES = (Type.GOODBYE, Type.DONE, Type.STATUS)
INTERNAL: Final = frozenset({Type.ASSIGN, Type.KEEP, Type.ADOPT})
"""What machines of one fabric say to each other, and nobody else may."""
REVERSED: Final = frozenset({Type.HELLO, Type.METADATA, Type.FOLLOW, Type.SHARE, Type.FETCH})
"""What a keeper may ask over a connection that was opened to it."""
BODIES: Final[dict[int, type[msgspec.Struct]]] = {
    Type.HELLO: Hello, Type.WELCOME: Welcome, Type.ERROR: Failure, Type.METADATA: Metadata,
    Type.METADATA_IS: MetadataIs, Type.CREATE_TOPIC: CreateTopic, Type.TOPIC_IS: TopicIs,
    Type.DELETE_TOPIC: DeleteTopic, Type.ALTER_TOPIC: AlterTopic, Type.DESCRIBE: Describe, Type.DESCRIBED: Described,
    Type.INIT_PRODUCER: InitProducer, Type.PRODUCER_IS: ProducerIs, Type.FETCH: Fetch, Type.FETCHED: Fetched,
    Type.FIND_OFFSETS: FindOffsets, Type.OFFSETS_ARE: OffsetsAre, Type.COMMIT_OFFSETS: CommitOffsets,
    Type.GET_OFFSETS: GetOffsets, Type.LIST_GROUPS: ListGroups, Type.COMMITTED_ARE: CommittedAre,
    Type.DELETE_GROUP: DeleteGroup,
    Type.STATUS_IS: StatusIs, Type.ATTACH: Attach, Type.ASSIGN: Assign, Type.MEMBERS: Members,
    Type.MEMBERS_ARE: MembersAre, Type.ANNOUNCE: Announce, Type.FOLLOW: Follow, Type.FOLLOWED: Followed,
    Type.OFFER: Offer, Type.SHARE: Share, Type.ADOPT: Adopt, Type.HELD: Held, **dict.fromkeys(_EMPTY_TYPES, Empty),
}  # fmt: skip

ANSWERS: Final[dict[int, int]] = {
    Type.METADATA: Type.METADATA_IS, Type.CREATE_TOPIC: Type.TOPIC_IS, Type.DELETE_TOPIC: Type.TOPIC_IS,
    Type.ALTER_TOPIC: Type.TOPIC_IS, Type.DESCRIBE: Type.DESCRIBED, Type.PRODUCE: Type.PRODUCED,
    Type.INIT_PRODUCER: Type.PRODUCER_IS, Type.FETCH: Type.FETCHED, Type.FIND_OFFSETS: Type.OFFSETS_ARE,
    Type.COMMIT_OFFSETS: Type.DONE, Type.GET_OFFSETS: Type.COMMITTED_ARE, Type.LIST_GROUPS: Type.COMMITTED_ARE,
    Type.DELETE_GROUP: Type.DONE, Type.STATUS: Type.STATUS_IS, Type.MEMBERS: Type.MEMBERS_ARE,
    Type.ANNOUNCE: Type.DONE, Type.FOLLOW: Type.FOLLOWED, Type.OFFER: Type.DONE,
    Type.SHARE: Type.DONE,  # Each unless it is ERROR.
}  # fmt: skip
_BATCHES: Final = frozenset({Type.FETCHED, Type.FOLLOWED})
# To compare with a member of an enum takes three times as long, and _make costs a call.
_PRODUCE, _PRODUCED, _new = int(Type.PRODUCE), int(Type.PRODUCED), tuple.__new__
_encode = msgspec.msgpack.Encoder().encode
_decoders: Final = {number: msgspec.msgpack.Decoder(kind).decode for number, kind in BODIES.items()}


class Command(NamedTuple):
    """A received message: its fixed part, its decoded body, and the frames after the first."""

    type: int
    flags: int
    request: int
    body: Any
    rest: Sequence[Any]


def command(kind: int, request: int, body: msgspec.Struct, flags: int = 0) -> bytes:
    """Encode a command frame with a msgpack body."""
    return COMMAND.pack(SIGNATURE, VERSION, kind, flags, request) + _encode(body)


def failure(request: int, error: errors.ZFabricError) -> bytes:
    """Encode an ERROR answer."""
    return command(Type.ERROR, request, failure_body(error))


def failure_body(error: errors.ZFabricError) -> Failure:
    """Return what crosses the wire of an error."""
    return Failure(error.code, error.values)


def produce(request: int, flags: int, header: bytes, payload: bytes) -> list[bytes]:
    """Encode a PRODUCE."""
    return [COMMAND.pack(SIGNATURE, VERSION, _PRODUCE, flags, request) + header, payload]


def produced(request: int, base_offset: int, append_time: int, epoch: int, durability: int, duplicate: int) -> bytes:
    """Encode a PRODUCED answer."""
    body = PRODUCED.pack(base_offset, append_time, epoch, durability, duplicate)
    return COMMAND.pack(SIGNATURE, VERSION, _PRODUCED, 0, request) + body


def peek(frame: Buffer) -> tuple[int, int, int]:
    """Return (type, flags, request id) of a command frame.

    Raises:
        ProtocolViolation: it is none. UnsupportedVersion: of another version; the request id is its ``request``.
    """
    if len(frame) < COMMAND_BYTES:
        raise errors.ProtocolViolation(problem=f"command of {len(frame)} bytes", allowed=f"{COMMAND_BYTES} or more")
    signature, version, kind, flags, request = COMMAND.unpack_from(frame)
    if signature != SIGNATURE:
        raise errors.ProtocolViolation(problem=f"signature {signature!r}", allowed=repr(SIGNATURE))
    if not LOWEST_VERSION <= version <= VERSION:
        raise errors.UnsupportedVersion(version=version, lowest=LOWEST_VERSION, highest=VERSION)
    return kind, flags, request


def request_id(frame: Buffer) -> int:
    """Return the request id of a frame that may be no command at all; 0 if it has none."""
    if len(frame) < COMMAND_BYTES or bytes(frame[:2]) != SIGNATURE:
        return 0
    return int.from_bytes(frame[8:16], "little")


def read(frames: Sequence[Any], parts: Sequence[object] | None = None) -> Command:
    """Decode a message from its frames (buffers, without the routing id).

    ``parts`` are the same frames as the shell can pass them on without a copy, if it has such.

    Raises:
        ProtocolViolation: unknown type, wrong number of frames, or a body that is not what the type says.
        UnsupportedVersion: a version that this side does not speak.
    """
    if not frames:
        raise errors.ProtocolViolation(problem="a message without frames", allowed="a command frame")
    first = frames[0]
    kind, flags, request = peek(first)
    if flags > (_PRODUCE_FLAGS if kind == _PRODUCE else 0):
        raise errors.ProtocolViolation(problem=f"flags {flags:#x} of command type {kind}", allowed="0; PRODUCE: to 3")
    if kind == _PRODUCE:
        if len(frames) != 2 or len(first) != COMMAND_BYTES + HEADER_BYTES:
            problem = f"PRODUCE of {len(frames)} frames, the first of {len(first)} bytes"
            raise errors.ProtocolViolation(problem=problem, allowed=f"2 frames, {COMMAND_BYTES + HEADER_BYTES} bytes")
        batch = (first[COMMAND_BYTES:], frames[1], frames[1] if parts is None else parts[1])
        return _new(Command, (kind, flags, request, _new(Produce, batch), ()))
    if kind == _PRODUCED:
        if len(first) != (size := COMMAND_BYTES + PRODUCED.size):
            raise errors.ProtocolViolation(problem=f"PRODUCED of {len(first)} bytes", allowed=f"{size}")
        return _new(Command, (kind, flags, request, _new(Produced, PRODUCED.unpack_from(first, COMMAND_BYTES)), ()))
    decode = _decoders.get(kind)
    if decode is None:
        raise errors.ProtocolViolation(problem=f"command type {kind}", allowed="those of protocol version 1")
    try:
        body = decode(first[COMMAND_BYTES:])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        problem = f"body of {Type(kind).name}: {str(error)[:200]}"
        raise errors.ProtocolViolation(problem=problem, allowed="the fields of that command") from error
    if kind in _BATCHES and 2 < len(frames) <= FETCHED_FRAMES_MAX:
        return Command(kind, flags, request, body, (b"".join(frames[1:]),))
    extra = 1 if kind in _BATCHES else 0
    if len(frames) != 1 + extra:
        raise errors.ProtocolViolation(problem=f"{Type(kind).name} of {len(frames)} frames", allowed=str(1 + extra))
    return Command(kind, flags, request, body, frames[1:])
