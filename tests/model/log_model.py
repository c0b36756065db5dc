"""What a leader's partitions are, said as simply as possible: lists of records, and what each producer sent.

It forgets nothing: ``start`` moves, the records before it stay, so that a state before a crash can be taken up again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from zfabric.model import TopicConfig
from zfabric.wire.messages import UNKNOWN_OFFSET

REMEMBERED = 8
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS


class Row(NamedTuple):
    """One record, and when the leader appended it."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    append_ms: int


class Batch(NamedTuple):
    """A batch as it was appended; ``size`` is what the log stores of it."""

    base: int
    next: int
    size: int
    append_ms: int


class Op(NamedTuple):
    """One PRODUCE. ``first`` and ``last`` are the producer's sequences; ``size`` counts header and payload."""

    part: int
    producer: int
    epoch: int
    first: int
    last: int
    sparse: bool
    rows: tuple[tuple[int, bytes | None, bytes | None], ...]
    size: int


class Answer(NamedTuple):
    """What the leader has to say: an error's name, or the base offset and whether it is a duplicate."""

    error: str = ""
    base: int = -1
    duplicate: bool = False


class Sent(NamedTuple):
    """A batch that a producer may repeat."""

    first: int
    last: int
    base: int
    sparse: bool


@dataclass
class Producer:
    """What a partition knows of one producer."""

    epoch: int = 0
    last: int = -1
    sparse_last: int = -1
    touched_ms: int = 0
    batches: tuple[Sent, ...] = ()

    @property
    def kept_ms(self) -> int:
        """How long it may be idle."""
        return WEEK_MS if self.sparse_last < 0 else 400 * DAY_MS


@dataclass
class Part:
    """One partition.

    Attributes:
        justified: the furthest start that retention could ever explain.
        compacted: was ever subject to compaction. tombstone_ms: the shortest life that tombstones ever had.
    """

    id: int
    topic: str
    number: int
    config: TopicConfig
    records: dict[int, Row] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    producers: dict[int, Producer] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    start: int = 0
    end: int = 0
    justified: int = 0
    compacted: bool = False
    tombstone_ms: int = 1 << 60

    def configure(self, config: TopicConfig) -> None:
        """Take a configuration; what an earlier one removed stays removed."""
        self.config = config
        if "compact" in config.cleanup:
            self.compacted = True
            self.tombstone_ms = min(self.tombstone_ms, config.tombstone_ms)

    def copy(self) -> Part:
        """Return one that changes on its own."""
        producers = {name: replace(producer) for name, producer in self.producers.items()}
        return replace(
            self, records=dict(self.records), batches=list(self.batches), producers=producers, groups=dict(self.groups)
        )

    def judge(self, op: Op) -> Answer | None:
        """Return the answer to a batch that is not to be stored; None if it is new and next."""
        known = self.producers.get(op.producer)
        if op.producer == 0:
            return None
        if known is None:
            return Answer("UnknownProducer") if op.first and not op.sparse else None
        if op.epoch < known.epoch:
            return Answer("ProducerFenced")
        if not op.sparse and op.epoch > known.epoch:
            return Answer("OutOfOrderSequence") if op.first else None
        following = (known.sparse_last if op.sparse else known.last) + 1
        if op.first == following or (op.sparse and op.first > following):
            return None
        if op.first > following:
            return Answer("OutOfOrderSequence")
        for sent in known.batches:
            if (sent.first, sent.last, sent.sparse) == (op.first, op.last, op.sparse):
                return Answer(base=sent.base, duplicate=True)
        if op.last >= following:
            return Answer("ProtocolViolation")
        return Answer(base=UNKNOWN_OFFSET, duplicate=True)

    def apply(self, op: Op, wall_ms: int) -> Answer:
        """Store a batch, or say why not."""
        refused = self.judge(op)
        if refused is not None:
            return refused
        base, self.end = self.end, self.end + len(op.rows)
        for distance, row in enumerate(op.rows):
            self.records[base + distance] = Row(*row, wall_ms)
        self.batches.append(Batch(base, self.end, op.size, wall_ms))
        if op.producer:
            known = self.producers.setdefault(op.producer, Producer())
            if op.epoch > known.epoch:
                known.epoch, known.last, known.batches = op.epoch, -1, ()
            if op.sparse:
                known.sparse_last = op.last
            else:
                known.last = op.last
            known.touched_ms = wall_ms
            known.batches = (*known.batches, Sent(op.first, op.last, base, op.sparse))[-REMEMBERED:]
        return Answer(base=base)

    def begin(self, producer: int, wall_ms: int) -> tuple[int, int]:
        """Start a named producer; returns its epoch and its last sparse sequence."""
        known = self.producers.get(producer)
        if known is None:
            known = self.producers[producer] = Producer()
        else:
            known.epoch, known.last, known.batches = known.epoch + 1, -1, ()
        known.touched_ms = wall_ms
        return known.epoch, known.sparse_last

    def bound(self, wall_ms: int) -> int:
        """Return the start that retention asks for now, at most; of batches that compaction joined, any."""
        if "delete" not in self.config.cleanup:
            return self.start
        if self.compacted:
            return self.end
        config, left = self.config, [batch for batch in self.batches if batch.next > self.start]
        size = sum(batch.size for batch in left)
        place = self.start
        while left:
            big = 0 <= config.retention_bytes < size and len(left) > 1
            old = config.retention_ms >= 0 and left[0].append_ms < wall_ms - config.retention_ms
            if not big and not old:
                break
            batch = left.pop(0)
            size -= batch.size
            place = left[0].base if left else batch.next
        return place

    def restarted(self, end: int) -> None:
        """The ring of a memory topic is gone; its offsets go on from ``end``."""
        assert end >= self.end
        self.start = self.end = self.justified = end
        self.records.clear()
        self.batches.clear()
        self.producers.clear()

    def may_be_gone(self, offset: int, wall_ms: int) -> bool:
        """Tell whether compaction may have taken a record: superseded, or a tombstone whose time is over."""
        row = self.records[offset]
        if not self.compacted or row.key is None:
            return False
        if any(later.key == row.key for place, later in self.records.items() if place > offset):
            return True
        return row.value is None and row.append_ms < wall_ms - self.tombstone_ms

    def at_or_after(self, timestamp: int) -> list[int]:
        """Return the offsets of records at or after a timestamp, in order."""
        return [place for place in range(self.start, self.end) if self.records[place].timestamp >= timestamp]


class Model:
    """All partitions, by id."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}

    def copy(self) -> Model:
        """Return one that changes on its own."""
        other = Model()
        other.parts = {number: part.copy() for number, part in self.parts.items()}
        return other

    def forget_idle(self, wall_ms: int) -> None:
        """Producers are remembered for a week, or for 400 days if they sent the application's sequences."""
        for part in self.parts.values():
            if part.config.durability != "memory":
                idle = [name for name, known in part.producers.items() if known.touched_ms < wall_ms - known.kept_ms]
                for name in idle:
                    del part.producers[name]
