"""Commands between callers and instances of services, frame by frame.

A caller's DEALER talks straight to an instance's ROUTER. Every message begins with the 16 bytes of
:mod:`zfabric.wire.messages`; requests are even, answers odd, and each answer repeats the request's id. Numbers below
are little-endian. *Body* stands for opaque bytes: the rest of the first frame, or all further frames (large ones, in
parts of 128 KiB: see ``PART_BYTES``).

========  ==  =======================================================================================================
REQUEST   60  ``<QQHIH``: instance (0: any), remaining time in us (0: without end), bytes of the method, bytes of the
              headers, window; the method (``service.method``, UTF-8), the headers (msgpack, text to bytes), body
REPLY     61  body: the result
NOTIFY    62  as REQUEST; never answered
CHUNK     63  ``<I`` number of the chunk, from 0; body. Flag 2: the stream ends with this, which is no chunk if empty
CANCEL    64  nothing more: the caller does not want it any more; never answered
FAILED    65  it was executed and failed: msgpack array of an error's code and values
CREDIT    66  ``<I``: the caller takes so many chunks more; never answered
REFUSED   67  as FAILED, but it was not executed, so whoever repeats it elsewhere is safe
PING      68  nothing more; the first thing that a caller sends. It sends no request before it has the PONG, so an
              instance that drains can tell everybody, and another one at the same port gets no request
PONG      69  ``<QB``: instance, draining (0 or 1). Its number is that of a PING; or 0, unasked; or has the highest bit,
              which no other number has: answer with PING and that number when all before it was read. PING with such
              a number is never answered
FAREWELL  70  nothing more: no requests come from this caller any more, the answer to GOODBYE; never answered
GOODBYE   71  request id 0: the instance drains; send nothing new, say FAREWELL
========  ==  =======================================================================================================

Flags of the first 16 bytes: REQUEST 1 = the answer is wanted as a stream of CHUNKs, of which ``window`` may be sent
before CREDIT, and none while chunks of 1 MiB or more lack it: a caller gives it when it has taken half of either, or
one and has given none for 250 ms; REPLY, CHUNK, FAILED and REFUSED 1 = the method is idempotent; callers remember it.

The time that is left travels, not a point in time: two machines' clocks need not agree. The instance is named because
a port may have been given to another one since; that one refuses. A chunk has a number because a ROUTER drops what a
peer does not take: the stream fails then, rather than having a hole.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from zfabric import errors
from zfabric.model import Buffer
from zfabric.settings import CALL_BYTES_MAX, CALL_HEADER_BYTES_MAX, HEADERS_MAX, METHOD_BYTES_MAX
from zfabric.wire.messages import COMMAND, COMMAND_BYTES, LOWEST_VERSION, SIGNATURE, VERSION, Failure


class Call(IntEnum):
    """Numbers of the commands, after those of :class:`zfabric.wire.messages.Type`."""

    REQUEST = 60
    REPLY = 61
    NOTIFY = 62
    CHUNK = 63
    CANCEL = 64
    FAILED = 65
    CREDIT = 66
    REFUSED = 67
    PING = 68
    PONG = 69
    FAREWELL = 70
    GOODBYE = 71


# Plain integers: an enum member costs a comparison twice as much.
REQUEST: Final = 60
REPLY: Final = 61
NOTIFY: Final = 62
CHUNK: Final = 63
CANCEL: Final = 64
FAILED: Final = 65
CREDIT: Final = 66
REFUSED: Final = 67
PING: Final = 68
PONG: Final = 69
FAREWELL: Final = 70
GOODBYE: Final = 71

QUESTION: Final = 1 << 63
"""The bit of a PONG's number that asks for a PING with the same number."""
FLAG_STREAM: Final = 1
FLAG_IDEMPOTENT: Final = 1
FLAG_END: Final = 2
FAILURE_TEXT_MAX: Final = 20_000
"""Characters of each text in FAILED and REFUSED; the rest is cut off."""
INLINE_BYTES: Final = 4_096
"""Bodies to this size go in the first frame: a frame more costs each side more than the copy."""
PART_BYTES: Final = 131_072
"""Of the frames of a larger one. Each that is complete is a sign of life; a single one of 16 MiB would want 160 Mbit/s,
or the connection, whose heartbeats wait behind it, is taken for dead before it has arrived."""
PARTS_MAX: Final = 1_024
ALONE_BYTES: Final = 21
"""A first frame of so many bytes is all that an instance sends: others follow only a bare head of a REPLY or CHUNK."""

