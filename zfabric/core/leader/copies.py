"""Copies of partitions that other fabrics lead: what a keeper does in its own log, in the turn's transaction.

A copy is a partition of this leader that takes no batches from producers. Invariants:

- each batch has the offsets, leader epoch, append time and payload bytes that it has at its origin; only the partition
  id in its header is ours, so the header's CRC is made anew from a header that was verified with its payload;
- offsets are dense: a batch that does not begin at the copy's end is not appended. Where the origin has compacted
  across the end, the part beyond it is;
- epochs never fall, and nothing is ever truncated.

When the origin's retention has passed the copy's end, nothing can follow what the copy has: its batches go, step by
step, and it begins again at the origin's start, as the origin's own readers do.

What groups have committed is merged (``groups.py``). Since their members read elsewhere too, it may be beyond the end
of a copy that is behind.

Copies are trimmed, compacted and published like all partitions here, by the settings that the topic has at its origin,
and by the origin's clock where that is wrong (``aging.py``).
"""

from __future__ import annotations

from typing import NamedTuple

from zfabric import errors
from zfabric.core.leader import aging, groups, lineage
from zfabric.core.leader.assigned import Assigned
from zfabric.core.leader.cutting import cut
from zfabric.core.leader.damage import Damage, Patch
from zfabric.core.leader.log import StoredLog
from zfabric.core.leader.partition import Partition
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer, TopicConfig
from zfabric.settings import GROUP_BYTES_MAX, check_name
from zfabric.wire import batch
from zfabric.wire.batch import COMPACTED, BatchHeader
from zfabric.wire.replication import SharedOffset

RETIRE_STEP = 64
OFFSET_MAX = (1 << 63) - 1
"""What commands carry: a copy beyond it would make all answers unreadable that name it."""
HEARD_STEP_MS = 3_600_000
"""How far behind the stored time may be at which an origin was heard of: a row an hour and copy is written at most."""
_EVERYTHING = TopicConfig(retention_ms=0)
_FOREVER_MS = 1 << 62


class KeptBatch(NamedTuple):
    """A verified batch of a copy's origin: the copy's id here, the header as it came, and its payload."""

    partition: int
    header: BatchHeader
    raw: Buffer
    payload: Buffer


class Heard(NamedTuple):
    """An origin was heard of: when (ms since 1970), and the end offset that its log had."""

    wall_ms: int
    end: int


class Keep(NamedTuple):
    """Body of KEEP, which never leaves the process: what the follower has for the log.

    Attributes:
        batches: in the order of each copy's offsets. starts: origins' start offsets that lie beyond the copies' ends.
        commits: of groups at the origins, under the copies' ids. heard: by copy.
        load: copies whose position is asked for. share: copies whose groups' offsets are. check: copies to judge by
        age: which of them have expired? mend: what others have in place of what is damaged here.
    """

    batches: list[KeptBatch]
    starts: list[tuple[int, int]]
    commits: list[SharedOffset]
    heard: dict[int, Heard]
    load: list[int]
    share: list[int]
    check: list[int]
    mend: list[Patch]


class Position(NamedTuple):
    """All of an origin's log that a copy has: the next offset, epoch and append time (ms) of the last batch."""

    end: int
    epoch: int
    append_time: int


class Appended(NamedTuple):
    """A batch that a turn has put into a copy."""

    partition: Partition
    header: BatchHeader
    stamped: bytes
    payload: Buffer


