"""Batches that were read, cut to what a slow link takes at a time. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from zfabric.core.client.outbox import RECORD_OVERHEAD
from zfabric.wire.received import RecordBatch


def parts(batch: RecordBatch, bytes_max: int | None) -> list[RecordBatch]:
    """Return a batch as batches of at most so many bytes of keys and values each, or of one record; None: as it is.

    Raises:
        CorruptBatch: it cannot be decoded.
    """
    if bytes_max is None or batch.header.raw_length <= bytes_max:
        return [batch]
    sizes = (
        RECORD_OVERHEAD + len(key or b"") + len(value or b"")
        for key, value in zip(batch.keys, batch.values, strict=True)
    )
    ends, found, start = list(accumulate(sizes)), [], 0
    while start < len(ends):
        stop = max(bisect_right(ends, (ends[start - 1] if start else 0) + bytes_max), start + 1)
        found.append(batch.part(start, stop))
        start = stop
    return found
