"""What a partition remembers of its producers, so that a retry is answered with the original offset.

A batch carries producer id, epoch and the sequences of its records. The rules, per partition:

- a higher epoch fences all lower ones (a restarted named producer, or one that gave up on an unknown outcome);
- within an epoch, sequences are dense from 0: the next batch begins one after the last; one that repeats known
  sequences is a duplicate and gets the answer of its original; one beyond leaves a gap and is refused, so that the
  client repeats what is missing first;
- a named producer gets its epochs from here: each new instance a higher one, and the instance at work another when it
  has to begin again, while one that was fenced is refused;
- a SPARSE batch carries the application's own sequence: any larger one follows, over epochs as well. Where its records
  were read in another log, it says in which batch there the last of them was, which is told to whoever goes on, and
  which sequence comes before: if another one does, the log here was set back, and the batch would leave something out.

Who is idle is forgotten: after seven days, or a minute where the table is half full. Not so whoever carried the
application's own sequence, which may come again after months without a link: that is kept for 400 days, in any crowd.

The row is written in the transaction of the batch: what is remembered and what is stored cannot differ. The leader
keeps eight batches a producer while a client has at most five under way, so a retry always finds its original; an
older repeat is known to be one, though not its offset. (Kafka's KIP-98; the original offset, rather than an error,
is the lesson of Redpanda's Jepsen report, issue 3039.)
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from zfabric import errors
from zfabric.core import rows
from zfabric.core.leader import keys
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer
from zfabric.settings import PRODUCER_BATCHES_KEPT, PRODUCERS_PER_PARTITION_MAX
from zfabric.wire.batch import NOT_SAID, SPARSE, BatchHeader
from zfabric.wire.messages import UNKNOWN_OFFSET

CACHED_PRODUCERS = 10_000
IDLE_MS = 7 * 86_400_000
CROWDED_IDLE_MS = 60_000
SEQUENCED_IDLE_MS = 400 * 86_400_000
"""How long the application's own sequence is remembered: one that was offline for a season still goes on behind it."""
EPOCH_MAX = (1 << 31) - 1
"""Of a named producer; half of what a batch can carry, since its client counts on from there."""


class Remembered(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A batch as it was answered; ``sparse`` if its sequences are the application's."""

    first: int
    last: int
    base_offset: int
    append_time: int
    sparse: bool = False


class ProducerState(msgspec.Struct, array_like=True):
    """One producer in one partition; ``last`` and ``sparse_last`` are -1 before the first record.

    ``instance`` and ``attempt``: of a named producer, who was given the epoch, and for which of its attempts.
    ``read``: leader epoch and append time (ms) of the batch of another log in which the record ``sparse_last`` was
    read; zeros where that is not known.
    """

    epoch: int = 0
    last: int = -1
    sparse_last: int = -1
    touched_ms: int = 0
    batches: list[Remembered] = []
    instance: int = 0
    attempt: int = 0
    read: tuple[int, int] = (0, 0)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ProducerState).decode