_FIXED: Final = struct.Struct("<QQHIH")
_HEAD: Final = struct.Struct("<2sBBIQQQHIH")
# The first eight bytes of one without flags, as a number: those of a reply have the flags in their upper half.
_REQUEST: Final = int.from_bytes(SIGNATURE + bytes((VERSION, REQUEST)), "little")
_REPLY: Final = int.from_bytes(SIGNATURE + bytes((VERSION, REPLY)), "little")
_REPLIES: Final = {_REPLY: 0, _REPLY | FLAG_IDEMPOTENT << 32: FLAG_IDEMPOTENT}
_plain_head: Final = struct.Struct("<QQQQHIH")
_pack_head: Final = _plain_head.pack
_unpack_head: Final = _plain_head.unpack_from
_plain_reply: Final = struct.Struct("<QQ")
_pack_reply: Final = _plain_reply.pack
_unpack_reply: Final = _plain_reply.unpack_from
_NUMBER: Final = struct.Struct("<I")
_PONG: Final = struct.Struct("<QB")
_START: Final = COMMAND_BYTES + _FIXED.size
_Headers = Annotated[dict[str, bytes], Meta(max_length=HEADERS_MAX)]
_encode = msgspec.msgpack.Encoder().encode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode
_decode_headers = msgspec.msgpack.Decoder(_Headers).decode
Frames = list[Buffer]


class Asked(NamedTuple):
    """A caller's command as read; ``method`` and the rest only of REQUEST and NOTIFY, ``value`` only of CREDIT."""

    type: int
    flags: int
    number: int
    instance: int = 0
    remaining_us: int = 0
    window: int = 0
    method: str = ""
    headers: bytes = b""
    body: Buffer = b""
    value: int = 0


class Answered(NamedTuple):
    """An instance's command as read.

    ``body`` of REPLY and CHUNK; ``value``: number of the CHUNK, or the instance of PONG; ``failure`` of FAILED and
    REFUSED; ``draining`` of PONG.
    """

    type: int
    flags: int
    number: int
    body: Buffer = b""
    value: int = 0
    failure: Failure | None = None
    draining: bool = False


def headers(values: Mapping[str, bytes]) -> bytes:
    """Encode headers; none are no bytes."""
    return _encode(values) if values else b""


