"""The consumer: reads committed batches of one topic, from the live tail and from the log.

The log is the truth, PUB is the accelerator. For each partition the consumer knows the offset that it expects next.
A published batch that begins there is taken; one that begins later shows a gap, which a FETCH repairs; one that begins
earlier was seen.

Where the batches come from is ``feed.py``: one feed for each leader. What is held of a partition is ``cursor.py``.

A consumer of all partitions reads those that are added from their start. A topic that was deleted is an error, once
everything is taken, and so is one that was made again under the same name: its offsets are others. With
``skip_missing`` it waits for the new one and reads that from its start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.core.client.cursor import Cursor
from zfabric.core.client.feed import CALL_NS, IDLE_NS, Feed
from zfabric.core.client.pending import Pending, gather
from zfabric.model import Record
from zfabric.wire import batch, messages
from zfabric.wire.batch import HEADER_BYTES, RecordBatch
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

BUFFER_BYTES = 16 << 20
Start = int | str
"""An offset, "earliest", "latest", or "@MS": the first record at or after that many ms since 1970."""


class Consumer:
    """The consumer's state machine.

    Args:
        start: where a partition begins of which the group has committed nothing. numbers: partitions, None for all.
        skip_missing: go on at the log's start when the position has been removed, instead of raising; None: for
            memory topics only.
    """

    def __init__(
        self,
        client: Client,
        topic: str,
        *,
        group: str | None,
        start: Start,
        numbers: Sequence[int] | None,
        skip_missing: bool | None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self.topic = topic
        self.group = group
        self.cursors: dict[int, Cursor] = {}
        self.closed = False
        self.skipped = 0
        self.gaps = 0
        self._client = client
        self._start = start
        self._numbers = numbers
        self.skip_missing = skip_missing
        self.buffer_bytes = buffer_bytes
        self.by_id: dict[int, Cursor] = {}
        self._feeds: dict[int, Feed] = {}
        self._sessions: dict[int, Feed] = {}
        self._waiting: Pending[None] | None = None
        self._order: deque[int] = deque()
        self._opening: Pending[None] | None = None

    # Opening.

    def open(self, now: int, deadline_ns: int) -> Pending[None]:
        """Find the partitions and where to begin; the same result for every call."""
        if self._opening is not None and not (self._opening.done and self._opening.error):
            return self._opening
        opening = self._opening = Pending()
        wanted = self._client.want(self.topic, now, deadline_ns)

        def found() -> None:
            if wanted.error is not None:
                opening.fail(wanted.error)
                return
            meta = wanted.result()
            numbers = range(len(meta.partitions)) if self._numbers is None else self._numbers
            for number in numbers:
                if not 0 <= number < len(meta.partitions):
                    last = len(meta.partitions) - 1
                    opening.fail(errors.UnknownPartition(topic=self.topic, partition=number, last=last))
                    return
            if self.skip_missing is None:
                self.skip_missing = meta.config.durability == "memory"
            # An attempt before this one may have left those of a topic that was another.
            self.cursors.clear()
            self.by_id.clear()
            self._order.clear()
            for number in numbers:
                cursor = self.cursors[number] = Cursor(self.topic, meta.partitions[number])
                self.by_id[cursor.id] = cursor
                self._order.append(number)
            placed = self._place(list(self.cursors.values()), self._start, deadline_ns)
            placed.on_done(lambda: opening.fail(placed.error) if placed.error else opening.resolve(None))

        wanted.on_done(found)
        return opening

    def _place(self, cursors: list[Cursor], start: Start, deadline_ns: int) -> Pending[None]:
        """Set positions: what the group has committed, else the start."""
        whole: Pending[None] = Pending()
        if self.group is None:
            self._relay(
                gather([self.seek(c.number, start, self._client.now, deadline_ns, opening=True) for c in cursors]),
                whole,
            )
            return whole
        asked = gather([
            self._call(leader, Type.GET_OFFSETS, messages.GetOffsets(self.group, [c.id for c in mine]),
                       self._client.now, deadline_ns, "committed offsets")
            for leader, mine in self._by_leader(cursors).items()
        ])  # fmt: skip

        def known() -> None:
            if asked.error is not None:
                whole.fail(asked.error)
                return
            for answer in asked.result():
                for part in answer.body.parts:
                    cursor = self.by_id.get(part.partition)
                    if part.offset >= 0 and cursor is not None:
                        cursor.committed = part.offset
                        cursor.end = part.end_offset
                        cursor.clear(part.offset)
            rest = [cursor for cursor in cursors if cursor.position < 0]
            now = self._client.now
            self._relay(gather([self.seek(c.number, start, now, deadline_ns, opening=True) for c in rest]), whole)
            self.tick(now)

        asked.on_done(known)
        return whole

    def _call(self, leader: int, kind: int, body: Any, now: int, deadline_ns: int, what: str) -> Pending[Command]:
        return self._client.call_partition(leader, kind, body, now, deadline_ns, what, self.topic)

    @staticmethod
    def _relay(source: Pending[list[None]], target: Pending[None]) -> None:
        source.on_done(lambda: target.fail(source.error) if source.error else target.resolve(None))

    @staticmethod
    def _by_leader(cursors: list[Cursor]) -> dict[int, list[Cursor]]:
        grouped: dict[int, list[Cursor]] = {}
        for cursor in cursors:
            grouped.setdefault(cursor.leader, []).append(cursor)
        return grouped

    @property
    def opened(self) -> bool:
        """Whether all positions are known."""
        return self._opening is not None and self._opening.done and self._opening.error is None

    def cursor(self, number: int) -> Cursor:
        """Return a partition's cursor.

        Raises:
            UnknownPartition: this consumer does not read it.
        """
        cursor = self.cursors.get(number)
        if cursor is None:
            raise errors.UnknownPartition(topic=self.topic, partition=number, last=max(self.cursors, default=-1))
        return cursor

    def seek(self, number: int, start: Start, now: int, deadline_ns: int, *, opening: bool = False) -> Pending[None]:
        """Go on from ``start`` in one partition; comes when the offset is known.

        When a consumer that skips what is missing opens, an offset that was removed stands for the log's start.
        """
        cursor = self.cursor(number)
        done: Pending[None] = Pending()
        timestamp = {"earliest": -2, "latest": -1}.get(str(start))
        if timestamp is None and isinstance(start, str):
            timestamp = int(start.removeprefix("@"))
        wanted = messages.FindOffset(cursor.id, -1 if timestamp is None else timestamp)
        asked = self._call(
            cursor.leader, Type.FIND_OFFSETS, messages.FindOffsets([wanted]), now, deadline_ns, "offsets"
        )

        def found() -> None:
            if asked.error is not None or done.done:
                done.fail(asked.error or errors.Closed(what="seek"))
                return
            part: messages.OffsetIs = asked.result().body.parts[0]
            offset = part.offset if timestamp is not None else int(start)
            if opening and self.skip_missing:
                offset = max(offset, part.start_offset)
            if not part.start_offset <= offset <= part.end_offset:
                done.fail(self._outside(cursor, offset, part.start_offset, part.end_offset))
            else:
                cursor.clear(offset)
                cursor.end = part.end_offset
                cursor.live = False
                done.resolve(None)
                self.tick(self._client.now)

        asked.on_done(found)
        return done

    def _outside(self, cursor: Cursor, offset: int, start: int, end: int) -> errors.OffsetOutOfRange:
        return errors.OffsetOutOfRange(topic=self.topic, partition=cursor.number, offset=offset, start=start, end=end)

    # Taking.

    def ready(self) -> Pending[None]:
        """Return what comes when there may be something to take; all who ask meanwhile share it."""
        if self._waiting is None:
            self._waiting = Pending()
        waiting = self._waiting
        self.wake()
        return waiting

    def _available(self) -> bool:
        return self.closed or any((c.buffer or c.records or c.error) and not c.paused for c in self.cursors.values())

    def wake(self) -> None:
        """Let those go on who wait for something to take, if there is something."""
        if not self._available():
            return
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.resolve(None)

    def _next(self) -> Cursor | None:
        """Return the next partition, in turn, that has something."""
        for _ in range(len(self._order)):
            number = self._order[0]
            self._order.rotate(-1)
            cursor = self.cursors[number]
            if not cursor.paused and (cursor.records or cursor.buffer):
                return cursor
        for cursor in self.cursors.values():
            if cursor.error is not None and not cursor.paused:
                raise cursor.error
        return None

    def take(self, most: int) -> list[Record]:
        """Return up to ``most`` records, of one partition or several; the position moves behind them.

        Raises:
            CorruptBatch, OffsetOutOfRange: nothing else is left to take; seek to go on.
        """
        taken: list[Record] = []
        while len(taken) < most:
            if taken and not any((c.records or c.buffer) and not c.paused for c in self.cursors.values()):
                break
            cursor = self._next()
            if cursor is None:
                break
            taken += cursor.take(most - len(taken))
        return taken

    def take_batch(self) -> RecordBatch | None:
        """Return the next whole batch; the position moves behind it. Raises as :meth:`take` does."""
        cursor = self._next()
        if cursor is None:
            return None
        return cursor.take_batch()

    def rewind(self, numbers: Iterable[int], now: int) -> None:
        """Read these partitions again from their positions, which the facade had moved back."""
        for number in numbers:
            cursor = self.cursors[number]
            cursor.clear(cursor.position)
            cursor.live = False
        self.tick(now)

    # Committing.

    def commit(self, offsets: dict[int, int] | None, now: int, deadline_ns: int) -> Pending[list[Command]]:
        """Store positions (or ``offsets`` by partition number) for the group."""
        if self.group is None:
            raise errors.InvalidArgument(name="group", value="None", allowed="a consumer made with group=… to commit")
        wanted = {c.number: c.position for c in self.cursors.values()} if offsets is None else offsets
        changed = [c for number, offset in wanted.items() if (c := self.cursor(number)).committed != offset >= 0]
        calls = []
        for leader, mine in self._by_leader(changed).items():
            parts = [messages.CommitOffset(c.id, wanted[c.number]) for c in mine]
            body = messages.CommitOffsets(self.group, parts)
            call = self._call(leader, Type.COMMIT_OFFSETS, body, now, deadline_ns, "commit")
            call.on_done(lambda mine=mine, call=call: self._committed(mine, wanted, call))  # type: ignore[misc]
            calls.append(call)
        return gather(calls)

    def _committed(self, cursors: list[Cursor], offsets: dict[int, int], call: Pending[Command]) -> None:
        if call.error is None:
            for cursor in cursors:
                cursor.committed = offsets[cursor.number]

    def pause(self, numbers: Sequence[int], now: int, *, paused: bool = True) -> None:
        """Stop (or go on) taking from these partitions."""
        for number in numbers:
            self.cursor(number).paused = paused
        self.tick(now)
        self.wake()

    def close(self) -> None:
        """End the subscriptions."""
        self.closed = True
        for feed in list(self._sessions.values()):
            feed.end()
        self._sessions.clear()
        self._client.remove(self)
        self.wake()

    # For the client.

    def learn(self, meta: messages.TopicMeta, now: int) -> None:
        """Follow partitions: to where they are led now, to those that were added, to those of a topic made again."""
        if meta.name != self.topic or not self.opened:
            return
        for place in meta.partitions:
            cursor = self.cursors.get(place.number)
            if cursor is None:
                if self._numbers is None:
                    self._add(place)
            elif (cursor.id, cursor.leader) != (place.id, place.leader):
                if cursor.id != place.id:
                    self._replaced(cursor)
                self._feed(cursor.leader).subscribe(cursor, on=False)
                self.by_id.pop(cursor.id)
                self.by_id[place.id] = cursor
                cursor.id, cursor.leader, cursor.live = place.id, place.leader, False
        for number in [number for number in self.cursors if number >= len(meta.partitions)]:
            last = len(meta.partitions) - 1
            self._missing(self.cursors[number], errors.UnknownPartition(topic=self.topic, partition=number, last=last))
        self.wake()
        self.tick(now)

    def _add(self, place: messages.PartitionPlace) -> None:
        cursor = self.cursors[place.number] = Cursor(self.topic, place)
        self.by_id[cursor.id] = cursor
        self._order.append(cursor.number)

        def find() -> None:
            if not self.closed and cursor.position < 0:
                now = self._client.now
                placed = self._place([cursor], "earliest", now + CALL_NS)
                placed.on_done(lambda: self._client.after(self._client.now + IDLE_NS, find) if placed.error else None)

        find()

    def _replaced(self, cursor: Cursor) -> None:
        """The topic was made again: what this partition holds is another log."""
        cursor.committed = -1
        if self.skip_missing:
            cursor.clear(0)
        elif cursor.position >= 0:
            self._missing(cursor, self._outside(cursor, cursor.expected, 0, 0))

    def _missing(self, cursor: Cursor, error: errors.ZFabricError) -> None:
        """There is nothing to read any more: told once everything is taken, unless missing things are skipped."""
        if self.skip_missing:
            cursor.expected = -1
        elif cursor.error is None:
            cursor.error = error

    def gone(self, topic: str, now: int) -> None:
        """The topic was deleted."""
        if topic != self.topic:
            return
        if self.skip_missing:
            for feed in self._feeds.values():
                feed.retry_ns = now + IDLE_NS
        else:
            for cursor in self.cursors.values():
                self._missing(cursor, errors.UnknownTopic(topic=topic))
            self.wake()

    def published(self, session: int, frames: Sequence[Any], now: int) -> None:
        """Take a batch or a HEAD; what cannot be read is as good as lost, and repaired like that."""
        cursor = self.by_id.get(int.from_bytes(frames[0], "big")) if frames else None
        if cursor is None or not cursor.live or cursor.expected < 0:
            return
        feed = self._feeds[cursor.leader]
        if len(frames) == 2 and len(frames[1]) == messages.HEAD.size:
            cursor.end = max(cursor.end, messages.HEAD.unpack(frames[1])[0])
            if cursor.end > cursor.expected:
                feed.fall_behind(cursor, now)
            else:
                feed.heard(cursor, now)
            return
        if len(frames) != 3 or len(frames[1]) != HEADER_BYTES:
            return
        header = batch.parse(frames[1])
        if header.base_offset + header.span <= cursor.expected:
            return
        if header.base_offset != cursor.expected or batch.damage(
            frames[1], frames[2], header, cursor.id, cursor.expected
        ):
            self.gaps += 1
            feed.fall_behind(cursor, now)
        elif cursor.buffered >= self.buffer_bytes:
            feed.subscribe(cursor, on=False)
            cursor.live = False
        else:
            cursor.take_in(header, frames[2])
            feed.heard(cursor, now)
            self.wake()

    def connected(self, session: int, now: int) -> None:
        """A subscription takes effect about now."""
        feed = self._sessions.get(session)
        if feed is not None:
            feed.connected(now)

    def lost(self, session: int, now: int) -> None:
        """A subscription ended."""
        feed = self._sessions.pop(session, None)
        if feed is not None:
            feed.lost(now)

    def tick(self, now: int) -> None:
        """Fetch for whoever is behind, and for everybody after a silence."""
        if self.closed:
            return
        for leader in {cursor.leader for cursor in self.cursors.values()}:
            self._feed(leader).tick(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        deadlines = []
        for leader in {cursor.leader for cursor in self.cursors.values()}:
            feed = self._feeds.get(leader)
            wanted = 0 if feed is None else feed.next_deadline()
            if wanted is not None:
                deadlines.append(wanted)
        return min(deadlines, default=None)

    def _feed(self, leader: int) -> Feed:
        feed = self._feeds.get(leader)
        if feed is None:
            feed = self._feeds[leader] = Feed(self._client, self, leader)
        return feed

    # For its feeds.

    def opened_session(self, session: int, feed: Feed) -> None:
        """Hand what ``session`` receives on to this consumer."""
        self._sessions[session] = feed
        self._client.open(self, session)

    def outside(self, cursor: Cursor, error: errors.OffsetOutOfRange) -> None:
        """What a partition should go on from is not there any more."""
        if not self.skip_missing:
            cursor.error = error
            self.wake()
            return
        target = error.start if cursor.expected < error.start else error.end
        self.skipped += max(0, target - cursor.expected)
        cursor.expected = target
        if not cursor.buffer:
            cursor.position = target
