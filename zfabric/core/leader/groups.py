"""What consumer groups have committed, kept by each partition's own leader, in its log's transaction.

A committed offset is the next one to read: everything below it is processed. It never goes back, unless the command
says so (a reset), so that a late duplicate of an old commit changes nothing (invariant I9).

A partition and its copies at keepers each take commits, and tell each other (:func:`merge`). Each reset that goes back
is counted, and the larger pair (resets, offset) wins: an older commit, told late, undoes neither a newer one nor a
reset.

A group that is deleted leaves a *tombstone*: a row that counts as one reset more, and is told like all others; else
those who had not heard of the deletion would bring the group back. A commit after it begins the group anew, and a reset
that was made at the same time elsewhere wins. A tombstone goes after 30 days, and of more than a thousand in a
partition the oldest go: whoever was away for that long, with an older commit, brings the group back.
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
from zfabric.model import Buffer
from zfabric.settings import GROUPS_PER_PARTITION_MAX
from zfabric.wire.replication import SharedOffset

RESETS_MAX: Final = (1 << 63) - 1
"""What a command can carry: somebody may claim as many, and what is told of the group must stay readable."""
TOMBSTONE_MS: Final = 30 * 86_400_000
TOMBSTONES_MAX: Final = 1_000
TIDY_MS: Final = 3_600_000
"""How often tombstones are looked at that may have expired, where there are some."""


class GroupRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A group's committed offset in a partition, when it was committed (ms since 1970), how often it was set back.

    ``deleted``: it is a tombstone, and ``timestamp`` says since when.
    """

    offset: int
    timestamp: int
    resets: int = 0
    deleted: bool = False

    def rank(self) -> tuple[int, bool, int]:
        """Return what decides which of two wins."""
        return self.resets, not self.deleted, self.offset

    def shared(self, partition: int, group: str) -> SharedOffset:
        """Return it as others are told."""
        return SharedOffset(partition, group, self.resets, max(self.offset, 0), self.timestamp, self.deleted)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(GroupRow).decode


def committed(partition: int, group: str, txn: Transaction) -> GroupRow | None:
    """Return what ``group`` committed in ``partition``; None if that is nothing, or was deleted.

    Raises:
        CorruptRow: it cannot be decoded.
    """
    row = known(partition, group, txn)
    return None if row is None or row.deleted else row


def known(partition: int, group: str, txn: Transaction) -> GroupRow | None:
    """Return what there is of ``group`` in ``partition``, a tombstone included.

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
    before = known(partition.id, group, txn)
    resets = 0
    if before is None or before.deleted:
        partition.groups += 1
        if before is not None:
            resets = before.resets
            partition.tombstones -= 1
    elif offset <= before.offset and not force:
        return None
    else:
        resets = min(before.resets + (offset < before.offset), RESETS_MAX)
    return _store(partition.id, group, GroupRow(offset, wall_ms, resets), txn)


def merge(partition: Partition, shared: SharedOffset, wall_ms: int, txn: Transaction) -> GroupRow | None:
    """Take what a group has committed at a copy if it is ahead of what is here; returns the row if it is.

    Raises:
        LimitExceeded, CorruptRow: as :func:`check_room`.
    """
    row = GroupRow(shared.offset, shared.timestamp, shared.resets, shared.deleted)
    before = known(partition.id, shared.group, txn)
    if (before is not None and row.rank() <= before.rank()) or _is_expired(row, wall_ms):
        return None
    lives = before is not None and not before.deleted
    if not row.deleted and not lives:
        check_room(partition, shared.group, txn)
        partition.groups += 1
    partition.tombstones -= before is not None and before.deleted
    if row.deleted:
        _bury(partition, wall_ms, txn, lives=lives)
    return _store(partition.id, shared.group, row, txn)


def _is_expired(row: GroupRow, wall_ms: int) -> bool:
    return row.deleted and wall_ms - row.timestamp > TOMBSTONE_MS


def _bury(partition: Partition, wall_ms: int, txn: Transaction, *, lives: bool) -> None:
    """A tombstone comes, in the place of a group or of nothing: count, and make room for it."""
    if lives and partition.groups > 0:
        partition.groups -= 1
    if partition.tombstones < 0 or partition.tombstones >= TOMBSTONES_MAX:
        tidy(partition, wall_ms, txn)
    partition.tombstones += 1


def _store(partition: int, group: str, row: GroupRow, txn: Transaction) -> GroupRow:
    txn.put(keys.group(partition, group), _encode(row))
    return row


def names(partition: int, txn: Transaction, after: str = "", *, deleted: bool = False) -> Iterator[str]:
    """Yield the groups that committed in ``partition``, those whose names come behind ``after`` in UTF-8.

    Args:
        deleted: with those that were deleted.
    """
    mine, first = keys.prefix(keys.GROUP, partition), keys.group(partition, after)
    cursor = txn.cursor()
    found = cursor.set_range(first)
    while found and bytes(cursor.key()[:5]) == mine:
        if bytes(cursor.key()) != first and (deleted or not _is_tombstone(cursor.value())):
            yield bytes(cursor.key()[5:]).decode()
        found = cursor.next()


def _is_tombstone(row: Buffer) -> bool:
    """Tell whether a row is one; whoever reads a damaged one is told."""
    try:
        return _decode(row).deleted
    except (msgspec.MsgspecError, ValueError):
        return False


def is_told(partition: int, group: str, txn: Transaction) -> bool:
    """Tell whether there is anything of ``group``, a tombstone or a damaged row included."""
    return txn.get(keys.group(partition, group)) is not None


def delete(partition: Partition, group: str, wall_ms: int, txn: Transaction) -> GroupRow | None:
    """Forget what ``group`` committed; returns its tombstone, or None if there was nothing."""
    try:
        before = known(partition.id, group, txn)
    except errors.CorruptRow:
        before = GroupRow(0, 0)
    if before is None or before.deleted:
        return None
    _bury(partition, wall_ms, txn, lives=True)
    return _store(partition.id, group, GroupRow(0, wall_ms, min(before.resets + 1, RESETS_MAX), True), txn)


def tidy(partition: Partition, wall_ms: int, txn: Transaction) -> bool:
    """Count a partition's tombstones, and remove those that have expired or are too many; tells whether it did."""
    mine = keys.prefix(keys.GROUP, partition.id)
    stones = []
    cursor = txn.cursor()
    found = cursor.set_range(mine)
    while found and bytes(cursor.key()[:5]) == mine:
        if _is_tombstone(cursor.value()):
            stones.append((_decode(cursor.value()).timestamp, bytes(cursor.key())))
        found = cursor.next()
    stones.sort(reverse=True)  # Those that have to go are the last ones.
    staying = [stone for stone in stones if wall_ms - stone[0] <= TOMBSTONE_MS][: TOMBSTONES_MAX - 1]
    for _, key in stones[len(staying) :]:
        txn.delete(key)
    partition.tombstones = len(staying)
    partition.tidy_due_ms = wall_ms + TIDY_MS
    return len(staying) < len(stones)


def is_untidy(partition: Partition, wall_ms: int) -> bool:
    """Tell whether it is time for :func:`tidy`."""
    return partition.tombstones < 0 or (partition.tombstones > 0 and wall_ms >= partition.tidy_due_ms)
