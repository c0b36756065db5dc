"""The fabrics that a keeper can ask, which copies it asks each of them for, and whose turn it is.

A source is known by its endpoint; its fabric's id is what METADATA answers. Two endpoints may lead to one fabric: then
one of them is used, and the other one when that is away. A queue holds each source once, at the time at which it wants
to be attended to, so ten thousand idle ones cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, Protocol

import msgspec

from zfabric.core.appetite import Appetite
from zfabric.core.leader.copies import Copies
from zfabric.core.leader.damage import Damage
from zfabric.model import TopicConfig
from zfabric.wire.messages import Command
from zfabric.wire.replication import KeptPlace

OFFERED: Final = "offer:"
"""What endpoints begin with of fabrics that have dialled us."""
AWAY_NS: Final = 5_000_000_000
PAUSE_NS: Final = 100_000_000
BULK_BYTES: Final = 4 << 20
PAUSE_MAX_NS: Final = 10_000_000_000


class Answer(Protocol):
    """An answer to come."""

    @property
    def error(self) -> Exception | None:
        """What it failed with."""
        ...

    def result(self) -> Command:
        """Return it."""
        ...

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call back when it is there."""
        ...


class Caller(Protocol):
    """Connections to sources, handed over by the shell (``core/client/requests.py``)."""

    def call(
        self, endpoint: str, kind: int, body: msgspec.Struct, now: int, deadline_ns: int, what: str, seconds: float, *,
        patience_ns: int = ..., held_ns: int | None = ...,
    ) -> Answer:  # fmt: skip
        """Ask, again on each new connection, until there is an answer or the deadline has come.

        Once the other side says HELD, the patience is ``held_ns``.
        """
        ...

    def connected(self, endpoint: str) -> bool:
        """Tell whether there is a connection now."""
        ...

    def leave(self, endpoint: str) -> None:
        """Close a connection; what is under way there fails."""
        ...


class Kept(Protocol):
    """What the follower sees of its leader."""

    copies: Copies
    damage: Damage

    @property
    def fabric(self) -> str:
        """Id of the keeper's own fabric; empty until it is known."""
        ...

    @property
    def kept(self) -> dict[int, KeptPlace]:
        """All copies, by their ids here."""
        ...

    @property
    def assignment_version(self) -> int:
        """Changes whenever :attr:`kept` does."""
        ...

    def config(self, partition_id: int) -> TopicConfig:
        """Return the settings by which a copy is kept."""
        ...


@dataclass(eq=False, slots=True)
class Source:
    """A fabric that can be asked.

    ``led`` are the ids of its own partitions there; ``holds`` tells the id there of a copy, by (origin, id at the
    origin). ``asked`` maps the ids there of the question under way to our copies; ``before`` are the ends of those that
    its answer had something for. ``told``: by id there, up to which version of its ``run`` its commits are known.
    ``in_line``: it waits until a connection is free. ``signs``: it says HELD of a question that it has.
    ``answered_ns``: when it said something last. ``due``: its place in the queue.
    """

    endpoint: str
    fabric: str = ""
    led: set[int] = field(default_factory=set)
    holds: dict[tuple[str, int], int] = field(default_factory=dict)
    version: int = -1
    metadata_due: int = 0
    learning: bool = False
    question: int = 0
    asking: bool = False
    asked: dict[int, int] = field(default_factory=dict)
    bulk: bool = False
    behind: bool = False
    settling: bool = False
    before: dict[int, int] = field(default_factory=dict)
    due: int | None = None
    dialled: bool = False
    in_line: bool = False
    run: int = 0
    told: dict[int, int] = field(default_factory=dict)
    signs: bool = False
    appetite: Appetite = field(default_factory=lambda: Appetite(BULK_BYTES))
    answered_ns: int = -(1 << 62)
    pause_ns: int = PAUSE_NS
    ask_at: int = 0
    order: list[int] = field(default_factory=list)

    def since(self) -> int:
        """Return the version of its commits that is known of all partitions that are asked for: of a new one, none."""
        return min((self.told.get(there, 0) for there in self.asked), default=0)

    def tell(self, run: int, version: int) -> None:
        """It has told its commits up to ``version``, those of the partitions asked for."""
        if run != self.run:
            self.run, self.told = run, {}
        for there in self.asked:
            self.told[there] = max(version, self.told.get(there, 0))

    def fail(self, now: int) -> None:
        """It is asked again after a pause, which doubles."""
        self.ask_at = now + self.pause_ns
        self.pause_ns = min(self.pause_ns * 2, PAUSE_MAX_NS)


