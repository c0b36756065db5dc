"""Cutting: a batch to the offsets that are wanted, and an answer into frames.

Batches of one log are the same everywhere until somebody compacts it; then one may reach across the place where another
holder's ends. What is cut is a compacted batch, as a compacted one may leave offsets out.
"""

from __future__ import annotations

from typing import Any

from zfabric.model import Buffer
from zfabric.settings import FETCHED_BYTES_MAX
from zfabric.wire import batch, messages
from zfabric.wire.batch import COMPACTED, BatchHeader
from zfabric.wire.messages import Command, Type
from zfabric.wire.replication import Held

ANNOUNCED_BYTES = 64 << 10


def cut(header: BatchHeader, payload: Buffer, first: int, following: int) -> tuple[BatchHeader, bytes, bytes]:
    """Return the part of a batch from offset ``first`` up to ``following``, not included: (header, its bytes, payload).

    Raises:
        ProtocolViolation: the payload is not what the header says, or has times that no batch may carry.
    """
    columns = batch.decode_columns(header, payload)
    batch.check_times(columns)
    first = max(first, header.base_offset)
    following = min(following, header.next_offset)
    skipped = first - header.base_offset
    begin = sum(1 for distance in columns.distances if distance < skipped)
    end = sum(1 for distance in columns.distances if distance < following - header.base_offset)
    timestamps = columns.timestamps[begin:end]
    oldest = min(timestamps, default=header.base_timestamp)
    left = batch.encode_columns(
        [stamp - oldest for stamp in timestamps],
        columns.keys[begin:end],
        columns.values[begin:end],
        columns.headers[begin:end],
        [distance - skipped for distance in columns.distances[begin:end]],
    )
    raw, left = batch.seal(
        left, codec=header.codec, flags=COMPACTED, count=len(timestamps), base_timestamp=oldest,
        max_timestamp=max(timestamps, default=oldest), producer_id=0, producer_epoch=0, base_sequence=0,
        last_sequence=0, partition=header.partition,
    )  # fmt: skip
    raw = batch.stamp(raw, header.partition, header.leader_epoch, following - first, first, header.append_time)
    return batch.parse(raw), raw, left


def announcement(command: Command, size: int) -> tuple[bytes] | None:
    """Return the HELD that goes ahead of an answer with ``size`` bytes of batches, if it wants one."""
    if not command.body.held or size <= ANNOUNCED_BYTES:
        return None
    return (messages.command(Type.HELD, command.request, Held(min(size, FETCHED_BYTES_MAX))),)


def in_parts(head: bytes, joined: bytes, part_bytes: int) -> tuple[Any, ...]:
    """Return the frames of an answer whose batches come in frames of at most ``part_bytes``; 0: in one."""
    if not 0 < part_bytes < len(joined):
        return (head, joined)
    view = memoryview(joined)
    return (head, *(view[at : at + part_bytes] for at in range(0, len(view), part_bytes)))
