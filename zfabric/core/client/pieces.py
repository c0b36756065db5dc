"""Whole columns on their way from a consumer to a producer: a batch that was read, cut to what a producer sends.

The columns of a batch are taken as they are, so a record costs a few list entries and no call: with keys, values,
timestamps and headers unchanged and its offset as the application's sequence. What is stored already is left out, and
what remains is cut so that no piece is larger than a batch may be.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from zfabric.core.client.outbox import RECORD_OVERHEAD, OutBatch, headers_size
from zfabric.settings import BATCH_RECORDS_MAX
from zfabric.wire.batch import COMPACTED
from zfabric.wire.received import RecordBatch


class Piece(NamedTuple):
    """Some consecutive records of one batch.

    Attributes:
        first, last: their lowest and highest sequence. size: their bytes as a producer counts them; largest: of one.
        keys, headers: None where no record has any.
        read: leader epoch and append time (ms; 0 if it was compacted) of the batch.
    """

    first: int
    last: int
    timestamps: list[int]
    keys: list[bytes | None] | None
    values: list[bytes | None]
    headers: list[dict[str, bytes]] | None
    size: int
    largest: int
    read: tuple[int, int] = (0, 0)

    def fits(self, batch: OutBatch, bytes_max: int) -> bool:
        """Tell whether an open batch has room for all of it."""
        return batch.size + self.size <= bytes_max and batch.count + len(self.values) <= BATCH_RECORDS_MAX

    def add_to(self, batch: OutBatch) -> None:
        """Append the columns to an open batch of sequences."""
        count, new = batch.count, len(self.values)
        assert batch.sequences is not None, "a batch without sequences has no place for them"
        batch.values += self.values
        base = batch.base_timestamp
        batch.deltas += [timestamp - base for timestamp in self.timestamps]
        if self.keys is not None and batch.keys is None:
            batch.keys = [None] * count
        if batch.keys is not None:
            batch.keys += self.keys or [None] * new
        if self.headers is not None and batch.headers is None:
            batch.headers = [None] * count
        if batch.headers is not None:
            batch.headers += [entry or None for entry in self.headers] if self.headers else [None] * new
        batch.sequences += (self.first, self.last)  # Nobody asks for those between.
        batch.read = self.read
        batch.count = count + new
        batch.size += self.size


def pieces(
    batch: RecordBatch, stored: int, bytes_max: int, headers: Sequence[dict[str, bytes]] | None = None
) -> Iterator[Piece]:
    """Cut what ``batch`` holds beyond the offset ``stored`` into pieces of at most ``bytes_max``, or of one record.

    Args:
        headers: one dict a record of the batch, instead of its own.

    Raises:
        CorruptBatch: the batch cannot be decoded.
    """
    offsets = batch.offsets
    start = bisect_right(offsets, stored)
    if start == len(offsets):
        return
    keys, values, timestamps = batch.keys, batch.values, batch.timestamps
    own = batch.headers if headers is None else list(headers)
    keyed = keys.count(None) < len(keys)
    headed = any(own)
    sizes = [RECORD_OVERHEAD if value is None else RECORD_OVERHEAD + len(value) for value in values]
    if keyed:
        sizes = [size if key is None else size + len(key) for size, key in zip(sizes, keys, strict=True)]
    if headed:
        sizes = [size + headers_size(entry) if entry else size for size, entry in zip(sizes, own, strict=True)]
    ends = list(accumulate(sizes))
    header = batch.header
    read = header.leader_epoch, 0 if header.flags & COMPACTED else header.append_time
    while start < len(offsets):
        before = ends[start - 1] if start else 0
        stop = min(max(bisect_right(ends, before + bytes_max), start + 1), start + BATCH_RECORDS_MAX)
        yield Piece(
            offsets[start],
            offsets[stop - 1],
            timestamps[start:stop],
            keys[start:stop] if keyed else None,
            values[start:stop],
            own[start:stop] if headed else None,
            ends[stop - 1] - before,
            max(sizes[start:stop]),
            read,
        )
        start = stop