class Sources:
    """All sources of one keeper.

    Args:
        caller: connections. leader: the keeper's own leader.

    Attributes:
        mine: the copies that are kept of each origin, by its id.
    """

    def __init__(self, caller: Caller, leader: Kept) -> None:
        self.mine: dict[str, list[int]] = {}
        self._caller = caller
        self._leader = leader
        self._by_endpoint: dict[str, Source] = {}
        self._by_fabric: dict[str, Source] = {}
        self._holders: dict[tuple[str, int], set[str]] = {}
        self._version = -1
        self._queue: list[tuple[int, int, Source]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._by_endpoint)

    def endpoints(self) -> list[str]:
        """Return the endpoints that are known."""
        return list(self._by_endpoint)

    def all(self) -> list[Source]:
        """Return all of them."""
        return list(self._by_endpoint.values())

    def at(self, endpoint: str) -> Source | None:
        """Return the source at an endpoint."""
        return self._by_endpoint.get(endpoint)

    def of(self, fabric: str) -> Source | None:
        """Return the source by which a fabric is asked."""
        return self._by_fabric.get(fabric)

    def knows(self, source: Source) -> bool:
        """Tell whether it was not removed."""
        return self._by_endpoint.get(source.endpoint) is source

    # Coming and going.

    def add(self, endpoint: str) -> None:
        """A fabric can be asked there."""
        source = self._by_endpoint[endpoint] = Source(endpoint)
        self.schedule(source)

    def remove(self, source: Source) -> None:
        """It can not be asked any more."""
        self._by_endpoint.pop(source.endpoint, None)
        self._unname(source)

    def name(self, source: Source, fabric: str, now: int) -> None:
        """Another fabric answers there than was known: it is another source, of which nothing is known."""
        self._unname(source)
        source.fabric = fabric
        source.led = set()
        source.run = 0
        source.told = {}
        source.version = -1
        source.signs = False
        if self.is_away(fabric, now):
            self._by_fabric[fabric] = source

    def _unname(self, source: Source) -> None:
        self.hold(source, {})
        if self._by_fabric.get(source.fabric) is source:
            del self._by_fabric[source.fabric]

    def hold(self, source: Source, holds: dict[tuple[str, int], int]) -> None:
        """Note which copies a source holds."""
        for gone in source.holds.keys() - holds.keys():
            holders = self._holders[gone]
            holders.discard(source.fabric)
            if not holders:
                del self._holders[gone]
        for place in holds:
            self._holders.setdefault(place, set()).add(source.fabric)
        source.holds = holds

    # Which copies are asked for where.

    def group(self) -> list[Source]:
        """See which copies there are now; returns the sources of origins of which there are others than before."""
        if self._version == self._leader.assignment_version:
            return []
        self._version = self._leader.assignment_version
        before, self.mine = self.mine, {}
        for copy, place in self._leader.kept.items():
            self.mine.setdefault(place.origin, []).append(copy)
        changed = [origin for origin, copies in self.mine.items() if copies != before.get(origin)]
        return [self._by_fabric[origin] for origin in changed if origin in self._by_fabric]

    def is_away(self, fabric: str, now: int) -> bool:
        """Tell whether a fabric has no connection, and has not answered for five seconds."""
        source = self._by_fabric.get(fabric)
        if source is None:
            return True
        return not self._caller.connected(source.endpoint) and now - source.answered_ns > AWAY_NS

    def is_used(self, source: Source, now: int) -> bool:
        """Tell whether this is the one by which its fabric is asked; it takes the place of one that is away."""
        if self._by_fabric.get(source.fabric) is not source and self.is_away(source.fabric, now):
            self._by_fabric[source.fabric] = source
        return self._by_fabric.get(source.fabric) is source

    def wanted(self, source: Source, now: int) -> dict[int, int]:
        """Return the copies that are asked for at a source: id there to id here."""
        wanted = {}
        kept = self._leader.kept
        for copy in self.mine.get(source.fabric, ()):
            if kept[copy].source in source.led:
                wanted[kept[copy].source] = copy
        for (origin, number), there in source.holds.items():
            if origin in self.mine and self._stands_in(source, origin, number, now):
                wanted.update((there, copy) for copy in self.mine[origin] if kept[copy].source == number)
        return wanted

    def keepers(self, origin: str, number: int, now: int) -> list[tuple[Source, int]]:
        """Return the keepers that are there and have a copy of a partition, by their ids; with its id there."""
        fabrics = sorted(fabric for fabric in self._holders.get((origin, number), ()) if not self.is_away(fabric, now))
        found = [self._by_fabric[fabric] for fabric in fabrics]
        return [(source, source.holds[origin, number]) for source in found if (origin, number) in source.holds]

    def keepers_of(self, origins: set[str]) -> list[Source]:
        """Return all keepers that have copies of some of these origins."""
        if not origins:
            return []
        fabrics = {fabric for (origin, _), holders in self._holders.items() if origin in origins for fabric in holders}
        return [self._by_fabric[fabric] for fabric in sorted(fabrics) if fabric in self._by_fabric]

    def _stands_in(self, source: Source, origin: str, number: int, now: int) -> bool:
        """Of several keepers that have a copy, the one with the lowest id that is there is asked."""
        if not self.is_away(origin, now):
            return False
        able = [fabric for fabric in self._holders[origin, number] if not self.is_away(fabric, now)]
        return source.fabric == min(able, default=source.fabric)

    # Whose turn it is.

    def schedule(self, source: Source) -> None:
        """Put a source into the queue at the time at which it wants to be attended to."""
        if source.in_line:
            return
        wanted = [] if source.learning else [source.metadata_due]
        if not source.asking and not source.settling and source.fabric:
            wanted.append(source.ask_at)
        if wanted and (source.due is None or min(wanted) < source.due):
            source.due = min(wanted)
            self._pushed += 1
            heappush(self._queue, (source.due, self._pushed, source))

    def take_due(self, now: int) -> Iterator[Source]:
        """Yield the sources whose time has come; each is put into the queue again after that."""
        while self._queue and self._queue[0][0] <= now:
            due, _, source = heappop(self._queue)
            if source.due == due and self.knows(source):
                source.due = None
                yield source
                self.schedule(source)

    def next_deadline(self) -> int | None:
        """When the next one wants to be attended to (monotonic ns)."""
        return self._queue[0][0] if self._queue else None
