"""The consumer: reads committed batches of one topic, from the live tail and from the log.

The log is the truth, PUB is the accelerator. For each partition the consumer knows the offset that it expects next.
A published batch that begins there is taken; one that begins later shows a gap, which a FETCH repairs; one that begins
earlier was seen. A HEAD beacon, or half a second of silence, makes it ask by FETCH whether something was missed, so a
lost publication delays a record and never loses it.

A partition is LIVE while it is subscribed, and BEHIND while it must fetch. It begins BEHIND; when a fetch reaches the
end it subscribes, and fetches once more to cover what was committed in between. When its buffer is full it drops what
is published, unsubscribes and is BEHIND again: a slow consumer costs the leader a fetch now and then, nothing else.

Each FETCH asks one leader for all partitions that need one; one is under way for each leader. They stand in another
order each time, because the first may take all that an answer holds.

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
from zfabric.core.client.pending import Pending, gather
from zfabric.core.effects import CloseSession, OpenSession, Subscribe
from zfabric.model import Record
from zfabric.wire import batch, messages
from zfabric.wire.batch import COMPACTED, HEADER_BYTES, RecordBatch
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

FETCH_BYTES = 2 << 20
BUFFER_BYTES = 16 << 20
IDLE_NS = 500_000_000
SETTLE_NS = 5_000_000
RETRY_NS = 50_000_000
RETRY_MAX_NS = 2_000_000_000
CALL_NS = 30_000_000_000
Start = int | str
"""An offset, "earliest", "latest", or "@MS": the first record at or after that many ms since 1970."""


class _Leader:
    """One leader that this consumer reads from: its subscription session and its fetch.

    Attributes:
        pause_ns: before another session; grows while sessions end before they are connected (no descriptor is left).
    """

    def __init__(self) -> None:
        self.session: int | None = None
        self.endpoint = ""
        self.fetching = False
        self.due_ns: int | None = None
        self.retry_ns: int | None = None
        self.pause_ns = RETRY_NS
        self.turns = 0


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
        self._skip_missing = skip_missing
        self._buffer_bytes = buffer_bytes
        self._by_id: dict[int, Cursor] = {}
        self._leaders: dict[int, _Leader] = {}
        self._sessions: dict[int, int] = {}
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
            if self._skip_missing is None:
                self._skip_missing = meta.config.durability == "memory"
            # An attempt before this one may have left those of a topic that was another.
            self.cursors.clear()
            self._by_id.clear()
            self._order.clear()
            for number in numbers:
                cursor = self.cursors[number] = Cursor(meta.partitions[number])
                self._by_id[cursor.id] = cursor
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
                    cursor = self._by_id.get(part.partition)
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
            if opening and self._skip_missing:
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
        self._wake()
        return waiting

    def _available(self) -> bool:
        return self.closed or any((c.buffer or c.records or c.error) and not c.paused for c in self.cursors.values())

    def _wake(self) -> None:
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
            self._load(cursor)
            room = most - len(taken)
            rest = len(cursor.records) - cursor.taken
            if not cursor.taken and rest <= room:
                taken += cursor.records
            else:
                taken += cursor.records[cursor.taken : cursor.taken + room]
            cursor.taken += min(rest, room)
            self._moved(cursor)
        return taken

    def take_batch(self) -> RecordBatch | None:
        """Return the next whole batch; the position moves behind it. Raises as :meth:`take` does."""
        cursor = self._next()
        if cursor is None:
            return None
        if cursor.records:
            # Some of it was taken as records: what is left is a batch that begins further on.
            last = cursor.buffer[0]
            last.first += cursor.taken
            cursor.records, cursor.taken = [], 0
        batch = cursor.buffer.popleft()
        cursor.buffered -= batch.header.payload_length + HEADER_BYTES
        cursor.position = batch.header.next_offset if cursor.buffer else cursor.expected
        return batch

    def rewind(self, numbers: Iterable[int], now: int) -> None:
        """Read these partitions again from their positions, which the facade had moved back."""
        for number in numbers:
            cursor = self.cursors[number]
            cursor.clear(cursor.position)
            cursor.live = False
        self.tick(now)

    def _load(self, cursor: Cursor) -> None:
        if cursor.records:
            return
        try:
            cursor.records = cursor.buffer[0].records()
        except errors.CorruptBatch as error:
            cursor.buffer.clear()
            cursor.buffered = 0
            cursor.error = error
            cursor.expected = cursor.position
        cursor.taken = 0

    def _moved(self, cursor: Cursor) -> None:
        """The application took records of the first buffered batch."""
        if cursor.taken < len(cursor.records):
            cursor.position = cursor.records[cursor.taken].offset
            return
        if cursor.buffer:
            batch = cursor.buffer.popleft()
            cursor.buffered -= batch.header.payload_length + HEADER_BYTES
            cursor.position = batch.header.next_offset if cursor.buffer else cursor.expected
        cursor.records, cursor.taken = [], 0

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
        self._wake()

    def close(self) -> None:
        """End the subscriptions."""
        self.closed = True
        for session in list(self._sessions):
            self._client.requests.effect(CloseSession(session))
            self._client.shut(session)
        self._sessions.clear()
        self._client.remove(self)
        self._wake()

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
                self._subscribe(cursor, on=False)
                self._by_id.pop(cursor.id)
                self._by_id[place.id] = cursor
                cursor.id, cursor.leader, cursor.live = place.id, place.leader, False
        for number in [number for number in self.cursors if number >= len(meta.partitions)]:
            last = len(meta.partitions) - 1
            self._missing(self.cursors[number], errors.UnknownPartition(topic=self.topic, partition=number, last=last))
        self._wake()
        self.tick(now)

    def _add(self, place: messages.PartitionPlace) -> None:
        cursor = self.cursors[place.number] = Cursor(place)
        self._by_id[cursor.id] = cursor
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
        if self._skip_missing:
            cursor.clear(0)
        elif cursor.position >= 0:
            self._missing(cursor, self._outside(cursor, cursor.expected, 0, 0))

    def _missing(self, cursor: Cursor, error: errors.ZFabricError) -> None:
        """There is nothing to read any more: told once everything is taken, unless missing things are skipped."""
        if self._skip_missing:
            cursor.expected = -1
        elif cursor.error is None:
            cursor.error = error

    def gone(self, topic: str, now: int) -> None:
        """The topic was deleted."""
        if topic != self.topic:
            return
        if self._skip_missing:
            for leader in self._leaders.values():
                leader.retry_ns = now + IDLE_NS
        else:
            for cursor in self.cursors.values():
                self._missing(cursor, errors.UnknownTopic(topic=topic))
            self._wake()

    def published(self, session: int, frames: Sequence[Any], now: int) -> None:
        """Take a batch or a HEAD; what cannot be read is as good as lost, and repaired like that."""
        cursor = self._by_id.get(int.from_bytes(frames[0], "big")) if frames else None
        if cursor is None or not cursor.live or cursor.expected < 0:
            return
        leader = self._leaders[cursor.leader]
        if len(frames) == 2 and len(frames[1]) == messages.HEAD.size:
            cursor.end = max(cursor.end, messages.HEAD.unpack(frames[1])[0])
            if cursor.end > cursor.expected:
                self._fall_behind(cursor, now)
            else:
                leader.due_ns = now + IDLE_NS
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
            self._fall_behind(cursor, now)
        elif cursor.buffered >= self._buffer_bytes:
            self._subscribe(cursor, on=False)
            cursor.live = False
        else:
            self._take_in(cursor, header, frames[2])
            leader.due_ns = now + IDLE_NS
            self._wake()

    def _fall_behind(self, cursor: Cursor, now: int) -> None:
        cursor.live = False
        self._fetch(cursor.leader, now)

    def _take_in(self, cursor: Cursor, header: batch.BatchHeader, payload: Any) -> None:
        first = 0
        if header.base_offset < cursor.expected:
            first = cursor.expected - header.base_offset
        entry = RecordBatch(self.topic, cursor.number, header, payload, first)
        if first and header.flags & COMPACTED:
            entry.first = sum(1 for distance in entry.decoded().distances if distance < first)
        cursor.expected = header.next_offset
        cursor.end = max(cursor.end, cursor.expected)
        if len(entry) > 0:
            cursor.buffer.append(entry)
            cursor.buffered += header.payload_length + HEADER_BYTES
        elif not cursor.buffer:
            cursor.position = cursor.expected

    def connected(self, session: int, now: int) -> None:
        """A subscription takes effect about now: fetch what was committed before that and after the last fetch."""
        leader_id = self._sessions.get(session)
        if leader_id is not None:
            self._leaders[leader_id].due_ns = now + SETTLE_NS
            self._leaders[leader_id].pause_ns = RETRY_NS

    def lost(self, session: int, now: int) -> None:
        """A subscription ended: open another, and ask for what was missed."""
        leader_id = self._sessions.pop(session, None)
        if leader_id is None:
            return
        leader = self._leaders[leader_id]
        leader.session = None
        for cursor in self.cursors.values():
            if cursor.leader == leader_id:
                cursor.live = cursor.subscribed = False
        leader.retry_ns = now + leader.pause_ns
        leader.pause_ns = min(leader.pause_ns * 2, RETRY_MAX_NS)
        self._client.refresh(self.topic, now)

    def tick(self, now: int) -> None:
        """Fetch for whoever is behind, and for everybody after a silence."""
        if self.closed:
            return
        for leader_id in {cursor.leader for cursor in self.cursors.values()}:
            leader = self._leaders.setdefault(leader_id, _Leader())
            if leader.session is not None and self._client.publish_endpoint(leader_id) != leader.endpoint:
                self._client.requests.effect(CloseSession(leader.session))
                self._client.shut(leader.session)
                self.lost(leader.session, now)
            idle = leader.due_ns is not None and leader.due_ns <= now
            if leader.retry_ns is not None and leader.retry_ns <= now:
                leader.retry_ns = None
            if leader.retry_ns is None and (idle or self._wanting(leader_id)):
                self._fetch(leader_id, now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        deadlines = []
        for leader_id in {cursor.leader for cursor in self.cursors.values()}:
            leader = self._leaders.get(leader_id)
            if leader is None:
                deadlines.append(0)
            elif leader.retry_ns is not None:
                deadlines.append(leader.retry_ns)
            elif not leader.fetching:
                # What was taken may have made room for more.
                if self._wanting(leader_id):
                    deadlines.append(0)
                elif leader.due_ns is not None:
                    deadlines.append(leader.due_ns)
        return min(deadlines, default=None)

    def _wanting(self, leader_id: int) -> list[Cursor]:
        half = self._buffer_bytes // 2
        return [c for c in self.cursors.values() if c.leader == leader_id and c.behind and c.buffered <= half]

    def _fetch(self, leader_id: int, now: int) -> None:
        leader = self._leaders.setdefault(leader_id, _Leader())
        if leader.fetching or self.closed:
            return
        idle = leader.due_ns is not None and leader.due_ns <= now
        wanted = self._wanting(leader_id)
        if idle:
            wanted = [c for c in self.cursors.values()
                      if c.leader == leader_id and not c.paused and c.error is None and c.expected >= 0
                      and c.buffered <= self._buffer_bytes // 2]  # fmt: skip
            leader.due_ns = now + IDLE_NS
        if not wanted:
            return
        endpoint = self._client.endpoint(leader_id)
        if endpoint is None:
            leader.retry_ns = now + RETRY_NS
            self._client.refresh(self.topic, now)
            return
        leader.fetching = True
        first = leader.turns % len(wanted)
        leader.turns += 1
        wanted = wanted[first:] + wanted[:first]
        asked_from = {cursor.id: cursor.expected for cursor in wanted}
        parts = [messages.FetchPart(cursor.id, cursor.expected) for cursor in wanted]
        call = self._client.requests.call(
            endpoint, Type.FETCH, messages.Fetch(FETCH_BYTES, parts), now, now + CALL_NS, "fetch", CALL_NS / 1e9
        )
        call.on_done(lambda: self._fetched(leader_id, leader, asked_from, call))

    def _fetched(self, leader_id: int, leader: _Leader, asked_from: dict[int, int], call: Pending[Command]) -> None:
        leader.fetching = False
        now = self._client.now
        if self.closed:
            return
        if call.error is not None:
            leader.retry_ns = now + RETRY_NS
            self._client.refresh(self.topic, now)
            return
        command = call.result()
        body: messages.Fetched = command.body
        blob, at = memoryview(command.rest[0]), 0
        for part in body.parts:
            cursor = self._by_id.get(part.partition)
            piece, at = blob[at : at + part.length], at + part.length
            if cursor is None:
                continue
            if part.failure is not None:
                if cursor.expected == asked_from.get(cursor.id):  # Else somebody has sought meanwhile.
                    self._failed(cursor, leader, part, now)
                continue
            cursor.end = part.end_offset
            self._take_blob(cursor, piece)
            if cursor.expected < part.end_offset:
                cursor.live = False  # There is more than fits an answer; waiting for silence each time would take long.
            elif not cursor.live:
                self._go_live(cursor, leader_id, leader, now)
        self._wake()
        if leader.due_ns is None:
            leader.due_ns = now + IDLE_NS
        if leader.retry_ns is None and self._wanting(leader_id):
            if any(c.expected != before for known, before in asked_from.items() if (c := self._by_id.get(known))):
                self._fetch(leader_id, now)
            else:
                leader.retry_ns = now + RETRY_NS  # It has more and gave nothing of it: not at once again.

    def _take_blob(self, cursor: Cursor, piece: memoryview) -> None:
        try:
            for header, raw, payload in batch.split(piece):
                problem = batch.damage(raw, payload, header, cursor.id, header.base_offset)
                if problem:
                    self._damaged(cursor, problem)
                    return
                if header.base_offset <= cursor.expected < header.next_offset:
                    self._take_in(cursor, header, payload)
        except errors.CorruptBatch as error:
            cursor.error = error
        except errors.ProtocolViolation as error:
            self._damaged(cursor, str(error))

    def _damaged(self, cursor: Cursor, problem: str) -> None:
        offset = cursor.expected
        cursor.error = errors.CorruptBatch(
            topic=self.topic, partition=cursor.number, offset=offset, next_offset=offset + 1, problem=problem
        )

    def _failed(self, cursor: Cursor, leader: _Leader, part: messages.FetchedPart, now: int) -> None:
        assert part.failure is not None
        error = errors.from_wire(part.failure.code, part.failure.values)
        if isinstance(error, errors.NotLeader) or error.retriable:
            leader.retry_ns = now + RETRY_NS
            self._client.refresh(self.topic, now)
        elif isinstance(error, errors.OffsetOutOfRange) and self._skip_missing:
            target = error.start if cursor.expected < error.start else error.end
            self.skipped += max(0, target - cursor.expected)
            cursor.expected = target
            if not cursor.buffer:
                cursor.position = target
        else:
            cursor.error = error
            self._wake()

    # Subscriptions.

    def _go_live(self, cursor: Cursor, leader_id: int, leader: _Leader, now: int) -> None:
        cursor.live = True
        endpoint = self._client.publish_endpoint(leader_id)
        if endpoint is None:
            return
        requests = self._client.requests
        if leader.session is None:
            leader.session = requests.new_session()
            leader.endpoint = endpoint
            self._sessions[leader.session] = leader_id
            self._client.open(self, leader.session)
            requests.effect(OpenSession(leader.session, endpoint, subscribe=True))
        self._subscribe(cursor, on=True)
        # Committed between the fetch and the moment the subscription takes effect: neither shows it.
        leader.due_ns = now + SETTLE_NS

    def _subscribe(self, cursor: Cursor, *, on: bool) -> None:
        """Change a subscription, once: a leader counts each, and a socket ends one only when it was ended as often."""
        session = self._leaders.setdefault(cursor.leader, _Leader()).session
        if session is not None and cursor.subscribed != on:
            cursor.subscribed = on
            topic = messages.PARTITION.pack(cursor.id)
            self._client.requests.effect(Subscribe(session, topic, on))
