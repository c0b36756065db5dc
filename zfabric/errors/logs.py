"""What producers and consumers meet in a log."""

from __future__ import annotations

from zfabric.errors.base import ZFabricError


class OutOfOrderSequence(ZFabricError):
    """A batch does not follow the producer's last one; one before it is missing."""

    code = 30
    retriable = True
    template = (
        "partition id {partition}, producer {producer:#x} epoch {epoch}: got sequence {sequence}, expected {expected}"
    )
    partition: int
    producer: int
    epoch: int
    sequence: int
    expected: int


class UnknownProducer(ZFabricError):
    """The leader remembers nothing of this producer, whose sequence does not begin at zero."""

    code = 31
    template = "partition id {partition} knows no producer {producer:#x}; it must begin a new epoch"
    partition: int
    producer: int


class ProducerFenced(ZFabricError):
    """A newer instance of the same named producer is at work."""

    code = 32
    template = (
        "producer {producer:#x} epoch {epoch} is fenced: epoch {current} is at work on partition id {partition}; "
        "stop this instance"
    )
    partition: int
    producer: int
    epoch: int
    current: int


class OffsetOutOfRange(ZFabricError):
    """The asked offset is not, or no longer, in the log. ``origin`` is whose that is among peers, else ""."""

    code = 33
    origin = ""
    template = (
        "topic {topic!r} partition {partition}{whose}: offset {offset} is outside the log; allowed: {start} to {end}; "
        "seek to one of them"
    )
    topic: str
    partition: int
    offset: int
    start: int
    end: int

    @property
    def next_offset(self) -> int:
        """Where reading can go on: the nearest offset that there is."""
        return min(max(self.offset, self.start), self.end)


class LogRewound(OffsetOutOfRange):
    """What was read is not in the log any more, which went on differently: its data was set back, say to a backup.

    A power cut does that to a topic with ``durability="os"`` as well. Records from ``parted`` on are others than those
    that were read; ``start`` and ``end`` are those of the log as it is now.
    """

    code = 39
    template = (
        "topic {topic!r} partition {partition}{whose}: what was read before offset {offset} is not in the log, which "
        "was set back: {problem}; its records from {parted} on are others: seek there to read them; "
        "allowed: {start} to {end}"
    )
    topic: str
    partition: int
    offset: int
    start: int
    end: int
    parted: int
    problem: str

    @property
    def next_offset(self) -> int:
        """Where reading can go on: where the logs part, or where this one begins by now."""
        return max(self.parted, self.start)


class CorruptBatch(ZFabricError):
    """A stored or received batch does not match its checksum or cannot be decoded.

    ``origin`` is whose it is among peers, else "".
    """

    code = 34
    origin = ""
    template = (
        "topic {topic!r} partition {partition}{whose} offset {offset}: {problem}; "
        "later offsets stay readable from {next_offset}; run 'zfabric doctor'"
    )
    topic: str
    partition: int
    offset: int
    next_offset: int
    problem: str


class CorruptRow(ZFabricError):
    """A small row of a leader (the state of a partition, a producer, a group, a topic) cannot be decoded."""

    code = 36
    template = "{what} cannot be read: {problem}; others are not concerned; run 'zfabric doctor'"
    what: str
    problem: str


class DeserializerFailed(ZFabricError):
    """The consumer's deserializer raised for a record, and that is the cause. Seek to ``next_offset`` to go on."""

    code = 27
    template = (
        "topic {topic!r} partition {partition} offset {offset}: the deserializer raised {problem}; "
        "seek to {next_offset} to go on"
    )
    topic: str
    partition: int
    offset: int
    next_offset: int
    problem: str
