"""What must hold among the rows of one volume, checked in one pass in key order.

Batches come first in that order. For each partition they must cover every offset of [start, end) of its state row
exactly once, be whole (both checksums, their own place), and have leader epochs that never fall; the state row must
give their size, number, newest epoch and timestamp. Then come the small rows: each must decode, belong to a partition
that exists, and name offsets that its log has; a row of the time index must name the batch that reached its timestamp,
and the state row must count the producers.

A pass may be cut into steps, each with a snapshot of its own (:meth:`RowCheck.begin`), between which a leader goes on:
what it appends, trims and compacts between two steps is no damage. Sums are compared only where the state row stayed
the same from the first batch of a partition to the last. Rows of topics that are being deleted are not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from zfabric.core.cluster import placement
from zfabric.core.leader import keys
from zfabric.core.leader.groups import GroupRow
from zfabric.core.leader.log import PartitionState
from zfabric.core.leader.producers import ProducerState
from zfabric.store.finding import Finding, Totals, What
from zfabric.store.lmdbtree import Hole, Row, Tree
from zfabric.wire import batch
from zfabric.wire.batch import COMPACTED, HEADER_BYTES, BatchHeader
from zfabric.wire.crc import crc32c
from zfabric.wire.metadata import AssignedTopic

_decode_state = msgspec.msgpack.Decoder(PartitionState).decode
_decode_topic = msgspec.msgpack.Decoder(AssignedTopic).decode
_CONTROLLER: Final = b"C"
_ROW_CHECKS: Final[dict[bytes, Callable[[bytes], object]]] = {
    keys.PRODUCER: msgspec.msgpack.Decoder(ProducerState).decode,
    keys.GROUP: msgspec.msgpack.Decoder(GroupRow).decode,
    keys.EPOCH: keys.U64.unpack,
    keys.TIME: keys.U64.unpack,
}
_KEY_BYTES: Final = {keys.BATCH: 13, keys.EPOCH: 9, keys.STATE: 5, keys.PRODUCER: 13, keys.TIME: 13, keys.ASSIGNED: 5,
                     keys.DOOMED: 5, keys.HEARD: 5}  # fmt: skip
_OFFSET_END: Final = 1 << 63
_EPOCH_END: Final = 1 << 32
_DECODE_ERRORS: Final = (msgspec.MsgspecError, ValueError, struct.error)


@dataclass(slots=True)
class _Walk:
    """The partition whose batches are being read.

    ``expected`` is the offset that the next batch must begin at, None where the last one does not say how far it
    reached; ``resumed``: a leader may have merged batches over it.
    """

    id: int
    state_row: bytes | None
    state: PartitionState | None
    expected: int | None
    resumed: bool = False
    whole: bool = True
    bytes: int = 0
    batches: int = 0
    epoch: int = 0
    newest: int = -1
    open: list[Finding] = field(default_factory=list)


class RowCheck:
    """One pass over the rows of one volume."""

    def __init__(self, volume: int, totals: Totals) -> None:
        self.findings: list[Finding] = []
        self._volume = volume
        self._totals = totals
        self._tree: Tree
        self._loaded = -1
        self._places: dict[int, tuple[str, int]] = {}
        self._kept, self._doomed = set[int](), set[int]()
        self._walk: _Walk | None = None
        self._walked: set[int] = set()
        self._ends: dict[int, int] = {}
        self._small: tuple[bytes, int] | None = None
        self._state: PartitionState | None = None
        self._state_row: bytes | None = None
        self._last_offset = -1
        self._producers = 0
        self._handlers: dict[bytes, Callable[[Row, int], None]] = {
            keys.EPOCH: self._epoch,
            keys.GROUP: self._group,
            keys.STATE: self._state_is,
            keys.PRODUCER: self._producer,
            keys.TIME: self._time,
        }

    # The pass.

    def begin(self, tree: Tree, key: bytes) -> bytes:
        """Go on in a snapshot that may be another one; returns the key to go on from instead of ``key``."""
        self._tree = tree
        if tree.meta.transaction == self._loaded:
            return key
        self._load_places()
        if self._small is not None:
            self._state = self._read_state(self._small[1])[1]
        walk = self._walk
        if walk is None or walk.expected is None:
            return key
        # Since the last step a leader may have trimmed what comes next, or merged it with what was read.
        state = self._read_state(walk.id)[1]
        if state is not None:
            walk.expected = max(walk.expected, state.start)
        walk.resumed = True
        here = keys.batch(walk.id, walk.expected)
        found = tree.floor(here)
        if isinstance(found, Row) and found.value is not None and found.key[:5] == here[:5] and len(found.key) == 13:
            reaches = len(found.value) >= HEADER_BYTES and batch.parse(found.value).next_offset > walk.expected
            return found.key if reaches else here
        return here

    def take(self, found: Row | Hole) -> None:
        """Check the next row, or note that a page of rows is damaged."""
        table = (found.low if isinstance(found, Hole) else found.key)[:1]
        if self._walk is not None and table != keys.BATCH:
            self._end_walk()
        if isinstance(found, Hole):
            self._hole(found)
            return
        self._totals.rows += 1
        length = _KEY_BYTES.get(table, len(found.key))
        if len(found.key) != length or len(found.key) < 2:
            self._find("row", f"its key {found.key[:40]!r} has {len(found.key)} bytes", key=found.key)
        elif table == keys.BATCH:
            self._batch(found)
        elif table in self._handlers:
            self._small_row(found, table)
        else:
            self._other(found, table)

    def end(self) -> None:
        """Check what only the end can tell."""
        if self._walk is not None:
            self._end_walk()
        self._end_small()

    def journal_entry(self, entry: bytes) -> None:
        """Check an entry of the journal: a whole batch that the log has already, or that continues it."""
        if len(entry) < HEADER_BYTES:
            self._find("journal", f"an entry of {len(entry)} bytes is no batch")
            return
        raw, payload = entry[:HEADER_BYTES], entry[HEADER_BYTES:]
        header = batch.parse(raw)
        partition, base = header.partition, header.base_offset
        problem = batch.damage(raw, payload, header, partition, base)
        if partition not in self._places:
            return  # Its topic was deleted; a leader passes over it.
        if partition not in self._ends:
            state = self._read_state(partition)[1]
            self._ends[partition] = 0 if state is None else state.end
        end = self._ends[partition]
        if not problem and base > end:
            problem = f"it leaves a hole behind offset {end}"
        if problem:
            self._find("journal", problem, partition, base, header.next_offset)
        self._ends[partition] = max(end, header.next_offset)

    # Batches.

    def _batch(self, row: Row) -> None:
        partition, base = keys.split_batch(row.key)
        if partition in self._doomed:
            return
        walk = self._walk
        if walk is None or walk.id != partition:
            walk = self._begin_walk(partition)
        self._arrive(walk, base)
        walk.batches += 1
        if row.value is None:
            walk.whole = False
            self._open(walk, "batch", base, row.problem, row.key)
            return
        walk.bytes += len(row.value)
        self._totals.batches += 1
        self._totals.bytes += len(row.value)
        view = memoryview(row.value)
        if len(view) < HEADER_BYTES:
            self._open(walk, "batch", base, f"row of {len(view)} bytes", row.key)
            return
        raw, payload = view[:HEADER_BYTES], view[HEADER_BYTES:]
        header = batch.parse(raw)
        problem = batch.damage(raw, payload, header, partition, base)
        if problem:
            self._open(walk, "batch", base, problem, row.key)
            if _is_sealed(raw, header, partition, base):
                self._close(walk, header.next_offset)
            return
        self._totals.records += header.records
        walk.expected = header.next_offset
        walk.newest = max(walk.newest, header.max_timestamp)
        if header.leader_epoch < walk.epoch:
            problem = f"leader epoch {header.leader_epoch} after {walk.epoch}"
            self._find("batch", problem, partition, base, header.next_offset, row.key)
        walk.epoch = max(walk.epoch, header.leader_epoch)

    def _begin_walk(self, partition: int) -> _Walk:
        if self._walk is not None:
            self._end_walk()
        self._walked.add(partition)
        self._totals.partitions += 1
        row, state = self._read_state(partition)
        walk = self._walk = _Walk(partition, row, state, None if state is None else state.start)
        return walk

    def _arrive(self, walk: _Walk, base: int) -> None:
        """Check that a batch at ``base`` follows the one before."""
        if walk.open:
            self._close(walk, base)
        expected, walk.expected = walk.expected, base
        resumed, walk.resumed = walk.resumed, False
        if expected is None or base == expected:
            return
        if base > expected:
            walk.whole = False
            self._find("missing", "no batch covers these offsets", walk.id, expected, base)
        elif walk.batches == 0 and not resumed:
            problem = f"it says that the log begins at {expected}, the first batch at {base}"
            self._find("state", problem, walk.id, base, base, keys.state(walk.id))
        elif not resumed:
            self._find("batch", f"it begins inside the batch before, which ends at {expected}", walk.id, base)

    def _open(self, walk: _Walk, what: What, offset: int, problem: str, key: bytes = b"") -> None:
        """Note damage of which only the next batch can tell how far it reaches."""
        self._find(what, problem, walk.id, offset, key=key)
        walk.open.append(self.findings.pop())
        walk.expected = None

    def _close(self, walk: _Walk, next_offset: int | None) -> None:
        self.findings += [replace(finding, next_offset=next_offset) for finding in walk.open]
        walk.open.clear()
        walk.expected = next_offset

    def _end_walk(self) -> None:
        walk, self._walk = self._walk, None
        assert walk is not None
        row, state = self._read_state(walk.id)
        if state is None and walk.id not in self._places and self._tree.first(keys.prefix(keys.BATCH, walk.id)) is None:
            return  # The topic was deleted, and its rows removed, while they were read.
        if walk.id in self._doomed:
            return
        if walk.id not in self._places:
            self._find("row", f"batches of partition id {walk.id}, which belongs to no topic here", walk.id)
        reached = walk.expected
        self._close(walk, None if state is None else state.end)
        if state is None:
            problem = "it is missing" if row is None else "it cannot be read"
            self._find("state", problem, walk.id, key=keys.state(walk.id))
            return
        if reached is not None and reached < state.end:
            self._find("missing", "no batch covers these offsets", walk.id, reached, state.end)
            return
        problems = _disagreements(walk, state, reached, same=row == walk.state_row)
        if problems:
            self._find("state", "; ".join(problems), walk.id, key=keys.state(walk.id))

    def _hole(self, hole: Hole) -> None:
        """A page of rows is damaged; where batches are lost, a reader goes on behind it."""
        self._end_small()
        partition = None
        if hole.low[:1] == keys.BATCH and len(hole.low) >= 5:
            partition = keys.split_id(hole.low)[0]
        if partition is None or partition in self._doomed:
            self._find("page", hole.problem, key=hole.low)
            return
        walk = self._walk
        if walk is None or walk.id != partition:
            walk = self._begin_walk(partition)
        walk.whole = False
        offset = walk.expected
        if offset is None:
            offset = keys.split_batch(hole.low)[1] if len(hole.low) == 13 else 0
        self._open(walk, "page", offset, hole.problem, hole.low)

    # Small rows.

    def _small_row(self, row: Row, table: bytes) -> None:
        partition = keys.split_id(row.key)[0]
        if partition in self._doomed:
            return
        if self._small != (table, partition):
            self._end_small()
            self._small = (table, partition)
            self._last_offset = -1
            self._producers = 0
            self._state_row, self._state = self._read_state(partition)
        what = _WHAT[table]
        if partition not in self._places:
            self._find(what, f"partition id {partition} belongs to no topic here", partition, key=row.key)
        elif row.value is None:
            self._find(what, row.problem, partition, key=row.key)
        else:
            self._handlers[table](row, partition)

    def _end_small(self) -> None:
        small, self._small = self._small, None
        if small is None or small[0] != keys.PRODUCER:
            return
        partition = small[1]
        row, state = self._read_state(partition)
        if state is not None and row == self._state_row and state.producers != self._producers:
            problem = f"it counts {state.producers} producers, there are {self._producers}"
            self._find("state", problem, partition, key=keys.state(partition))

    def _decoded(self, row: Row, partition: int) -> object:
        """Return the value of a small row, or None after noting that it cannot be decoded."""
        assert row.value is not None
        table = row.key[:1]
        try:
            return _ROW_CHECKS[table](row.value)
        except _DECODE_ERRORS as error:
            self._find(_WHAT[table], f"it cannot be decoded: {error}", partition, key=row.key)
            return None

    def _state_is(self, row: Row, partition: int) -> None:
        if partition in self._walked:
            return
        self._totals.partitions += 1
        state = self._state
        if state is None:
            self._find("state", "it cannot be read", partition, key=row.key)
        elif state.start < state.end and self._tree.first(keys.prefix(keys.BATCH, partition)) is None:
            self._find("missing", "no batch covers these offsets", partition, state.start, state.end)

    def _epoch(self, row: Row, partition: int) -> None:
        value = self._decoded(row, partition)
        if value is None or self._state is None:
            return
        offset, epoch = value[0], int.from_bytes(row.key[5:], "big")  # type: ignore[index]
        if offset > self._state.end or epoch > self._state.epoch or offset < self._last_offset:
            problem = f"leader epoch {epoch} is said to begin at offset {offset}"
            self._find("epoch", problem, partition, key=row.key)
        self._last_offset = max(self._last_offset, offset)

    def _group(self, row: Row, partition: int) -> None:
        value = self._decoded(row, partition)
        if partition in self._kept or not isinstance(value, GroupRow) or self._state is None:
            return  # Groups of a copy read at its origin too, and may be further than the copy is.
        if not 0 <= value.offset <= self._state.end:
            name = row.key[5:].decode(errors="replace")
            self._find("group", f"group {name!r} has committed offset {value.offset}", partition, key=row.key)

    def _producer(self, row: Row, partition: int) -> None:
        self._producers += 1
        value = self._decoded(row, partition)
        if isinstance(value, ProducerState) and self._state is not None:
            beyond = [entry.base_offset for entry in value.batches if entry.base_offset >= self._state.end]
            if beyond:
                self._find("producer", f"it remembers a batch at offset {beyond[0]}", partition, key=row.key)

    def _time(self, row: Row, partition: int) -> None:
        value = self._decoded(row, partition)
        if value is None or self._state is None:
            return
        offset, stamp = value[0], keys.split_batch(row.key)[1]  # type: ignore[index]
        problem = ""
        if not self._state.start <= offset < self._state.end or offset < self._last_offset:
            problem = f"it leads to offset {offset}"
        else:
            header = self._covering(partition, offset)
            if header is None or header.flags & COMPACTED:
                pass
            elif header.base_offset != offset:
                problem = f"it leads into the batch at {header.base_offset}"
            elif max(header.max_timestamp, 0) != stamp:
                problem = f"the batch reaches timestamp {header.max_timestamp}, it says {stamp}"
        if problem:
            self._find("time index", problem, partition, offset, offset, row.key)
        else:
            self._last_offset = offset

    def _covering(self, partition: int, offset: int) -> BatchHeader | None:
        """Return the header of the batch that covers ``offset``, if it is whole."""
        found = self._tree.floor(keys.batch(partition, offset))
        if not isinstance(found, Row) or found.value is None or len(found.value) < HEADER_BYTES:
            return None
        at, base = keys.split_batch(found.key) if found.key[:1] == keys.BATCH else (-1, 0)
        header = batch.parse(found.value)
        sealed = at == partition and _is_sealed(found.value[:HEADER_BYTES], header, partition, base)
        return header if sealed and header.next_offset > offset else None

    def _other(self, row: Row, table: bytes) -> None:
        """A row of the whole volume."""
        value = row.value
        if value is None:
            problem = row.problem
        elif table == _CONTROLLER:
            problem = placement.row_problem(row.key, value)
        elif table == keys.ASSIGNED:
            problem = _assigned_problem(row.key, value)
        elif table == keys.VOLUME:
            whole = {b"epoch": len(value) == 8, b"assignment": len(value) == 8, b"fabric": value.isascii()}
            problem = "" if whole.get(row.key[1:]) else f"fact {row.key[1:40]!r} of {len(value)} bytes"
        else:
            problem = "" if table in (keys.DOOMED, keys.HEARD) else f"no table has the letter {table!r}"
        if problem:
            self._find("row", problem, key=row.key)

    # Shared.

    def _load_places(self) -> None:
        """Read which partitions exist: again in each snapshot, since topics come and go."""
        self._loaded = self._tree.meta.transaction
        self._places, self._kept = {}, set()
        for row in self._rows(keys.ASSIGNED):
            try:
                topic = _decode_topic(row.value or b"")
            except _DECODE_ERRORS:
                continue  # The row itself is reported when the pass comes to it.
            self._places |= {place: (topic.name, number) for place, number in topic.places()}
            self._kept |= {place.id for place in topic.kept}
        self._doomed = {
            keys.split_id(row.key)[0] for row in self._rows(keys.DOOMED) if len(row.key) == _KEY_BYTES[keys.DOOMED]
        }

    def _rows(self, table: bytes) -> Iterable[Row]:
        for found in self._tree.rows(table):
            if isinstance(found, Row):
                if found.key[:1] != table:
                    return
                yield found

    def _read_state(self, partition: int) -> tuple[bytes | None, PartitionState | None]:
        """Return (a partition's state row, the state in it); each None where it cannot be had."""
        row = self._tree.find(keys.state(partition))
        if row is None:
            return None, None
        value = row.value or b""
        return value, decode_state(value)

    def _find(
        self,
        what: What,
        problem: str,
        partition: int | None = None,
        offset: int | None = None,
        next_offset: int | None = None,
        key: bytes = b"",
    ) -> None:
        topic, number = self._places.get(-1 if partition is None else partition, (None, None))
        self.findings.append(Finding(what, problem, self._volume, topic, number, partition, offset, next_offset, key))


def decode_state(value: bytes | None) -> PartitionState | None:
    """Return the state in a row, or None if there is no row, or none that makes sense."""
    try:
        state = _decode_state(value or b"")
    except _DECODE_ERRORS:
        return None
    return state if 0 <= state.start <= state.end < _OFFSET_END and 0 <= state.epoch < _EPOCH_END else None


_WHAT: Final[dict[bytes, What]] = {
    keys.EPOCH: "epoch",
    keys.GROUP: "group",
    keys.STATE: "state",
    keys.PRODUCER: "producer",
    keys.TIME: "time index",
}


def _is_sealed(raw: memoryview | bytes, header: BatchHeader, partition: int, base: int) -> bool:
    """Tell whether the header is whole and in its place, so that it says how far the batch reaches."""
    place = header.partition == partition and header.base_offset == base
    return place and crc32c(raw[: HEADER_BYTES - 4]) == header.header_crc


def _disagreements(walk: _Walk, state: PartitionState, reached: int | None, *, same: bool) -> list[str]:
    """Compare a state row with the batches that were read; sums only if the row stayed the ``same`` meanwhile."""
    problems = []
    if reached is not None and same and reached > state.end:
        problems.append(f"it says that the log ends at {state.end}, the batches at {reached}")
    if walk.epoch > state.epoch:
        problems.append(f"it says leader epoch {state.epoch}, a batch has {walk.epoch}")
    if walk.newest > state.max_timestamp:
        problems.append(f"it says that timestamps reach {state.max_timestamp}, they reach {walk.newest}")
    if same and walk.whole and (state.bytes, state.batches) != (walk.bytes, walk.batches):
        problems.append(
            f"it counts {state.batches} batches of {state.bytes} bytes, there are {walk.batches} of {walk.bytes}"
        )
    return problems


def _assigned_problem(key: bytes, value: bytes) -> str:
    try:
        topic = _decode_topic(value)
    except _DECODE_ERRORS as error:
        return f"the topic of id {keys.split_id(key)[0]} cannot be decoded: {error}"
    return "" if topic.id == keys.split_id(key)[0] else f"the row is of topic id {topic.id}"
