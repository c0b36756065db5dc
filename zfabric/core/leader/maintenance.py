"""What a leader does in its own time: retention, compaction, expiry of producers, removal of deleted partitions.

Never a pause: each step is bounded (so many batches, bytes, rows), and a turn holds one step of each kind. While
something is left the next step follows after 5 ms, else after the maintenance interval; each such step sweeps over a
hundred partitions, the next one over the following hundred.

A deleted partition's rows are removed table by table; its row DOOMED goes last, so that a crash in between only means
to go on.
"""

from __future__ import annotations

from zfabric import errors
from zfabric.core.leader import groups, keys
from zfabric.core.leader.assigned import Assigned
from zfabric.core.leader.counters import Counters
from zfabric.core.leader.log import StoredLog
from zfabric.core.leader.partition import Partition
from zfabric.core.transaction import Transaction
from zfabric.settings import LeaderSettings

TRIM_STEP = 64
COMPACT_STEP_BYTES = 4 << 20
DOOMED_STEP = 256
EXPIRE_STEP = 256
SWEEP_PARTITIONS = 100
BUSY_NS = 5_000_000
_DOOMED_TABLES = (keys.BATCH, keys.EPOCH, keys.GROUP, keys.STATE, keys.PRODUCER, keys.TIME, keys.HEARD)


class Maintenance:
    """The sweep over a leader's partitions.

    Attributes:
        due_ns: when :meth:`step` is wanted next (monotonic).
        changed: partitions whose rows the last step changed. must_sync: it changed something that is stored.
    """

    def __init__(self, assigned: Assigned, settings: LeaderSettings, counters: Counters) -> None:
        self.due_ns = 0
        self.changed: list[Partition] = []
        self.must_sync = False
        self._assigned = assigned
        self._settings = settings
        self._counters = counters
        self._doomed: list[int] = []
        self._sweep: list[int] = []
        self._expiring: dict[int, int] = {}

    def load(self, txn: Transaction) -> None:
        """Read which partitions were deleted and still have rows."""
        self._doomed.clear()
        cursor = txn.cursor()
        found = cursor.set_range(keys.DOOMED)
        while found and bytes(cursor.key()[:1]) == keys.DOOMED:
            self._doomed.append(keys.split_id(cursor.key())[0])
            found = cursor.next()

    def doom(self, partition_id: int) -> None:
        """A partition was deleted: remove what it held."""
        self._doomed.append(partition_id)
        self._expiring.pop(partition_id, None)

    def postpone(self, now: int) -> None:
        """Do the next step after a whole interval: there is no room for it now."""
        self.due_ns = now + self._settings.maintenance_ms * 1_000_000

    def next_deadline(self) -> int | None:
        """When :meth:`step` is wanted next; None while there is nothing to look after."""
        return self.due_ns if self._assigned.places or self._doomed else None

    def step(self, now: int, wall_ms: int, txn: Transaction) -> None:
        """Do one step of everything; :attr:`changed` and :attr:`must_sync` tell what the turn has to write."""
        self.changed, self.must_sync = [], False
        busy = self._remove_doomed(txn)
        places = self._assigned.places
        if not self._sweep:
            self._sweep = list(places)
        for _ in range(min(SWEEP_PARTITIONS, len(self._sweep))):
            partition_id = self._sweep.pop()
            if partition_id in places:
                try:
                    more = self._partition_step(partition_id, wall_ms, txn)
                except errors.CorruptRow:
                    self._counters.errors += 1  # Whoever uses the partition is told.
                    continue
                if more:
                    # One full step is enough for a turn, and those that wait come before the next one here.
                    self._sweep.insert(0, partition_id)
                    busy = True
                    break
        self.due_ns = now + (BUSY_NS if busy else self._settings.maintenance_ms * 1_000_000)

    def _partition_step(self, partition_id: int, wall_ms: int, txn: Transaction) -> bool:
        """Do one step of retention, compaction and expiry; tells whether more is waiting."""
        partition = self._assigned.partition(partition_id, txn)
        config, log = partition.config, partition.log
        age_ms = wall_ms - partition.behind_ms  # Now, by the clock that has stamped what is here.
        removed = log.trim(config, age_ms, TRIM_STEP, txn) if "delete" in config.cleanup else 0
        self._counters.trimmed += removed
        busy = removed == TRIM_STEP
        if removed:
            self._note(partition)
        if isinstance(log, StoredLog):
            if partition.wants_compaction(age_ms, self._settings.compact_after_ms, txn):
                busy |= partition.compact(age_ms, COMPACT_STEP_BYTES, txn)
                self._counters.errors += partition.damaged
                self._note(partition)
            if self._expire(partition, wall_ms, txn):
                self._note(partition)
        if groups.is_untidy(partition, wall_ms):
            self.must_sync |= groups.tidy(partition, wall_ms, txn)
        return busy

    def _note(self, partition: Partition) -> None:
        self.changed.append(partition)
        self.must_sync |= isinstance(partition.log, StoredLog)

    def _expire(self, partition: Partition, wall_ms: int, txn: Transaction) -> bool:
        after = self._expiring.get(partition.id, 0)
        removed, after = partition.producers.expire(wall_ms, EXPIRE_STEP, max(after, 0), txn)
        self._expiring[partition.id] = after
        return removed > 0

    def _remove_doomed(self, txn: Transaction) -> bool:
        """Remove some rows of deleted partitions; tells whether more are left."""
        left = DOOMED_STEP
        while self._doomed and left:
            partition_id = self._doomed[-1]
            for table in _DOOMED_TABLES:
                mine = keys.prefix(table, partition_id)
                cursor = txn.cursor()
                while left and cursor.set_range(mine) and bytes(cursor.key()[:5]) == mine:
                    txn.delete(bytes(cursor.key()))
                    cursor = txn.cursor()
                    left -= 1
            if left:
                txn.delete(keys.doomed(partition_id))
                self._doomed.pop()
                left -= 1
            self.must_sync = True
        return bool(self._doomed)
