"""Whose turn it is among the partitions of one consumer: those that have records, and those that have failed.

A partition that cannot go on has an error. It is told once, in turn with the records of the others and behind its own,
so that neither keeps the other waiting; from then on the others are read as if it were not there. It goes on when it is
sought, when it is another log (:meth:`Consumer.learn <zfabric.core.client.consumer.Consumer.learn>`), or when what was
damaged has been mended (``feed.py``), and whatever stops it then is told anew. The end of a topic that was deleted
concerns them all, and comes when everything is taken.

While nothing that is read can go on there is nothing to wait for, so that is told again (:meth:`Turns.stuck`): else
whoever has let the error pass would wait for ever. Rejected: telling each failure at every look, as Kafka's consumers
do. A consumer of 200 origins would hear of one of them for ever, and could not tell news from what it knows. And to do
that in a mesh alone: an application that moves there would have to be another one.
"""

from __future__ import annotations

from collections.abc import Mapping

from zfabric import errors
from zfabric.core.client.candidates import Candidates
from zfabric.core.client.cursor import Cursor


class Turns:
    """The turns of one consumer.

    Args:
        cursors: of all partitions that are read, by their numbers.

    Attributes:
        stocked: those that have something to take. failed: those that have nothing but an error that was not told.
        failures: errors that were told. last: place of the partition whose turn was the last one.
    """

    def __init__(self, cursors: Mapping[int, Cursor]) -> None:
        self.stocked = Candidates(_stocked)
        self.failed = Candidates(_failed)
        self.failures = 0
        self._cursors = cursors
        self.last = -1

    def clear(self) -> None:
        """Begin with other partitions."""
        self.stocked.clear()
        self.failed.clear()

    def forget(self, cursor: Cursor) -> None:
        """A partition is read no more."""
        self.stocked.forget(cursor)
        self.failed.forget(cursor)

    def any(self) -> bool:
        """Tell whether there is something to take, or to tell."""
        if not (self.stocked.places or self.failed.places):
            return False
        return self.stocked.first() is not None or self.failed.first() is not None

    def next(self, taken: int) -> Cursor | None:
        """Return the next partition, in turn, that has something; None if there is none.

        Args:
            taken: what was taken in this call; an error waits for the next one then, and it is nobody's turn.

        Raises:
            ZFabricError: it is the turn of a partition that has failed.
        """
        cursor, failed = self.stocked.first(self.last), self.failed.first(self.last)
        if failed is None or (cursor is not None and self._is_before(cursor, failed)):
            if cursor is not None:
                self.last = cursor.place
            return cursor
        if taken:
            return None
        assert failed.error is not None, "who failed has an error"
        self.last = failed.place
        self.failures += 1
        failed.told = True
        raise failed.error

    def _is_before(self, stocked: Cursor, failed: Cursor) -> bool:
        """Tell whether the records of one come before the error of the other."""
        if isinstance(failed.error, errors.UnknownTopic):
            return True
        return (stocked.place <= self.last, stocked.place) < (failed.place <= self.last, failed.place)

    def stuck(self) -> errors.ZFabricError | None:
        """Return an error that was told if nothing that is read can go on, and nothing is left to take."""
        found = None
        for cursor in self._cursors.values():
            if not cursor.paused:
                if cursor.error is None or not cursor.told:
                    return None
                found = found or cursor.error
        return found


def _stocked(cursor: Cursor) -> bool:
    return bool(cursor.records or cursor.buffer) and not cursor.paused


def _failed(cursor: Cursor) -> bool:
    return cursor.error is not None and not (cursor.told or cursor.paused or cursor.records or cursor.buffer)
