"""Gossip between the members of a mesh, field by field.

Every frame is a fixed header, a msgpack body and a MAC (little-endian):

======  =====  ============  ========================================================================================
offset  type   field         meaning
======  =====  ============  ========================================================================================
0       2s     signature     ``zg``
2       u8     version       of this format; another one is refused
3       u8     type          a number of :class:`Type`; numbers are never reused
4       u32    flags         0; others are refused
8       8s     mesh          hash of the mesh's name: a frame of another mesh is dropped before anything else is read
16      16s    sender        id of the member that sends, which is its data directory's own
32      u64    instance      chosen at random by each start of that member
40      u64    number        1, 2, 3 ... of the frames of that instance: one that was seen before is a replay
48      ...    body          a msgpack array, the struct of the type below, fields in order; what follows the fields
                             that a reader knows is ignored
end-16  16s    MAC           BLAKE2b, keyed with the mesh key, over everything before it
======  =====  ============  ========================================================================================

Without a mesh key the key is a public one, so that there is one format; the MAC is then a checksum.

- PING: prove that you are alive. Answered by ACK the way that it came.
- PING_REQ: ping somebody for me. Answered by ACK, or by NACK when the target was silent: then at least the relay works.
- PUSH_PULL: hashes of all that I know, in buckets. Answered by STATE, or by a PUSH_PULL from a member that does not
  know the sender: a stranger must repeat a fresh number first, and so must prove that it is alive at its endpoint.
- STATE: my members of those buckets whose hashes differ, and which buckets of yours I want to see.
- GOSSIP: news only. Every other type but PUSH_PULL and STATE carries some as well.

Sizes: PING, PING_REQ, ACK and NACK are at most 1,400 bytes, so that they fit a packet of any network; GOSSIP and
PUSH_PULL 4 KiB, STATE 64 KiB. Anything else is a ProtocolViolation. Silence is answered by the rules of
:mod:`zfabric.core.mesh.membership`; garbage is dropped and counted, never answered.
"""

from __future__ import annotations

import struct

# Where hashlib and hmac have them from; these two would load OpenSSL, which costs a leader 3.5 MB.
from _blake2 import blake2b
from _operator import _compare_digest as compare_digest
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import xxhash
from msgspec import Meta

from zfabric import errors
from zfabric.model import Buffer
from zfabric.settings import MESH_METADATA_BYTES_MAX, check_name

SIGNATURE: Final = b"zg"
VERSION: Final = 1
HEADER: Final = struct.Struct("<2sBBI8s16sQQ")
MAC_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER.size + MAC_BYTES
PUBLIC_KEY: Final = b"zfabric mesh without a key"
_PERSON: Final = b"zfabric gossip 1"

ID_BYTES: Final = 16
NOBODY: Final = bytes(ID_BYTES)
ENDPOINT_BYTES_MAX: Final = 128
INCARNATION_MAX: Final = (1 << 63) - 1
VERSION_MAX: Final = (1 << 32) - 1
SMALL_BYTES_MAX: Final = 1_400
GOSSIP_BYTES_MAX: Final = 4 << 10
STATE_BYTES_MAX: Final = 64 << 10
BUCKETS_MAX: Final = 256
UPDATES_MAX: Final = 128
STATE_MEMBERS_MAX: Final = 2_048
MEMO_MAX: Final = 4_096
"""Updates whose decoded form is kept: the same one arrives some twenty times."""

_Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
_U32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
_U63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Incarnation = Annotated[int, Meta(ge=1, le=INCARNATION_MAX)]
# One with an @ in front is a connection, as a member's own shell calls it, and nobody else's to name.
_Endpoint = Annotated[str, Meta(max_length=ENDPOINT_BYTES_MAX, pattern=r"^([!-?A-~][!-~]*)?\Z")]
_Updates = Annotated[list[msgspec.Raw], Meta(max_length=UPDATES_MAX)]

Refusal = Literal["size", "format", "mesh", "mac"]
"""Why a frame was refused; stands in the ``values`` of the ProtocolViolation as ``refusal``."""


