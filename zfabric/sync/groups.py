# Generated from zfabric/aio/groups.py by tools/unasync; edit that file.
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
from zfabric.sync.consumer import start_of
from zfabric.wire import messages
from zfabric.wire.messages import Type

if TYPE_CHECKING:
    from zfabric.sync.fabric import Fabric


class Groups:
    """Committed offsets of consumer groups: ``fabric.groups``."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    def list(self) -> list[str]:
        """Return the names of all groups, sorted."""
        return sorted({entry.group for entry in self.describe()})

    def describe(self, group: str | None = None) -> builtins.list[GroupOffset]:
        """Return what ``group`` (or every group) has committed, sorted by group, topic and partition.

        Raises:
            NotFound: the group has committed nothing.
        """
        if group is not None:
            check_name("group", group, GROUP_BYTES_MAX)
        topics = self._fabric.survey(None)
        places = [(topic.name, place) for topic in topics for place in topic.partitions]
        names = {(place.leader, place.id): (topic, place.number) for topic, place in places}
        found = []
        for leader, part in self._committed(group, sorted({place.leader for _, place in places})):
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

    def _committed(
        self, group: str | None, leaders: builtins.list[int]
    ) -> builtins.list[tuple[int, messages.Committed]]:
        """Return what each leader knows of a group, or of all: as many answers as it takes."""
        found: builtins.list[tuple[int, messages.Committed]] = []
        asked = {leader: messages.ListGroups(group or "") for leader in leaders}
        while asked:
            answers = self._fabric.ask_origins(Type.LIST_GROUPS, asked, "list of groups", SILENCE_S)
            asked = {}
            for leader, answer in answers.items():
                parts = [] if answer is None else answer.parts
                found += [(leader, part) for part in parts]
                if answer is not None and answer.more:
                    asked[leader] = messages.ListGroups(group or "", parts[-1].partition, parts[-1].group)
        return found

    def reset(
        self, group: str, topic: str, *, to: int | str | datetime, partitions: Sequence[int] | None = None
    ) -> None:
        """Set what the group has committed: "earliest", "latest", an offset or a time; may go back.

        Raises:
            OriginAway: in a mesh, once all others are set: a partition's origin is away, and so are its keepers.
        """
        check_name("group", group, GROUP_BYTES_MAX)
        start_of(to, "to")
        consumer = self._fabric.consumer(topic, start=to, partitions=partitions)
        away: builtins.list[str] = []
        try:
            consumer.open()
            info = self._fabric.topics.describe(topic)
            places = {part.partition: part for part in info.partitions}
            for number, offset in consumer.position.items():
                place = places[number]
                if offset < 0:
                    away.append(place.origin)
                    continue
                body = messages.CommitOffsets(group, [messages.CommitOffset(place.id, offset)], force=True)
                self._fabric.ask(Type.COMMIT_OFFSETS, body, "reset", place.leader)
        finally:
            consumer.close()
        if away:
            raise errors.OriginAway(topic=topic, origin=away[0])

    def delete(self, group: str) -> None:
        """Forget what the group has committed, in all topics.

        Raises:
            NotFound: it has committed nothing. OriginAway: in a mesh, once all others have forgotten it: an origin is
                away, and so are its keepers.
        """
        check_name("group", group, GROUP_BYTES_MAX)
        self.describe(group)
        topics = self._fabric.survey(None)
        places = {place.leader: topic.name for topic in topics for place in topic.partitions}
        asked = {leader: messages.DeleteGroup(group) for leader in sorted(places)}
        answers = self._fabric.ask_origins(Type.DELETE_GROUP, asked, "deletion of a group")
        away = [leader for leader, answer in answers.items() if answer is None]
        if away:
            raise errors.OriginAway(topic=places[away[0]], origin=self._fabric.origin_of(away[0]))
