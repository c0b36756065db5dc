"""What a consumer stores for its group: each position at the leader of its partition.

Where leaders are scattered (see ``origins.py``), one that is away keeps a commit waiting for a second at most. What was
to be stored there is *owed*: it is sent as soon as that leader is there again, or a keeper of its partition is read,
as long as the consumer is open and reads the partition. Until then it is not stored; whoever takes over meanwhile
begins at what was committed before. One that is connected and does not answer is waited for until the deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from zfabric import errors
from zfabric.core.client.agenda import Chore
from zfabric.core.client.pending import Pending, gather, relay
from zfabric.core.client.positions import ABSENT_NS, by_leader
from zfabric.wire import messages
from zfabric.wire.messages import Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.consumer import Consumer
    from zfabric.core.client.cursor import Cursor

AGAIN_NS: Final = 500_000_000
_OF_ONE: Final = (errors.OffsetOutOfRange, errors.CorruptRow, errors.LimitExceeded)
"""What a leader refuses of one partition, while it would store that of others."""


class Commits(Chore):
    """The commits of one consumer, which has a group."""

    def __init__(self, client: Client, consumer: Consumer) -> None:
        self._client = client
        self._consumer = consumer
        self._owed: dict[int, int] = {}
        self._due_ns: int | None = None

    def store(self, offsets: Mapping[int, int], now: int, deadline_ns: int) -> Pending[Any]:
        """Store offsets by partition number; comes when they are durable, or owed.

        The error is that of one that cannot be stored; all others are stored. A leader refuses all that it is told at
        once when it has to refuse one, and a keeper's copies of many origins bear the same number there: so it is told
        one half and the other, until those that it refuses are alone.
        """
        self._client.now = max(self._client.now, now)
        absent = {number for number in offsets if self._absent(number)}
        self._owed = {number: offset for number, offset in self._owed.items() if number not in offsets}
        self._owe({number: offsets[number] for number in absent})
        cursors = [self._consumer.cursors[number] for number in offsets if number not in absent]
        return gather([self._send(mine, offsets, deadline_ns) for mine in by_leader(cursors).values()])

    def _absent(self, number: int) -> bool:
        """Tell whether it is known already that a partition's leader is away."""
        origins, cursor = self._client.origins, self._consumer.cursors[number]
        if origins is None or self._client.own(cursor.leader):
            return False
        endpoint = self._client.endpoint(cursor.leader)
        if endpoint is None or not origins.here(cursor.leader):
            return True
        return number in self._owed and not self._client.requests.connected(endpoint)

    def _away(self, cursor: Cursor) -> bool:
        """Tell whether a leader that has not answered is away."""
        if self._client.own(cursor.leader):
            return False
        endpoint = self._client.endpoint(cursor.leader)
        return endpoint is None or not self._client.requests.connected(endpoint)

    def _owe(self, offsets: Mapping[int, int]) -> None:
        self._owed.update(offsets)
        if self._owed and self._due_ns is None:
            self._due_ns = self._client.now + AGAIN_NS
            self._client.due(self)

    def _send(self, cursors: list[Cursor], offsets: Mapping[int, int], deadline_ns: int) -> Pending[None]:
        """Store offsets at one leader, or where their partitions have gone meanwhile."""
        client, consumer = self._client, self._consumer
        assert consumer.group is not None, "only consumers with a group commit"
        done: Pending[None] = Pending()
        until_ns = min(deadline_ns, client.now + ABSENT_NS) if client.scattered else deadline_ns
        body = messages.CommitOffsets(
            consumer.group,
            [messages.CommitOffset(cursor.id, offsets[cursor.number], *cursor.read()) for cursor in cursors],
        )
        call = client.call_partition(
            cursors[0].leader, Type.COMMIT_OFFSETS, body, client.now, until_ns, "commit", consumer.topic
        )
        call.on_done(lambda: self._answered(cursors, offsets, deadline_ns, done, call.error))
        return done

    def _answered(
        self,
        cursors: list[Cursor],
        offsets: Mapping[int, int],
        deadline_ns: int,
        done: Pending[None],
        error: Exception | None,
    ) -> None:
        if error is None:
            for cursor in cursors:
                cursor.committed = offsets[cursor.number]
                if self._owed.get(cursor.number) == cursor.committed:
                    del self._owed[cursor.number]
            done.resolve(None)
            return
        if not (self._client.scattered and getattr(error, "retriable", False)):
            if len(cursors) > 1 and isinstance(error, _OF_ONE):
                middle = len(cursors) // 2
                halves = [cursors[:middle], cursors[middle:]]
                relay(gather([self._send(mine, offsets, deadline_ns) for mine in halves]), done)
                return
            for cursor in cursors:
                self._owed.pop(cursor.number, None)  # It would be the same each time.
            done.fail(cursors[0].named(error) if isinstance(error, errors.OffsetOutOfRange) else error)
            return
        left = [cursor for cursor in cursors if self._consumer.cursors.get(cursor.number) is cursor]
        away = [cursor for cursor in left if self._away(cursor)]
        self._owe({cursor.number: offsets[cursor.number] for cursor in away})
        rest = [cursor for cursor in left if cursor not in away]
        if rest and self._client.now >= deadline_ns:
            done.fail(error)
            return
        relay(gather([self._send(mine, offsets, deadline_ns) for mine in by_leader(rest).values()]), done)

    # For the consumer.

    def tick(self, now: int) -> None:
        """Store what is owed, where that can be done now."""
        if self._due_ns is None or self._due_ns > now or self._consumer.closed:
            return
        known = self._consumer.cursors
        self._owed = {number: offset for number, offset in self._owed.items() if number in known}
        self._due_ns = now + AGAIN_NS if self._owed else None
        ready = []
        for number in self._owed:
            endpoint = self._client.endpoint(known[number].leader)
            if endpoint is not None and self._client.requests.connected(endpoint):
                ready.append(known[number])
        for mine in by_leader(ready).values():
            self._send(mine, dict(self._owed), now + AGAIN_NS)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        return None if self._consumer.closed else self._due_ns
