"""What consumer groups have committed, kept by each partition's own leader, in its log's transaction.

A committed offset is the next one to read: everything below it is processed. It never goes back, unless the command
says so (a reset), so that a late duplicate of an old commit changes nothing (invariant I9).

A partition and its copies at keepers each take commits, and tell each other (:func:`merge`). Each reset that goes back
is counted, and the larger pair (resets, offset) wins: an older commit, told late, undoes neither a newer one nor a
reset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from zfabric import errors
from zfabric.core import rows
from zfabric.core.leader import keys
from zfabric.core.leader.partition import Partition
from zfabric.core.transaction import Transaction
from zfabric.settings import GROUPS_PER_PARTITION_MAX
from zfabric.wire.replication import SharedOffset

RESETS_MAX: Final = (1 << 63) - 1
"""What a command can carry: somebody may claim as many, and what is told of the group must stay readable."""


class GroupRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A group's committed offset in a partition, when it was committed (ms since 1970), how often it was set back."""

    offset: int
    timestamp: int
    resets: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(GroupRow).decode


def committed(partition: int, group: str, txn: Transaction) -> GroupRow | None:
    """Return what ``group`` committed in ``partition``.

    Raises:
        CorruptRow: it cannot be decoded.
    """
    row = txn.get(keys.group(partition, group))
    return None if row is None else rows.decode(_decode, row, f"group {group!r} of partition id {partition}")


def check_room(partition: Partition, group: str, txn: Transaction) -> None:
    """Make sure that ``group`` may commit in the partition.

    Raises:
        LimitExceeded: the partition has as many groups as it may. CorruptRow: what it committed cannot be decoded.
    """
    if committed(partition.id, group, txn) is not None:
        return
    if partition.groups < 0:
        partition.groups = sum(1 for _ in names(partition.id, txn))
    if partition.groups >= GROUPS_PER_PARTITION_MAX:
        raise errors.LimitExceeded(
            what=f"groups of partition id {partition.id}",
            value=partition.groups + 1,
            limit=GROUPS_PER_PARTITION_MAX,
            instead="delete those that are not used: 'zfabric group delete'",
        )


def commit(
    partition: Partition, group: str, offset: int, wall_ms: int, txn: Transaction, *, force: bool = False
) -> GroupRow | None:
    """Store a committed offset, after :func:`check_room`; one that would go back is ignored unless ``force``.

    Returns the row if it is a new one.
    """
    before = committed(partition.id, group, txn)
    resets = 0
    if before is None:
        partition.groups += 1
    elif offset <= before.offset and not force:
        return None
    else:
        resets = min(before.resets + (offset < before.offset), RESETS_MAX)
    return _store(partition.id, group, GroupRow(offset, wall_ms, resets), txn)


def merge(partition: Partition, shared: SharedOffset, txn: Transaction) -> GroupRow | None:
    """Take what a group has committed at a copy if it is ahead of what is here; returns the row if it is.

    Raises:
        LimitExceeded, CorruptRow: as :func:`check_room`.
    """
    before = committed(partition.id, shared.group, txn)
    if before is None:
        check_room(partition, shared.group, txn)
        partition.groups += 1
    elif (shared.resets, shared.offset) <= (before.resets, before.offset):
        return None
    return _store(partition.id, shared.group, GroupRow(shared.offset, shared.timestamp, shared.resets), txn)


def _store(partition: int, group: str, row: GroupRow, txn: Transaction) -> GroupRow:
    txn.put(keys.group(partition, group), _encode(row))
    return row


def names(partition: int, txn: Transaction, after: str = "") -> Iterator[str]:
    """Yield the groups that committed in ``partition``, those whose names come behind ``after`` in UTF-8."""
    mine, first = keys.prefix(keys.GROUP, partition), keys.group(partition, after)
    cursor = txn.cursor()
    found = cursor.set_range(first)
    while found and bytes(cursor.key()[:5]) == mine:
        if bytes(cursor.key()) != first:
            yield bytes(cursor.key()[5:]).decode()
        found = cursor.next()


def forget(partition: int, group: str, txn: Transaction) -> bool:
    """Remove what ``group`` committed; tells whether there was something."""
    return txn.delete(keys.group(partition, group))
