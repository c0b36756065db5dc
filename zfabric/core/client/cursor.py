"""What a consumer holds for one partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from zfabric import errors
from zfabric.core.client.routes import Place, log_of
from zfabric.model import Record
from zfabric.wire import batch, messages
from zfabric.wire.batch import COMPACTED, HEADER_BYTES, BatchHeader
from zfabric.wire.metadata import PartitionPlace
from zfabric.wire.received import RecordBatch, stamp_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zfabric.core.client.candidates import Candidates

Named = TypeVar("Named", bound=errors.ZFabricError)


class Tally:
    """Bytes that all cursors of one consumer hold, batches with their headers.

    Args:
        limit: of all together; None if each has its own alone. eased: is called when they are fewer than that again.
    """

    __slots__ = ("bytes", "eased", "limit")

    def __init__(self, limit: int | None = None, eased: Callable[[], None] | None = None) -> None:
        self.bytes = 0
        self.limit = limit
        self.eased = eased


class Cursor:
    """One partition: where the application is, where receiving is, and what lies between.

    Attributes:
        position: next offset for the application, or -1 while unknown. expected: next offset to receive.
        there: its number at the leader, which is not that of a mesh.
        log: what stays the same while this is the same log, wherever it is read. copy: it is read at a keeper.
        subscribed: the leader was asked to publish here.
        stamp: what the header of the next record has to say for that to be handed on past the buffer, None while it
            may not be; see ``arrivals.py``.
        heard_ns: when something was published last (monotonic); 0 where that is no sign that nothing is missing.
        seen: end of the last batch received, 0 without one; its epoch and append time (ms, 0 if it was compacted).
        first: base offset and append time of the first one of that epoch.
        untouched: it begins wherever the log does, and nothing was received yet.
        end: end offset last heard of. committed: as stored for the group.
        told: the application was told of the error. mendable: others may have what is damaged here.
        tally: what all of its consumer's cursors hold. place: its place among them. lists: the candidates' lists that
            hear of its changes: what is stocked, what failed, what is behind.
    """

    def __init__(self, topic: str, at: PartitionPlace, place: int) -> None:
        self.topic = topic
        self.place = place
        self.lists: tuple[Candidates, ...] = ()
        self.id = at.id
        self.number = at.number
        self.leader = at.leader
        self.there = at.there if isinstance(at, Place) else at.number
        self.log = log_of(at)
        self.copy = isinstance(at, Place) and at.copy
        self.position = -1
        self.expected = -1
        self.end = -1
        self.committed = -1
        self.untouched = False
        self.forget()
        self.buffer: deque[RecordBatch] = deque()
        self.tally = Tally()
        self._buffered = 0
        self.records: list[Record] = []
        self.taken = 0
        self._paused = False
        self._live = False
        self.stamp: bytes | None = None
        self.subscribed = False
        self.heard_ns = 0
        self.told = self.mendable = False
        self._error: errors.ZFabricError | None = None

    def forget(self) -> None:
        """What was received is none of the log that is read now."""
        self.seen = self.epoch = self.seen_ms = 0
        self.first = (0, 0)
        self.stamp = None

    def wanted(self) -> messages.FetchPart:
        """Return what to ask the leader for, and what it is to compare first."""
        return messages.FetchPart(self.id, self.expected, *self.read())

    def read(self) -> tuple[int, int, int, int, int]:
        """Return what tells which log was read, as FETCH and COMMIT_OFFSETS say it."""
        return self.seen, self.epoch, self.seen_ms, *self.first

    def resume(self, offset: int, epoch: int, append_time: int) -> None:
        """Go on where a group has committed, in a log that has a batch of this epoch and time before that."""
        self.clear(offset)
        if epoch:
            self.seen, self.epoch, self.seen_ms, self.first = offset, epoch, append_time, (offset, 0)
            self.stamp = None

    def _settle(self) -> None:
        """Find out whether the next record may be handed on: nothing stops it, and its log's epoch is known well."""
        flows = self._live and not self._paused and self._error is None and self.first[1]
        self.stamp = stamp_of(self.id, self.epoch) if flows else None

    def changed(self) -> None:
        """Tell the lists that there may be something to take here, or something to ask for."""
        self._settle()
        for candidates in self.lists:
            candidates.note(self)

    @property
    def paused(self) -> bool:
        """Whether the application wants nothing of it."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self.changed()

    @property
    def buffered(self) -> int:
        """Bytes that were received and not taken."""
        return self._buffered

    @buffered.setter
    def buffered(self, size: int) -> None:
        self._let_go(self._buffered - size)

    def _hold(self, more: int) -> None:
        self.tally.bytes += more
        self._buffered += more

    def _let_go(self, less: int) -> None:
        self._buffered -= less
        tally = self.tally
        before = tally.bytes
        tally.bytes = left = before - less
        if tally.limit is not None and left < tally.limit <= before and tally.eased is not None:
            tally.eased()

    @property
    def live(self) -> bool:
        """Whether published batches are taken."""
        return self._live

    @live.setter
    def live(self, live: bool) -> None:
        self._live = live
        self.changed()

    @property
    def error(self) -> errors.ZFabricError | None:
        """Why it cannot go on: raised once everything before it is taken."""
        return self._error

    @error.setter
    def error(self, error: errors.ZFabricError | None) -> None:
        self._error = error
        self.told = self.mendable = False
        self.changed()

    def fail(self, error: errors.ZFabricError) -> None:
        """It cannot go on for what its leader has said, or sent: told once, however often the same is found."""
        known = self._error
        if not (self.mendable and type(known) is type(error) and _first(known) == _first(error)):
            self.error = error
            self.mendable = isinstance(error, errors.CorruptBatch | errors.CorruptRow)

    def move(self, at: PartitionPlace) -> None:
        """Read it elsewhere from now on, from where it is."""
        self.id, self.leader, self.live = at.id, at.leader, False
        self.there = at.there if isinstance(at, Place) else at.number
        self.log = log_of(at)
        self.copy = isinstance(at, Place) and at.copy

    def clear(self, offset: int) -> None:
        """Go on from ``offset``, forgetting what was buffered."""
        self.position = self.expected = offset
        self.untouched = False
        self.buffer.clear()
        self.buffered = 0
        self.records, self.taken = [], 0
        self.error = None

    @property
    def behind(self) -> bool:
        """Whether a fetch is wanted at once."""
        return not self.live and not self.paused and self.error is None and self.expected >= 0

    # Receiving.

    def follows(self, frames: Sequence[Any]) -> BatchHeader | None:
        """Return the header of a publication if that is the next batch here, whole, and of the log that is read."""
        if not self._live or len(frames) != 3 or len(frames[1]) != HEADER_BYTES:
            return None
        _, raw, payload = frames
        header = batch.parse(raw)
        if self.seen and header.leader_epoch != self.epoch:
            return None
        return None if batch.damage(raw, payload, header, self.id, self.expected) else header

    def _advance(self, base_offset: int, end: int, epoch: int, append_time: int) -> None:
        """A batch was received."""
        self.untouched = False
        if self.mendable:
            self.error = None  # What could not be read has come.
        self.seen = self.expected = end
        self.seen_ms = append_time
        if epoch != self.epoch or not self.first[1]:
            self.epoch, self.first = epoch, (base_offset, append_time)
            self._settle()
        self.end = max(self.end, end)

    def take_in(self, header: BatchHeader, payload: Any) -> None:
        """Buffer a batch that covers the expected offset and was checked."""
        first = 0
        if header.base_offset < self.expected:
            first = self.expected - header.base_offset
        entry = RecordBatch(self.topic, self.number, header, payload, first)
        if first and header.flags & COMPACTED:
            entry.first = sum(1 for distance in entry.decoded().distances if distance < first)
        append_time = 0 if header.flags & COMPACTED else header.append_time
        self._advance(header.base_offset, header.next_offset, header.leader_epoch, append_time)
        if header.records > entry.first:
            self.buffer.append(entry)
            self._hold(header.payload_length + HEADER_BYTES)
            if self.lists:
                self.lists[0].note(self)  # Of no other list can it have become one.
        elif not self.buffer:
            self.position = self.expected

    def take_blob(self, piece: memoryview) -> None:
        """Buffer the batches of a fetch; damage becomes :attr:`error`, behind what came before it."""
        try:
            for header, raw, payload in batch.split(piece):
                problem = batch.damage(raw, payload, header, self.id, header.base_offset)
                if problem:
                    self._damaged(problem)
                    return
                if header.base_offset <= self.expected < header.next_offset:
                    self.take_in(header, payload)
        except errors.CorruptBatch as error:
            self.fail(self.named(error))
        except errors.ProtocolViolation as error:
            self._damaged(str(error))

    def _damaged(self, problem: str) -> None:
        offset = self.expected
        self.fail(
            self.named(
                errors.CorruptBatch(
                    topic=self.topic, partition=self.number, offset=offset, next_offset=offset + 1, problem=problem
                )
            )
        )

    def named(self, error: Named) -> Named:
        """Return an error of this partition with the number and the origin by which users know it."""
        origin = {"origin": self.log[0]} if self.log[0] else {}
        return type(error)(**error.values | {"partition": self.number} | origin)

    # Taking.

    def take(self, most: int) -> list[Record]:
        """Return up to ``most`` records of the first buffered batch; the position moves behind them."""
        self._load()
        records, taken = self.records, self.taken
        rest = len(records) - taken
        found = records if not taken and rest <= most else records[taken : taken + most]
        self.taken += min(rest, most)
        self._moved()
        return found

    def take_batch(self) -> RecordBatch:
        """Return the first buffered batch; the position moves behind it."""
        if self.records:
            # Some of it was taken as records: what is left is a batch that begins further on.
            self.buffer[0].first += self.taken
            self.records, self.taken = [], 0
        first = self.buffer.popleft()
        self.buffered -= first.header.payload_length + HEADER_BYTES
        self.position = first.header.next_offset if self.buffer else self.expected
        self.changed()
        return first

    def _load(self) -> None:
        if self.records:
            return
        try:
            self.records = self.buffer[0].records()
        except errors.CorruptBatch as error:
            self.buffer.clear()
            self.buffered = 0
            self.error = self.named(error)
            self.expected = self.position
        self.taken = 0

    def _moved(self) -> None:
        """The application took records of the first buffered batch."""
        if self.taken < len(self.records):
            self.position = self.records[self.taken].offset
            return
        if self.buffer:
            first = self.buffer.popleft()
            self._let_go(first.header.payload_length + HEADER_BYTES)
            self.position = first.header.next_offset if self.buffer else self.expected
            self.records, self.taken = [], 0
            for candidates in self.lists[1:]:
                candidates.note(self)
            return
        self.records, self.taken = [], 0


def _first(error: errors.ZFabricError | None) -> object:
    """Return where damage begins, as far as an error says that."""
    return error.offset if isinstance(error, errors.CorruptBatch) else None
