"""What ``zfabric top`` and ``zfabric status`` read from a fabric at one moment, and what they show of two moments."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec

from zfabric import errors
from zfabric.cli.rates import LEADER_COUNTERS, Sample, rates
from zfabric.model import LeaderInfo
from zfabric.sync.fabric import Fabric
from zfabric.wire import messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Metadata, MetadataIs, TopicMeta

DESCRIBED_MAX = 10_000
"""Partitions in one question to a leader."""


class Topic(NamedTuple):
    """One topic: numbers summed over its partitions.

    Attributes:
        id, name: number and name. partitions: how many.
        records: kept ones. end_offset: all that were ever appended. bytes: stored size of its batches. None while a
            leader of one of its partitions does not answer.
    """

    id: int
    name: str
    partitions: int
    records: int | None
    end_offset: int | None
    bytes: int | None


class Reading(NamedTuple):
    """Everything at one moment.

    Attributes:
        at_s: monotonic seconds. leaders: by id; None for one that is known but did not answer. topics: by id.
    """

    at_s: float
    leaders: dict[int, LeaderInfo | None]
    topics: dict[int, Topic]


def read(fabric: Fabric, *, topics: bool = True) -> Reading:
    """Ask leader 0 who leads what, then each leader; one that does not answer leaves out its part.

    Raises:
        Unreachable, RequestTimeout: leader 0 did not answer.
    """
    names: list[str] | None = None if topics else []
    meta: MetadataIs = fabric.ask(Type.METADATA, Metadata(names), "metadata")
    leaders: dict[int, LeaderInfo | None] = {}
    described: dict[int, messages.PartitionIs] = {}
    for address in sorted(meta.leaders, key=lambda address: address.id):
        led = [place.id for topic in meta.topics for place in topic.partitions if place.leader == address.id]
        try:
            answer = fabric.ask(Type.STATUS, messages.Empty(), "status", address.id)
            leaders[address.id] = msgspec.convert(answer.values, LeaderInfo, strict=False)
            for begin in range(0, len(led), DESCRIBED_MAX):
                body = messages.Describe(led[begin : begin + DESCRIBED_MAX])
                parts = fabric.ask(Type.DESCRIBE, body, "description of topics", address.id).partitions
                described.update({part.partition: part for part in parts})
        except errors.ZFabricError as error:
            if not error.retriable:
                raise
            leaders.setdefault(address.id, None)
    return Reading(time.monotonic(), leaders, {topic.id: _sum(topic, described) for topic in meta.topics})


def _sum(topic: TopicMeta, described: dict[int, messages.PartitionIs]) -> Topic:
    parts = [described[place.id] for place in topic.partitions if place.id in described]
    if len(parts) < len(topic.partitions):
        return Topic(topic.id, topic.name, len(topic.partitions), None, None, None)
    return Topic(
        topic.id,
        topic.name,
        len(topic.partitions),
        sum(part.end_offset - part.start_offset for part in parts),
        sum(part.end_offset for part in parts),
        sum(part.bytes for part in parts),
    )


def leader_rows(before: Reading | None, after: Reading) -> list[dict[str, Any]]:
    """Return one row a leader: the fields of LeaderInfo, and ``…_per_s`` for those that have a rate.

    A leader that did not answer has its id alone; every other value is None.
    """
    rows = []
    for number, info in after.leaders.items():
        if info is None:
            row: dict[str, Any] = dict.fromkeys(LeaderInfo.__struct_fields__)
            row.update({"id": number, **dict.fromkeys(f"{name}_per_s" for name in LEADER_COUNTERS)})
        else:
            earlier = None if before is None else before.leaders.get(number)
            found = rates(None if earlier is None else _sample(earlier), _sample(info))
            row = {**msgspec.structs.asdict(info), **{f"{name}_per_s": rate for name, rate in found.items()}}
        rows.append(row)
    return rows


def _sample(info: LeaderInfo) -> Sample:
    return Sample(info.pid, info.uptime_s, {name: getattr(info, name) for name in LEADER_COUNTERS})


def topic_rows(before: Reading | None, after: Reading) -> list[dict[str, Any]]:
    """Return one row a topic, the busiest first; a topic made since ``before`` began at zero then."""
    rows = []
    for topic in after.topics.values():
        rate = None if before is None else _topic_rate(before, after, topic)
        rows.append(
            {
                "topic": topic.name,
                "partitions": topic.partitions,
                "records_per_s": rate,
                "records": topic.records,
                "end_offset": topic.end_offset,
                "bytes": topic.bytes,
            }
        )
    return sorted(rows, key=lambda row: (-(row["records_per_s"] or 0), row["topic"]))


def _topic_rate(before: Reading, after: Reading, topic: Topic) -> float | None:
    earlier = before.topics.get(topic.id)
    began = 0 if earlier is None else earlier.end_offset
    if began is None or topic.end_offset is None:
        return None
    sample = Sample(topic.id, after.at_s, {"end_offset": topic.end_offset})
    return rates(Sample(topic.id, before.at_s, {"end_offset": began}), sample)["end_offset"]
