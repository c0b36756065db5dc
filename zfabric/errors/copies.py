"""What those meet who carry logs from one fabric to another: keepers and uplinks."""

from __future__ import annotations

from zfabric.errors.base import ZFabricError


class UplinkFenced(ZFabricError):
    """Another uplink of the same source topic into the same place has begun."""

    code = 37
    template = "another uplink ships topic {topic!r} of {source} to {target} now; this one ends: run one of them"
    topic: str
    source: str
    target: str


class SourceRewound(ZFabricError):
    """The source lost records that the hub has, so its next ones would be taken for those.

    From ``end`` on its log ends, or may have other records than the hub got: up to ``stored``.
    """

    code = 38
    template = (
        "topic {topic!r} partition {partition}: the hub has its record {stored}, but at the source the log ends at "
        "offset {end}, or is another one from there on: the source was set back (a backup?), and its new records would "
        "be taken for old ones; restore a newer state, or give it another identity (zfabric doctor DIR --new-identity)"
    )
    topic: str
    partition: int
    end: int
    stored: int


class WrongFabric(ZFabricError):
    """Another fabric listens there than the one that was meant: its disk was replaced, or its address given away."""

    code = 85
    template = "fabric {wanted!r} was asked for and {fabric!r} answers; what was kept of the first one stays as it is"
    wanted: str
    fabric: str


class OriginAway(ZFabricError):
    """An origin of a mesh is away, and no keeper in reach has of it what is wanted. It may come back."""

    code = 87
    retriable = True
    template = "origin {origin} of topic {topic!r} is away, and no keeper in reach has what is wanted of it"
    topic: str
    origin: str


class LogsDiverged(ZFabricError):
    """A copy holds what its origin does not: the origin's data was rolled back. Neither side is changed."""

    code = 86
    template = (
        "topic {topic!r} partition {partition}: the copy that ends at {offset:,} is none of this log: {problem}; "
        "its origin was rolled back, say to a backup; move that data to a new directory or drop the copy"
    )
    topic: str
    partition: int
    offset: int
    problem: str