class Type(IntEnum):
    """Numbers of the messages."""

    PING = 2
    ACK = 3
    PING_REQ = 4
    NACK = 5
    PUSH_PULL = 6
    STATE = 7
    GOSSIP = 8


class Status(IntEnum):
    """What is said about a member."""

    ALIVE = 0
    SUSPECT = 1
    FAILED = 2
    LEFT = 3


class Member(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One statement about a member: an update of gossip, and what the table of members holds.

    Attributes:
        id: 16 bytes. instance: of the process that bears the id now.
        incarnation: 1 to 2**63 - 1, raised by the member itself alone; the higher one is right.
        status: a :class:`Status`.
        endpoint: where it listens, printable ASCII to 128 bytes that do not begin with @; empty in what travels as
            SUSPECT, FAILED or LEFT.
        version: how often its metadata has changed. metadata: opaque bytes, to 1,024.
        accuser: who says SUSPECT or FAILED; else 16 zero bytes.
    """

    id: _Id
    instance: _U63
    incarnation: _Incarnation
    status: Annotated[int, Meta(ge=0, le=3)]
    endpoint: _Endpoint = ""
    version: _U32 = 0
    metadata: Annotated[bytes, Meta(max_length=MESH_METADATA_BYTES_MAX)] = b""
    accuser: _Id = NOBODY


class _Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all bodies."""


class Ping(_Body, frozen=True):
    """``sequence`` comes back in the answer; ``target`` is who is meant: another one at that address keeps silent."""

    sequence: _U63
    target: _Id
    updates: _Updates


class Ack(_Body, frozen=True):
    """The answer; ``incarnation`` of the asker that the answerer holds for alive, 0 for none."""

    sequence: _U63
    incarnation: _U63
    updates: _Updates


class PingReq(_Body, frozen=True):
    """Ping ``target``, which listens at ``endpoint``, and tell me."""

    sequence: _U63
    target: _Id
    endpoint: _Endpoint
    updates: _Updates


class Nack(_Body, frozen=True):
    """I pinged it and heard nothing so far."""

    sequence: _U63
    updates: _Updates


class PushPull(_Body, frozen=True):
    """Hashes (8 bytes each, little-endian) of ``buckets`` buckets, a power of two up to 256.

    ``me`` is the sender's own record; ``answers`` repeats the sequence of a stranger's PUSH_PULL, else 0.
    """

    sequence: _U63
    answers: _U63
    me: Member
    buckets: Annotated[int, Meta(ge=1, le=BUCKETS_MAX)]
    hashes: Annotated[bytes, Meta(max_length=8 * BUCKETS_MAX)]


class State(_Body, frozen=True):
    """The sender's own record and its ``members`` of buckets that differ; ``want``: numbers of buckets to send back.

    ``answers`` repeats the sequence of a PUSH_PULL, else 0; ``more``: some were left out, ask again.
    """

    answers: _U63
    me: Member
    buckets: Annotated[int, Meta(ge=1, le=BUCKETS_MAX)]
    want: Annotated[list[Annotated[int, Meta(ge=0, lt=BUCKETS_MAX)]], Meta(max_length=BUCKETS_MAX)]
    more: bool
    members: Annotated[list[msgspec.Raw], Meta(max_length=STATE_MEMBERS_MAX)]


class Gossip(_Body, frozen=True):
    """News."""

    updates: _Updates


Body = Ping | Ack | PingReq | Nack | PushPull | State | Gossip
BODIES: Final[dict[int, type[_Body]]] = {
    Type.PING: Ping, Type.ACK: Ack, Type.PING_REQ: PingReq, Type.NACK: Nack, Type.PUSH_PULL: PushPull,
    Type.STATE: State, Type.GOSSIP: Gossip,
}  # fmt: skip
BYTES_MAX: Final[dict[int, int]] = {
    **dict.fromkeys((Type.PING, Type.ACK, Type.PING_REQ, Type.NACK), SMALL_BYTES_MAX),
    Type.PUSH_PULL: GOSSIP_BYTES_MAX, Type.GOSSIP: GOSSIP_BYTES_MAX, Type.STATE: STATE_BYTES_MAX,
}  # fmt: skip

_encode = msgspec.msgpack.Encoder().encode
_decoders: Final = {number: msgspec.msgpack.Decoder(kind).decode for number, kind in BODIES.items()}
_decode_member = msgspec.msgpack.Decoder(Member).decode


class Message(NamedTuple):
    """A frame as read: what the header says, the body, and the news in it, decoded."""

    type: int
    sender: bytes
    instance: int
    number: int
    body: Any
    updates: Sequence[Member]


def encode(member: Member) -> bytes:
    """Return an update as it travels: nobody but an ALIVE one says where it is and what it has."""
    if member.status == Status.ALIVE:
        return _encode(member)
    return _encode(Member(member.id, member.instance, member.incarnation, member.status, accuser=member.accuser))


def buckets_for(members: int) -> int:
    """Return how many buckets a table of so many members is hashed in: about 16 members in each, 1 to 256."""
    return int(min(BUCKETS_MAX, 1 << max(0, (members // 16).bit_length())))


def fingerprint(member: Member) -> int:
    """Return what a member adds (by XOR) to the hash of its bucket, that of the lowest bits of its id's first byte.

    Whoever has failed or left counts as absent: one side may have forgotten it before the other.
    """
    if member.status > Status.SUSPECT:
        return 0
    return xxhash.xxh3_64_intdigest(b"%b%d %d" % (member.id, member.instance, member.incarnation))


def fold(hashes: Sequence[int], buckets: int) -> list[int]:
    """Return the hashes of fewer buckets, a power of two, from those of ``BUCKETS_MAX``."""
    folded = list(hashes)
    while len(folded) > buckets:
        half = len(folded) // 2
        folded = [one ^ other for one, other in zip(folded[:half], folded[half:], strict=True)]
    return folded


def pack_hashes(values: Sequence[int]) -> bytes:
    """Return hashes as they travel."""
    return struct.pack(f"<{len(values)}Q", *values)


def unpack_hashes(packed: bytes) -> tuple[int, ...]:
    """Return hashes from how they travel."""
    return struct.unpack(f"<{len(packed) // 8}Q", packed)


def _refuse(refusal: Refusal, problem: str, allowed: str) -> errors.ProtocolViolation:
    return errors.ProtocolViolation(problem=problem, allowed=allowed, refusal=refusal)


Expects = Callable[[bytes, int, int, int], bool]
"""Tells of a STATE, by its sender, instance, number and ``answers``, whether anybody will look at its news."""


class Codec:
    """Frames of one mesh.

    Args:
        mesh: its name. key: 16 to 64 secret bytes, or None where the network is trusted.
        memo: decoded updates by their bytes; machines of one process may share it. memo_max: its bound.

    Raises:
        InvalidArgument: a name or a key that cannot be used.

    Attributes:
        mesh: its name. hash: of that. keyed: whether there is a key.
    """

    def __init__(
        self, mesh: str, key: bytes | None = None, *, memo: dict[bytes, Member] | None = None, memo_max: int = MEMO_MAX
    ) -> None:
        check_name("mesh", mesh)
        if key is not None and not 16 <= len(key) <= 64:
            raise errors.InvalidArgument(name="key", value=f"{len(key)} bytes", allowed="16 to 64 bytes")
        self.mesh = mesh
        self.keyed = key is not None
        self.hash = blake2b(mesh.encode(), digest_size=8, person=_PERSON).digest()
        self._mac = blake2b(key=key or PUBLIC_KEY, digest_size=MAC_BYTES, person=_PERSON)
        self._words: tuple[Body | None, bytes] = None, b""
        self._memo: dict[bytes, Member] = {} if memo is None else memo
        self._memo_max = memo_max

    def sign(self, data: Buffer) -> bytes:
        """Return the MAC of what comes before it."""
        mac = self._mac.copy()
        mac.update(data)
        return mac.digest()

    def signed(self, data: Buffer) -> bool:
        """Tell whether data ends with its MAC."""
        return compare_digest(self.sign(memoryview(data)[:-MAC_BYTES]), bytes(data[-MAC_BYTES:]))

    def write(self, kind: int, sender: bytes, instance: int, number: int, body: Body) -> bytes:
        """Encode a frame. The same body for several receivers is encoded once."""
        if body is not self._words[0]:
            self._words = body, _encode(body)
        data = HEADER.pack(SIGNATURE, VERSION, kind, 0, self.hash, sender, instance, number) + self._words[1]
        frame = data + self.sign(data)
        assert len(frame) <= BYTES_MAX[kind], f"{Type(kind).name} of {len(frame)} bytes"
        return frame

    def read(self, frame: Buffer, expects: Expects | None = None) -> Message:
        """Decode a frame; the news of a STATE only if that is one that is ``expects``-ed: they may be two thousand.

        Raises:
            ProtocolViolation: it is none, or not of this mesh, or its MAC is wrong; ``values["refusal"]`` says which.
            UnsupportedVersion: of another version of the format, with a header of this one.
        """
        if not OVERHEAD_BYTES < len(frame) <= STATE_BYTES_MAX:
            raise _refuse("size", f"gossip of {len(frame)} bytes", f"{OVERHEAD_BYTES + 1} to {STATE_BYTES_MAX}")
        signature, version, kind, flags, mesh, sender, instance, number = HEADER.unpack_from(frame)
        if signature != SIGNATURE:
            raise _refuse("format", f"signature {signature!r}", repr(SIGNATURE))
        if version != VERSION:
            raise errors.UnsupportedVersion(version=version, lowest=VERSION, highest=VERSION)
        if mesh != self.hash:
            raise _refuse("mesh", f"gossip of mesh {mesh.hex()}", f"{self.hash.hex()}, mesh {self.mesh!r}")
        if len(frame) > BYTES_MAX.get(kind, 0) or flags:
            raise _refuse("size", f"gossip of type {kind}, flags {flags:#x}, {len(frame)} bytes", "the types' sizes")
        if not self.signed(frame):
            raise _refuse("mac", "a MAC that is not ours", "gossip signed with the mesh key")
        try:
            body: Any = _decoders[kind](memoryview(frame)[HEADER.size : -MAC_BYTES])
            skipped = kind == Type.STATE and expects is not None and not expects(sender, instance, number, body.answers)
            updates = [] if skipped else self.news(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            problem = f"body of {Type(kind).name}: {str(error)[:200]}"
            raise _refuse("format", problem, "the fields of that message") from error
        self._check(kind, sender, instance, body)
        return Message(kind, sender, instance, number, body, updates)

    def news(self, body: Any) -> list[Member]:
        """Decode the news in a body.

        Raises:
            MsgspecError, ValueError: one is none.
        """
        kind = type(body)
        if kind is PushPull:
            return []
        raws = [bytes(raw) for raw in (body.members if kind is State else body.updates)]
        known = self._memo.get
        return [known(raw) or self._member(raw) for raw in raws]

    def _member(self, raw: bytes) -> Member:
        member = _decode_member(raw)
        if member.id == NOBODY or (member.status == Status.ALIVE) != bool(member.endpoint):
            raise ValueError("an update about nobody, or an endpoint where none belongs")
        if len(self._memo) >= self._memo_max:
            self._memo.clear()
        self._memo[raw] = member
        return member

    def _check(self, kind: int, sender: bytes, instance: int, body: Any) -> None:
        if sender == NOBODY:
            raise _refuse("format", "a sender without an id", "16 bytes, not all zero")
        if kind not in (Type.PUSH_PULL, Type.STATE):
            return
        me, buckets = body.me, body.buckets
        if me.id != sender or me.instance != instance or (me.status == Status.ALIVE) != bool(me.endpoint):
            raise _refuse("format", "a record of the sender that is another's", "its own")
        if buckets & (buckets - 1) or (kind == Type.PUSH_PULL and len(body.hashes) != 8 * buckets):
            raise _refuse("format", f"{buckets} buckets", "a power of two, and a hash of each")
        if kind == Type.STATE and any(number >= buckets for number in body.want):
            raise _refuse("format", "a wish for buckets that are not there", f"0 to {buckets - 1}")
