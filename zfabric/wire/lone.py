"""A batch of one plain record: a value, no key, no headers, no codec; so are those that nobody waits to fill."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from zfabric.wire.batch import COLUMNAR, HEADER, HEADER_BYTES, MAGIC
from zfabric.wire.codecs import NONE
from zfabric.wire.crc import crc32c

_encode: Final = msgspec.msgpack.Encoder().encode
_KIND: Final = HEADER.pack(MAGIC, COLUMNAR, NONE, 0, 1, *(0,) * 15)[:8]
"""How the header of a batch of one record begins that nobody has compressed."""
_pack: Final = struct.Struct("<8sIIqqQIQQIIIIQq").pack
_pack_crc: Final = struct.Struct("<I").pack
_UNSTAMPED: Final = bytes(4)
_OVERHEAD: Final = HEADER_BYTES + len(_encode((0, None, (b"",), None)))
_LONGER: Final = 256
"""Bytes from which a value's length takes one byte more."""

assert len(_pack(_KIND, *(0,) * 14) + _UNSTAMPED) == HEADER_BYTES, "the same header"


def seal(value: bytes, timestamp: int, producer: int, epoch: int, sequence: int, partition: int) -> tuple[bytes, bytes]:
    """Return (header, payload) ready to send: the same bytes as by ``batch.seal``, in a fifth of its steps."""
    payload = _encode((0, None, (value,), None))
    size = len(payload)
    return _pack(
        _KIND, size, size, timestamp, timestamp, producer, epoch, sequence, sequence, crc32c(payload), partition,
        0, 1, 0, 0,
    ) + _UNSTAMPED, payload  # fmt: skip


def sealed_bytes(value_bytes: int) -> int:
    """Return the bytes of header and payload together, for a value of less than 64 KiB."""
    return _OVERHEAD + value_bytes + (value_bytes >= _LONGER)


def stamp(  # noqa: PLR0917 - for every express record
    value: bytes, timestamp: int, producer: int, epoch: int, sequence: int,
    partition: int, leader_epoch: int, base_offset: int, append_time: int,
) -> tuple[bytes, bytes]:  # fmt: skip
    """Return (header, payload) as they are stored: the same bytes as by :func:`seal` and then ``batch.stamp``."""
    payload = _encode((0, None, (value,), None))
    size = len(payload)
    sealed = _pack(
        _KIND, size, size, timestamp, timestamp, producer, epoch, sequence, sequence, crc32c(payload), partition,
        leader_epoch, 1, base_offset, append_time,
    )  # fmt: skip
    return sealed + _pack_crc(crc32c(sealed)), payload
