"""Bodies of the commands about topics and their leaders, laid out like those in ``messages.py``.

Clients ask the controller (leader 0) where topics are, and have it make, change and delete them. The other leaders of
the fabric tell it where they listen (ATTACH), and it tells them what they lead (ASSIGN).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from zfabric.model import TopicConfig
from zfabric.settings import ENDS_MAX
from zfabric.wire.body import ALL, ASKED, Body, Count, Id, Text
from zfabric.wire.replication import KeptPlace


class LeaderAddress(Body, frozen=True):
    """Where one leader listens; host ``*`` stands for the host by which the asker reached us."""

    id: Id
    endpoint: Text
    publish: Text


class PartitionPlace(Body, frozen=True):
    """One partition: its id, its number within the topic, the id of its leader."""

    id: Id
    number: Id
    leader: Id


class TopicMeta(Body, frozen=True):
    """A topic as the controller knows it; partitions in order of their number, and copies of other fabrics' ones."""

    name: Text
    id: Id
    config: TopicConfig
    partitions: Annotated[list[PartitionPlace], ALL]
    kept: Annotated[list[KeptPlace], ALL] = msgspec.field(default_factory=list)


class Metadata(Body, frozen=True):
    """Ask where these topics are; None asks for all."""

    topics: Annotated[list[str], ASKED] | None = None


class MetadataIs(Body, frozen=True):
    """All leaders, the topics asked for, and which of those do not exist."""

    fabric: Text
    leaders: Annotated[list[LeaderAddress], ASKED]
    topics: Annotated[list[TopicMeta], ALL]
    unknown: Annotated[list[str], ASKED]


class CreateTopic(Body, frozen=True):
    """Make a topic with so many partitions; ``if_absent`` takes an existing one as it is.

    ``token`` is a random number by which a repeat is known to be one; 0: none.
    """

    name: str
    partitions: int
    config: TopicConfig
    if_absent: bool = False
    token: Count = 0


class TopicIs(Body, frozen=True):
    """The topic after a change."""

    topic: TopicMeta


class DeleteTopic(Body, frozen=True):
    """Remove a topic with all its records; ``token`` as in CREATE_TOPIC."""

    name: str
    token: Count = 0


class AlterTopic(Body, frozen=True):
    """Change a topic's configuration, or add partitions (0: as many as there are)."""

    name: str
    config: TopicConfig
    partitions: int = 0


class PartitionEnd(Body, frozen=True):
    """The end offset of a partition, as of now."""

    partition: Id
    end: Count


class Attach(Body, frozen=True):
    """A leader tells the controller where it listens, and the assignment version it has.

    ``ends``: now and then, how far some of its partitions are, for the mesh to know. ``secret``: what the processes of
    one node have in common; whoever could attach without it would be sent what clients produce.
    """

    leader: Id
    endpoint: Text
    publish: Text
    version: Count
    ends: Annotated[list[PartitionEnd], Meta(max_length=ENDS_MAX)] = msgspec.field(default_factory=list)
    secret: Annotated[bytes, Meta(max_length=64)] = b""


class AssignedTopic(Body, frozen=True):
    """A topic with the partitions that one leader leads, and those that it keeps."""

    id: Id
    name: Text
    config: TopicConfig
    partitions: Annotated[list[PartitionPlace], ALL]
    kept: Annotated[list[KeptPlace], ALL] = msgspec.field(default_factory=list)

    def places(self) -> list[tuple[int, int]]:
        """Return (id, number) of all of them."""
        led = [(place.id, place.number) for place in self.partitions]
        return led + [(place.id, place.number) for place in self.kept]


class Assign(Body, frozen=True):
    """What changed after version ``since``: topics to lead, ids of topics that are gone."""

    fabric: Text
    version: Count
    topics: Annotated[list[AssignedTopic], ALL]
    gone: list[Id]
    since: Count = 0
