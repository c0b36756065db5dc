"""What a link reads: all of a fabric's topic, or one partition of a mesh.

A mesh has no order across origins, so each partition of each origin is shipped for itself, by a producer of its own:
one that is away, or whose disk was set back, holds up no other. What is away is read at a keeper that has a copy.
"""

from __future__ import annotations

from typing import Any

from zfabric import errors
from zfabric.aio.fabric import Fabric
from zfabric.core.client.routes import Place
from zfabric.model import PartitionInfo, TopicInfo
from zfabric.uplink import naming
from zfabric.wire import messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import TopicMeta

ABSENT_SECONDS = 1.0
"""Longest that one origin which may be away holds up the others; it is asked again and again."""


class Whole:
    """A topic of a fabric that is no mesh: partition p goes to partition p of the hub.

    Attributes:
        grows: the hub's topic gets as many partitions as the source's has.
    """

    grows = True

    def __init__(self, source: Fabric, meta: TopicMeta, origin: str) -> None:
        self.topic = meta.name
        self.origin = origin
        self._source = source

    async def describe(self) -> TopicInfo:
        """Return the topic as it is now.

        Raises:
            ZFabricError: nobody could tell.
        """
        return await self._source.topics.describe(self.topic)

    def wanted(self, info: TopicInfo) -> int:
        """Return how many partitions the hub's topic is made with."""
        return len(info.partitions)

    def identity(self, info: TopicInfo) -> str:
        """Return the name of the producer at the hub."""
        return naming.identity(self.origin, info.id)

    def places(self, info: TopicInfo, stored: dict[int, int]) -> dict[int, int]:
        """Return where each partition goes, by what the hub has stored."""
        return {part.partition: part.partition for part in info.partitions}

    async def fetch(self, part: PartitionInfo, body: messages.Fetch) -> messages.Fetched:
        """Ask for records of a partition where it is led.

        Raises:
            ZFabricError: nobody answered.
        """
        answer: messages.Fetched = await self._source.ask(Type.FETCH, body, "the last batch shipped", part.leader)
        return answer

    def check(self, stored: int, end: int) -> None:
        """Refuse to begin behind ``stored``, the last sequence that the hub has, where that is no error of the source.

        What is led here is all that there is, so there is nothing to refuse.
        """

    def number(self, partition: int) -> int:
        """Return the number that a partition has at its origin."""
        return partition

    def is_log(self, log: tuple[str, int]) -> bool:
        """Tell whether that is what is to be shipped: a topic that was made anew raises as it is read."""
        return True

    def changed(self, before: TopicInfo, meta: TopicMeta, place: Place | None) -> bool:
        """Tell whether the topic has become another at the source, or has more partitions."""
        return (before.id, len(before.partitions)) != (meta.id, len(meta.partitions))


class Part:
    """One partition of one origin of a mesh, wherever it is read.

    Attributes:
        grows: any number of partitions will do at the hub.
    """

    grows = False

    def __init__(self, source: Fabric, meta: TopicMeta, place: Place) -> None:
        self.topic = meta.name
        self.origin = place.origin
        self._source = source
        self._meta = meta
        self._place = place

    async def describe(self) -> TopicInfo:
        """Return a topic that has this partition alone, as whoever has it tells now.

        Raises:
            OriginAway: nobody who has it is there. ZFabricError: nobody could tell.
        """
        place, config = self._place, self._meta.config
        what = f"description of {self.topic!r}"
        body = messages.Describe([place.id])
        answer: messages.Described = await self._ask(Type.DESCRIBE, body, what, place.leader)
        told = answer.partitions[0]
        part = PartitionInfo(
            partition=place.number,
            id=place.id,
            leader=place.leader,
            epoch=told.epoch,
            start_offset=told.start_offset,
            end_offset=told.end_offset,
            bytes=told.bytes,
            batches=told.batches,
            durability=config.durability,
            write_amplification=told.write_amplification,
            origin=place.origin,
        )
        return TopicInfo(name=self.topic, id=place.log, config=config, partitions=[part])

    async def _ask(self, kind: int, body: Any, what: str, leader: int) -> Any:
        answer = await self._source.ask_origin(kind, body, what, leader, ABSENT_SECONDS)
        if answer is None:
            raise errors.OriginAway(topic=self.topic, origin=self.origin)
        return answer

    async def fetch(self, part: PartitionInfo, body: messages.Fetch) -> messages.Fetched:
        """Ask for records of the partition whoever has it.

        Raises:
            OriginAway: nobody who has it is there. ZFabricError: nobody could tell.
        """
        answer: messages.Fetched = await self._ask(Type.FETCH, body, "the last batch shipped", part.leader)
        return answer

    def wanted(self, info: TopicInfo) -> int:
        """Return how many partitions the hub's topic is made with: as many as the origin that has most."""
        numbers = [place.there for place in self._meta.partitions if isinstance(place, Place)]
        return max(numbers, default=0) + 1

    def identity(self, info: TopicInfo) -> str:
        """Return the name of the producer at the hub."""
        return naming.part_identity(self.origin, info.id)

    def places(self, info: TopicInfo, stored: dict[int, int]) -> dict[int, int]:
        """Return where the partition goes, by what the hub has stored."""
        number = info.partitions[0].partition
        return {number: naming.hub_partition(number, stored)}

    def check(self, stored: int, end: int) -> None:
        """Refuse to begin behind ``stored``, the last sequence that the hub has, where that is no error of the source.

        Raises:
            OriginAway: a copy ends before that. The rest is at the origin.
        """
        if self._place.copy and stored >= end:
            raise errors.OriginAway(topic=self.topic, origin=self.origin)

    def number(self, partition: int) -> int:
        """Return the number that the partition has at its origin."""
        return self._place.there

    def is_log(self, log: tuple[str, int]) -> bool:
        """Tell whether that is what is to be shipped: a reader of a mesh goes on with a topic that was made anew."""
        return log == (self._place.origin, self._place.log)

    def changed(self, before: TopicInfo, meta: TopicMeta, place: Place | None) -> bool:
        """Note where the partition is read now; the reader follows by itself."""
        assert place is not None, "a part of a mesh is looked for by its place"
        self._meta, self._place = meta, place
        return False
