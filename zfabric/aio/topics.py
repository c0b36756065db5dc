"""Topics of a fabric: ``fabric.topics``."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, cast

import msgspec

from zfabric import errors
from zfabric.core.client.routes import Place, View
from zfabric.core.client.survey import SILENCE_S
from zfabric.model import Cleanup, CopyInfo, Durability, PartitionInfo, TopicConfig, TopicInfo
from zfabric.settings import (
    FETCH_PARTITIONS_MAX,
    TOPIC_PARTITIONS_MAX,
    check_flag,
    check_name,
    check_range,
    check_topic_option,
)
from zfabric.wire import messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import AlterTopic, CreateTopic, DeleteTopic, Metadata, PartitionPlace, TopicMeta
from zfabric.wire.replication import KeptPlace

if TYPE_CHECKING:
    from zfabric.aio.fabric import Fabric

_CHOICES = {"durability": ("fsync", "os", "memory"), "cleanup": ("delete", "compact", "compact,delete")}


_UNKNOWN = messages.PartitionIs(0, 0, 0, 0, 0, 0, "", 0.0)
"""Of a partition whose leader is away."""


class Topics:
    """Create, list, describe, alter and delete topics: ``fabric.topics``."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    async def create(
        self,
        name: str,
        *,
        partitions: int = 1,
        durability: Durability = "fsync",
        retention: float | None = None,
        retention_bytes: int | None = None,
        cleanup: Cleanup = "delete",
        tombstone_retention: float = 86_400.0,
        commit_interval: float = 0.0,
        record_bytes_max: int = 1 << 20,
        replicas: int = 1,
        if_absent: bool = False,
    ) -> TopicInfo:
        """Make a topic.

        Args:
            durability: what an ack means: ``"fsync"``, ``"os"`` (survives kill -9) or ``"memory"`` (a ring).
            retention: seconds that records are kept, counted from their append; None for ever.
            retention_bytes: kept per partition; None without bound (memory: 64 MiB).
            cleanup: ``"delete"``, ``"compact"`` (latest value per key) or ``"compact,delete"``. What is superseded goes
                60 s after it was appended, and 10 s later for each MiB that the partition holds; all of it at once
                when 1 MiB and half as much as was compacted before is new (``compact_after_ms`` of the leader).
            tombstone_retention: seconds that a tombstone stays in a compacted topic at least; it goes after a
                sixteenth more and the time that compaction takes to begin, though nothing new comes.
            commit_interval: seconds, to 3600, that an ack may wait to share its fsync: less wear, same promise.
            record_bytes_max: largest record; to 64 MiB, and to 16 MiB unless the fabric's ``LeaderSettings`` (table
                ``[leader]`` of a node's file) allow more.
            replicas: disks that ``acks="all"`` waits for, to 16: the leader's own and ``replicas - 1`` keepers'.
                With too few of them an ack comes late or never; ``acks="leader"`` does not wait.
            if_absent: take a topic that exists as it is.

        Raises:
            AlreadyExists, InvalidArgument, LimitExceeded.
        """
        check_name("topic", name)
        check_range("partitions", partitions, 1, TOPIC_PARTITIONS_MAX)
        check_flag("if_absent", if_absent)
        config = _config(
            TopicConfig(),
            durability=durability,
            retention=retention,
            retention_bytes=retention_bytes,
            cleanup=cleanup,
            tombstone_retention=tombstone_retention,
            commit_interval=commit_interval,
            record_bytes_max=record_bytes_max,
            replicas=replicas,
        )
        body = CreateTopic(name, partitions, config, if_absent, self._fabric.token())
        await self._fabric.ask(Type.CREATE_TOPIC, body, f"creation of topic {name!r}")
        return await self.describe(name)

    async def list(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return [topic.name for topic in await self._fabric.survey(None)]

    async def describe(self, name: str) -> TopicInfo:
        """Return a topic's configuration and its partitions.

        Raises:
            UnknownTopic.
        """
        meta = await self._meta(name)
        described: dict[int, messages.PartitionIs] = {}
        copied: dict[int, messages.PartitionIs] = {}
        places: dict[int, builtins.list[PartitionPlace]] = {}
        for place in meta.partitions:
            places.setdefault(place.leader, []).append(place)
        asked = {leader: messages.Describe([place.id for place in mine]) for leader, mine in places.items()}
        answers = await self._fabric.ask_origins(Type.DESCRIBE, asked, f"description of {name!r}", SILENCE_S)
        for leader, answer in answers.items():
            mine = places[leader]
            parts = answer.partitions if answer is not None else [_UNKNOWN] * len(mine)
            described.update({place.number: part for place, part in zip(mine, parts, strict=True)})
        for at in range(0, len(meta.kept), FETCH_PARTITIONS_MAX):
            kept = [place.id for place in meta.kept[at : at + FETCH_PARTITIONS_MAX]]
            body = messages.Describe(kept)
            answer = await self._fabric.ask(Type.DESCRIBE, body, f"copies of {name!r}", meta.kept[0].leader)
            copied.update({part.partition: part for part in answer.partitions})
        partitions = []
        for place in meta.partitions:
            part = described[place.number]
            partitions.append(
                PartitionInfo(
                    partition=place.number,
                    id=place.id,
                    leader=place.leader,
                    epoch=part.epoch,
                    start_offset=part.start_offset,
                    end_offset=part.end_offset,
                    bytes=part.bytes,
                    batches=part.batches,
                    durability=cast("Durability", part.durability or meta.config.durability),
                    write_amplification=part.write_amplification,
                    origin=place.origin if isinstance(place, Place) else self._fabric.origin_of(place.leader),
                    online=part is not _UNKNOWN,
                    keepers=dict(part.keepers),
                )
            )
        copies = [_copy(place, copied[place.id]) for place in meta.kept]
        others = meta.others if isinstance(meta, View) else {}
        return TopicInfo(
            name=meta.name, id=meta.id, config=meta.config, partitions=partitions, copies=copies, others=others
        )

    def _check_own(self, what: str) -> None:
        self._fabric.check_own(f"{what} of a topic", "use the URL of the member whose part it is")

    async def _meta(self, name: str) -> TopicMeta:
        check_name("topic", name)
        topics = await self._fabric.survey([name])
        if not topics:
            raise await self._fabric.lacking(name)
        return topics[0]

    async def alter(self, name: str, *, partitions: int | None = None, **changes: Any) -> TopicInfo:
        """Change a topic: more ``partitions``, or any argument of :meth:`create` but the durability.

        Among peers that is about the own part of it.

        Raises:
            UnknownTopic. NotSupported: with ``role=client``.
        """
        self._check_own("a change")
        meta = await self._meta(name)
        config = _config(meta.config, **changes)
        if partitions is not None:
            check_range("partitions", partitions, 1, TOPIC_PARTITIONS_MAX)
        await self._fabric.ask(Type.ALTER_TOPIC, AlterTopic(name, config, partitions or 0), f"change of {name!r}")
        return await self.describe(name)

    async def delete(self, name: str) -> None:
        """Remove a topic with all its records; among peers, the own part of it.

        Raises:
            UnknownTopic. NotSupported: with ``role=client``.
        """
        self._check_own("the deletion")
        check_name("topic", name)
        await self._fabric.ask(Type.DELETE_TOPIC, DeleteTopic(name, self._fabric.token()), f"deletion of {name!r}")
        await self._fabric.ask(Type.METADATA, Metadata([name]), "metadata")


def _copy(place: KeptPlace, part: messages.PartitionIs) -> CopyInfo:
    return CopyInfo(
        origin=place.origin,
        partition=place.number,
        id=place.id,
        epoch=part.epoch,
        start_offset=part.start_offset,
        end_offset=part.end_offset,
        origin_end_offset=max(part.origin_end, part.end_offset),
        lag=max(part.origin_end - part.end_offset, 0),
        bytes=part.bytes,
        heard_ms=part.heard_ms,
        problem=part.problem,
    )


def _config(base: TopicConfig, **changes: Any) -> TopicConfig:
    """Return ``base`` with the arguments of ``create`` applied, as far as they are given."""
    fields: dict[str, Any] = {}
    for name, value in changes.items():
        if name in ("retention", "tombstone_retention", "commit_interval"):
            field = {"tombstone_retention": "tombstone_ms"}.get(name, f"{name}_ms")
            check_topic_option(name, value)
            fields[field] = -1 if value is None else int(value * 1000)
        elif name in ("retention_bytes", "record_bytes_max", "replicas"):
            check_topic_option(name, value)
            fields[name] = -1 if value is None else value
        elif name in ("durability", "cleanup"):
            fields[name] = value
        else:
            raise errors.InvalidArgument(name="option", value=repr(name), allowed="the arguments of topics.create()")
    for name, allowed in _CHOICES.items():
        if name in fields and fields[name] not in allowed:
            text = ", ".join(map(repr, allowed))
            raise errors.InvalidArgument(name=name, value=repr(fields[name])[:100], allowed=text)
    return msgspec.structs.replace(base, **fields)
