"""The consumer: reads committed batches of one topic, from the live tail and from the log.

The log is the truth, PUB is the accelerator. For each partition the consumer knows the offset that it expects next.
A published batch that begins there is taken; one that begins later shows a gap, which a FETCH repairs; one that begins
earlier was seen.

Where the batches come from is ``feed.py``: one feed for each leader. What is held of a partition is ``cursor.py``.

A consumer of all partitions reads those that are added from their start. A topic that was deleted is an error, once
everything is taken, and so is one that was made again under the same name: its offsets are others. With
``skip_missing`` it waits for the new one and reads that from its start.

Where leaders are *scattered* (the origins of a mesh, see ``origins.py``), one that is away keeps nobody waiting: its
partitions begin, or go on, when it is there. A part of the topic that is new begins at ``start``, one that was deleted
is read no more, and nothing is raised for either.

Each FETCH says of which log the last batch was that was received, and the leader refuses it if it has another one (its
data was set back): LogRewound, or with ``skip_missing`` on from where the two part. A publication of another leader
epoch than that batch's is not taken before a FETCH was answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.core.client.agenda import Chore
from zfabric.core.client.arrivals import Arrival, Arrivals
from zfabric.core.client.committing import Commits
from zfabric.core.client.cursor import Cursor, Tally
from zfabric.core.client.feed import IDLE_NS, Feed
from zfabric.core.client.pending import Pending
from zfabric.core.client.positions import Positions, Start, outside
from zfabric.core.client.routes import log_of
from zfabric.core.client.share import Share
from zfabric.core.client.turns import Turns
from zfabric.model import Record
from zfabric.wire.metadata import PartitionPlace, TopicMeta
from zfabric.wire.received import RecordBatch

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

BUFFER_BYTES = 16 << 20


class Consumer:
    """The consumer's state machine.

    Args:
        start: where a partition begins of which the group has committed nothing. numbers: partitions, None for all.
        skip_missing: go on at the log's start when the position has been removed, instead of raising; None: for
            memory topics only.

    Attributes:
        opened: all positions are known. arrivals: who waits for something to take.
        tally: what all partitions hold; no more is received while that has reached its limit.
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
        self.partition_max = client.partition_max
        self.group = group
        self.cursors: dict[int, Cursor] = {}
        self.closed = self.opened = False
        self.skipped = 0
        self.gaps = 0
        self._client = client
        self._positions = Positions(client, self, start)
        self._commits = Commits(client, self)
        self._numbers = None if numbers is None else dict.fromkeys(numbers)
        self.skip_missing = skip_missing
        self.buffer_bytes = buffer_bytes
        self.tally = Tally(eased=self._eased)
        self._feeds: dict[int, Feed] = {}
        self._turns = Turns(self.cursors)
        self.arrivals = Arrivals(self._turns)
        self._places = 0
        self._seen: dict[int, PartitionPlace] = {}
        # In a mesh the members of a group share what there is; see share.py.
        shared = client.scattered and group is not None and numbers is None
        self._share = Share(client, self, topic, group) if shared and group is not None else None
        self._opening: Pending[None] | None = None

    # Opening.

    def open(self, now: int, deadline_ns: int) -> Pending[None]:
        """Find the partitions and where to begin; the same result for every call."""
        if self._opening is not None and not (self._opening.done and self._opening.error):
            return self._opening
        opening = self._opening = Pending()
        wanted = self._client.want_view(self.topic, now, deadline_ns)

        def found() -> None:
            if wanted.error is not None:
                opening.fail(wanted.error)
                return
            meta = wanted.result()
            places = self._seen = {place.number: place for place in meta.partitions}
            numbers = list(places if self._numbers is None else self._numbers)
            unknown = [number for number in numbers if number not in places]
            if unknown and not self._client.scattered:
                opening.fail(errors.UnknownPartition(topic=self.topic, partition=unknown[0], last=max(places)))
                return
            if self.skip_missing is None:
                self.skip_missing = meta.config.durability == "memory"
            # An attempt before this one may have left those of a topic that was another.
            for cursor in self.cursors.values():
                cursor.lists = ()
            self.cursors.clear()
            self.tally = Tally(self.tally.limit, self._eased)
            self._turns.clear()
            for feed in self._feeds.values():
                feed.clear()
            if self._share is not None:
                self.opened = True
                opening.resolve(None)  # First: it may take up its share at once.
                self._share.start(self._client.now)
                return
            for number in numbers:
                if number in places:
                    self._take_up(places[number])
            placed = self._positions.find_all(deadline_ns)
            placed.on_done(lambda: self._opened(opening, placed))

        wanted.on_done(found)
        return opening

    def _opened(self, opening: Pending[None], placed: Pending[None]) -> None:
        if placed.error is not None:
            opening.fail(placed.error)
            return
        self.opened = True
        opening.resolve(None)
        if self._client.scattered:
            self.take_up()  # What was seen meanwhile.

    def _take_up(self, place: PartitionPlace) -> Cursor:
        cursor = self.cursors[place.number] = Cursor(self.topic, place, self._places)
        self._places += 1
        cursor.tally = self.tally
        self._join(cursor)
        return cursor

    def _join(self, cursor: Cursor) -> None:
        """Read a partition at its leader from now on."""
        feed = self._feed(cursor.leader)
        feed.join(cursor)
        cursor.lists = (self._turns.stocked, self._turns.failed, feed.behind)
        cursor.changed()

    def cursor(self, number: int) -> Cursor:
        """Return a partition's cursor.

        Raises:
            UnknownPartition: this consumer does not read it.
        """
        cursor = self.cursors.get(number)
        if cursor is None:
            origins = {known.number: known.log[0] for known in self.cursors.values()}
            raise errors.UnknownPartition.among(self.topic, number, origins)
        return cursor

    def include(self, number: int) -> None:
        """Take one more partition in, beside those that were given; it is read once it is sought.

        Raises:
            UnknownPartition: nobody is known to have it.
        """
        numbers = self._given()
        place = self._seen.get(number)
        if place is None:
            raise errors.UnknownPartition(topic=self.topic, partition=number, last=max(self.cursors, default=-1))
        numbers[number] = None
        if number not in self.cursors:
            self._take_up(place)

    def exclude(self, number: int) -> None:
        """Read a partition no more."""
        self._given().pop(number, None)
        if number in self.cursors:
            self._drop(self.cursors[number])

    def _given(self) -> dict[int, None]:
        if self._numbers is None:
            raise errors.InvalidArgument(
                name="partitions", value="None", allowed="a consumer made with partitions=…: any other reads them all"
            )
        return self._numbers

    @property
    def full(self) -> bool:
        """Whether all partitions together hold as much as they may."""
        return self.tally.limit is not None and self.tally.bytes >= self.tally.limit

    def bound(self, total_bytes: int) -> None:
        """Receive no more while all partitions together hold so many bytes."""
        self.tally.limit = total_bytes
        self._eased()

    def _eased(self) -> None:
        """There may be room for more: of any partition."""
        for feed in self._feeds.values():
            self._client.due(feed)

    def seek(self, number: int, start: Start, now: int, deadline_ns: int) -> Pending[None]:
        """Go on from ``start`` in one partition; comes when the offset is known."""
        return self._positions.seek(self.cursor(number), start, now, deadline_ns)

    # Taking.

    def ready(self) -> Arrival:
        """Return what comes when there may be something to take; all who ask meanwhile share it."""
        arrival = self.arrivals.wait()
        self._asked()
        return arrival

    def expect(self) -> Arrival:
        """Return the same, or with it the next record, which only has to be accepted; see ``arrivals.py``."""
        arrival = self.arrivals.expect()
        self._asked()
        return arrival

    def _asked(self) -> None:
        if self._share is not None:
            self._client.restless = True
            self._share.returned()
        self.arrivals.wake()

    def wake(self) -> None:
        """Let those go on who wait for something to take, if there is something."""
        self.arrivals.wake()

    def take(self, most: int) -> list[Record]:
        """Return up to ``most`` records, of one partition or several; the position moves behind them.

        Raises:
            CorruptBatch, OffsetOutOfRange: one of them does not go on, told once; see ``turns.py``.
        """
        taken: list[Record] = []
        while len(taken) < most:
            cursor = self._turns.next(len(taken))
            if cursor is None:
                break
            taken += cursor.take(most - len(taken))
        return taken

    @property
    def wants(self) -> bool:
        """Whether something is to be sent for it; what it has begun to want by taking is found out by the next step."""
        return self._client.requests.wants

    def take_batch(self, taken: int = 0) -> RecordBatch | None:
        """Return the next whole batch, behind ``taken`` others; the position moves on. Raises as :meth:`take` does."""
        cursor = self._turns.next(taken)
        return None if cursor is None else cursor.take_batch()

    @property
    def stuck(self) -> errors.ZFabricError | None:
        """Why nothing that is read can go on, once that was told."""
        return self._turns.stuck()

    @property
    def failures(self) -> int:
        """How often a partition could not go on, and that was told."""
        return self._turns.failures

    @property
    def passed_over(self) -> int:
        """How many origins of its topic are not read because this client knows as many as it may."""
        return 0 if self._client.origins is None else self._client.origins.room.over(self.topic)

    def rewind(self, numbers: Iterable[int], now: int) -> None:
        """Read these partitions again from their positions, which the facade had moved back."""
        for number in numbers:
            cursor = self.cursors.get(number)
            if cursor is not None:  # Else it is read no more.
                cursor.clear(cursor.position)
                cursor.live = False
        self.tick(now)

    # Committing.

    def commit(self, offsets: dict[int, int] | None, now: int, deadline_ns: int) -> Pending[Any]:
        """Store positions (or ``offsets`` by partition number) for the group; see ``committing.py``."""
        if self.group is None:
            raise errors.InvalidArgument(name="group", value="None", allowed="a consumer made with group=… to commit")
        if offsets is None:
            # What was read of a log that is no more cannot be stored, which is told by take.
            rewound = errors.LogRewound
            offsets = {c.number: c.position for c in self.cursors.values() if not isinstance(c.error, rewound)}
        changed = {n: offset for n, offset in offsets.items() if self.cursor(n).committed != offset >= 0}
        return self._commits.store(changed, now, deadline_ns)

    def pause(self, numbers: Sequence[int], now: int, *, paused: bool = True) -> None:
        """Stop (or go on) taking from these partitions."""
        for number in numbers:
            self.cursor(number).paused = paused
        self.tick(now)
        self.wake()

    def close(self) -> None:
        """End the subscriptions."""
        self.closed = self.arrivals.closed = True
        for feed in self._feeds.values():
            feed.end()
            feed.clear()
        if self._share is not None:
            self._share.stop()
        self._client.remove(self)
        self.wake()

    # For the client.

    def learn(self, meta: TopicMeta, now: int) -> None:
        """Follow partitions: to where they are led now, to those that were added, to those of a topic made again."""
        if meta.name != self.topic or not self.opened:
            return
        added: list[Cursor] = []
        self._seen = {place.number: place for place in meta.partitions}
        for place in meta.partitions:
            cursor = self.cursors.get(place.number)
            if cursor is None:
                if self._reads(place.number):
                    added.append(self._take_up(place))
            elif (cursor.id, cursor.leader) != (place.id, place.leader):
                if cursor.log != log_of(place):
                    self._replaced(cursor)
                before = self._feed(cursor.leader)
                before.subscribe(cursor, on=False)
                before.leave(cursor)
                cursor.lists = ()  # Else moving it would make it a candidate there once more.
                cursor.move(place)
                self._join(cursor)
        self._positions.find_added(added)
        for number in self.cursors.keys() - self._seen.keys():
            last = max(self._seen, default=-1)
            self._missing(self.cursors[number], errors.UnknownPartition(topic=self.topic, partition=number, last=last))
        self.wake()
        self.tick(now)

    def _reads(self, number: int) -> bool:
        """Tell whether a partition that is new is to be read."""
        if self._share is not None:
            return self._share.reads(number)
        return self._numbers is None or (self._client.scattered and number in self._numbers)

    def _replaced(self, cursor: Cursor) -> None:
        """The topic was made again: what this partition holds is another log."""
        cursor.committed = -1
        cursor.forget()
        if self.skip_missing or self._client.scattered:
            cursor.clear(0)
        elif cursor.position >= 0:
            self._missing(cursor, outside(cursor, cursor.expected, 0, 0))

    def _missing(self, cursor: Cursor, error: errors.ZFabricError) -> None:
        """There is nothing to read any more: told once everything is taken, unless missing things are skipped.

        Where every origin has its own part of a topic, one that deleted its part ends nothing for the others.
        """
        if self._client.scattered and cursor.position < 0:
            self._drop(cursor)
        elif self.skip_missing or self._client.scattered:
            cursor.expected = -1
        elif cursor.error is None:
            cursor.error = error

    def gone(self, topic: str, now: int) -> None:
        """The topic was deleted."""
        if topic != self.topic:
            return
        if self.skip_missing:
            for feed in self._feeds.values():
                feed.wait_until(now + IDLE_NS)
        else:
            for cursor in self.cursors.values():
                self._missing(cursor, errors.UnknownTopic(topic=topic))
            self.wake()

    def tick(self, now: int) -> None:
        """Do what is due; whatever became due of the partitions has told so."""
        self._client.restless = True
        self._client.agenda.tick(now)

    def chores(self) -> list[Chore]:
        """Return what there is to do at times: fetch from each leader, store what is owed, find the share."""
        return [*self._feeds.values(), self._commits, *(() if self._share is None else (self._share,))]

    def moved(self, now: int) -> None:
        """Leaders publish elsewhere."""
        for feed in list(self._feeds.values()):
            feed.moved(now)

    def _feed(self, leader: int) -> Feed:
        feed = self._feeds.get(leader)
        if feed is None:
            feed = self._feeds[leader] = Feed(self._client, self, leader)
        return feed

    # For its share in a group.

    @property
    def shares(self) -> bool:
        """Whether it reads its share of what its group reads."""
        return self._share is not None

    @property
    def idle(self) -> bool:
        """Whether the application waits for more: it has processed what it got."""
        return self.arrivals.idle

    def give_up(self, numbers: Sequence[int], deadline_ns: int) -> Pending[None]:
        """Read partitions no more; comes when what was processed of them is committed, or that has failed."""
        positions = {number: position for number in numbers if (position := self.cursors[number].position) >= 0}
        committed: Pending[None] = Pending()
        commits = self.commit(positions, self._client.now, deadline_ns)
        for number in numbers:
            self._drop(self.cursors[number])
        commits.on_done(lambda: committed.resolve(None))
        return committed

    def _drop(self, cursor: Cursor) -> None:
        del self.cursors[cursor.number]
        feed = self._feed(cursor.leader)
        feed.subscribe(cursor, on=False)
        feed.leave(cursor)
        self._turns.forget(cursor)
        cursor.lists = ()  # It may be a part of something that is under way.
        cursor.buffered, cursor.tally = 0, Tally()

    def take_up(self) -> None:
        """Read what is to be read by now and is not read yet."""
        view = self._client.view(self.topic)
        if view is not None:
            self.learn(view, self._client.now)

    # For its feeds.

    def evades(self, cursor: Cursor, now: int) -> bool:
        """Where it is read it cannot go on for now: tells whether it is read elsewhere from now on."""
        origins = self._client.origins
        return origins is not None and origins.evade(self.topic, cursor.number, cursor.log, cursor.leader, now)

    def outside(self, cursor: Cursor, error: errors.OffsetOutOfRange) -> None:
        """What a partition should go on from is not there any more."""
        target = error.start if cursor.expected < error.start else error.end
        if isinstance(error, errors.LogRewound):
            target = error.parted
            cursor.forget()
        begins = cursor.untouched and target == error.start
        if not (self.skip_missing or begins):
            cursor.error = error
            self.wake()
            return
        self.skipped += 0 if begins else max(0, target - cursor.expected)
        cursor.expected = target
        if not cursor.buffer:
            cursor.position = target
