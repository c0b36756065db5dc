"""Lines of files as ``zfabric produce`` takes them: read as they come, numbered, parsed.

Pieces are read as soon as something is there, so that ``tail -f FILE | zfabric produce TOPIC`` sends each line when it
is written and a large file goes out in large batches, with no setting. A line is held in memory only up to its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from zfabric import errors

PIECE_BYTES = 1 << 18


class Piece(NamedTuple):
    """Whole lines that were read at once.

    Attributes:
        source: name of the file. first: number of the first line, from 1.
        lines: without their line feeds. bytes: how many were read.
    """

    source: str
    first: int
    lines: list[bytes]
    bytes: int


class LineTooLong(Exception):
    """A line exceeds the bound. ``source`` and ``line`` say which, ``size`` is what was read of it in bytes."""

    def __init__(self, source: str, line: int, size: int) -> None:
        self.source = source
        self.line = line
        self.size = size
        super().__init__(f"{source} line {line:,}")


def pieces(file: BinaryIO, source: str, line_bytes_max: int) -> Iterator[Piece]:
    """Yield the lines of ``file`` as they come; the last one may lack its line feed.

    Args:
        file: a buffered reader: it has ``read1``.

    Raises:
        LineTooLong: after all lines before it were yielded.
    """
    rest: list[bytes] = []
    held, number = 0, 1
    while data := file.read1(PIECE_BYTES):  # type: ignore[attr-defined]
        *whole, tail = data.split(b"\n")
        if whole:
            whole[0] = b"".join([*rest, whole[0]])
            rest, held = [], 0
        rest.append(tail)
        held += len(tail)
        longest = next((at for at, line in enumerate(whole) if len(line) > line_bytes_max), None)
        yield Piece(source, number, whole[:longest], len(data))
        if longest is not None:
            raise LineTooLong(source, number + longest, len(whole[longest]))
        number += len(whole)
        if held > line_bytes_max:
            raise LineTooLong(source, number, held)
    if held:
        yield Piece(source, number, [b"".join(rest)], 0)


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A record as one JSON object, as ``zfabric consume --format json`` prints it.

    Attributes:
        value, key: text, or null for none (a tombstone). value_base64, key_base64: the same for any bytes.
        headers, headers_base64: name to text, and name to any bytes.
        partition: its number. timestamp: milliseconds since 1970. topic, offset: ignored.
    """

    value: str | UnsetType | None = UNSET
    value_base64: bytes | UnsetType = UNSET
    key: str | None = None
    key_base64: bytes | UnsetType = UNSET
    headers: dict[str, str] = {}
    headers_base64: dict[str, bytes] = {}
    partition: int | None = None
    timestamp: int | None = None
    topic: str | None = None
    offset: int | None = None


ENTRY = (
    'an object with "value" (text or null) or "value_base64", and if wanted "key" or "key_base64", "headers" or '
    '"headers_base64" (names to text), "partition", "timestamp" (ms since 1970)'
)
_decode = msgspec.json.Decoder(Entry).decode


class Fields(NamedTuple):
    """What ``Producer.send`` takes."""

    value: bytes | None
    key: bytes | None
    headers: dict[str, bytes] | None
    partition: int | None
    timestamp: int | None


def parse(line: bytes, source: str, number: int) -> Fields:
    """Read one line of NDJSON.

    Raises:
        BadInput: it is no JSON, or not an :class:`Entry`.
    """
    try:
        entry = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(source, number, str(error)) from error
    if (entry.value is UNSET) == (entry.value_base64 is UNSET):
        which = "neither" if entry.value is UNSET else "both"
        raise _bad(source, number, f'{which} of "value" and "value_base64"')
    if entry.key is not None and entry.key_base64 is not UNSET:
        raise _bad(source, number, 'both "key" and "key_base64"')
    key = None if entry.key is None else entry.key.encode()
    value = entry.value.encode() if isinstance(entry.value, str) else None
    headers = {name: content.encode() for name, content in entry.headers.items()}
    headers.update(entry.headers_base64)
    return Fields(
        value if entry.value_base64 is UNSET else entry.value_base64,
        key if entry.key_base64 is UNSET else entry.key_base64,
        headers or None,
        entry.partition,
        entry.timestamp,
    )


def _bad(source: str, number: int, problem: str) -> errors.BadInput:
    return errors.BadInput(source=source, line=number, problem=f"{problem}; allowed: {ENTRY}")
