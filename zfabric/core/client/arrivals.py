"""Who waits for something to take from one consumer.

Most wait until there may be something, and take it then. Whoever *expects* a record is handed the next one if that
comes alone while nothing else is there to take: it never lies in a buffer, which is most of a record's way through a
consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zfabric.core.client.pending import Pending

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

    def bring(self, record: Record, cursor: Cursor) -> None:
        """Come with a record; it has not come yet."""
        self.record = record
        self.cursor = cursor
        self.done = True
        if self._callbacks is not None:
            self._finish()


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

        Whoever waits has found nothing to take, so there is nothing before it.
        """
        arrival = self._expected
        if arrival is None:
            return False
        record = cursor.pass_on(frames)
        if record is None:
            return False
        self._expected = None
        self.idle = self._shared is not None
        self._turns.last = cursor.place
        arrival.bring(record, cursor)
        return True
