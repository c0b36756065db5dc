"""Who waits for something to take from one consumer.

Most wait until there may be something, and take it then. Whoever *expects* a record is handed the next one if that
comes alone while nothing else is there to take: it never lies in a buffer, which is most of a record's way through a
consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zfabric.core.client.pending import Pending
from zfabric.wire.received import lone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zfabric.core.client.cursor import Cursor
    from zfabric.core.client.turns import Turns
    from zfabric.model import Record


class Arrival(Pending[None]):
    """What comes when there may be something to take.

    Attributes:
        record: came with it, where one was expected. It is received and not taken: the position is before it.
        cursor: its partition, of that alone. waited: its caller had to wait for it, and so has looked at the sockets.
    """

    record: Record | None = None
    cursor: Cursor
    waited = False


class Arrivals:
    """Those who wait for one consumer.

    Args:
        turns: of its partitions.

    Attributes:
        idle: the application came for more, and there was nothing since: it has processed what it got.
        closed: nothing comes any more.
    """

    def __init__(self, turns: Turns) -> None:
        self.idle = self.closed = False
        self._turns = turns
        # Those who wait, while idle.
        self._shared: Arrival | None = None
        self._expected: Arrival | None = None

    def wait(self) -> Arrival:
        """Return what comes when there may be something to take; all who ask meanwhile share it."""
        self.idle = True
        if self._shared is None:
            self._shared = Arrival()
        return self._shared

    def expect(self) -> Arrival:
        """Return what comes when there may be something, or with the next record; for one caller at a time."""
        if self._expected is not None:
            return self.wait()
        self.idle = True
        self._expected = Arrival()
        return self._expected

    def withdraw(self, arrival: Arrival) -> None:
        """Hand nothing to it from now on: its caller waits no more."""
        if self._expected is arrival:
            self._expected = None

    def wake(self) -> None:
        """Let those go on who wait, if there is something."""
        if self.idle and (self.closed or self._turns.any()):
            self.idle = False
            waiting = self._expected, self._shared
            self._expected = self._shared = None
            for arrival in waiting:
                if arrival is not None:
                    arrival.resolve(None)

    def hand(self, cursor: Cursor, frames: Sequence[Any]) -> bool:
        """Hand a publication to whoever expects it, if it is the next record of its partition; tells whether it did.

        It has to be alone in its batch, which is received past the buffer, as all before it were received; of any other
        nothing is. Whoever waits has found nothing to take, so there is nothing before it. The position stays before
        the record: it moves when the application has it.

        Once the record is found nothing is called, so no handler of a signal strikes between two of these lines.
        """
        arrival, stamp = self._expected, cursor.stamp
        if arrival is None or stamp is None:
            return False
        offset = cursor.expected
        found = lone(frames, stamp, offset, cursor.topic, cursor.number)
        if found is None:
            return False
        arrival.record, cursor.seen_ms = found
        arrival.cursor = cursor
        cursor.untouched = False
        cursor.seen = cursor.expected = end = offset + 1
        if end > cursor.end:  # noqa: PLR1730 - max() takes three times as long, for each record
            cursor.end = end
        self._expected = None
        self.idle = self._shared is not None
        self._turns.last = cursor.place
        if arrival.callbacks is None:
            arrival.done = True
        else:
            arrival.resolve(None)
        return True
