"""Where a consumer begins: what its group has committed, else what it was told, asked of each partition's leader.

A question is about up to :data:`QUESTION_PARTS` partitions of one leader, so that a topic of 10,000 is opened with ten
of them, and none keeps a leader's turn long.

The end of a copy that a keeper has is the newest one that its origin has told the keeper, or all members: a consumer
that begins at the end begins there, also where the copy has not got so far.

Where leaders are scattered (see ``origins.py``), one that does not answer within a second keeps nobody waiting: its
partitions are asked for again, however long it is away, and begin when it is there. What is damaged at one origin is
told to whoever takes records, as what is damaged in its log is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from zfabric import errors
from zfabric.core.client.feed import CALL_NS, IDLE_NS, MEND_NS
from zfabric.core.client.pending import Pending, gather, relay
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.consumer import Consumer
    from zfabric.core.client.cursor import Cursor

ABSENT_NS: Final = 1_000_000_000
"""Longest that opening waits for a leader that may be away."""
ASKED_NS: Final = 2_000_000_000
"""Longest that the first question after that waits for an answer, each further one twice as long as the one before:
somebody else may have been found meanwhile who knows it, and links may be slow."""
QUESTION_PARTS: Final = 1_000
"""Most partitions that one question is about."""
_OF_AN_ORIGIN: Final = (errors.UnknownTopic, errors.CorruptRow, errors.CorruptBatch)
"""What is wrong at one origin and keeps nobody from reading the others."""
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
        relay(gather([self._tolerated(mine, self._place(mine, self._start, soon_ns)) for mine in grouped]), whole)
        return whole

    def _tolerated(self, cursors: list[Cursor], placed: Pending[None]) -> Pending[None]:
        done: Pending[None] = Pending()

        def known() -> None:
            if placed.error is None:
                done.resolve(None)
            elif getattr(placed.error, "retriable", False) or isinstance(placed.error, _OF_AN_ORIGIN):
                self._find(cursors, self._start)
                done.resolve(None)
            else:
                done.fail(placed.error)

        placed.on_done(known)
        return done

    def find_added(self, cursors: list[Cursor]) -> None:
        """Set the positions of partitions that were added, however long their leaders are away.

        They begin with their first records. A part of a topic whose leaders are scattered may have been there all the
        time and only not seen, so it begins where the others did, unless that was an offset.
        """
        late = self._start if self._client.scattered and isinstance(self._start, str) else "earliest"
        for mine in by_leader(cursors).values():
            self._find(mine, late)

    def _find(self, cursors: list[Cursor], start: Start) -> None:
        """Ask for the positions of a leader's partitions until all are known."""
        client = self._client
        alone = False
        patience_ns = ASKED_NS if client.scattered else CALL_NS

        def find() -> None:
            left = [
                cursor for cursor in cursors
                if cursor.position < 0 and (cursor.error is None or cursor.mendable) and self._holds(cursor)
            ]  # fmt: skip
            if self._consumer.closed or not left:
                return
            if alone and len(left) > 1:
                for cursor in left:
                    self._find([cursor], start)
                return
            placed = self._place(left, start, client.now + patience_ns, late=True)
            placed.on_done(lambda: again(placed.error) if placed.error else None)

        def again(error: Exception) -> None:
            nonlocal alone, patience_ns
            patience_ns = min(2 * patience_ns, CALL_NS)
            if alone and isinstance(error, errors.CorruptRow | errors.CorruptBatch):
                cursors[0].fail(cursors[0].named(error) if isinstance(error, errors.CorruptBatch) else error)
                self._consumer.wake()
                client.after(client.now + MEND_NS, find)
                return
            alone = not getattr(error, "retriable", False)  # It may be one that keeps the others from beginning.
            client.after(client.now + IDLE_NS, find)

        find()

    def _holds(self, cursor: Cursor) -> bool:
        return self._consumer.cursors.get(cursor.number) is cursor

    def _place(self, cursors: list[Cursor], start: Start, deadline_ns: int, *, late: bool = False) -> Pending[None]:
        whole: Pending[None] = Pending()
        group = self._consumer.group
        if group is None:
            relay(gather([self._begin(mine, start, deadline_ns, late=late) for mine in questions(cursors)]), whole)
            whole.on_done(lambda: self._consumer.tick(self._client.now))  # Once for all of them.
            return whole
        asked_of = questions(cursors)
        asked = gather([
            self._call(mine[0].leader, Type.GET_OFFSETS, messages.GetOffsets(group, [c.id for c in mine]),
                       self._client.now, deadline_ns, "committed offsets")
            for mine in asked_of
        ])  # fmt: skip

        def known() -> None:
            if asked.error is not None:
                whole.fail(asked.error)
                return
            for mine, answer in zip(asked_of, asked.result(), strict=True):
                by_id = {cursor.id: cursor for cursor in mine}
                for part in answer.body.parts:
                    cursor = by_id.get(part.partition)
                    if part.offset >= 0 and cursor is not None:
                        cursor.committed = part.offset
                        cursor.end = part.end_offset
                        cursor.resume(part.offset, part.epoch, part.append_time)
            rest = [cursor for cursor in cursors if cursor.position < 0 and self._holds(cursor)]
            relay(gather([self._begin(mine, start, deadline_ns, late=late) for mine in questions(rest)]), whole)
            whole.on_done(lambda: self._consumer.tick(self._client.now))

        asked.on_done(known)
        return whole

    def _begin(self, cursors: list[Cursor], start: Start, deadline_ns: int, *, late: bool) -> Pending[None]:
        """Begin with partitions of one leader; the first that cannot is the error, and the others can.

        When nobody waits for the opening any more (``late``), whoever takes records is told, of each that cannot.
        """
        done: Pending[None] = Pending()
        asked = self._ask(cursors, start, self._client.now, deadline_ns)

        def found() -> None:
            if asked.error is not None:
                done.fail(asked.error)
                return
            parts = self._newest(cursors, start, asked.result().body.parts)
            kept = self._keep_start(cursors, start, parts, deadline_ns)
            kept.on_done(lambda: begin(parts))

        def begin(parts: list[messages.OffsetIs]) -> None:
            problems = [
                (cursor, error)
                for cursor, part in zip(cursors, parts, strict=True)
                if (error := self._go_on(cursor, start, part, opening=True))
            ]
            if late:
                for cursor, error in problems:
                    cursor.error = error
                self._consumer.wake()
                done.resolve(None)
            elif problems:
                done.fail(problems[0][1])
            else:
                done.resolve(None)

        asked.on_done(found)
        return done

    def _newest(self, cursors: list[Cursor], start: Start, parts: list[messages.OffsetIs]) -> list[messages.OffsetIs]:
        """Take the end of a copy for no earlier than its origin has told everybody: the copy may be behind."""
        if start != "latest" or not any(cursor.copy for cursor in cursors):
            return parts
        told = self._client.members.ends(self._consumer.topic)
        return [
            msgspec.structs.replace(part, offset=max(part.offset, told.get(cursor.log[0], 0))) if cursor.copy else part
            for cursor, part in zip(cursors, parts, strict=True)
        ]

    def _keep_start(
        self, cursors: list[Cursor], start: Start, parts: list[messages.OffsetIs], deadline_ns: int
    ) -> Pending[Any]:
        """Commit where a group begins that begins at the end, before anything is read.

        Else whoever takes over from a member that is killed before its first commit would begin at a later end. What
        keeps it from being stored keeps nobody from reading.
        """
        kept: Pending[Any] = Pending()
        group = self._consumer.group
        if not (self._consumer.shares and group is not None and start == "latest"):
            kept.resolve(None)
            return kept
        soon_ns = min(deadline_ns, self._client.now + ABSENT_NS)
        commits = [messages.CommitOffset(cursor.id, part.offset) for cursor, part in zip(cursors, parts, strict=True)]
        stored = self._call(
            cursors[0].leader, Type.COMMIT_OFFSETS, messages.CommitOffsets(group, commits), self._client.now, soon_ns,
            "the group's start",
        )  # fmt: skip
        stored.on_done(lambda: kept.resolve(None))
        return kept

    def _ask(self, cursors: list[Cursor], start: Start, now: int, deadline_ns: int) -> Pending[Command]:
        """Ask the leader of these partitions for the offset that ``start`` stands for, and the bounds of their logs."""
        wanted = [messages.FindOffset(cursor.id, _timestamp(start)) for cursor in cursors]
        return self._call(
            cursors[0].leader, Type.FIND_OFFSETS, messages.FindOffsets(wanted), now, deadline_ns, "offsets"
        )

    def _call(self, leader: int, kind: int, body: Any, now: int, deadline_ns: int, what: str) -> Pending[Command]:
        return self._client.call_partition(leader, kind, body, now, deadline_ns, what, self._consumer.topic)

    def seek(self, cursor: Cursor, start: Start, now: int, deadline_ns: int) -> Pending[None]:
        """Go on from ``start`` in one partition; comes when the offset is known."""
        done: Pending[None] = Pending()
        asked = self._ask([cursor], start, now, deadline_ns)

        def found() -> None:
            if asked.error is not None or done.done:
                done.fail(asked.error or errors.Closed(what="seek"))
            elif problem := self._go_on(cursor, start, asked.result().body.parts[0], opening=False):
                done.fail(problem)
            else:
                done.resolve(None)
                self._consumer.tick(self._client.now)

        asked.on_done(found)
        return done

    def _go_on(
        self, cursor: Cursor, start: Start, part: messages.OffsetIs, *, opening: bool
    ) -> errors.OffsetOutOfRange | None:
        """Read on from what was found; returns why that cannot be.

        When a consumer that skips what is missing opens, an offset that was removed stands for the log's start.
        """
        offset = part.offset if isinstance(start, str) else start
        if opening and self._consumer.skip_missing:
            offset = max(offset, part.start_offset)
        # A keeper may not have got as far; whether the origin has, it is asked with the first FETCH.
        if not part.start_offset <= offset <= part.end_offset and not (cursor.copy and offset > part.end_offset):
            return outside(cursor, offset, part.start_offset, part.end_offset)
        cursor.clear(offset)
        cursor.end = part.end_offset
        cursor.live = False
        # Until it has got something it may be told of another start: retention goes on, and a keeper skips to it.
        cursor.untouched = start == "earliest"
        return None


def _timestamp(start: Start) -> int:
    """Return what FIND_OFFSETS asks for: of a plain offset the log's bounds are all that is wanted."""
    if isinstance(start, int):
        return -1
    return {"earliest": -2, "latest": -1}.get(start) or int(start.removeprefix("@"))


def outside(cursor: Cursor, offset: int, start: int, end: int) -> errors.OffsetOutOfRange:
    """Return the error for an offset that a partition does not have."""
    error = errors.OffsetOutOfRange(topic=cursor.topic, partition=cursor.number, offset=offset, start=start, end=end)
    return cursor.named(error)


def by_leader(cursors: list[Cursor]) -> dict[int, list[Cursor]]:
    """Return cursors by the leaders of their partitions."""
    grouped: dict[int, list[Cursor]] = {}
    for cursor in cursors:
        grouped.setdefault(cursor.leader, []).append(cursor)
    return grouped


def questions(cursors: list[Cursor]) -> list[list[Cursor]]:
    """Return cursors in groups of one leader and at most :data:`QUESTION_PARTS`."""
    return [
        mine[at : at + QUESTION_PARTS]
        for mine in by_leader(cursors).values()
        for at in range(0, len(mine), QUESTION_PARTS)
    ]
