"""Compression of batch payloads: none, lz4 (block) and zstd.

Decompression is bounded: the header states the raw length, the output buffer has exactly that size, and a payload
that wants more (a bomb) or less is an error in about a millisecond, not memory.
"""

from __future__ import annotations

from typing import Any

from zfabric import errors
from zfabric.model import Buffer

NONE, LZ4, ZSTD = 0, 1, 2
BY_NAME = {"none": NONE, "lz4": LZ4, "zstd": ZSTD}
NAMES = {number: name for name, number in BY_NAME.items()}


def _cramjam() -> Any:
    # Loaded with the first compressed batch: it adds 3 MB to a process that never compresses.
    import cramjam

    return cramjam


def compress(codec: int, payload: bytes) -> bytes:
    """Return ``payload`` compressed by codec number ``codec``."""
    if codec == NONE:
        return payload
    if codec == LZ4:
        return bytes(_cramjam().lz4.compress_block(payload, store_size=False))
    if codec == ZSTD:
        return bytes(_cramjam().zstd.compress(payload, level=3))
    raise errors.InvalidArgument(name="codec", value=str(codec), allowed="0 (none), 1 (lz4), 2 (zstd)")


def decompress(codec: int, payload: Buffer, raw_length: int) -> Buffer:
    """Return the raw payload, exactly ``raw_length`` bytes.

    Raises:
        ProtocolViolation: the payload is damaged, or not of the stated length.
    """
    if codec == NONE:
        return payload
    output = bytearray(raw_length)
    try:
        if codec == LZ4:
            size = _cramjam().lz4.decompress_block_into(payload, output)
        elif codec == ZSTD:
            size = _cramjam().zstd.decompress_into(payload, output)
        else:
            raise errors.ProtocolViolation(problem=f"codec {codec}", allowed="0 (none), 1 (lz4), 2 (zstd)")
    except (_cramjam().DecompressionError, ValueError, OverflowError) as error:
        problem = f"payload of {len(payload):,} bytes does not decompress: {str(error)[:100]}"
        raise errors.ProtocolViolation(problem=problem, allowed=f"{NAMES[codec]} of {raw_length:,} bytes") from error
    if size != raw_length:
        raise errors.ProtocolViolation(
            problem=f"payload decompresses to {size:,} bytes", allowed=f"{raw_length:,} bytes as its header says"
        )
    return output
