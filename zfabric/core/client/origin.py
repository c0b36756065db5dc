"""One origin of a mesh, and how it is seen; see ``origins.py``."""

from __future__ import annotations

from typing import Final, NamedTuple

from zfabric.core.client.pending import Pending
from zfabric.wire.card import Card
from zfabric.wire.gossip import Status
from zfabric.wire.metadata import LeaderAddress, TopicMeta

PAUSE_NS: Final = 50_000_000
PAUSE_MAX_NS: Final = 5_000_000_000
SETTLE_NS: Final = 1_000_000_000
"""Longest that opening a topic waits for origins that are there but do not answer; they join when they do."""
UNKNOWN_NS: Final = 3_000_000_000


class Sighting(NamedTuple):
    """A member of the mesh, other than the own one, as the table shows it now.

    Attributes:
        rank: how likely it is there: (-status, incarnation). endpoint: of its leader 0. card: what it tells of itself.
    """

    rank: tuple[int, int]
    endpoint: str
    card: Card

    @property
    def here(self) -> bool:
        """Whether it is neither failed nor gone."""
        return self.rank[0] >= -Status.SUSPECT


class Origin:
    """One of them, but the own one.

    Attributes:
        endpoint: of its leader 0, "" while it has none. here: as last seen. hints: topics that its card shows.
        keeps: those of them of which it has copies.
        more: it may have others. topics: what its METADATA said. leaders: its leaders' ids to their numbers here.
        asked: names of the question under way, None while there is none.
    """

    __slots__ = (
        "addresses",
        "asked",
        "due_ns",
        "endpoint",
        "fabric",
        "here",
        "hints",
        "keeps",
        "leaders",
        "more",
        "pause_ns",
        "retry_ns",
        "topics",
    )

    def __init__(self, fabric: str) -> None:
        self.fabric = fabric
        self.endpoint = ""
        self.here = False
        self.hints: frozenset[str] = frozenset()
        self.keeps: frozenset[str] = frozenset()
        self.more = False
        self.topics: dict[str, TopicMeta] = {}
        self.leaders: dict[int, int] = {}
        self.addresses: dict[int, LeaderAddress] = {}
        self.asked: list[str] | None = None
        self.due_ns: int | None = None
        self.retry_ns = 0
        self.pause_ns = PAUSE_NS

    def may_have(self, topic: str) -> bool:
        """Tell whether it is worth asking for ``topic``."""
        return self.more or topic in self.hints or topic in self.topics

    def reach(self, endpoint: str) -> str:
        """Return an endpoint as it is reached from here: ``*`` is the host by which its leader 0 is."""
        scheme, _, place = self.endpoint.partition("://")
        return endpoint.replace("://*:", f"://{place.rpartition(':')[0] if scheme == 'tcp' else ''}:", 1)

    def postpone(self, now: int) -> None:
        """It did not answer: it may be asked again, later each time."""
        self.retry_ns = now + self.pause_ns
        self.pause_ns = min(self.pause_ns * 2, PAUSE_MAX_NS)


class Opening:
    """Somebody wants a view of a topic.

    Attributes:
        own: the own leader has answered. fresh: the table of members was asked for since, or cannot be had.
        until_ns: a topic that nobody shows is unknown then.
    """

    def __init__(self, now: int, deadline_ns: int) -> None:
        self.pending: Pending[TopicMeta] = Pending()
        self.own = self.fresh = False
        self.settled_ns = now + SETTLE_NS
        self.until_ns = min(now + UNKNOWN_NS, deadline_ns)
        self.deadline_ns = deadline_ns
