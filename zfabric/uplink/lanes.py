"""One source partition on its way to the hub: where to begin, what was missed, what is under way. No I/O.

Offsets of a partition, in this order at all times::

    acknowledged + 1 <= position      everything between is under way, or was skipped
    position         <= end           what the source holds and was not read yet

A lane begins where the hub says (:meth:`Lane.begin`). What the source no longer has between there and its start is a
gap. Each batch that is read either begins at the position or shows another gap.
"""

from __future__ import annotations

from collections import deque

from zfabric import errors


class Lane:
    """One partition.

    Attributes:
        topic, partition: at the source. position: next offset to read. sent: last sequence given to the producer.
        acknowledged: last sequence that the hub has. end: the source's, as last heard of.
        goal: the source's end when the lane first began in this run: where "caught up" is; None before.
        parted: from where on the source's log, which was set back, is another one than was read; None if it was not.
        promised: what is below was told to be at the hub; 0 if nothing was, or if it was told that it is not.
        records, skipped: acknowledged, and missed, since the lane was made. in_flight: bytes given to the producer.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.position = 0
        self.sent = -1
        self.acknowledged = -1
        self.end = 0
        self.goal: int | None = None
        self.parted: int | None = None
        self.promised = 0
        self.records = 0
        self.skipped = 0
        self.in_flight = 0
        self._unsent = 0
        self._under_way: deque[tuple[int, int, int]] = deque()

    def begin(self, stored: int, start: int, end: int) -> tuple[int, int] | None:
        """Begin, or begin again, behind ``stored``, the last sequence that the hub has (-1: none).

        Args:
            start, end: of the source's log.

        Returns:
            the gap that this shows, as its first offset and the one behind it; None if there is none.

        Raises:
            SourceRewound: the hub has records that the source does not have any more, or others instead.
        """
        shared = end if self.parted is None else min(end, self.parted)
        if stored >= shared:
            raise errors.SourceRewound(topic=self.topic, partition=self.partition, end=shared, stored=stored)
        self._under_way.clear()
        self._unsent = 0
        self.in_flight = 0
        self.acknowledged = self.sent = stored
        self.position = stored + 1
        self.end = end
        self.promised = 0
        if self.goal is None:
            self.goal = end
        return self._skip_to(start)

    def _skip_to(self, offset: int) -> tuple[int, int] | None:
        if offset <= self.position:
            return None
        gap = (self.position, offset)
        self.skipped += offset - self.position
        self.position = offset
        return gap

    def grew(self, end: int) -> None:
        """Note where the source's log ends now."""
        self.end = max(self.end, end)

    def read(self, first: int, following: int) -> tuple[int, int] | None:
        """Note that a batch of the offsets ``first`` to ``following - 1`` was read; returns the gap before it.

        It is to be given to the producer next. An empty one only shows a gap.
        """
        gap = self._skip_to(first)
        self._unsent += following > first
        self.position = max(self.position, following)
        self.end = max(self.end, self.position)
        return gap

    def repeats(self, first: int) -> int | None:
        """Return what was promised if a batch that begins at ``first`` was; once, for all of that is sent again."""
        if first >= self.promised:
            return None
        promised, self.promised = self.promised, 0
        return promised

    def gave(self, last: int, records: int, size: int) -> None:
        """Note that the producer took what was read: the last record has the sequence ``last``.

        ``records`` is 0 if the hub had all of them.
        """
        self._unsent -= 1
        if records:
            self.sent = last
            self.in_flight += size
            self._under_way.append((last, records, size))

    def stored(self, last: int) -> None:
        """Note that the hub has everything given to the producer up to the sequence ``last``."""
        self.acknowledged = max(self.acknowledged, last)
        while self._under_way and self._under_way[0][0] <= last:
            _, records, size = self._under_way.popleft()
            self.records += records
            self.in_flight -= size

    @property
    def settled(self) -> bool:
        """Whether nothing is under way, and nothing was read that is not."""
        return not self._under_way and not self._unsent

    @property
    def done(self) -> int:
        """The next offset that the hub does not have: what was skipped counts as had, once nothing is under way."""
        return self.position if self.settled else self.acknowledged + 1

    @property
    def lag(self) -> int:
        """Records between that and the source's end."""
        return max(0, self.end - self.done)

    @property
    def caught_up(self) -> bool:
        """Whether all that there was when the lane first began has arrived."""
        return self.goal is not None and self.done >= self.goal