def read_headers(data: Buffer) -> dict[str, bytes]:
    """Decode headers.

    Raises:
        ProtocolViolation: they are none.
    """
    if not data:
        return {}
    try:
        return _decode_headers(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        allowed = f"msgpack: at most {HEADERS_MAX} texts to bytes"
        raise errors.ProtocolViolation(problem=f"headers of a request: {str(error)[:200]}", allowed=allowed) from error


def flat(body: Buffer) -> Buffer:
    """Return a body as one row of bytes, which a view need not be: of wider items, of more dimensions, or with gaps."""
    if type(body) is memoryview and not (body.c_contiguous and body.ndim == 1 and body.format == "B"):
        return body.tobytes()
    return body


def request(
    kind: int,
    number: int,
    instance: int,
    remaining_us: int,
    method: bytes,
    headers: bytes,
    body: Buffer,
    *,
    flags: int = 0,
    window: int = 0,
) -> Frames:
    """Encode a REQUEST or a NOTIFY."""
    head = _HEAD.pack(
        SIGNATURE, VERSION, kind, flags, number, instance, remaining_us, len(method), len(headers), window
    )
    if len(body) <= INLINE_BYTES:
        return [b"".join((head, method, headers, body))]
    return _parted(head + method + headers, body)


def plain_request(number: int, instance: int, remaining_us: int, method: bytes, headers: bytes, body: Buffer) -> Frames:
    """Encode a REQUEST that wants one reply, as :func:`request` does, in half the time."""
    head = _pack_head(_REQUEST, number, instance, remaining_us, len(method), len(headers), 0)
    if len(body) <= INLINE_BYTES:
        return [b"".join((head, method, headers, body))]
    return _parted(head + method + headers, body)


def reply(number: int, body: Buffer, flags: int = 0) -> Frames:
    """Encode a REPLY."""
    head = COMMAND.pack(SIGNATURE, VERSION, REPLY, flags, number)
    return [head + body] if len(body) <= INLINE_BYTES else _parted(head, body)


def reply_to(peer: bytes, number: int, body: Buffer, flags: int) -> Frames:
    """Encode a REPLY behind a routing id."""
    head = _pack_reply(_REPLY | flags << 32, number)
    return [peer, head + body] if len(body) <= INLINE_BYTES else [peer, *_parted(head, body)]


def _parted(head: bytes, body: Buffer) -> Frames:
    if len(body) <= PART_BYTES:
        return [head, body]
    view = memoryview(body)
    return [head, *(view[at : at + PART_BYTES] for at in range(0, len(view), PART_BYTES))]


def chunk(number: int, place: int, body: Buffer, flags: int = 0) -> Frames:
    """Encode a CHUNK."""
    head = COMMAND.pack(SIGNATURE, VERSION, CHUNK, flags, number) + _NUMBER.pack(place)
    return [head + body] if len(body) <= INLINE_BYTES else _parted(head, body)


def failure(kind: int, number: int, error: errors.ZFabricError, flags: int = 0) -> Frames:
    """Encode a FAILED or a REFUSED.

    The error may be a handler's, and its values anything: what a caller could not read becomes text, and text is cut.
    """
    return [COMMAND.pack(SIGNATURE, VERSION, kind, flags, number) + _encode(Failure(error.code, plain_values(error)))]


def plain_values(error: errors.ZFabricError) -> dict[str, str | int | float | None]:
    """Return the values of an error as they are sent."""
    given = vars(error).get("values")
    return {name: _plain(value) for name, value in given.items()} if isinstance(given, dict) else {}


def _plain(value: object) -> str | int | float | None:
    """Return a value of an error as its decoder takes it."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        text = str.__getitem__(value, slice(FAILURE_TEXT_MAX))
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    if value is None or type(value) is float:
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    return f"<{type(value).__name__}>"


def bare(kind: int, number: int) -> Frames:
    """Encode a command that is nothing but its first 16 bytes."""
    return [COMMAND.pack(SIGNATURE, VERSION, kind, 0, number)]


def credit(number: int, chunks: int) -> Frames:
    """Encode a CREDIT."""
    return [COMMAND.pack(SIGNATURE, VERSION, CREDIT, 0, number) + _NUMBER.pack(chunks)]


def pong(number: int, instance: int, *, draining: bool) -> Frames:
    """Encode a PONG."""
    return [COMMAND.pack(SIGNATURE, VERSION, PONG, 0, number) + _PONG.pack(instance, draining)]


def read_plain(frames: Sequence[Any]) -> tuple[int, int, int, bytes, bytes, bytes] | None:
    """Decode what nearly all callers send, a REQUEST of one frame that wants one reply, in a fifth of the time.

    Args:
        frames: behind the routing id, which is the first.

    Returns:
        number, instance, remaining us, method, headers, body; None for whatever else it is, or is not: see
        :func:`read_asked`.
    """
    if len(frames) != 2:
        return None
    first = frames[1]
    if type(first) is not bytes or len(first) < _START:
        return None
    start, number, instance, remaining_us, method_bytes, header_bytes, _ = _unpack_head(first)
    end = _START + method_bytes
    header_end = end + header_bytes
    if start != _REQUEST or header_bytes > CALL_HEADER_BYTES_MAX or header_end > len(first):
        return None
    return number, instance, remaining_us, first[_START:end], first[end:header_end], first[header_end:]


def read_reply(frames: Sequence[Any]) -> tuple[int, int, Any] | None:
    """Decode what nearly all instances send, a REPLY of one frame: flags, number, body.

    Returns:
        None for whatever else it is, or is not: see :func:`read_answered`.
    """
    first = frames[0]
    if len(frames) > 1 or len(first) < COMMAND_BYTES:
        return None
    start, number = _unpack_reply(first)
    flags = _REPLIES.get(start)
    return None if flags is None else (flags, number, first[COMMAND_BYTES:])


def read_asked(frames: Sequence[Any]) -> Asked:
    """Decode what a caller sent, from its frames without the routing id.

    Raises:
        ProtocolViolation: it is no command of a caller. UnsupportedVersion: of a version that is not spoken here.
    """
    first, kind, flags, number = _head(frames)
    if kind in (REQUEST, NOTIFY):
        if len(first) < _START or flags > (FLAG_STREAM if kind == REQUEST else 0):
            raise _wrong(kind, f"{len(first)} bytes, flags {flags:#x}")
        instance, remaining_us, method_bytes, header_bytes, window = _FIXED.unpack_from(first, COMMAND_BYTES)
        end = _START + method_bytes
        if (
            method_bytes > METHOD_BYTES_MAX
            or header_bytes > CALL_HEADER_BYTES_MAX
            or end + header_bytes > len(first)
            or (flags and not window)
        ):
            raise _wrong(kind, f"a method of {method_bytes} and headers of {header_bytes} bytes, window {window}")
        try:
            method = str(first[_START:end], "utf-8")
        except UnicodeDecodeError as error:
            raise _wrong(kind, "a method that is no UTF-8") from error
        header_end = end + header_bytes
        body = _body(kind, frames, header_end)
        return Asked(kind, flags, number, instance, remaining_us, window, method, bytes(first[end:header_end]), body)
    if len(frames) != 1 or flags:
        raise _wrong(kind, f"{len(frames)} frames, flags {flags:#x}")
    if kind == CREDIT:
        if len(first) != COMMAND_BYTES + _NUMBER.size:
            raise _wrong(kind, f"{len(first)} bytes")
        return Asked(kind, 0, number, value=_NUMBER.unpack_from(first, COMMAND_BYTES)[0])
    if kind not in (CANCEL, PING, FAREWELL) or len(first) != COMMAND_BYTES:
        raise _wrong(kind, f"{len(first)} bytes")
    return Asked(kind, 0, number)


def read_answered(frames: Sequence[Any]) -> Answered:
    """Decode what an instance sent.

    Raises:
        ProtocolViolation: it is no command of an instance. UnsupportedVersion: of another version.
    """
    first, kind, flags, number = _head(frames)
    if flags > (FLAG_IDEMPOTENT | FLAG_END if kind == CHUNK else FLAG_IDEMPOTENT):
        raise _wrong(kind, f"flags {flags:#x}")
    if kind == REPLY:
        return Answered(kind, flags, number, _body(kind, frames, COMMAND_BYTES))
    if kind == CHUNK:
        if len(first) < COMMAND_BYTES + _NUMBER.size:
            raise _wrong(kind, f"{len(first)} bytes")
        body = _body(kind, frames, COMMAND_BYTES + _NUMBER.size)
        return Answered(kind, flags, number, body, _NUMBER.unpack_from(first, COMMAND_BYTES)[0])
    if len(frames) != 1:
        raise _wrong(kind, f"{len(frames)} frames")
    if kind in (FAILED, REFUSED):
        try:
            return Answered(kind, flags, number, failure=_decode_failure(first[COMMAND_BYTES:]))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _wrong(kind, str(error)[:200]) from error
    if kind == PONG and len(first) == COMMAND_BYTES + _PONG.size:
        instance, draining = _PONG.unpack_from(first, COMMAND_BYTES)
        return Answered(kind, flags, number, value=instance, draining=bool(draining))
    if kind == GOODBYE and len(first) == COMMAND_BYTES:
        return Answered(kind, flags, number)
    raise _wrong(kind, f"{len(first)} bytes")


def _head(frames: Sequence[Any]) -> tuple[Any, int, int, int]:
    if not frames or len(frames[0]) < COMMAND_BYTES:
        raise errors.ProtocolViolation(problem="a message without a command", allowed=f"{COMMAND_BYTES} bytes or more")
    first = frames[0]
    signature, version, kind, flags, number = COMMAND.unpack_from(first)
    if signature != SIGNATURE:
        raise errors.ProtocolViolation(problem=f"signature {signature!r}", allowed=repr(SIGNATURE))
    if not LOWEST_VERSION <= version <= VERSION:
        raise errors.UnsupportedVersion(version=version, lowest=LOWEST_VERSION, highest=VERSION)
    return first, kind, flags, number


def _body(kind: int, frames: Sequence[Any], start: int) -> Buffer:
    if len(frames) == 1:
        rest: Buffer = frames[0][start:]
        return rest
    if len(frames[0]) != start or len(frames) > PARTS_MAX:
        raise _wrong(kind, f"{len(frames)} frames, the first of {len(frames[0])} bytes")
    size = sum(map(len, frames)) - start
    if size > CALL_BYTES_MAX:
        raise _wrong(kind, f"a body of {size:,} bytes")
    body: Buffer = frames[1] if len(frames) == 2 else b"".join(frames[1:])
    return body


def _wrong(kind: int, problem: str) -> errors.ProtocolViolation:
    known = Call(kind).name if kind in Call._value2member_map_ else f"command type {kind}"
    return errors.ProtocolViolation(problem=f"{known}: {problem}", allowed="the commands of services, as documented")
