"""Whether somebody who has read or copied a log up to some batch has the log that is here.

A log that was set back (to a backup of its directory, or by a power cut that took the page cache) goes on under other
epochs, or under the same numbers if the backup was taken before the leader's last start. So a batch is known by its
offset, its leader epoch and the time at which it was appended; one that is not there at all tells as much. This is
the truncation detection of KIP-320, for logs whose epochs are not unique.

Committed offsets are told with what stands before them (:func:`mark`): whoever takes them to another log is told, be it
a consumer that begins there, one that commits, or a keeper that shares them. Their rows need not say it: a log and its
groups' rows are of one disk, and are set back together.

Nothing is known of what retention has removed, and of batches that were compacted the times are not compared: then
the log counts as the same.
"""

from __future__ import annotations

from typing import Final

import msgspec

from zfabric import errors
from zfabric.core.leader import keys
from zfabric.core.leader.log import Log, StoredLog
from zfabric.core.leader.partition import Partition
from zfabric.core.transaction import Transaction
from zfabric.wire.batch import COMPACTED
from zfabric.wire.messages import FetchPart
from zfabric.wire.replication import SharedOffset

_EPOCH_MAX: Final = (1 << 32) - 1


def epoch_at(log: StoredLog, offset: int, txn: Transaction) -> int:
    """Return the leader epoch in which ``offset`` was appended; 0 if no row tells."""
    mine = keys.prefix(keys.EPOCH, log.partition)
    newest = keys.epoch(log.partition, _EPOCH_MAX)
    cursor = txn.cursor()
    found = cursor.set_range(newest)
    if not found or bytes(cursor.key()) != newest:
        found = cursor.prev() if found else cursor.last()
    while found and bytes(cursor.key()[:5]) == mine:
        if int.from_bytes(cursor.value(), "big") <= offset:
            return int.from_bytes(cursor.key()[5:], "big")
        found = cursor.prev()
    return 0


def epochs(log: StoredLog, txn: Transaction) -> list[tuple[int, int]]:
    """Return (leader epoch, first offset) of all epochs in which something was appended, in order."""
    mine = keys.prefix(keys.EPOCH, log.partition)
    cursor = txn.cursor()
    found = cursor.set_range(mine)
    known = []
    while found and bytes(cursor.key()[:5]) == mine:
        known.append((int.from_bytes(cursor.key()[5:], "big"), int.from_bytes(cursor.value(), "big")))
        found = cursor.next()
    return known


def mark(log: Log, offset: int, txn: Transaction) -> tuple[int, int]:
    """Return the leader epoch and the append time (ms) of the batch before ``offset``, 0 where they are not known."""
    if not isinstance(log, StoredLog) or not log.state.start < offset <= log.state.end:
        return 0, 0
    header = log.header_at(offset - 1, txn)
    if header is None or header.flags & COMPACTED:
        return epoch_at(log, offset - 1, txn), 0
    return header.leader_epoch, header.append_time


def marked(shared: SharedOffset, log: Log, txn: Transaction) -> SharedOffset:
    """Return what a group has committed in this log with what stands before that."""
    epoch, append_time = mark(log, shared.offset, txn)
    return msgspec.structs.replace(shared, epoch=epoch, append_time=append_time) if epoch else shared


def is_of_another(log: Log, shared: SharedOffset, txn: Transaction) -> bool:
    """Tell whether a group has committed this in a log that parted from this one before it, as far as one knows."""
    if shared.deleted or not shared.epoch or not isinstance(log, StoredLog) or shared.offset > log.state.end:
        return False
    return bool(difference(log, shared.offset, shared.epoch, shared.append_time, txn))


def check(partition: Partition, part: FetchPart, txn: Transaction, *, kept: bool) -> None:
    """Make sure that a reader who has read up to ``part.seen`` has read this log.

    Args:
        kept: it is a copy.

    Raises:
        LogRewound: it has not, and would go on, or has processed records, behind where the logs part.
    """
    log = partition.log
    if not isinstance(log, StoredLog) or (kept and part.seen > log.state.end):
        return  # A ring is gone with its leader, and a copy may be behind.
    problem = difference(log, part.seen, part.epoch, part.append_time, txn)
    if problem:
        parted = parting(log, part.seen, part.epoch, part.first, part.first_time, txn)
        if parted < part.offset:
            raise errors.LogRewound(
                topic=partition.topic, partition=partition.number, offset=part.seen, start=log.state.start,
                end=log.state.end, parted=parted, problem=problem,
            )  # fmt: skip


def difference(log: StoredLog, end: int, epoch: int, append_time: int, txn: Transaction) -> str:
    """Say why the batch before ``end`` is not the one of this ``epoch`` and ``append_time`` (ms); "" if it is.

    Args:
        epoch, append_time: 0 where they are not known.
    """
    state = log.state
    if end > state.end:
        return f"the log here ends at {state.end}"
    if end <= state.start:
        return ""
    if end == state.end and log.last == (epoch, append_time):
        return ""  # An idle reader asks this again and again.
    here = epoch_at(log, end - 1, txn)
    if epoch and here and here != epoch:
        return f"leader epoch {epoch} there, {here} here"
    if append_time and not _appended_at(log, end - 1, append_time, txn):
        return "its last batch was appended at another time"
    if end == state.end:
        log.last = epoch, append_time
    return ""


def _appended_at(log: StoredLog, offset: int, append_time: int, txn: Transaction) -> bool:
    """Tell whether the batch that covers ``offset`` was appended then, as far as one can know."""
    mine = log.header_at(offset, txn)
    return mine is None or bool(mine.flags & COMPACTED) or mine.append_time == append_time


def parting(log: StoredLog, end: int, epoch: int, first: int, first_time: int, txn: Transaction) -> int:
    """Return the first offset at which a log that differs before ``end``, in ``epoch``, may differ from this one.

    The first batch known of that epoch there is at ``first``. If the epoch is none here, that batch is not here. If
    there is one of its number, that batch shows whether it is the same: then the logs part where it ends in one of
    them, else where it begins here.
    """
    known = epochs(log, txn)
    number, base = max((entry for entry in known if entry[0] <= epoch), default=(0, log.state.start))
    parted = min([begin for later, begin in known if later > number] + [log.state.end, end])
    if number < epoch:
        parted = min(parted, first)
    elif not (base <= first < parted < end and first_time and _appended_at(log, first, first_time, txn)):
        parted = base
    return max(min(parted, end - 1), log.state.start)  # The record before `end` is another one in any case.
