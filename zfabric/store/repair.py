"""Mending what can be rebuilt without loss: ``zfabric doctor --repair``.

Records are never touched. A damaged batch stays where it is: its reader is told, and seeks past it; a repair could
only make it silent. What is mended are small rows that a leader trusts without a checksum:

- a state row that disagrees with the batches is computed from them anew. Its end never goes back, not even below what
  producers, groups and epochs remember, so that no offset is given twice;
- a row of the time index that leads elsewhere is removed: the index is sparse, so a search only begins earlier;
- a row of a producer or a group that cannot be decoded, and would end every leader that reads it, is removed: the
  producer begins a new epoch, the group where its consumers say.

Order: both locks are taken; the rows as they are go to ``quarantine-TIME.ndjson`` in the directory, fsynced; then one
transaction changes all rows of a volume. Entries of the journal that no commit covers become part of it, as at a
leader's start, because the commit would end them.

A volume whose file or tree is damaged is left alone: LMDB cannot write safely into it.
"""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric.core.leader import keys
from zfabric.core.leader.groups import GroupRow
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.log import PartitionState
from zfabric.core.leader.producers import ProducerState
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.store.finding import Finding
from zfabric.store.formatfile import sync_directory
from zfabric.store.rowcheck import decode_state
from zfabric.store.volume import Volume
from zfabric.wire import batch
from zfabric.wire.batch import HEADER_BYTES
from zfabric.wire.metadata import AssignedTopic

if TYPE_CHECKING:
    from zfabric.core.transaction import Transaction

