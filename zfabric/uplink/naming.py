"""Names and configurations at the hub, made of those at the source. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from zfabric.model import TopicConfig
from zfabric.wire.received import RecordBatch

ORIGIN = "zf-origin"
"""Header that names where a record comes from: fabric/topic/partition/offset."""


def identity(fabric: str, topic: int) -> str:
    """Return the name of the producer at the hub for a source topic: ids, so that what is made anew is another.

    It depends on nothing else: two uplinks of one topic into one place are one producer, and one of them is fenced.
    """
    return f"uplink.{fabric}.{topic}"


def part_identity(origin: str, log: int) -> str:
    """Return the name of the producer at the hub for one partition of an origin of a mesh.

    ``log`` is the partition's id at its origin, which no other partition and no topic made anew has ever had there.
    """
    return f"uplink.{origin}.p{log}"


def hub_partition(number: int, stored: dict[int, int]) -> int:
    """Return the hub's partition for one of a mesh.

    Args:
        number: mesh-wide. stored: by the hub's partitions, the last offset that it has from there; -1 where none is.

    Where the hub has some of it all the rest goes, though the hub's topic has grown; else the number, modulo the hub's
    partitions, says it.
    """
    last, held = max((last, hub) for hub, last in stored.items())
    return held if last >= 0 else number % len(stored)


def group(fabric: str) -> str:
    """Return the group at the source whose committed offsets say what the hub has."""
    return f"uplink.{fabric}"


def matching(topics: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the topics that match one of the patterns, in their order."""
    wanted = tuple(patterns)
    return [topic for topic in topics if any(fnmatchcase(topic, pattern) for pattern in wanted)]


def is_name(pattern: str) -> bool:
    """Tell whether a pattern is the name of one topic."""
    return not set(pattern) & set("*?[")


def options(config: TopicConfig) -> dict[str, Any]:
    """Return the arguments of ``topics.create`` that make a topic of this configuration."""
    return {
        "durability": config.durability,
        "retention": None if config.retention_ms < 0 else config.retention_ms / 1000,
        "retention_bytes": None if config.retention_bytes < 0 else config.retention_bytes,
        "cleanup": config.cleanup,
        "tombstone_retention": config.tombstone_ms / 1000,
        "commit_interval": config.commit_interval_ms / 1000,
        "record_bytes_max": config.record_bytes_max,
    }


def with_origin(batch: RecordBatch, fabric: str, number: int) -> list[dict[str, bytes]]:
    """Return the headers of a batch's records, each with where it comes from; ``number``: of the partition there."""
    place = f"{fabric}/{batch.topic}/{number}/"
    return [
        {**own, ORIGIN: f"{place}{offset}".encode()} for own, offset in zip(batch.headers, batch.offsets, strict=True)
    ]
