# Generated from zfabric/uplink/aio/link.py by tools/unasync; edit that file.
"""One topic on its way, or one partition of a mesh: a consumer there, a producer at the hub, a lane for each partition.

It has two states. Closed, it holds nothing but the lanes' counters. :meth:`Link.open` asks the hub what it has and
begins there; whatever fails after that closes it, so there is one way to recover, the one by which everything starts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zfabric import errors
from zfabric.core.client.routes import Place
from zfabric.model import PartitionInfo, TopicInfo
from zfabric.settings import KIB, MIB
from zfabric.sync.consumer import Consumer
from zfabric.sync.fabric import Fabric
from zfabric.sync.producer import Producer
from zfabric.uplink import cutting, naming
from zfabric.uplink.damage import Damage
from zfabric.uplink.lanes import Lane
from zfabric.uplink.model import Notice, PartitionStatus, UplinkSettings
from zfabric.uplink.pacing import Backoff
from zfabric.uplink.sync.reader import Reader, Share
from zfabric.uplink.sync.sources import Part, Whole
from zfabric.wire import messages
from zfabric.wire.batch import HEADER_BYTES
from zfabric.wire.messages import Type
from zfabric.wire.metadata import TopicMeta
from zfabric.wire.received import RecordBatch

READ_AHEAD_MIN = 64 * KIB
READ_AHEAD_MAX = 4 * MIB
BATCH_BYTES_MAX = 512 * KIB
BATCHES = 16
"""Batches that are read before the next topic has its turn."""
COMMIT_NS = 5_000_000_000
STALL_NS = 15_000_000_000
"""Without an acknowledgement after which that is a problem; a slow link may need that long for a batch."""
LOOK_NS = 30_000_000_000
"""How often a link with nothing to do looks at its lanes all the same, where there may be thousands."""


class Link:
    """One topic.

    Args:
        reach: what is read. reader: through which it is read, if others read through it as well. group: at the source.
        tell: takes notices.

    Attributes:
        topic, target: names at the source and at the hub. lanes: by partition number. opened: it is at work.
        backoff: when it may open again. problem: why it does not work, if that is so.
        sent_bytes: towards the hub so far. stall: why nothing is acknowledged though something is under way, after a
            while without; None where things go on. damage: at the source that may be mended yet.
    """

    def __init__(
        self,
        source: Fabric,
        hub: Fabric,
        reach: Whole | Part,
        settings: UplinkSettings,
        *,
        reader: Reader | None = None,
        group: str,
        tell: Callable[[Notice], None],
    ) -> None:
        self.topic = reach.topic
        self.target = settings.prefix + reach.topic
        self.lanes: dict[int, Lane] = {}
        self.opened = False
        self.backoff = Backoff()
        self.problem: errors.ZFabricError | None = None
        self.sent_bytes = 0
        self.stall: str | None = None
        self.damage = Damage()
        self._source = source
        self._hub = hub
        self._settings = settings
        self._reach = reach
        self._reader = reader
        self._to: dict[int, int] = {}
        self._group = group
        self._tell = tell
        self._info: TopicInfo | None = None
        self._consumer: Consumer | Share | None = None
        self._producer: Producer | None = None
        self._failures: list[Exception] = []
        self._waiting: deque[RecordBatch] = deque()
        self._begun = False
        self._sent_before = 0
        self._committed_ns = 0
        self._looked_ns = self._acknowledged_ns = 0

    # Opening and closing.

    def open(self) -> None:
        """Ask the hub what it has, and begin there.

        Raises:
            ZFabricError: it could not; the link is closed.
        """
        assert not self.opened, "a link that is at work begins nowhere"
        self.close(self.problem)
        settings = self._settings
        info = self._reach.describe()
        if self._info is not None and self._info.id != info.id:
            for lane in self.lanes.values():
                lane.goal, lane.parted, lane.acknowledged = None, None, -1  # Made anew: other offsets.
        else:
            for part in info.partitions:
                if part.partition in self.lanes:
                    self.lanes[part.partition].grew(part.end_offset)  # It does while the hub is away.
        # What earlier producers still have to say goes to an earlier list.
        self._info, self._failures = info, []
        self._prepare_target(info)
        producer = self._producer = self._hub.producer(
            name=self._reach.identity(info),
            compression=settings.compression,
            batch_bytes=min(settings.buffer_bytes // 4, BATCH_BYTES_MAX),
            buffer_bytes=settings.buffer_bytes,
            delivery_timeout=settings.delivery_timeout,
        )
        stored, read = producer.stored(self.target), producer.read(self.target)
        self._to = self._reach.places(info, stored)
        found = self._begin_reading(info)
        for part in info.partitions:
            lane = self.lanes.setdefault(part.partition, Lane(self.topic, part.partition))
            last = stored[self._to[part.partition]]
            self._reach.check(last, part.end_offset)
            self._compare(part, lane, last, *read[self._to[part.partition]])
            promised = max(lane.acknowledged + 1, self._committed(found.get(part.partition, 0), last))
            gap = lane.begin(last, part.start_offset, part.end_offset)
            lane.promised = promised
            self._tell_gap(part.partition, gap, "retention had removed them at the source")
            if found.get(part.partition) != lane.position:
                self._seek(part.partition, lane)
        self.opened = self._begun = True
        self.problem = None
        self._acknowledged_ns = 0

    def _committed(self, offset: int, last: int) -> int:
        """Return what the group has committed if that was for this hub's topic: others may use the group as well."""
        mine = last >= 0 and self._settings.group is None and not self._settings.prefix
        return offset if mine else 0

    def _compare(self, part: PartitionInfo, lane: Lane, last: int, epoch: int, append_time: int) -> None:
        """See whether the source has the batch that the last record at the hub was read in, as the hub knows of it."""
        if not 0 <= last < part.end_offset or not epoch:
            return
        seen = messages.FetchPart(part.id, part.end_offset, last + 1, epoch, append_time, last)
        answer = self._reach.fetch(part, messages.Fetch(1, [seen]))
        failure = answer.parts[0].failure if answer.parts else None
        error = None if failure is None else errors.from_wire(failure.code, failure.values)
        if isinstance(error, errors.LogRewound):
            lane.parted = max(error.parted, lane.parted or 0)  # A consumer may know it better.
        elif error is not None:
            raise error
        else:
            lane.parted = None

    def _begin_reading(self, info: TopicInfo) -> dict[int, int]:
        """Have something to read from; returns the positions where it reads already."""
        if self._reader is not None:
            self._consumer = Share(self._reader, info.partitions[0].partition)
            return {}
        room = min(max(self._settings.buffer_bytes // (4 * len(info.partitions)), READ_AHEAD_MIN), READ_AHEAD_MAX)
        consumer = self._consumer = self._source.consumer(
            self.topic,
            group=self._group,
            partitions=[part.partition for part in info.partitions],
            missing="raise",  # To skip is not enough: a topic that was made anew has to begin as another origin.
            buffer_bytes=room,
        )
        consumer.open()
        return consumer.position

    def _seek(self, number: int, lane: Lane) -> None:
        assert self._consumer is not None
        try:
            self._consumer.seek(number, lane.position)
        except errors.OffsetOutOfRange as error:
            if error.start <= lane.position:
                raise
            self._tell_gap(number, lane.read(error.start, error.start), "retention removes them at the source")
            self._consumer.seek(number, lane.position)

    def _prepare_target(self, info: TopicInfo) -> None:
        """Make sure that the topic is there, with as many partitions as it needs.

        Raises:
            NotFound: it is not, and the uplink is not to change that.
        """
        topics, wanted = self._hub.topics, self._reach.wanted(info)
        try:
            there = topics.describe(self.target)
        except errors.UnknownTopic as error:
            if not self._settings.create:
                raise errors.NotFound(kind="topic at the target", name=self.target) from error
            there = topics.create(self.target, partitions=wanted, if_absent=True, **naming.options(info.config))
        if self._reach.grows and len(there.partitions) < wanted:
            if not self._settings.create:
                raise errors.NotFound(kind=f"partition {wanted - 1} at the target of topic", name=self.target)
            topics.alter(self.target, partitions=wanted)

    def close(self, problem: errors.ZFabricError | None = None) -> None:
        """End without waiting for anything: what is under way is asked for when it opens again."""
        self.opened = self._begun = False
        self.problem = problem
        self.stall = None
        self._waiting.clear()
        consumer, self._consumer = self._consumer, None
        producer, self._producer = self._producer, None
        if consumer is not None:
            consumer.abandon()
        if producer is not None:
            self._count(producer)
            self._sent_before = self.sent_bytes
            producer.abandon()

    def interrupt(self) -> None:
        """A step was left half done, and what it had read is lost: open again before another. It can still commit."""
        self.opened = False

    def end(self) -> None:
        """Close for good, or for another run, which has another end to catch up with."""
        self.close()
        for lane in self.lanes.values():
            lane.goal = None

    def _count(self, producer: Producer) -> None:
        self.sent_bytes = self._sent_before + producer.sent_bytes

    # At work.

    def step(self, room: int, piece: int | None, now: int) -> bool:
        """Read up to ``room`` bytes and send them on; tells whether there was something, or something has arrived.

        Args:
            piece: bytes to send at a time: what is read is cut to that, and what is too much waits here. None: any.

        Raises:
            ZFabricError: it cannot go on; to be closed.
        """
        assert self._consumer is not None
        assert self._producer is not None
        self._looked_ns = now
        moved = self._look()
        self._watch(now, moved=moved)
        batches: list[RecordBatch] = []
        while room > 0 and len(batches) < BATCHES:
            if not self._waiting:
                for batch in self._poll(now):
                    self._waiting += cutting.parts(batch, piece)
            if not self._waiting:
                break
            batch = self._waiting.popleft()
            lane = self.lanes[batch.partition]
            self._tell_again(lane, batch.offsets[0])
            gap = lane.read(batch.offsets[0], batch.header.next_offset)
            self.damage.reached(batch.partition, lane.position)
            self._tell_gap(batch.partition, gap, "retention removed them at the source, or they were compacted")
            room -= batch.header.payload_length + HEADER_BYTES
            batches.append(batch)
        if batches and self._is_volatile():
            self._secure({batch.partition for batch in batches})
        for batch in batches:
            self._send(batch)
        self._move()
        self._commit(now)
        return moved or bool(batches)

    def _poll(self, now: int) -> list[RecordBatch]:
        assert self._consumer is not None
        for number in self.damage.due(now):
            self._seek(number, self.lanes[number])
            self.damage.reached(number, self.lanes[number].position)
        try:
            if isinstance(self._consumer, Share):
                found = self._consumer.poll_batches()
            else:
                found = self._consumer.poll_batches(1, timeout=0.0)
        except errors.CorruptBatch as error:
            lane = self.lanes[error.partition]
            first = max(error.offset, lane.position)
            if self._may_be_mended(error.partition, first, now):
                return []
            following = max(error.next_offset, first + 1)
            lane.skipped += following - first
            lane.position = following
            self._tell_gap(error.partition, (first, following), f"they are damaged at the source: {error.problem}")
            self._consumer.seek(error.partition, following)
        except errors.LogRewound as error:
            self.lanes[error.partition].parted = error.parted
            raise
        except errors.OffsetOutOfRange as error:
            self._follow_start(error)
        else:
            if found and not self._reach.is_log(self._consumer.log(found[0].partition)):
                raise errors.UnknownTopic(topic=self.topic)  # It was made anew, and is another one to ship.
            return found
        return []

    def _may_be_mended(self, number: int, first: int, now: int) -> bool:
        """Tell whether damage is waited for: somebody else may have the same, and some time is not over yet."""
        assert self._info is not None
        if self._reader is None and self._info.config.replicas == 1:
            return False
        waited = self.damage.found(number, first, now)
        if waited:
            self._tell(Notice("trouble", self.topic, number, self.damage.text or ""))
        return waited is not False

    def _follow_start(self, error: errors.OffsetOutOfRange) -> None:
        """Go on where the source's log begins now.

        Raises:
            OffsetOutOfRange: that is not what happened: begin again.
        """
        assert self._info is not None
        info = self._reach.describe()
        if info.id != self._info.id:
            raise error
        lane = self.lanes[error.partition]
        start = next(part.start_offset for part in info.partitions if part.partition == error.partition)
        if start <= lane.position:
            raise error
        self._tell_gap(error.partition, lane.read(start, start), "retention removed them at the source")
        self._seek(error.partition, lane)

    def _send(self, batch: RecordBatch) -> None:
        assert self._producer is not None
        lane, reach = self.lanes[batch.partition], self._reach
        failures = self._failures
        headers = None
        if self._settings.origin_headers:
            headers = naming.with_origin(batch, reach.origin, reach.number(batch.partition))
        taken = self._producer.send_batch(
            self.target,
            batch,
            partition=self._to[batch.partition],
            after=lane.sent,
            headers=headers,
            on_delivery=lambda _, error: None if error is None else failures.append(error),
        )
        lane.gave(batch.offsets[-1], taken, batch.header.payload_length + HEADER_BYTES)

    def _look(self) -> bool:
        """Take in what the hub has acknowledged, or that it did not; tells whether there was something.

        Raises:
            ZFabricError: something was given up.
        """
        assert self._consumer is not None
        assert self._producer is not None
        if self._failures:
            raise self._failures[0]
        stored = self._producer.stored(self.target)
        reads, lag = self._consumer.position, self._consumer.lag
        moved = False
        for number, lane in self.lanes.items():
            # The hub's topic may have been made anew with fewer partitions.
            last = stored.get(self._to.get(number, -1), -1)
            moved |= last > lane.acknowledged
            lane.stored(last)
            lane.grew(reads.get(number, lane.position) + lag.get(number, 0))
        if moved:
            self.backoff.succeeded()
        self._count(self._producer)
        return moved

    def _watch(self, now: int, *, moved: bool) -> None:
        """Say so if the hub acknowledges nothing for a while."""
        assert self._producer is not None
        if moved or not self.in_flight or not self._acknowledged_ns:
            self._acknowledged_ns, self.stall = now, None
        elif now - self._acknowledged_ns >= STALL_NS:
            refusal, known = self._producer.refusal, self.stall is not None
            why = self._hub.waiting.hindrance() if refusal is None else f"last refused: {refusal}"
            self.stall = f"nothing was acknowledged for {STALL_NS // 1_000_000_000} s{why and '; '}{why}"
            if not known:
                self._tell(Notice("trouble", self.topic, None, self.stall))

    def _move(self) -> None:
        """Follow the consumer over what it skipped where nothing came after it."""
        assert self._consumer is not None
        waiting = {batch.partition for batch in self._waiting}
        for number, position in self._consumer.position.items():
            if number in waiting:
                continue  # Not skipped: still to be sent.
            gap = self.lanes[number].read(position, position)
            self._tell_gap(number, gap, "retention removed them at the source, or they were compacted")

    def _tell_again(self, lane: Lane, first: int) -> None:
        promised = lane.repeats(first)
        if promised is not None:
            text = (
                f"the hub was set back (a backup?): it had all before offset {promised:,}, and gets {first:,} on again"
            )
            self._tell(Notice("again", self.topic, lane.partition, text, first, promised))

    def _tell_gap(self, partition: int, gap: tuple[int, int] | None, why: str) -> None:
        if gap is not None:
            first, following = gap
            text = f"offsets {first:,} to {following - 1:,} are not shipped: {why}"
            self._tell(Notice("gap", self.topic, partition, text, first, following))

    # Offsets at the source.

    def _is_volatile(self) -> bool:
        assert self._info is not None
        return self._info.config.durability == "os"

    def _secure(self, numbers: set[int]) -> None:
        """Let the source sync what was read: a commit of offsets is a synced transaction, and takes all before it."""
        assert self._info is not None
        parts: dict[int, list[messages.CommitOffset]] = {}
        for number in numbers:
            place = next(part for part in self._info.partitions if part.partition == number)
            offset = messages.CommitOffset(place.id, self.lanes[number].acknowledged + 1)
            parts.setdefault(place.leader, []).append(offset)
        for leader, mine in parts.items():
            body = messages.CommitOffsets(self._group, mine)
            self._source.ask(Type.COMMIT_OFFSETS, body, "commit before shipping", leader)

    def _commit(self, now: int) -> None:
        if now - self._committed_ns >= COMMIT_NS:
            self._committed_ns = now
            self.commit()

    def commit(self) -> None:
        """Tell the source what the hub has."""
        if isinstance(self._consumer, Share) and self._begun:
            self._consumer.commit(self.lanes[self._consumer.number].done)
        elif isinstance(self._consumer, Consumer) and self._begun:
            self._consumer.commit({number: lane.done for number, lane in self.lanes.items()})

    # Looking.

    def changed(self, meta: TopicMeta, place: Place | None) -> bool:
        """Take in how it looks at the source now; tells whether the link has to begin again."""
        return self._info is not None and self._reach.changed(self._info, meta, place)

    def is_due(self, now: int) -> bool:
        """Tell whether there is something to do: of those that share a reader most have nothing most of the time."""
        share = self._consumer
        if not self.opened or not isinstance(share, Share):
            return self.opened or now >= self.backoff.at_ns
        if (
            share.has_news
            or self._waiting
            or self._failures
            or now >= min(self._looked_ns + LOOK_NS, self.damage.look_ns)
        ):
            return True
        lane = self.lanes[share.number]
        lane.grew(share.end)
        told = lane.done == share.committed or now - self._committed_ns < COMMIT_NS
        return not (lane.settled and told and share.position.get(share.number, lane.position) == lane.position)

    @property
    def consumer(self) -> Consumer | None:
        """What to wait for, unless it shares a reader; None while it is closed."""
        return self._consumer if self.opened and isinstance(self._consumer, Consumer) else None

    @property
    def in_flight(self) -> int:
        """Bytes that are read and not acknowledged."""
        return sum(lane.in_flight for lane in list(self.lanes.values()))

    @property
    def waiting(self) -> int:
        """Bytes that were read and not sent yet."""
        return sum(batch.header.payload_length + HEADER_BYTES for batch in list(self._waiting))

    @property
    def caught_up(self) -> bool:
        """Whether all has arrived that was there when it first opened."""
        return bool(self.lanes) and all(lane.caught_up for lane in self.lanes.values())

    def status(self) -> list[PartitionStatus]:
        """Return its partitions."""
        return [
            PartitionStatus(
                topic=self.topic,
                partition=number,
                target=self.target,
                offset=lane.done,
                end=lane.end,
                lag=lane.lag,
                records=lane.records,
                skipped=lane.skipped,
                origin=self._reach.origin,
                target_partition=self._to.get(number, -1),
            )
            for number, lane in sorted(self.lanes.copy().items())
        ]