class Copies:
    """All copies of one leader.

    Args:
        expiry_ms: a copy that holds nothing of use any more goes when its origin was not heard of for so long.

    Attributes:
        must_sync: the last call of :meth:`take` has put a row that says when an origin was heard of.
        lost: the last turn was given up and not repeated: nothing of what it was to do has happened.
        positions: of the copies in use. heard: when each origin was heard of, by copy.
        shared: what was asked for by ``share``: taken by the follower. expired: the same of ``check``.
        committed: copies in which clients have committed since the follower looked.
        full: why there is no room for batches at the moment, or None.
        parted: copies of logs that their origins have no more, as far as these were asked.
        refused: batches that could not be appended, with the last reason by copy in :attr:`problems`.
    """

    def __init__(self, assigned: Assigned, damage: Damage, expiry_ms: int) -> None:
        self.positions: dict[int, Position] = {}
        self.heard: dict[int, Heard] = {}
        self.shared: list[SharedOffset] = []
        self.expired: list[int] = []
        self.committed: set[int] = set()
        self.must_sync = False
        self.lost = False
        self.full: errors.StorageFull | None = None
        self.refused = 0
        self.problems: dict[int, str] = {}
        self.parted: set[int] = set()
        self._assigned = assigned
        self._damage = damage
        self._expiry_ms = expiry_ms

    def abandon(self) -> None:
        """The turn is given up; the repeated one says everything again, if there is one."""
        self.lost = True
        self.positions.clear()
        self.shared.clear()
        self.expired.clear()

    def drop(self, partition_id: int) -> None:
        """A copy is kept no longer."""
        self.positions.pop(partition_id, None)
        self.heard.pop(partition_id, None)
        self.problems.pop(partition_id, None)
        self.parted.discard(partition_id)
        self.committed.discard(partition_id)

    def problem(self, partition_id: int) -> str:
        """Return why a copy does not go on; "" if it does."""
        full = "" if self.full is None else str(self.full)
        return self.problems.get(partition_id, "") or self._damage.problem(partition_id) or full

    def take(self, body: Keep, wall_ms: int, txn: Transaction) -> tuple[list[Appended], dict[int, Partition]]:
        """Do what the follower wants; returns the batches appended, and all copies whose rows change."""
        room = self.full is None
        self.must_sync = False
        appended: list[Appended] = []
        changed: dict[int, Partition] = {}
        for partition_id, start in body.starts:
            partition = self._find(partition_id, txn)
            if partition is not None and self._skip(partition, start, txn):
                changed[partition_id] = partition
        for entry in body.batches if room else ():
            partition = self._find(entry.partition, txn)
            if partition is not None:
                try:
                    put = self._append(partition, entry, txn)
                except errors.ZFabricError as error:
                    self.refused += 1
                    self.problems[entry.partition] = str(error)
                    continue
                if put is not None:
                    appended.append(put)
                    self._age(put, wall_ms, txn)
                    changed[entry.partition] = partition
                    self.problems.pop(entry.partition, None)
        for patch in body.mend if room else ():
            partition = self._damage.mend(patch, txn)
            if partition is not None:
                changed[partition.id] = partition
        for partition_id in body.load:
            self._find(partition_id, txn)
        for partition_id, heard in body.heard.items():
            self._hear(partition_id, heard, txn)
        self.shared += [entry for partition_id in body.share for entry in self._commits(partition_id, txn)[0]]
        self.expired += [partition_id for partition_id in body.check if self._is_expired(partition_id, wall_ms, txn)]
        return appended, changed

    def merge(
        self, commits: list[SharedOffset], wall_ms: int, txn: Transaction
    ) -> list[tuple[int, str, groups.GroupRow]]:
        """Take committed offsets that are ahead of ours; returns those that changed something.

        Of a partition that is not here nothing is taken, nor anything beyond the end of one that is led here, nor what
        was committed in another log, nor of a group whose name is none.
        """
        changed: list[tuple[int, str, groups.GroupRow]] = []
        for shared in commits:
            try:
                check_name("group", shared.group, GROUP_BYTES_MAX)
                partition = self._assigned.partition(shared.partition, txn)
                known = shared.offset <= partition.log.state.end or shared.partition in self._assigned.kept
                if known and lineage.is_of_another(partition.log, shared, txn):
                    self.refused += 1
                    continue
                row = groups.merge(partition, shared, wall_ms, txn) if known else None
            except (errors.InvalidArgument, errors.NotLeader, errors.CorruptRow, errors.LimitExceeded):
                self.refused += 1
                continue
            if row is not None:
                changed.append((shared.partition, shared.group, row))
        return changed

    def _find(self, partition_id: int, txn: Transaction) -> Partition | None:
        """Return a copy, its position known; None if it is kept no longer, or its state is damaged."""
        if partition_id not in self._assigned.kept:
            return None
        try:
            partition = self._assigned.partition(partition_id, txn)
        except errors.CorruptRow as error:
            self.problems[partition_id] = str(error)
            return None
        if partition_id not in self.positions:
            log = partition.log
            assert isinstance(log, StoredLog), "only topics on disk are kept"
            self.positions[partition_id] = Position(log.state.end, log.state.epoch, self._last_time(log, txn))
        return partition

    def _last_time(self, log: StoredLog, txn: Transaction) -> int:
        """Return when the last batch was appended (ms); 0 if that tells nothing: it was compacted, or is damaged."""
        try:
            for header, _, _ in log.batches(log.state.end - 1, txn) if log.state.batches else ():
                return 0 if header.flags & COMPACTED else header.append_time
        except errors.CorruptBatch as error:
            self._damage.see(log.partition, error)
        return 0

    def _append(self, partition: Partition, entry: KeptBatch, txn: Transaction) -> Appended | None:
        """Append a batch where it belongs; None if it is here already.

        Raises:
            LogsDiverged: its epoch is lower than the last one here. ProtocolViolation: it leaves a hole, or reaches
                beyond the last offset that there can be.
        """
        log, header, raw, payload = partition.log, entry.header, entry.raw, entry.payload
        assert isinstance(log, StoredLog), "only topics on disk are kept"
        end = log.state.end
        if header.next_offset <= end:
            return None
        if header.leader_epoch < log.state.epoch:
            raise errors.LogsDiverged(
                topic=partition.topic, partition=partition.number, offset=end,
                problem=f"leader epoch {log.state.epoch} there, {header.leader_epoch} here",
            )  # fmt: skip
        if header.base_offset > end or (header.base_offset < end and not header.flags & COMPACTED):
            raise errors.ProtocolViolation(problem=f"a batch at {header.base_offset}", allowed=f"one at {end}")
        if header.next_offset > OFFSET_MAX:
            raise errors.ProtocolViolation(problem=f"a batch up to {header.next_offset}", allowed=f"{OFFSET_MAX}")
        if header.base_offset < end:
            header, raw, payload = cut(header, payload, end, header.next_offset)
        stamped = batch.stamp(
            raw, partition.id, header.leader_epoch, header.span, header.base_offset, header.append_time
        )
        header = batch.parse(stamped)
        log.restore(header, stamped, payload, txn)
        time = 0 if header.flags & COMPACTED else header.append_time
        self.positions[partition.id] = Position(log.state.end, header.leader_epoch, time)
        return Appended(partition, header, stamped, payload)

    def _skip(self, partition: Partition, start: int, txn: Transaction) -> bool:
        """Let go of what lies before a hole, step by step, and begin again behind it; tells whether rows changed."""
        log = partition.log
        assert isinstance(log, StoredLog), "only topics on disk are kept"
        if start <= log.state.end:
            return False
        log.trim(_EVERYTHING, _FOREVER_MS, RETIRE_STEP, txn)
        if not log.state.batches:
            state = log.state
            state.start = state.end = state.clean_end = start
            state.bytes = state.clean_bytes = state.tombstone_ms = 0
            log.touch()
            self.positions[partition.id] = Position(start, 0, 0)
        return True

    # How old they are.

    def _hear(self, partition_id: int, heard: Heard, txn: Transaction) -> None:
        if partition_id not in self._assigned.kept:
            return
        self.heard[partition_id] = heard
        stored = aging.load(partition_id, txn)
        if not stored.heard_ms or heard.wall_ms - stored.heard_ms > HEARD_STEP_MS:
            aging.store(partition_id, stored._replace(heard_ms=heard.wall_ms), txn)
            self.must_sync = True

    def _age(self, put: Appended, wall_ms: int, txn: Transaction) -> None:
        """Count ages in a copy by the clock of its origin, as a batch tells that was not compacted since."""
        partition, header = put.partition, put.header
        behind_ms = aging.behind(header.append_time, wall_ms, partition.config)
        if behind_ms == partition.behind_ms or header.flags & COMPACTED:
            return
        partition.behind_ms = behind_ms
        stored = aging.load(partition.id, txn)
        if not behind_ms or abs(behind_ms - stored.behind_ms) > aging.STEP_MS:
            aging.store(partition.id, stored._replace(behind_ms=behind_ms), txn)

    def last_heard(self, partition_id: int, txn: Transaction) -> int:
        """Return when a copy's origin was heard of last (ms since 1970), to an hour after a restart; 0 if never."""
        heard = self.heard.get(partition_id)
        if heard is not None:
            return heard.wall_ms
        return aging.load(partition_id, txn).heard_ms

    def _is_expired(self, partition_id: int, wall_ms: int, txn: Transaction) -> bool:
        """Tell whether a copy may go: its origin silent for so long, and nothing in it that somebody has yet to read.

        That is: the log is empty, its records having aged out; or groups have committed there, and each is at its end.
        """
        partition = self._find(partition_id, txn)
        last = self.last_heard(partition_id, txn)
        if partition is None or not last or wall_ms - last <= self._expiry_ms:
            return False
        state = partition.log.state
        if not state.batches:
            return True
        commits, whole = self._commits(partition_id, txn)
        offsets = [entry.offset for entry in commits if not entry.deleted]
        return whole and bool(offsets) and min(offsets) >= state.end

    def _commits(self, partition_id: int, txn: Transaction) -> tuple[list[SharedOffset], bool]:
        """Return what groups committed at a copy, tombstones too, and if that is all: damaged rows are left out."""
        found: list[SharedOffset] = []
        whole = True
        if partition_id in self._assigned.kept:
            for group in groups.names(partition_id, txn, deleted=True):
                try:
                    row = groups.known(partition_id, group, txn)
                except errors.CorruptRow as error:
                    self.problems[partition_id] = str(error)
                    whole = False
                    continue
                if row is not None:
                    log = self._assigned.partition(partition_id, txn).log
                    found.append(lineage.marked(row.shared(partition_id, group), log, txn))
        return found, whole
