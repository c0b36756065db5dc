"""One leader as a consumer's source: a subscription session, and one FETCH at a time.

A partition is LIVE while it is subscribed, and BEHIND while it must fetch. It begins BEHIND; when a fetch reaches the
end it subscribes, and fetches once more to cover what was committed in between. When its buffer is full it drops what
is published, unsubscribes and is BEHIND again: a slow consumer costs the leader a fetch now and then, nothing else.

Each FETCH asks the leader for all partitions that need one. They stand in another order each time, because the first
may take all that an answer holds. A keeper of very many origins may have more than a FETCH may ask for: those are asked
for in turns.

How much a FETCH asks for is what comes in a second or two, up to 2 MiB, see ``core/appetite.py``. On a link that has
shown to be slow there is no subscription: a batch would come twice, once published and once more by the FETCH that asks
in the meantime whether something was missed, and its one frame takes longer than heartbeats wait. There FETCH asks
every half second.

What is damaged may be mended later, by those who have the same log: it is asked for again every five seconds, and
where it is read from somebody else by now. When it comes, the partition goes on by itself.

Publications may be lost, HEAD beacons too. Half a second of silence makes the feed ask by FETCH whether something was
missed. While nothing comes the next silence is twice as long, up to 4 s, so that idle consumers cost a leader little;
whatever comes makes it half a second again. What comes of one partition says nothing of another, so 4 s after it asked
it asks again for those that were silent, however much comes of others. So a record whose publication and HEAD are both
lost is asked for within 4.5 s (or once there is room in the buffer): that delays it, and never loses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.core.appetite import Appetite
from zfabric.core.client.agenda import Chore
from zfabric.core.client.candidates import Candidates
from zfabric.core.client.cursor import Cursor
from zfabric.core.client.pending import Pending
from zfabric.core.client.requests import PATIENCE_NS
from zfabric.core.effects import CloseSession, OpenSession, Subscribe
from zfabric.settings import FETCH_PARTITIONS_MAX
from zfabric.wire import batch, messages
from zfabric.wire.batch import HEADER_BYTES
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.consumer import Consumer

FETCH_BYTES = 2 << 20
FETCH_BATCH_BYTES = 512 << 10
"""Of a batch as producers make them by default: one comes however little is asked for."""
IDLE_NS = 500_000_000
IDLE_MAX_NS = 4_000_000_000
SETTLE_NS = 5_000_000
RETRY_NS = 50_000_000
RETRY_MAX_NS = 400_000_000
AWAY_NS = 500_000_000
CALL_NS = 30_000_000_000
MEND_NS = 5_000_000_000
_NAMING = frozenset((errors.CorruptBatch, errors.OffsetOutOfRange, errors.LogRewound))
"""Errors that name a partition, by which a user seeks on."""


class Feed(Chore):
    """What comes from one leader.

    Args:
        consumer: whose partitions these are. leader: id of the leader.

    Attributes:
        by_id: cursors of the partitions that are read here, by their ids at this leader.
        behind: those of them that want a FETCH and have room for what it brings.
        trusted: what the subscription brings is the leader's, which is in doubt where leaders may change places: see
            :meth:`Feed.connected`.
    """

    def __init__(self, client: Client, consumer: Consumer, leader: int) -> None:
        self.by_id: dict[int, Cursor] = {}
        # The same by what is subscribed for them, which what is published begins with.
        self._by_topic: dict[bytes, Cursor] = {}
        self.behind = Candidates(self._wanting, lambda: client.due(self))
        self.trusted = not client.scattered
        self._client = client
        self._consumer = consumer
        self._arrivals = consumer.arrivals
        self._leader = leader
        self._session: int | None = None
        self._endpoint = ""
        # Nothing is asked before; None if there is no reason to wait.
        self._retry_ns: int | None = None
        self._fetching = False
        self._appetite = Appetite(FETCH_BYTES)
        self._due_ns: int | None = None
        # When to ask again for what was damaged; None if nothing is.
        self._mend_ns: int | None = None
        self._silence_ns = IDLE_NS
        self._asked_ns = self._heard_ns = 0
        # Before another session; grows while sessions end before they are connected (no descriptor is left).
        self._pause_ns = RETRY_NS
        self._turns = 0
        self._connections = 0

    def tick(self, now: int) -> None:
        """Fetch for whoever is behind, and for everybody after a silence."""
        if not self.by_id:
            return
        idle = self._is_silent(now) and not self._consumer.full
        if self._retry_ns is not None and self._retry_ns <= now:
            self._retry_ns = None
        if self._retry_ns is None and (idle or self._is_wanting() or self._is_hoping(now)):
            self._fetch(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        if not self.by_id:
            return None
        if self._retry_ns is not None:
            return self._retry_ns
        if self._fetching:
            return None
        if self._consumer.full:
            return None  # Whoever takes something makes room.
        if self.behind.first() is not None:
            return 0
        return min((at_ns for at_ns in (self._silent_ns(), self._mend_ns) if at_ns is not None), default=None)

    def join(self, cursor: Cursor) -> None:
        """Read a partition here."""
        self.by_id[cursor.id] = self._by_topic[messages.PARTITION.pack(cursor.id)] = cursor
        if cursor.mendable:
            self._mend_ns = self._client.now  # Perhaps it is not damaged here.
        self._client.due(self)

    def leave(self, cursor: Cursor) -> None:
        """Read a partition no more."""
        if self.by_id.get(cursor.id) is cursor:
            del self.by_id[cursor.id], self._by_topic[messages.PARTITION.pack(cursor.id)]
        self.behind.forget(cursor)

    def clear(self) -> None:
        """Read none of them any more."""
        self.by_id.clear()
        self._by_topic.clear()
        self.behind.clear()

    def wait_until(self, retry_ns: int) -> None:
        """Ask for nothing before that."""
        self._retry_ns = retry_ns
        self._client.due(self)

    # Fetching.

    def _is_wanting(self) -> bool:
        """Tell whether somebody is behind, and there is room for what that brings."""
        return not self._consumer.full and self.behind.first() is not None

    def _is_hoping(self, now: int) -> bool:
        """Tell whether it is time to ask again for what was damaged."""
        return self._mend_ns is not None and self._mend_ns <= now

    def _wanting(self, cursor: Cursor) -> bool:
        return cursor.behind and cursor.buffered <= self._consumer.buffer_bytes // 2

    def fall_behind(self, cursor: Cursor, now: int) -> None:
        """A partition missed something."""
        cursor.live = False
        self._fetch(now)

    def _silent_ns(self) -> int | None:
        """Return when nothing will have come for long enough to ask whether something was missed."""
        if self._due_ns is None:
            return None
        return max(self._due_ns, min(self._heard_ns + IDLE_NS, self._asked_ns + IDLE_MAX_NS))

    def _is_silent(self, now: int) -> bool:
        due_ns = self._silent_ns()
        return due_ns is not None and due_ns <= now

    def _shorten(self, now: int) -> bool:
        """Something came where silence had grown long: tells that it is to be asked for earlier."""
        self._silence_ns = IDLE_NS
        before_ns, self._due_ns = self._due_ns, min(now + IDLE_NS, self._asked_ns + IDLE_MAX_NS)
        if before_ns is not None and before_ns <= self._due_ns:
            return True
        self._client.due(self)
        return False

    def _settle(self, now: int) -> None:
        """Ask for what is silent in a moment, then after a silence."""
        self._silence_ns = IDLE_NS // 2
        self._due_ns = now + SETTLE_NS
        self._asked_ns = self._due_ns - IDLE_MAX_NS
        self._client.due(self)

    def _fetch(self, now: int) -> None:
        if self._fetching or self._consumer.closed or self._consumer.full:
            return
        wanted = self.behind.all()
        if self._is_silent(now):
            half = self._consumer.buffer_bytes // 2
            wanted = [c for c in self.by_id.values()
                      if not c.paused and c.error is None and c.expected >= 0 and c.buffered <= half
                      and (not c.live or now - c.heard_ns >= IDLE_NS)]  # fmt: skip
            self._asked_ns = now
            longest_ns = IDLE_NS if self._appetite.is_slow(now) else IDLE_MAX_NS
            self._silence_ns = min(self._silence_ns * 2, longest_ns)
            self._due_ns = now + self._silence_ns
        if self._is_hoping(now):
            damaged = [cursor for cursor in self.by_id.values() if cursor.mendable and cursor.expected >= 0]
            self._mend_ns = now + MEND_NS if damaged else None
            wanted += [cursor for cursor in damaged if not cursor.paused]
        if not wanted:
            return
        endpoint = self._client.endpoint(self._leader)
        if endpoint is None:
            self._postpone(now)
            if not self._client.own(self._leader):
                self.wait_until(now + AWAY_NS)
            return
        self._fetching = True
        first = self._turns % len(wanted)
        # More than a FETCH may ask for are asked for in turns.
        self._turns += 1 if len(wanted) <= FETCH_PARTITIONS_MAX else FETCH_PARTITIONS_MAX
        wanted = (wanted[first:] + wanted[:first])[:FETCH_PARTITIONS_MAX]
        asked_from, connections = {cursor.id: cursor.expected for cursor in wanted}, self._connections
        parts = [cursor.wanted() for cursor in wanted]
        most = self._appetite.bytes
        size = max(most, FETCH_BATCH_BYTES) if any(cursor.behind for cursor in wanted) else 0
        body = messages.Fetch(most, parts, self._appetite.part_bytes, self._appetite.part_bytes > 0)
        call = self._client.requests.call(
            endpoint, Type.FETCH, body, now, now + CALL_NS, "fetch", CALL_NS / 1e9, size=size, held_ns=PATIENCE_NS
        )

        def fetched() -> None:
            self._adapt(most, self._client.now - now, call)
            self._fetched(asked_from, connections, call)

        call.on_done(fetched)

    def _adapt(self, asked: int, took_ns: int, call: Pending[Command]) -> None:
        """Ask for as much the next time as the link brings in a second or two."""
        if call.error is not None:
            self._appetite.failed(asked)
        else:
            self._appetite.answered(asked, took_ns, len(call.result().rest[0]), self._client.now)
            if self._session is not None and self._appetite.is_slow(self._client.now):
                self.end()
                self.lost(self._client.now)

    def _postpone(self, now: int) -> None:
        """Try again soon; the leader may be elsewhere by then."""
        self.wait_until(now + RETRY_NS)
        self._client.refresh(self._consumer.topic, now, self._leader)

    def _fetched(self, asked_from: dict[int, int], connections: int, call: Pending[Command]) -> None:
        self._fetching = False
        self._client.due(self)
        now = self._client.now
        consumer = self._consumer
        if consumer.closed:
            return
        if call.error is not None:
            self._postpone(now)
            return
        current = self._session is not None and connections == self._connections > 0
        self.trusted = current or not self._client.scattered
        command = call.result()
        body: messages.Fetched = command.body
        blob, at, came = memoryview(command.rest[0]), 0, 0
        for part in body.parts:
            cursor = self.by_id.get(part.partition)
            piece, at = blob[at : at + part.length], at + part.length
            if cursor is None:
                continue
            if part.failure is not None:
                if cursor.expected == asked_from.get(cursor.id):  # Else somebody has sought meanwhile.
                    self._failed(cursor, part, now)
                continue
            if part.parted and cursor.copy and self._consumer.evades(cursor, now):
                continue  # What came instead is at the origin.
            cursor.end = part.end_offset
            cursor.take_blob(piece)
            self._hope(cursor, now)
            came += part.length
            if cursor.expected < part.end_offset:
                cursor.live = False  # There is more than fits an answer; waiting for silence each time would take long.
            elif not cursor.live or not (cursor.subscribed or self._appetite.is_slow(now)):
                self._go_live(cursor, now)
        consumer.wake()
        if came:
            self._silence_ns = IDLE_NS
            self._due_ns = min(self._due_ns or now + IDLE_NS, now + IDLE_NS)
        elif self._due_ns is None:
            self._due_ns = now + IDLE_NS
        self._go_on(asked_from, now)

    def _go_on(self, asked_from: dict[int, int], now: int) -> None:
        """Fetch what is left of a backlog."""
        if self._retry_ns is None and self._is_wanting():
            if any(c.expected != before for known, before in asked_from.items() if (c := self.by_id.get(known))):
                self._fetch(now)
            else:
                self.wait_until(now + RETRY_NS)  # It has more and gave nothing of it: not at once again.

    def _failed(self, cursor: Cursor, part: messages.FetchedPart, now: int) -> None:
        assert part.failure is not None
        error = errors.from_wire(part.failure.code, part.failure.values)
        if type(error) in _NAMING:
            error = cursor.named(error)  # At its leader it may have another number.
        if isinstance(error, errors.NotLeader) or error.retriable:
            self._postpone(now)
        elif isinstance(error, errors.OffsetOutOfRange) and cursor.copy and cursor.expected > error.end:
            if not self._consumer.evades(cursor, now):
                self._go_live(cursor, now)  # The keeper has not got so far: what it gets will be published.
        elif isinstance(error, errors.LogRewound) and cursor.copy and self._consumer.evades(cursor, now):
            pass  # The keeper has another log than the origin; an origin that was set back says so itself.
        elif isinstance(error, errors.OffsetOutOfRange):
            if cursor.mendable:
                cursor.error = None  # What was damaged has been removed.
            self._consumer.outside(cursor, error)
        elif not (isinstance(error, errors.CorruptBatch) and self._consumer.evades(cursor, now)):
            cursor.fail(error)
            self._hope(cursor, now)
            self._consumer.wake()

    def _hope(self, cursor: Cursor, now: int) -> None:
        """If it is damage that keeps a partition from going on, ask for it again later."""
        if cursor.mendable and self._mend_ns is None:
            self._mend_ns = now + MEND_NS

    # Subscriptions.

    def published(self, _: int, frames: Sequence[Any], now: int) -> bool:
        """Take a batch or a HEAD; what cannot be read is as good as lost, and repaired like that.

        Tells whether it was as usual: nothing is to be asked for it, and :meth:`next_deadline` has not become earlier.
        """
        cursor = self._by_topic.get(frames[0])
        if cursor is None or not self.trusted:
            return True
        if not self._arrivals.hand(cursor, frames):
            header = cursor.follows(frames)
            if header is None:
                told = self._published_else(cursor, frames, now)
                if told is not None:
                    return told
            elif cursor.buffered >= self._consumer.buffer_bytes or self._consumer.full:
                self.subscribe(cursor, on=False)
                cursor.live = False
                return False
            else:
                cursor.take_in(header, frames[2])
                self._consumer.wake()
        cursor.heard_ns = self._heard_ns = now
        return self._silence_ns <= IDLE_NS or self._shorten(now)

    def _published_else(self, cursor: Cursor, frames: Sequence[Any], now: int) -> bool | None:
        """Take what is not the next batch of a live partition; None: it shows that nothing is missing."""
        if not cursor.live or cursor.expected < 0:
            return True
        if len(frames) == 2 and len(frames[1]) == messages.HEAD.size:
            cursor.end = max(cursor.end, messages.HEAD.unpack(frames[1])[0])
            if cursor.end > cursor.expected:
                self.fall_behind(cursor, now)
                return False
            return None
        if len(frames) != 3 or len(frames[1]) != HEADER_BYTES:
            return True
        header = batch.parse(frames[1])
        if header.base_offset + header.span <= cursor.expected:
            return True
        if not cursor.seen or header.leader_epoch == cursor.epoch:
            self._consumer.gaps += 1
        # Of another epoch: perhaps the log was set back. Whether it is the same is the leader's to say.
        self.fall_behind(cursor, now)
        return False

    def connected(self, now: int) -> None:
        """The subscription takes effect about now: fetch what was committed before that and after the last fetch.

        The answer to that fetch is also what makes the subscription trusted, where leaders may change places: whoever
        answered it was there after the subscription was, so nobody else can publish at that address by then.
        """
        self._connections += 1
        for cursor in self.by_id.values():
            cursor.heard_ns = 0
        self._settle(now)
        self._pause_ns = RETRY_NS

    def lost(self, now: int) -> None:
        """The subscription ended: open another, and ask for what was missed."""
        self._session = None
        self._connections, self.trusted = 0, not self._client.scattered
        for cursor in self.by_id.values():
            cursor.live = cursor.subscribed = False
        self.wait_until(now + self._pause_ns)
        self._pause_ns = min(self._pause_ns * 2, RETRY_MAX_NS)
        self._client.refresh(self._consumer.topic, now, self._leader)

    def moved(self, now: int) -> None:
        """Leaders publish elsewhere: perhaps this one."""
        if self._session is not None and self._client.publish_endpoint(self._leader) != self._endpoint:
            self.end()
            self.lost(now)

    def end(self) -> None:
        """Close the subscription session, if there is one."""
        if self._session is not None:
            self._client.requests.effect(CloseSession(self._session))
            self._client.shut(self._session)

    def _go_live(self, cursor: Cursor, now: int) -> None:
        cursor.live = True
        cursor.heard_ns = 0
        endpoint = self._client.publish_endpoint(self._leader)
        if endpoint is None or self._appetite.is_slow(now):
            return
        if self._session is None:
            self._session = self._client.requests.new_session()
            self._endpoint = endpoint
            self._client.open(self, self._session)
            self._client.requests.effect(OpenSession(self._session, endpoint, subscribe=True))
        self.subscribe(cursor, on=True)
        # Committed between the fetch and the moment the subscription takes effect: neither shows it.
        self._settle(now)

    def subscribe(self, cursor: Cursor, *, on: bool) -> None:
        """Change a subscription, once: a leader counts each, and a socket ends one only when it was ended as often."""
        if self._session is not None and cursor.subscribed != on:
            cursor.subscribed = on
            topic = messages.PARTITION.pack(cursor.id)
            self._client.requests.effect(Subscribe(self._session, topic, on))
