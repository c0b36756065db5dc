"""Committed offsets of consumer groups: ``fabric.groups``."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.client.survey import SILENCE_S
from zfabric.model import GroupOffset
from zfabric.settings import GROUP_BYTES_MAX, check_name
from zfabric.wire import messages
from zfabric.wire.messages import Type

if TYPE_CHECKING:
    from zfabric.aio.fabric import Fabric


class Groups:
    """Committed offsets of consumer groups: ``fabric.groups``."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    async def list(self) -> list[str]:
        """Return the names of all groups, sorted."""
        return sorted({entry.group for entry in await self.describe()})

    async def describe(self, group: str | None = None) -> builtins.list[GroupOffset]:
        """Return what ``group`` (or every group) has committed, sorted by group, topic and partition.

        Raises:
            NotFound: the group has committed nothing.
        """
        if group is not None:
            check_name("group", group, GROUP_BYTES_MAX)
        topics = await self._fabric.survey(None)
        places = [(topic.name, place) for topic in topics for place in topic.partitions]
        names = {(place.leader, place.id): (topic, place.number) for topic, place in places}
        found = []
        for leader in sorted({place.leader for _, place in places}):
            for part in await self._committed(group, leader):
                if (leader, part.partition) in names:
                    topic, number = names[leader, part.partition]
                    lag = max(0, part.end_offset - part.offset)
                    found.append(
                        GroupOffset(
                            group=part.group,
                            topic=topic,
                            partition=number,
                            offset=part.offset,
                            end_offset=part.end_offset,
                            lag=lag,
                            timestamp=part.timestamp,
                        )
                    )
        if group is not None and not found:
            raise errors.NotFound(kind="group", name=group)
        return sorted(found, key=lambda entry: (entry.group, entry.topic, entry.partition))

    async def _committed(self, group: str | None, leader: int) -> builtins.list[messages.Committed]:
        """Return what a leader knows of a group, or of all: as many answers as it takes."""
        found: builtins.list[messages.Committed] = []
        asked = messages.ListGroups(group or "")
        while True:
            answer = await self._fabric.ask_origin(Type.LIST_GROUPS, asked, "list of groups", leader, SILENCE_S)
            if answer is None:
                return found
            found += answer.parts
            if not answer.more:
                return found
            asked = messages.ListGroups(group or "", found[-1].partition, found[-1].group)

    async def reset(
        self, group: str, topic: str, *, to: int | str | datetime, partitions: Sequence[int] | None = None
    ) -> None:
        """Set what the group has committed: "earliest", "latest", an offset or a time; may go back.

        Raises:
            OriginAway: in a mesh, once all others are set: a partition's origin is away, and so are its keepers.
        """
        check_name("group", group, GROUP_BYTES_MAX)
        consumer = self._fabric.consumer(topic, start=to, partitions=partitions)
        away: builtins.list[str] = []
        try:
            await consumer.open()
            info = await self._fabric.topics.describe(topic)
            places = {part.partition: part for part in info.partitions}
            for number, offset in consumer.position.items():
                place = places[number]
                if offset < 0:
                    away.append(place.origin)
                    continue
                body = messages.CommitOffsets(group, [messages.CommitOffset(place.id, offset)], force=True)
                await self._fabric.ask(Type.COMMIT_OFFSETS, body, "reset", place.leader)
        finally:
            await consumer.close()
        if away:
            raise errors.OriginAway(topic=topic, origin=away[0])

    async def delete(self, group: str) -> None:
        """Forget what the group has committed, in all topics.

        Raises:
            NotFound: it has committed nothing. OriginAway: in a mesh, once all others have forgotten it: an origin is
                away, and so are its keepers.
        """
        check_name("group", group, GROUP_BYTES_MAX)
        await self.describe(group)
        topics = await self._fabric.survey(None)
        places = {place.leader: topic.name for topic in topics for place in topic.partitions}
        away = []
        for leader in sorted(places):
            body = messages.DeleteGroup(group)
            if await self._fabric.ask_origin(Type.DELETE_GROUP, body, "deletion of a group", leader) is None:
                away.append(leader)
        if away:
            raise errors.OriginAway(topic=places[away[0]], origin=self._fabric.origin_of(away[0]))
