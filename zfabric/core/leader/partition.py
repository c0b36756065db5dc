"""One partition as a leader holds it in memory: its configuration, log and producers, loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.leader import aging
from zfabric.core.leader.compaction import Compactor, due, overdue
from zfabric.core.leader.log import StoredLog, load_state
from zfabric.core.leader.memory import MemoryLog
from zfabric.core.leader.producers import ProducerTable
from zfabric.core.transaction import Transaction
from zfabric.model import TopicConfig

if TYPE_CHECKING:
    from zfabric.core.leader.express import Express

DURABILITY_CODE = {"fsync": 0, "os": 1, "memory": 2}


class Partition:
    """A led partition.

    Attributes:
        id: number in the fabric. topic, number: name, and number within it.
        durability: code of what an ack means here.
        express: the short way of lone batches, if one was asked for.
        compactor: the pass of compaction under way. damaged: the last one ended at a damaged batch.
        groups, tombstones: how many groups have committed here, and were deleted; -1 while they are not counted.
        tidy_due_ms: when to look for tombstones that have expired.
        behind_ms: by how much the clock is behind that has stamped what is here: of a copy's origin; see ``aging.py``.
        published: end offset of the last batch or HEAD that was published; head_due_ns: when to publish a HEAD, or 0.
    """

    __slots__ = (
        "behind_ms",
        "compactor",
        "config",
        "damaged",
        "durability",
        "express",
        "groups",
        "head_due_ns",
        "id",
        "log",
        "number",
        "producers",
        "published",
        "tidy_due_ms",
        "tombstones",
        "topic",
    )

    def __init__(self, id: int, topic: str, number: int, config: TopicConfig, txn: Transaction) -> None:
        state = load_state(id, txn)
        memory = config.durability == "memory"
        self.id = id
        self.topic = topic
        self.number = number
        self.config = config
        self.durability = DURABILITY_CODE[config.durability]
        self.log: StoredLog | MemoryLog = (MemoryLog if memory else StoredLog)(id, topic, number, state)
        self.producers = ProducerTable(id, state.producers, stored=not memory)
        self.groups = self.tombstones = -1
        self.tidy_due_ms = 0
        self.behind_ms = 0 if memory else aging.load(id, txn).behind_ms
        self.compactor: Compactor | None = None
        self.damaged = False
        self.head_due_ns = 0
        self.published = -1
        self.express: Express | None = None

    def wants_compaction(self, wall_ms: int, after_ms: int, txn: Transaction) -> bool:
        """Tell whether a pass is under way or has to begin; see ``compaction.py``."""
        log, config = self.log, self.config
        if "compact" not in config.cleanup or not isinstance(log, StoredLog):
            return False
        if self.compactor is not None or due(log):
            return True
        # A damaged batch stays, and time alone would begin pass after pass that ends there.
        return not self.damaged and overdue(log, config, wall_ms, after_ms, txn)

    def compact(self, wall_ms: int, most_bytes: int, txn: Transaction) -> bool:
        """Do one step of a pass; tells whether more is to be done."""
        assert isinstance(self.log, StoredLog)
        if self.compactor is None:
            self.compactor = Compactor(self.log)
        try:
            over = self.compactor.step(self.config, wall_ms, most_bytes, txn)
            self.damaged = False
        except errors.CorruptBatch:
            # The reader of that batch is told; a pass over damage would take the evidence away.
            self.log.state.clean_bytes = self.log.state.bytes
            self.damaged = over = True
        if over:
            self.compactor = None
        return not over

    def flush(self, txn: Transaction) -> None:
        """Write what changed in this turn: producers' rows, then the state row that counts them."""
        self.producers.flush(txn)
        if self.log.state.producers != self.producers.rows:
            self.log.state.producers = self.producers.rows
            if isinstance(self.log, StoredLog):
                self.log.touch()
        self.log.flush(txn)
