# Generated from zfabric/aio/consumer.py by tools/unasync; edit that file.
"""The consumer of the SDK: a thin face on ``core/client/consumer.py``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from zfabric import errors
from zfabric.core.client.pending import Pending
from zfabric.model import Record
from zfabric.settings import check_range
from zfabric.sync.pump import Pump
from zfabric.wire.received import RecordBatch

if TYPE_CHECKING:
    from zfabric.core.client.arrivals import Arrival
    from zfabric.core.client.consumer import Consumer as Core

OFFSET_MAX = (1 << 63) - 1

Deserializer = Callable[[str, bytes | None], Any]


def start_of(start: object, name: str = "start") -> int | str:
    """Return ``start`` as the core takes it.

    Args:
        name: what errors call it.

    Raises:
        InvalidArgument: it is no offset, word, datetime or ISO time.
    """
    if isinstance(start, int) and not isinstance(start, bool):
        check_range(name, start, 0, OFFSET_MAX)
        return start
    if start in ("earliest", "latest"):
        return str(start)
    if isinstance(start, datetime | str):
        try:
            moment = start if isinstance(start, datetime) else datetime.fromisoformat(start)
            return f"@{max(0, int(moment.timestamp() * 1000))}"
        except (ValueError, OverflowError) as error:  # Also of local times whose UTC is outside the years 1 to 9999.
            raise _wrong(name, start) from error
    raise _wrong(name, start)


def _wrong(name: str, start: object) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        name=name, value=repr(start)[:100], allowed="'earliest', 'latest', an offset, a datetime or an ISO time"
    )


class Consumer:
    """Reads one topic, in order within each partition; made by ``fabric.consumer()``. For one thread at a time."""

    def __init__(self, pump: Pump, core: Core, deserializer: Deserializer | None, timeout: float) -> None:
        self._pump = pump
        self._core = core
        self._deserializer = deserializer
        self._timeout = timeout
        # Of an iteration: what was taken from the core and not yielded yet, and the positions behind all of it.
        self._left: deque[Record] = deque()
        self._after: dict[int, int] = {}

    def __repr__(self) -> str:
        core = self._core
        group = "" if core.group is None else f" in group {core.group!r}"
        state = "closed" if core.closed else self._pump.state
        return f"<Consumer of {core.topic!r}{group}, partitions {len(core.cursors):,}: {state}>"

    def open(self) -> None:
        """Find the partitions and positions, if that is not done yet; every method that needs them calls this.

        Raises:
            UnknownTopic, UnknownPartition, OffsetOutOfRange, Unreachable. Closed: the consumer was.
        """
        with self._pump.lock:
            self._pump.check()
            if self._core.closed:
                raise errors.Closed(what="consumer")
            now = self._pump.now()
            pending = self._core.open(now, now + int(self._timeout * 1e9))
        self._result(pending, "the consumer's start")

    def begin(self) -> None:
        """Open, or close again: what entering the context manager does."""
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def _result(self, pending: Pending[Any], what: str) -> Any:
        if not self._pump.wait(pending, self._timeout + 1.0):
            raise errors.RequestTimeout(what=what, seconds=self._timeout)
        return pending.result()

    def poll(self, max_records: int = 500, timeout: float = 1.0) -> list[Record]:
        """Return up to ``max_records``; an empty list if none came within ``timeout`` seconds.

        A partition that cannot go on is told once, when its records were returned. The others are read on as if it were
        not there, and it is among :attr:`problems` until it is sought, or what was damaged has been mended, which is
        looked for every five seconds. When nothing that is read can go on, that is told again after the timeout.

        Raises:
            CorruptBatch, OffsetOutOfRange: a partition cannot go on; :meth:`seek` past it.
            LogRewound: a partition's log was set back: :meth:`seek` to ``parted``, to read what it has instead.
            DeserializerFailed: for the next record; those before it were returned. :meth:`seek` past it.
        """
        check_range("max_records", max_records, 1, 10_000_000)
        check_range("timeout", timeout, 0.0, 1e9, "s")
        self._give_back()
        arrival = self._wait(self._core.expect, timeout)
        record = arrival.record
        if record is not None:
            arrival.cursor.position = record.offset + 1
            records = [record]
        else:
            records = self._take(max_records, arrival)
        if self._deserializer is None:
            return records
        ready: list[Record] = []
        for record in records:
            try:
                ready.append(self._deserialized(record))
            except errors.DeserializerFailed:
                self._return_from(records[len(ready) :])
                if not ready:
                    raise
                break
        return ready

    def _take(self, most: int, arrival: Arrival) -> list[Record]:
        """Take what there is, and do what follows from that."""
        with self._pump.lock:
            try:
                records = self._core.take(most)
            finally:
                if not arrival.waited or self._core.wants:
                    self._pump.flush(look=not arrival.waited)
            if not records:
                self._check()
        return records

    def _check(self) -> None:
        """Raise why nothing that is read can go on, if that is so."""
        error = self._core.stuck
        if error is not None:
            raise error

    def _deserialized(self, record: Record) -> Record:
        assert self._deserializer is not None
        try:
            return record._replace(value=self._deserializer(record.topic, record.value))
        except Exception as error:
            raise errors.DeserializerFailed(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                next_offset=record.offset + 1,
                problem=repr(error)[:200],
            ) from error

    def _return_from(self, records: list[Record]) -> None:
        """Give back what was taken and not delivered."""
        with self._pump.lock:
            for record in reversed(records):
                self._core.cursors[record.partition].position = record.offset
            self._core.rewind({record.partition for record in records}, self._pump.now())

    def poll_batches(self, max_batches: int = 100, timeout: float = 1.0) -> list[RecordBatch]:
        """Return up to ``max_batches`` whole batches, columns not decoded yet; see :meth:`poll`."""
        check_range("max_batches", max_batches, 1, 1_000_000)
        check_range("timeout", timeout, 0.0, 1e9, "s")
        self._give_back()
        arrival = self._wait(self._core.ready, timeout)
        batches: list[RecordBatch] = []
        with self._pump.lock:
            try:
                while len(batches) < max_batches:
                    batch = self._core.take_batch(len(batches))
                    if batch is None:
                        break
                    batches.append(batch)
            finally:
                self._pump.flush(look=not arrival.waited)
            if not batches:
                self._check()
        return batches

    def arrival(self) -> Pending[None]:
        """Return what comes when there may be something to take: for ``fabric.waiting``, which holds the pump's lock.

        Raises:
            Closed: the consumer was.
        """
        if self._core.closed:
            raise errors.Closed(what="consumer")
        return self._core.ready()

    def _wait(self, ask: Callable[[], Arrival], timeout: float | None) -> Arrival:
        """Wait until there may be something to take, or ``timeout`` is over."""
        core = self._core
        if not core.cursors or not core.opened:
            self.open()
        if core.closed:
            raise errors.Closed(what="consumer")
        with self._pump.lock:
            arrival = ask()
        if arrival.done:
            return arrival
        arrival.waited = True
        try:
            came = self._pump.arrive(arrival, timeout)
        except BaseException:
            self._withdraw(arrival)
            if arrival.record is not None:
                self._left.append(arrival.record)
            raise
        if not came:
            self._withdraw(arrival)
        return arrival

    def _withdraw(self, arrival: Arrival) -> None:
        """Wait no more: what comes from now on is held. It may have come just before."""
        with self._pump.lock:
            self._core.arrivals.withdraw(arrival)

    def __iter__(self) -> Iterator[Record]:
        """Yield records for ever; the position is behind each record when it is yielded.

        Whoever leaves the loop may go on with any other call, or with another loop, and misses nothing. What
        :meth:`poll` raises comes out of the loop; another one goes on with all other partitions.
        """
        while not self._core.closed:
            if not self._left:
                for number, position in self._after.items():
                    cursor = self._core.cursors[number]
                    cursor.position = max(cursor.position, position)
                self._after = {}
                with self._pump.lock:
                    self._check()
                arrival = self._wait(self._core.expect, None)
                if arrival.record is not None:
                    self._left.append(arrival.record)
                    continue
                with self._pump.lock:
                    try:
                        self._fill()
                    finally:
                        self._pump.flush(look=not arrival.waited)
                continue
            record = self._left[0]
            if self._deserializer is not None:
                try:
                    record = self._deserialized(record)
                except errors.DeserializerFailed:
                    self._put_back(record.partition)
                    raise
            self._left.popleft()
            self._core.cursors[record.partition].position = record.offset + 1
            yield record

    def _fill(self) -> None:
        """Take records for an iteration; the positions stay before them, so that a commit does not pass any."""
        self._left.extend(self._core.take(500))
        self._after = {number: self._core.cursors[number].position for number in {r.partition for r in self._left}}
        for record in reversed(self._left):
            self._core.cursors[record.partition].position = record.offset

    def _put_back(self, partition: int) -> None:
        """What an iteration has taken of a partition and not yielded is read again, behind what others have."""
        with self._pump.lock:
            self._core.rewind([partition], self._pump.now())
            self._left = deque(record for record in self._left if record.partition != partition)
            self._after.pop(partition, None)

    def _give_back(self) -> None:
        """An iteration was left: what it had taken and not yielded is read again."""
        self._after = {}
        if self._left:
            with self._pump.lock:
                self._core.rewind({record.partition for record in self._left}, self._pump.now())
                self._left.clear()

    def commit(self, offsets: dict[int, int] | None = None) -> None:
        """Store the positions (or ``offsets`` by partition) for the group; returns when they are durable.

        Among peers one that is away is waited for a second at most. What was to be stored there is stored as soon as
        it, or a keeper of its partition, can be asked, as long as this consumer is open; until then whoever takes over
        begins at the commit before.

        Raises:
            InvalidArgument: the consumer has no group. OffsetOutOfRange: an offset beyond the log's end.
            Closed: the consumer was.
        """
        if offsets is not None and not isinstance(offsets, dict):
            raise errors.InvalidArgument(
                name="offsets", value=repr(offsets)[:100], allowed="offsets by partition, None"
            )
        for partition, offset in (offsets or {}).items():
            check_range("partition", partition, 0, self._core.partition_max)
            check_range("offset", offset, 0, OFFSET_MAX)
        with self._pump.lock:
            if self._core.closed:
                raise errors.Closed(what="consumer")
            now = self._pump.now()
            pending = self._core.commit(offsets, now, now + int(self._timeout * 1e9))
        self._result(pending, "the commit")

    def seek(self, partition: int, offset: int | str | datetime) -> None:
        """Go on from ``offset`` (or "earliest", "latest", a time) in one partition."""
        check_range("partition", partition, 0, self._core.partition_max)
        start = start_of(offset, "offset")
        self.open()
        self._give_back()
        with self._pump.lock:
            now = self._pump.now()
            pending = self._core.seek(partition, start, now, now + int(self._timeout * 1e9))
        try:
            self._result(pending, "the seek")
        finally:
            pending.fail(errors.Closed(what="this seek"))  # Unless it is done: its caller has left, so it must not be.

    def add(self, partition: int, offset: int) -> None:
        """Read one more partition, from ``offset`` on, beside those that it was made for with ``partitions=``.

        One that it reads already goes on there.

        Raises:
            UnknownPartition: nobody is known to have it. OffsetOutOfRange: it has no such offset.
        """
        check_range("partition", partition, 0, self._core.partition_max)
        check_range("offset", offset, 0, OFFSET_MAX)
        self.open()
        with self._pump.lock:
            self._core.include(partition)
        self.seek(partition, offset)

    def remove(self, partition: int) -> None:
        """Read a partition no more; what was received of it and not taken is dropped."""
        check_range("partition", partition, 0, self._core.partition_max)
        with self._pump.lock:
            self._core.exclude(partition)
        self._left = deque(record for record in self._left if record.partition != partition)
        self._after.pop(partition, None)

    def bound(self, total_bytes: int) -> None:
        """Receive no more while all partitions together hold so many bytes, and what was on its way, at most 2 MiB.

        Without it each partition holds up to ``buffer_bytes``, however many they are.
        """
        check_range("total_bytes", total_bytes, 1 << 10, 1 << 34, "bytes")
        with self._pump.lock:
            self._core.bound(total_bytes)

    @property
    def position(self) -> dict[int, int]:
        """Next offset for the application, by partition."""
        return {number: cursor.position for number, cursor in self._core.cursors.items()}

    @property
    def lag(self) -> dict[int, int]:
        """Records between the position and the end last heard of, by partition."""
        return {number: max(0, cursor.end - cursor.position) for number, cursor in self._core.cursors.items()}

    @property
    def problems(self) -> dict[int, errors.ZFabricError]:
        """Why partitions cannot go on, by partition: what :meth:`poll` raises, or has raised, of each."""
        cursors = self._core.cursors
        return {number: cursor.error for number, cursor in cursors.items() if cursor.error is not None}

    @property
    def failures(self) -> int:
        """How often :meth:`poll` or a loop has raised that a partition cannot go on."""
        return self._core.failures

    @property
    def skipped(self) -> int:
        """Offsets that were passed over because they were missing, with ``missing="skip"``."""
        return self._core.skipped

    @property
    def passed_over(self) -> int:
        """Origins in a mesh that have the topic and are not read: this fabric knows 20,000 others, and has no room."""
        return self._core.passed_over

    def log(self, partition: int) -> tuple[str, int]:
        """Return what a partition has as long as it is the same log, though it be read at a keeper: origin, id there.

        Without a mesh the origin is "". For a partition that is not read it is ``("", -1)``.
        """
        cursor = self._core.cursors.get(partition)
        return ("", -1) if cursor is None else cursor.log

    @property
    def assignment(self) -> list[int]:
        """Partitions that this consumer reads."""
        return list(self._core.cursors)

    def pause(self, *partitions: int) -> None:
        """Deliver nothing of these partitions (of all, without arguments) until :meth:`resume`."""
        self._pause(partitions, paused=True)

    def resume(self, *partitions: int) -> None:
        """Go on with paused partitions (with all, without arguments)."""
        self._pause(partitions, paused=False)

    def _pause(self, partitions: tuple[int, ...], *, paused: bool) -> None:
        for partition in partitions:
            check_range("partition", partition, 0, self._core.partition_max)
        self._give_back()
        with self._pump.lock:
            self._core.pause(partitions or list(self._core.cursors), self._pump.now(), paused=paused)

    def close(self) -> None:
        """End; what was not committed will be read again by the group. A second call does nothing."""
        if not (self._core.closed or self._pump.forked):
            with self._pump.lock:
                self._core.close()
                self._pump.flush(look=False)

    def abandon(self) -> None:
        """End without telling anybody: for a fabric that closes."""
        with self._pump.lock:
            if not self._core.closed:
                self._core.close()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
