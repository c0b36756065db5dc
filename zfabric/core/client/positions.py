"""Where a consumer begins: what its group has committed, else what it was told, asked of each partition's leader.

Where leaders are scattered (see ``origins.py``), one that does not answer within a second keeps nobody waiting: its
partitions are asked for again, however long it is away, and begin when it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from zfabric import errors
from zfabric.core.client.feed import CALL_NS, IDLE_NS
from zfabric.core.client.pending import Pending, gather
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.consumer import Consumer
    from zfabric.core.client.cursor import Cursor

ABSENT_NS: Final = 1_000_000_000
"""Longest that opening waits for a leader that may be away."""
Start = int | str
"""An offset, "earliest", "latest", or "@MS": the first record at or after that many ms since 1970."""


class Positions:
    """Finds and changes the positions of one consumer.

    Args:
        start: where a partition begins of which the group has committed nothing.
    """

    def __init__(self, client: Client, consumer: Consumer, start: Start) -> None:
        self._client = client
        self._consumer = consumer
        self._start = start

    def find_all(self, deadline_ns: int) -> Pending[None]:
        """Set the positions of all cursors."""
        cursors = list(self._consumer.cursors.values())
        if not self._client.scattered:
            return self._place(cursors, self._start, deadline_ns)
        whole: Pending[None] = Pending()
        soon_ns = min(deadline_ns, self._client.now + ABSENT_NS)
        grouped = by_leader(cursors).values()
        _relay(gather([self._tolerated(mine, self._place(mine, self._start, soon_ns)) for mine in grouped]), whole)
        return whole

    def _tolerated(self, cursors: list[Cursor], placed: Pending[None]) -> Pending[None]:
        done: Pending[None] = Pending()

        def known() -> None:
            if placed.error is None:
                done.resolve(None)
            elif getattr(placed.error, "retriable", False) or isinstance(placed.error, errors.UnknownTopic):
                for cursor in cursors:
                    self._find(cursor, self._start)
                done.resolve(None)
            else:
                done.fail(placed.error)

        placed.on_done(known)
        return done

    def find_added(self, cursor: Cursor) -> None:
        """Set the position of a partition that was added, however long its leader is away.

        It begins with its first record. A part of a topic whose leaders are scattered may have been there all the
        time and only not seen, so it begins where the others did, unless that was an offset.
        """
        late = self._start if self._client.scattered and isinstance(self._start, str) else "earliest"
        self._find(cursor, late)

    def _find(self, cursor: Cursor, start: Start) -> None:
        client = self._client

        def find() -> None:
            if not self._consumer.closed and cursor.position < 0 and self._holds(cursor):
                placed = self._place([cursor], start, client.now + CALL_NS)
                placed.on_done(lambda: client.after(client.now + IDLE_NS, find) if placed.error else None)

        find()

    def _holds(self, cursor: Cursor) -> bool:
        return self._consumer.cursors.get(cursor.number) is cursor

    def _place(self, cursors: list[Cursor], start: Start, deadline_ns: int) -> Pending[None]:
        whole: Pending[None] = Pending()
        group = self._consumer.group
        if group is None:
            _relay(gather([self._begin(cursor, start, deadline_ns) for cursor in cursors]), whole)
            whole.on_done(lambda: self._consumer.tick(self._client.now))  # Once for all of them.
            return whole
        grouped = by_leader(cursors)
        asked = gather([
            self._call(leader, Type.GET_OFFSETS, messages.GetOffsets(group, [c.id for c in mine]),
                       self._client.now, deadline_ns, "committed offsets")
            for leader, mine in grouped.items()
        ])  # fmt: skip

        def known() -> None:
            if asked.error is not None:
                whole.fail(asked.error)
                return
            for mine, answer in zip(grouped.values(), asked.result(), strict=True):
                by_id = {cursor.id: cursor for cursor in mine}
                for part in answer.body.parts:
                    cursor = by_id.get(part.partition)
                    if part.offset >= 0 and cursor is not None:
                        cursor.committed = part.offset
                        cursor.end = part.end_offset
                        cursor.clear(part.offset)
            rest = [cursor for cursor in cursors if cursor.position < 0 and self._holds(cursor)]
            _relay(gather([self._begin(cursor, start, deadline_ns) for cursor in rest]), whole)
            whole.on_done(lambda: self._consumer.tick(self._client.now))

        asked.on_done(known)
        return whole

    def _begin(self, cursor: Cursor, start: Start, deadline_ns: int) -> Pending[None]:
        return self.seek(cursor, start, self._client.now, deadline_ns, opening=True)

    def _call(self, leader: int, kind: int, body: Any, now: int, deadline_ns: int, what: str) -> Pending[Command]:
        return self._client.call_partition(leader, kind, body, now, deadline_ns, what, self._consumer.topic)

    def seek(self, cursor: Cursor, start: Start, now: int, deadline_ns: int, *, opening: bool = False) -> Pending[None]:
        """Go on from ``start`` in one partition; comes when the offset is known.

        When a consumer that skips what is missing opens, an offset that was removed stands for the log's start.
        """
        done: Pending[None] = Pending()
        timestamp = {"earliest": -2, "latest": -1}.get(str(start))
        if timestamp is None and isinstance(start, str):
            timestamp = int(start.removeprefix("@"))
        wanted = messages.FindOffset(cursor.id, -1 if timestamp is None else timestamp)
        asked = self._call(
            cursor.leader, Type.FIND_OFFSETS, messages.FindOffsets([wanted]), now, deadline_ns, "offsets"
        )

        def found() -> None:
            if asked.error is not None or done.done:
                done.fail(asked.error or errors.Closed(what="seek"))
                return
            part: messages.OffsetIs = asked.result().body.parts[0]
            offset = part.offset if timestamp is not None else int(start)
            if opening and self._consumer.skip_missing:
                offset = max(offset, part.start_offset)
            if not part.start_offset <= offset <= part.end_offset:
                done.fail(outside(cursor, offset, part.start_offset, part.end_offset))
            else:
                cursor.clear(offset)
                cursor.end = part.end_offset
                cursor.live = False
                done.resolve(None)
                if not opening:
                    self._consumer.tick(self._client.now)

        asked.on_done(found)
        return done


def outside(cursor: Cursor, offset: int, start: int, end: int) -> errors.OffsetOutOfRange:
    """Return the error for an offset that a partition does not have."""
    return errors.OffsetOutOfRange(topic=cursor.topic, partition=cursor.number, offset=offset, start=start, end=end)


def by_leader(cursors: list[Cursor]) -> dict[int, list[Cursor]]:
    """Return cursors by the leaders of their partitions."""
    grouped: dict[int, list[Cursor]] = {}
    for cursor in cursors:
        grouped.setdefault(cursor.leader, []).append(cursor)
    return grouped


def _relay(source: Pending[list[None]], target: Pending[None]) -> None:
    source.on_done(lambda: target.fail(source.error) if source.error else target.resolve(None))
