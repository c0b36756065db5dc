"""A topic as one producer sees it: an outbox for each partition, kept in step with the metadata."""

from __future__ import annotations

from collections.abc import Callable

from zfabric.core.client.outbox import RECORD_OVERHEAD, Outbox
from zfabric.model import TopicConfig
from zfabric.wire.metadata import TopicMeta

LONE_BYTES_MAX = 16_384
"""A larger record does not go by express: what that saves is little beside what its bytes take."""


class Route:
    """The outboxes by partition number, and which of them keyless records fill.

    Attributes:
        topic: its name. shown: gives the number by which users know a partition.
        count: partitions. sticky: number of the one that keyless records fill. under_way: batches of all of them.
        compacted, record_max: of the topic's configuration, as :meth:`Producer.send` wants them.
        lone_max: bytes of the largest value that :meth:`Sender.lone` takes.
    """

    __slots__ = (
        "compacted",
        "config",
        "count",
        "lone_max",
        "outboxes",
        "record_max",
        "shown",
        "sticky",
        "topic",
        "under_way",
    )

    def __init__(self, meta: TopicMeta, shown: Callable[[int], int]) -> None:
        self.shown = shown
        self.topic = meta.name
        self.outboxes: list[Outbox] = []
        self.sticky = 0
        self.under_way = 0
        self.update(meta)

    def update(self, meta: TopicMeta) -> list[Outbox]:
        """Take over what changed; returns the outboxes of partitions that are no more.

        A partition that is there already keeps what it holds.
        """
        self.config: TopicConfig = meta.config
        self.compacted = "compact" in meta.config.cleanup
        self.record_max = meta.config.record_bytes_max
        self.lone_max = min(self.record_max - RECORD_OVERHEAD, LONE_BYTES_MAX)
        self.count = len(meta.partitions)
        for place in meta.partitions[: len(self.outboxes)]:
            outbox = self.outboxes[place.number]
            outbox.leader, outbox.express = place.leader, None
            outbox.show(self.shown(place.number))
            if outbox.partition_id != place.id:
                # The topic was deleted and made again: a new partition knows nothing of our sequences.
                outbox.partition_id = place.id
                outbox.renew()
                beginning, outbox.beginning = outbox.beginning, None
                if beginning is not None:
                    beginning.resolve(None)  # Whoever waits for it looks again.
        for place in meta.partitions[len(self.outboxes) :]:
            self.outboxes.append(Outbox(place.id, place.number, place.leader, self.shown(place.number)))
        gone = self.outboxes[self.count :]
        del self.outboxes[self.count :]
        self.sticky %= self.count
        return gone
