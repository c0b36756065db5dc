"""Damaged stretches of stored logs: found, and mended by what another holder of the same log has.

Found by whoever reads them (a consumer's FETCH, a keeper's FOLLOW) and, in copies, by the *scrub*: a walk over all
copies, once a day, that verifies every batch. It reads 128 KiB twice a second, so a step costs microseconds, and a
keeper of 20 GB is through in a day. What is found stays in memory: after a restart it is found
again.

Mended by the same log elsewhere: a copy by its origin or another keeper, a log that is led here by a keeper. Who is
asked is decided by ``mender.py``. Rules:

- nothing is replaced but what is damaged now, and by nothing but verified batches that cover it from its first offset;
- offsets, leader epochs, append times and payload bytes are those of the other holder. Where it is cut into batches
  otherwise (one of the two was compacted), the part that is missing is cut out;
- a batch whose epoch is not the one that this log had there is of another log. So is one that differs from what is left
  of a damaged header whose own checksum is right;
- what nobody has any more stays as it is: its readers are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from zfabric import errors
from zfabric.core.leader import keys, lineage
from zfabric.core.leader.assigned import Assigned
from zfabric.core.leader.counters import Counters
from zfabric.core.leader.cutting import cut
from zfabric.core.leader.log import StoredLog
from zfabric.core.leader.partition import Partition
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer
from zfabric.wire import batch
from zfabric.wire.batch import COMPACTED, HEADER_BYTES, BatchHeader

STRETCHES_MAX: Final = 1_000
"""Known at a time; what is found beyond is found again."""
NEWS_MAX: Final = 1_000
SCRUB_NS: Final = 86_400_000_000_000
SCRUB_STEP_NS: Final = 500_000_000
SCRUB_BYTES: Final = 128 << 10
BATCH_COST: Final = 1_024
"""Bytes that a batch, or a copy, counts beside its payload."""


class Piece(NamedTuple):
    """A verified batch as another holder has it: header, its bytes, payload."""

    header: BatchHeader
    raw: Buffer
    payload: Buffer


class Patch(NamedTuple):
    """What another holder has of a stretch that begins at ``first``: batches that follow each other."""

    partition: int
    first: int
    pieces: Sequence[Piece]


class Stretch(NamedTuple):
    """Offsets that cannot be read, up to ``following``; ``emptied``: a patch has taken the row that was there."""

    following: int
    problem: str
    emptied: bool = False


class News(NamedTuple):
    """Something for the log: ``"found"``, ``"mended"`` or ``"refused"``, of offsets up to ``following``."""

    kind: str
    topic: str
    partition: int
    first: int
    following: int
    problem: str


class Damage:
    """All damage that is known of one leader's logs.

    Attributes:
        stretches: by partition, then by first offset.
    """

    def __init__(self, assigned: Assigned, counters: Counters) -> None:
        self.stretches: dict[int, dict[int, Stretch]] = {}
        self._assigned = assigned
        self._counters = counters
        self._news: list[News] = []
        self._mended: list[tuple[int, int, Stretch | None, int]] = []
        self._scrub_due = self._step_due = 0
        self._scrubbing: list[int] = []
        self._at = 0

    # Finding.

    def see(self, partition_id: int, error: errors.ZFabricError) -> None:
        """A partition could not be read: take note if it is damage that another holder may mend."""
        if not isinstance(error, errors.CorruptBatch) or partition_id not in self._assigned.places:
            return
        mine = self.stretches.setdefault(partition_id, {})
        known = mine.get(error.offset)
        if known is None and sum(map(len, self.stretches.values())) >= STRETCHES_MAX:
            return
        if known is None:
            self._counters.damaged += 1
            self._tell("found", error.topic, error.partition, error.offset, error.next_offset, error.problem)
            mine[error.offset] = Stretch(error.next_offset, error.problem)
        elif known.following != error.next_offset:
            mine[error.offset] = known._replace(following=error.next_offset)

    def problem(self, partition_id: int) -> str:
        """Return what is known to be damaged in a partition; "" if nothing is."""
        for first, stretch in sorted(self.stretches.get(partition_id, {}).items()):
            if self.is_over(partition_id, first):
                continue  # Retention has passed it.
            return f"damaged from offset {first} to {stretch.following - 1}: {stretch.problem}"
        return ""

    def own(self) -> frozenset[str]:
        """Return the topics of which something that is led here is damaged: others may have copies."""
        places, kept = self._assigned.places, self._assigned.kept
        led = self.stretches.keys() & places.keys() - kept.keys()
        return frozenset(places[partition_id][0].name for partition_id in led)

    def forget(self, partition_id: int, first: int) -> None:
        """A stretch is of no concern any more."""
        mine = self.stretches.get(partition_id, {})
        mine.pop(first, None)
        if not mine:
            self.stretches.pop(partition_id, None)

    def is_over(self, partition_id: int, first: int) -> bool:
        """Tell whether a stretch has been removed, by retention or with its partition, as far as one knows."""
        stretch = self.stretches.get(partition_id, {}).get(first)
        partition = self._assigned.loaded.get(partition_id)
        trimmed = stretch is not None and partition is not None and stretch.following <= partition.log.state.start
        return stretch is None or trimmed or partition_id not in self._assigned.places

    def drop(self, partition_id: int) -> None:
        """The partition is here no more."""
        self.stretches.pop(partition_id, None)

    def take_news(self) -> list[News]:
        """Return what there is to be told."""
        news, self._news = self._news, []
        return news

    def _tell(self, kind: str, topic: str, partition: int, first: int, following: int, problem: str) -> None:
        if len(self._news) < NEWS_MAX:
            self._news.append(News(kind, topic, partition, first, following, problem))

    def scrub(self, now: int, txn: Transaction) -> None:
        """Verify some more of the copies, if it is time."""
        if not self._scrubbing:
            if now < self._scrub_due:
                return
            self._scrub_due = now + SCRUB_NS
            self._scrubbing = sorted(self._assigned.kept, reverse=True)
            self._at = 0
        if now < self._step_due:
            return  # Maintenance takes many steps where there is much to remove.
        self._step_due = now + SCRUB_STEP_NS
        budget = SCRUB_BYTES
        while self._scrubbing and budget > 0:
            budget -= BATCH_COST + self._scrub_step(self._scrubbing[-1], budget, txn)

    def _scrub_step(self, partition_id: int, budget: int, txn: Transaction) -> int:
        """Verify up to ``budget`` bytes of one copy, from where the scrub is; returns how many it were."""
        read = 0
        try:
            log = self._assigned.partition(partition_id, txn).log
            self._at = max(self._at, log.state.start)
            if isinstance(log, StoredLog) and self._at < log.state.end:
                for header, _, payload in log.batches(self._at, txn):
                    self._at = header.next_offset
                    read += BATCH_COST + len(payload)
                    if read >= budget:
                        return read
        except errors.CorruptBatch as error:
            self.see(partition_id, error)
            self._at = max(error.next_offset, self._at + 1)
            return read
        except (errors.CorruptRow, errors.NotLeader):
            pass  # Whoever uses the copy is told; one that is gone needs no scrub.
        self._scrubbing.pop()
        self._at = 0
        return read

    # Mending, in the turn's transaction.

    def mend(self, patch: Patch, txn: Transaction) -> Partition | None:
        """Put what another holder has in place of what is damaged; returns the partition if its rows change."""
        stretch = self.stretches.get(patch.partition, {}).get(patch.first)
        if stretch is None:
            return None
        try:
            partition = self._assigned.partition(patch.partition, txn)
            log = partition.log
            assert isinstance(log, StoredLog), "what is not on disk is not damaged"
            broken = self._broken(log, patch.first, stretch.following, txn)
            if broken is None:
                self._mended.append((patch.partition, patch.first, None, patch.first))
                return None
            reached = self._put(log, broken, patch.pieces, emptied=stretch.emptied, txn=txn)
        except errors.ZFabricError as error:
            self._refuse(patch, stretch, str(error))
            return None
        if reached == broken.offset:
            self._refuse(patch, stretch, f"the other holder has nothing at offset {broken.offset}")
            return None
        state = log.state
        # Superseded records may be among it: the next pass of compaction looks at it again.
        state.clean_end = min(state.clean_end, max(broken.offset, state.start))
        log.touch()
        partition.compactor, partition.damaged = None, False
        left = stretch._replace(following=broken.next_offset, emptied=True) if reached < broken.next_offset else None
        self._mended.append((patch.partition, patch.first, left, reached))
        self._counters.mended += left is None
        self._tell("mended", log.topic, log.number, broken.offset, reached, stretch.problem)
        return partition

    def _refuse(self, patch: Patch, stretch: Stretch, problem: str) -> None:
        place = self._assigned.places.get(patch.partition)
        topic, number = (place[0].name, place[1]) if place is not None else ("", 0)
        self._tell("refused", topic, number, patch.first, stretch.following, problem)

    def _broken(self, log: StoredLog, first: int, following: int, txn: Transaction) -> errors.CorruptBatch | None:
        """Return what is damaged of a stretch now; None if all of it can be read, or is gone."""
        at = max(first, log.state.start)
        try:
            if at < min(following, log.state.end):
                for header, _, _ in log.batches(at, txn):
                    if header.next_offset >= following:
                        break
        except errors.CorruptBatch as error:
            return error if error.offset < following else None
        return None

    def _put(
        self, log: StoredLog, broken: errors.CorruptBatch, pieces: Sequence[Piece], *, emptied: bool, txn: Transaction
    ) -> int:
        """Replace the damaged row by what there is instead; returns the offset up to which there is something.

        Raises:
            LogsDiverged: it is of another log. ProtocolViolation: a batch that has to be cut cannot be decoded.
        """
        state = log.state
        key = keys.batch(log.partition, broken.offset)
        row = txn.get(key)
        before = None if row is None else bytes(row)
        at, found = broken.offset, []
        for piece in pieces:
            if piece.header.next_offset <= at:
                continue
            if piece.header.base_offset > at or at >= broken.next_offset:
                break
            fitted = _fit(piece, at, broken.next_offset)
            self._check(log, before, fitted.header, txn)
            found.append(fitted)
            at = fitted.header.next_offset
        if not found:
            return at
        if before is not None:
            txn.delete(key)
            state.bytes -= len(before)
            state.batches -= 1
        for header, raw, payload in found:
            stamped = batch.stamp(
                raw, log.partition, header.leader_epoch, header.span, header.base_offset, header.append_time
            )
            txn.put(keys.batch(log.partition, header.base_offset), b"".join((stamped, payload)))
            if before is not None or emptied:  # The state counts a row that has vanished as if it were there.
                state.bytes += HEADER_BYTES + len(payload)
                state.batches += 1
        return at

    def _check(self, log: StoredLog, before: bytes | None, header: BatchHeader, txn: Transaction) -> None:
        """Make sure that a batch is of this log.

        Raises:
            LogsDiverged: it is not.
        """
        problem = ""
        epoch = lineage.epoch_at(log, header.base_offset, txn)
        if epoch and header.leader_epoch != epoch:
            problem = f"leader epoch {epoch} here, {header.leader_epoch} there"
        if before is not None and len(before) >= HEADER_BYTES and batch.header_is_whole(before):
            mine = batch.parse(before)
            plain = not (mine.flags | header.flags) & COMPACTED and mine.base_offset == header.base_offset
            if plain and mine._replace(partition=0, header_crc=0) != header._replace(partition=0, header_crc=0):
                problem = "it is not the batch of which the header is left here"
        if problem:
            raise errors.LogsDiverged(topic=log.topic, partition=log.number, offset=header.base_offset, problem=problem)

    def settled(self) -> None:
        """The turn is durable: what was mended is."""
        for partition_id, first, left, reached in self._mended:
            self.forget(partition_id, first)
            if left is not None:
                self.stretches.setdefault(partition_id, {})[reached] = left
        self._mended.clear()

    def abandon(self) -> None:
        """The turn is given up: nothing was mended."""
        self._mended.clear()


def _fit(piece: Piece, first: int, following: int) -> Piece:
    header = piece.header
    if header.base_offset < first or header.next_offset > following:
        return Piece(*cut(header, piece.payload, first, following))
    return piece