_UNSAFE: Final = frozenset({"file", "page", "format"})
_UNREPLAYABLE: Final = frozenset({"row", "journal"})
_REMOVABLE: Final[dict[bytes, type[ProducerState | GroupRow]]] = {keys.PRODUCER: ProducerState, keys.GROUP: GroupRow}


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did. quarantine: the file with the rows as they were, empty if nothing was changed.

    mended: findings whose rows were rebuilt or removed.
    """

    quarantine: str
    mended: tuple[Finding, ...]


@dataclass(slots=True)
class _Change:
    """A row to be replaced, or removed where ``after`` is None."""

    finding: Finding
    key: bytes
    before: bytes | None
    after: bytes | None


def repair(directory: DataDirectory, findings: Sequence[Finding]) -> Repair:
    """Mend what of ``findings`` can be mended, and nothing else.

    Raises:
        DirectoryLocked: somebody leads the directory.
        StorageFailed, StorageFull: a change could not be committed; the volume is as it was.
        OSError: the quarantine file cannot be written; nothing was changed.
    """
    mended: list[Finding] = []
    quarantine = ""
    with directory.lock("embedded", ""):
        for number in sorted({finding.volume for finding in findings}):
            mine = [finding for finding in findings if finding.volume == number]
            if any(finding.what in _UNSAFE for finding in mine) or not any(finding.mendable for finding in mine):
                continue
            with Volume.open(directory.volume_path(number), LeaderSettings()) as volume:
                if volume.journal_bytes and any(finding.what in _UNREPLAYABLE for finding in mine):
                    continue
                volume.grow_if_needed()
                txn = volume.write()
                changes = list(_plan(mine, txn))
                if not changes:
                    continue
                quarantine = quarantine or _quarantine_name(directory.real_path)
                _set_aside(quarantine, changes)
                _apply(changes, txn)
                replay(number, volume, txn)
                volume.commit()
            mended += [change.finding for change in changes]
    return Repair(quarantine, tuple(mended))


def _plan(findings: Sequence[Finding], txn: Transaction) -> Iterator[_Change]:
    """Yield the changes; none is made yet, so all are computed from the rows as they are."""
    states = {finding.id: finding for finding in findings if finding.what == "state"}
    rows = [(finding, txn.get(finding.key)) for finding in findings if finding.key and finding.mendable]
    for finding, row in rows:
        if row is None or finding.what == "state":
            continue
        before, table = bytes(row), finding.key[:1]
        # Where the state row is wrong too, it may be why the index seemed to be: the next scrub tells.
        if (table == keys.TIME and finding.id not in states) or (
            table in _REMOVABLE and not _decodes(before, _REMOVABLE[table])
        ):
            yield _Change(finding, finding.key, before, None)
            if table == keys.PRODUCER:
                states.setdefault(finding.id, finding)
    for partition, finding in states.items():
        if partition is None or _is_memory(partition, txn):
            continue  # The offsets of a memory topic are nowhere else.
        row = txn.get(keys.state(partition))
        before_state = None if row is None else bytes(row)
        after = msgspec.msgpack.encode(_rebuilt(partition, before_state, txn))
        if after != before_state:
            yield _Change(finding, keys.state(partition), before_state, after)


def _decodes(value: bytes, kind: type[ProducerState | GroupRow]) -> bool:
    try:
        msgspec.msgpack.decode(value, type=kind)
    except (msgspec.MsgspecError, ValueError):
        return False
    return True


def _is_memory(partition: int, txn: Transaction) -> bool:
    for _, value in _rows(keys.ASSIGNED, txn):
        try:
            topic = msgspec.msgpack.decode(value, type=AssignedTopic)
        except (msgspec.MsgspecError, ValueError):
            continue
        if any(place == partition for place, _ in topic.places()):
            return topic.config.durability == "memory"
    return True


def _rebuilt(partition: int, before: bytes | None, txn: Transaction) -> PartitionState:
    """Compute a state row from the rows of its partition; what they do not tell is kept if it can be."""
    known = decode_state(before)
    state = msgspec.structs.replace(known) if known is not None else PartitionState()
    first: int | None = None
    state.bytes = state.batches = 0
    reached = 0
    for key, row in _rows(keys.prefix(keys.BATCH, partition), txn):
        base = keys.split_batch(key)[1]
        first = base if first is None else first
        state.bytes += len(row)
        state.batches += 1
        reached = base + 1
        header = batch.parse(row) if len(row) >= HEADER_BYTES else None
        if header is not None and not batch.damage(row[:HEADER_BYTES], row[HEADER_BYTES:], header, partition, base):
            reached = header.next_offset
            state.epoch = max(state.epoch, header.leader_epoch)
            state.max_timestamp = max(state.max_timestamp, header.max_timestamp)
    producers = _rows(keys.prefix(keys.PRODUCER, partition), txn)
    state.producers = sum(_decodes(row, ProducerState) for _, row in producers)
    remembered = _remembered(partition, txn) if known is None else 0
    state.end = max(state.end, reached, remembered)
    if known is None:
        state.start = state.end if first is None else first
        for key, _ in _rows(keys.prefix(keys.TIME, partition), txn):
            state.max_timestamp = max(state.max_timestamp, keys.split_batch(key)[1])
    elif first is not None:
        state.start = min(state.start, first)
    state.clean_end = min(state.clean_end, state.end)
    return state


def _remembered(partition: int, txn: Transaction) -> int:
    """Return an end that no offset which anybody was told lies beyond, as far as small rows tell."""
    told = [0]
    kept = txn.get(keys.heard(partition)) is not None  # Groups of a copy may be further than it is.
    for _, row in _rows(keys.prefix(keys.PRODUCER, partition), txn):
        if _decodes(row, ProducerState):
            batches = msgspec.msgpack.decode(row, type=ProducerState).batches
            told += [entry.base_offset + entry.last - entry.first + 1 for entry in batches]
    for _, row in _rows(keys.prefix(keys.GROUP, partition), txn):
        if _decodes(row, GroupRow) and not kept:
            told.append(msgspec.msgpack.decode(row, type=GroupRow).offset)
    return max(told)


def _rows(prefix: bytes, txn: Transaction) -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor()
    found = cursor.set_range(prefix)
    while found and bytes(cursor.key()[: len(prefix)]) == prefix:
        yield bytes(cursor.key()), bytes(cursor.value())
        found = cursor.next()


def _quarantine_name(directory: str) -> str:
    return os.path.join(directory, time.strftime("quarantine-%Y%m%dT%H%M%SZ.ndjson", time.gmtime()))


def _set_aside(path: str, changes: Sequence[_Change]) -> None:
    """Append the rows as they are, one JSON object a line, and make them durable."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        for change in changes:
            finding = change.finding
            line = {
                "volume": finding.volume,
                "topic": finding.topic,
                "partition": finding.partition,
                "what": finding.what,
                "problem": finding.problem,
                "key_base64": b64encode(change.key).decode(),
                "value_base64": None if change.before is None else b64encode(change.before).decode(),
            }
            file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(fd)
    sync_directory(os.path.dirname(path))


def _apply(changes: Sequence[_Change], txn: Transaction) -> None:
    for change in changes:
        if change.after is None:
            txn.delete(change.key)
        else:
            txn.put(change.key, change.after)


def replay(number: int, volume: Volume, txn: Transaction) -> None:
    """Put the journal's entries into the log, as a leader does at its start."""
    if not volume.journal_bytes:
        return
    leader = Leader(number, LeaderSettings())
    leader.start(txn)
    for entry in volume.journaled():
        leader.restore(entry, txn)
    leader.flush(txn)
