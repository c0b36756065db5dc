"""What an uplink tells, and what it may be told."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from zfabric import errors
from zfabric.model import Codec
from zfabric.settings import (
    GROUP_BYTES_MAX,
    KIB,
    MIB,
    check_flag,
    check_iterable,
    check_name,
    check_pattern,
    check_range,
)
from zfabric.wire import codecs

PATTERNS_MAX = 1_000


class PartitionStatus(msgspec.Struct, frozen=True):
    """One partition of the source on its way to the hub.

    Attributes:
        topic, partition: at the source, in a mesh the mesh-wide number. target: topic at the hub.
        offset: the next one that the hub does not have. end: the source's end as last heard of. lag: records between.
        records: acknowledged by the hub since this uplink began.
        skipped: offsets that were gone or damaged at the source before they could be shipped, since it began.
        origin: fabric id of where it comes from: of the source, or of a mesh of the member that led it.
        target_partition: at the hub; -1 before it is known.
    """

    topic: str
    partition: int
    target: str
    offset: int
    end: int
    lag: int
    records: int
    skipped: int
    origin: str = ""
    target_partition: int = -1


class UplinkStatus(msgspec.Struct, frozen=True):
    """An uplink at one moment: sums over its partitions, and each of them.

    Attributes:
        topics: names at the source. records, skipped: as in :class:`PartitionStatus`. lag: as well; None before both
            sides have told what they have of every topic.
        sent_bytes: handed to sockets towards the hub since it began, repeats included.
        in_flight_bytes: read at the source and not acknowledged by the hub.
        problem: why something does not go on at the moment; None if all does.
    """

    topics: list[str]
    records: int
    skipped: int
    lag: int | None
    sent_bytes: int
    in_flight_bytes: int
    problem: str | None
    partitions: list[PartitionStatus]


class Notice(msgspec.Struct, frozen=True):
    """Something that happened and that somebody may want to know.

    Attributes:
        kind: ``"begun"`` (a topic is followed from now on), ``"gap"``, ``"trouble"`` (it is tried again), ``"gone"``
            (the topic was deleted at the source), ``"waiting"`` (nothing matches a name or pattern when it begins),
            ``"again"`` (the hub has lost what it had, and gets it again).
        topic: at the source, or that pattern. partition: or None if it is about all of them.
        text: for people. first, next: of a gap or of what is sent again: its offsets, ``next`` not included.
    """

    kind: str
    topic: str
    partition: int | None
    text: str
    first: int | None = None
    next: int | None = None


class UplinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an uplink may be told; see :class:`zfabric.uplink.Uplink` for the meanings and units."""

    patterns: tuple[str, ...]
    prefix: str = ""
    create: bool = True
    group: str | None = None
    compression: Codec = "zstd"
    bandwidth: float | None = None
    buffer_bytes: int = 8 * MIB
    origin_headers: bool = False
    rescan: float = 5.0
    delivery_timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.prefix:
            check_name("prefix", self.prefix)
        check_flag("create", self.create)
        if self.group is not None:
            check_name("group", self.group, GROUP_BYTES_MAX)
        if self.compression not in codecs.BY_NAME:
            raise errors.InvalidArgument(
                name="compression", value=repr(self.compression)[:100], allowed="'none', 'lz4', 'zstd'"
            )
        if self.bandwidth is not None:
            check_range("bandwidth", self.bandwidth, 1.0, 1e12, "bytes/s")
        check_range("buffer_bytes", self.buffer_bytes, 64 * KIB, 1 << 34, "bytes")
        check_flag("origin_headers", self.origin_headers)
        check_range("rescan", self.rescan, 0.1, 86_400.0, "s")
        check_range("delivery_timeout", self.delivery_timeout, 1.0, 86_400.0, "s")


def check_patterns(topics: object) -> tuple[str, ...]:
    """Return patterns of topic names as a tuple; one may stand alone.

    Raises:
        InvalidArgument: there is none, or one can match no topic's name.
    """
    if isinstance(topics, str):
        topics = (topics,)
    check_iterable("topics", topics, "patterns")
    assert isinstance(topics, Iterable)
    patterns = tuple(topics)
    check_range("number of topics", len(patterns), 1, PATTERNS_MAX)
    return tuple(check_pattern("topics", pattern) for pattern in patterns)