class ProducerTable:
    """All producers of one partition: rows in the transaction, the recent ones cached.

    Attributes:
        noted: producer, epoch, first and last sequence, whether that is sparse, base offset and append time (ms) of a
            batch of a memory topic that is to be remembered: by this one assignment it is. :meth:`write_down` is left,
            if to whoever asks next.
    """

    def __init__(self, partition: int, rows: int, *, stored: bool) -> None:
        self.partition = partition
        self.rows = rows
        self._stored = stored
        self._known_max = CACHED_PRODUCERS if stored else PRODUCERS_PER_PARTITION_MAX // 2
        self._known: OrderedDict[int, ProducerState] = OrderedDict()
        self._dirty: set[int] = set()
        self._before: dict[int, ProducerState | None] = {}
        self.noted: tuple[int, int, int, int, bool, int, int] | None = None

    def find(self, producer: int, txn: Transaction) -> ProducerState | None:
        """Return what is remembered of a producer."""
        if self.noted is not None:
            self.write_down()
        state = self._known.get(producer)
        if state is None and self._stored:
            row = txn.get(keys.producer(self.partition, producer))
            if row is not None:
                state = self._known[producer] = self._decoded(producer, row)
        return state

    def _decoded(self, producer: int, row: Buffer) -> ProducerState:
        return rows.decode(_decode, row, f"producer {producer:#x} of partition id {self.partition}")

    def _is_over(self, producer: int, row: Buffer, wall_ms: int, idle_ms: int) -> bool:
        """Tell whether a row was idle too long; one that cannot be decoded does not expire, so that it is looked at."""
        try:
            state = self._decoded(producer, row)
        except errors.CorruptRow:
            return False
        return state.touched_ms < wall_ms - (SEQUENCED_IDLE_MS if state.sparse_last >= 0 else idle_ms)

    def check(self, header: BatchHeader, txn: Transaction) -> Remembered | None:
        """Judge a batch: None if it is new and next, the original's answer if it is a duplicate.

        Raises:
            ProducerFenced: a newer epoch is at work.
            OutOfOrderSequence: a batch before this one is missing.
            UnknownProducer: nothing is remembered of a producer that is beyond its first record.
            LimitExceeded: the partition has as many producers as it may.
        """
        producer, epoch, first = header.producer_id, header.producer_epoch, header.base_sequence
        sparse = bool(header.flags & SPARSE)
        state = self.find(producer, txn)
        if state is None:
            if first and not sparse:
                raise errors.UnknownProducer(partition=self.partition, producer=producer)
            if sparse:
                self._check_place(header, -1)
            self._check_room()
            return None
        if epoch < state.epoch:
            raise errors.ProducerFenced(producer=producer, epoch=epoch, current=state.epoch, partition=self.partition)
        if sparse:
            if first > state.sparse_last:
                self._check_place(header, state.sparse_last)
                return None
            return self._original(state, header, state.sparse_last + 1)
        if epoch > state.epoch:
            if first:
                raise self._gap(producer, epoch, first, 0)
            return None
        if first == state.last + 1:
            return None
        if first > state.last:
            raise self._gap(producer, epoch, first, state.last + 1)
        return self._original(state, header, state.last + 1)

    def follows(self, producer: int, epoch: int, sequence: int) -> bool:
        """Tell whether one record, without SPARSE, is new and next; of any other :meth:`check` tells what it is."""
        if self.noted is not None:
            self.write_down()
        state = self._known.get(producer)
        return state is not None and state.last + 1 == sequence and state.epoch == epoch

    def _check_place(self, header: BatchHeader, last: int) -> None:
        after = header.base_offset + NOT_SAID
        if after not in (NOT_SAID, last):
            raise self._gap(header.producer_id, header.producer_epoch, header.base_sequence, last + 1)

    def _check_room(self) -> None:
        if self.rows >= PRODUCERS_PER_PARTITION_MAX:
            raise errors.LimitExceeded(
                what=f"producers of partition id {self.partition}",
                value=self.rows + 1,
                limit=PRODUCERS_PER_PARTITION_MAX,
                instead="idle ones are forgotten after a minute, those with sequence= after 400 days; use fewer",
            )

    def _gap(self, producer: int, epoch: int, sequence: int, expected: int) -> errors.OutOfOrderSequence:
        return errors.OutOfOrderSequence(
            partition=self.partition, producer=producer, epoch=epoch, sequence=sequence, expected=expected
        )

    def _original(self, state: ProducerState, header: BatchHeader, expected: int) -> Remembered:
        first, last, sparse = header.base_sequence, header.last_sequence, bool(header.flags & SPARSE)
        for entry in reversed(state.batches):
            # A producer may send both kinds, and the same numbers mean other records then.
            if entry.first == first and entry.last == last and entry.sparse == sparse:
                return entry
        if last >= expected:
            epoch = header.producer_epoch
            raise errors.ProtocolViolation(
                problem=f"sequences {first} to {last} of partition id {self.partition}, epoch {epoch}, overlap",
                allowed=f"a batch that was sent before, or one from {expected} on",
            )
        return Remembered(first, last, UNKNOWN_OFFSET, -1)

    def write_down(self) -> None:
        """Remember what was :attr:`noted`; again, should an exception have ended it."""
        if self.noted is not None:
            self._remember(self._known.get(self.noted[0]), *self.noted)
            self.noted = None

    def remember(
        self, header: BatchHeader, base_offset: int, append_time: int, txn: Transaction, read: tuple[int, int] = (0, 0)
    ) -> None:
        """Note that the batch was appended; ``read``: what it says of where its last record was read."""
        producer = header.producer_id
        state = self.find(producer, txn)
        self._keep(producer, state)
        first, last, sparse = header.base_sequence, header.last_sequence, bool(header.flags & SPARSE)
        self._remember(state, producer, header.producer_epoch, first, last, sparse, base_offset, append_time, read)

    def _remember(  # noqa: PLR0917 - what is noted, as it is
        self,
        state: ProducerState | None,
        producer: int,
        epoch: int,
        first: int,
        last: int,
        sparse: bool,  # noqa: FBT001 - as noted
        base_offset: int,
        append_time: int,
        read: tuple[int, int] = (0, 0),
    ) -> None:
        if state is None:
            state = self._known[producer] = ProducerState(batches=[])
            self.rows += 1
        if epoch > state.epoch:
            state.epoch, state.last, state.batches = epoch, -1, []
        if sparse:
            state.sparse_last = last
            state.read = read
        else:
            state.last = last
        state.touched_ms = append_time
        state.batches.append(Remembered(first, last, base_offset, append_time, sparse))
        del state.batches[:-PRODUCER_BATCHES_KEPT]
        if self._stored:
            self._dirty.add(producer)
        self._known.move_to_end(producer)

    def begin(self, producer: int, instance: int, attempt: int, wall_ms: int, txn: Transaction) -> ProducerState:
        """A named producer asks for an epoch: the next one, or its own if this very attempt was answered before.

        Raises:
            ProducerFenced: another instance has begun since this one did.
            LimitExceeded: the partition has as many producers as it may, or this one has used up its epochs.
        """
        state = self.find(producer, txn)
        if state is not None and instance:
            mine = state.instance == instance
            if mine and state.attempt == attempt:
                return state
            if attempt < state.attempt if mine else attempt:
                older = max(state.epoch - 1, 0)  # At most: the command does not carry it.
                raise errors.ProducerFenced(
                    producer=producer, epoch=older, current=state.epoch, partition=self.partition
                )
        if state is not None and state.epoch >= EPOCH_MAX:
            raise errors.LimitExceeded(
                what=f"epochs of producer {producer:#x} in partition id {self.partition}",
                value=state.epoch + 1,
                limit=EPOCH_MAX,
                instead="give the producer another name",
            )
        self._keep(producer, state)
        if state is None:
            self._check_room()
            state = self._known[producer] = ProducerState(batches=[])
            self.rows += 1
        else:
            state.epoch, state.last, state.batches = state.epoch + 1, -1, []
        state.instance, state.attempt = instance, attempt
        state.touched_ms = wall_ms
        if self._stored:
            self._dirty.add(producer)
        self._known.move_to_end(producer)
        return state

    def _keep(self, producer: int, state: ProducerState | None) -> None:
        """Remember what a producer of a memory topic was before the turn; of others, the rows know."""
        if not self._stored and producer not in self._before:
            kept = state and msgspec.structs.replace(state, batches=list(state.batches))
            self._before[producer] = kept

    def settled(self) -> None:
        """The turn is durable."""
        if self.noted is not None:
            self.write_down()
        self._before.clear()

    def abandon(self) -> None:
        """The turn is given up: a memory topic knows its producers as before."""
        for producer, state in self._before.items():
            if state is not None:
                self._known[producer] = state
            elif self._known.pop(producer, None) is not None:
                self.rows -= 1
        self._before.clear()
        self.noted = None
        self._dirty.clear()

    def flush(self, txn: Transaction) -> None:
        """Write the rows of the producers that changed; those of a memory topic have none."""
        if self._dirty:
            for producer in self._dirty:
                txn.put(keys.producer(self.partition, producer), _encode(self._known[producer]))
            self._dirty.clear()
        while len(self._known) > self._known_max:
            self._known.popitem(last=False)
            self.rows -= not self._stored

    def expire(self, wall_ms: int, most: int, after: int, txn: Transaction) -> tuple[int, int]:
        """Forget producers that were idle too long, looking at ``most`` rows from producer id ``after`` on.

        Idle too long is seven days, or a minute once the table is half full; 400 days for the application's sequences.

        Returns:
            (rows removed, the producer id to go on from; -1 at the end)
        """
        if not self.rows:
            return 0, -1
        idle = CROWDED_IDLE_MS if self.rows * 2 > PRODUCERS_PER_PARTITION_MAX else IDLE_MS
        mine = keys.prefix(keys.PRODUCER, self.partition)
        doomed: list[int] = []
        cursor = txn.cursor()
        found = cursor.set_range(keys.producer(self.partition, after))
        looked = 0
        producer = -1
        while found and bytes(cursor.key()[:5]) == mine:
            producer = keys.split_batch(cursor.key())[1]
            if looked == most:
                break
            looked += 1
            # The row of one that sent something in this very turn is not written yet.
            if producer not in self._dirty and self._is_over(producer, cursor.value(), wall_ms, idle):
                doomed.append(producer)
            producer = -1
            found = cursor.next()
        for victim in doomed:
            txn.delete(keys.producer(self.partition, victim))
            self._known.pop(victim, None)
        self.rows -= len(doomed)
        return len(doomed), producer
