"""What a consumer holds for one partition."""

from __future__ import annotations

from collections import deque

from zfabric import errors
from zfabric.model import Record
from zfabric.wire import messages
from zfabric.wire.batch import RecordBatch


class Cursor:
    """One partition: where the application is, where receiving is, and what lies between.

    Attributes:
        position: next offset for the application, or -1 while unknown. expected: next offset to receive.
        live, subscribed: published batches are taken; the leader was asked to publish here.
        end: end offset last heard of. committed: as stored for the group. error: damage that is to be raised.
    """

    def __init__(self, place: messages.PartitionPlace) -> None:
        self.id = place.id
        self.number = place.number
        self.leader = place.leader
        self.position = -1
        self.expected = -1
        self.end = -1
        self.committed = -1
        self.buffer: deque[RecordBatch] = deque()
        self.buffered = 0
        self.records: list[Record] = []
        self.taken = 0
        self.paused = False
        self.live = False
        self.subscribed = False
        self.error: errors.ZFabricError | None = None

    def clear(self, offset: int) -> None:
        """Go on from ``offset``, forgetting what was buffered."""
        self.position = self.expected = offset
        self.buffer.clear()
        self.buffered = 0
        self.records, self.taken = [], 0
        self.error = None

    @property
    def behind(self) -> bool:
        """Whether a fetch is wanted at once."""
        return not self.live and not self.paused and self.error is None and self.expected >= 0
