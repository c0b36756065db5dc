"""Where each partition of a mesh is read: at its origin, or at a keeper that has a copy of it.

A copy has the offsets, epochs and bytes of its origin, so a reader may go from one to the other at any record.

- Of a topic with up to 64 origins each is read directly while it is there, and at a keeper while it is away.
- Of a topic with more, whatever a keeper that is there has is read at a keeper: connections are as many as keepers.
- Of several keepers a reader stays with the one that it has; else it takes the own one, else the one that a hash of
  keeper and origin prefers (rendezvous), so that readers and origins spread over keepers.
- Whoever has a log damaged where it is to be read on is *shunned* for a minute, as long as there is another one: by
  then a keeper has mended it (``core/leader/damage.py``), or the reader is past it. So is a keeper that has not got as
  far as the reader, or has another log than it (its origin was set back).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from zfabric.model import TopicConfig
from zfabric.wire.metadata import PartitionPlace, TopicMeta
from zfabric.wire.replication import KeptPlace

DIRECT_MAX: Final = 64
SHUN_NS: Final = 60_000_000_000


class Place(PartitionPlace, frozen=True):
    """A partition as a reader of a mesh finds it: id and leader are those of whoever is asked.

    Attributes:
        origin: fabric id of its origin. log: its id there: while that stays, it is the same log wherever it is read.
        there: its number there. copy: it is read at a keeper.
    """

    origin: str = ""
    log: int = 0
    there: int = 0
    copy: bool = False


class Holder(NamedTuple):
    """A member that leads or keeps partitions of a topic.

    Attributes:
        fabric: its id. meta: the topic there. leaders: its leaders' ids to their numbers here; None where they are the
        same. here: it is there. own: it is the reader's own.
    """

    fabric: str
    meta: TopicMeta
    leaders: dict[int, int] | None
    here: bool
    own: bool

    def leader(self, number: int) -> int:
        """Return the number by which this client knows one of its leaders."""
        return number if self.leaders is None else self.leaders[number]


class _Found:
    __slots__ = ("copies", "led")

    def __init__(self) -> None:
        self.led: tuple[Holder, PartitionPlace] | None = None
        self.copies: list[tuple[Holder, KeptPlace]] = []


class View(TopicMeta, frozen=True):
    """A topic as a reader of a mesh finds it.

    Attributes:
        others: settings of the origins where they are others than those in ``config``, by fabric id.
    """

    others: dict[str, TopicConfig] = msgspec.field(default_factory=dict)


def settings(holders: Sequence[Holder]) -> tuple[TopicConfig, dict[str, TopicConfig]]:
    """Return a topic's settings, and which origins have others, by fabric id.

    They are those of the own part, if there is one. Else those that most origins have, and of several the ones of the
    origin with the lowest id: whoever sees the same members finds the same, and makes its own part like that.
    """
    leading = [holder for holder in holders if holder.meta.partitions] or holders
    first = leading[0].meta.config
    if all(holder.meta.config == first for holder in leading):
        return first, {}
    counts = Counter(holder.meta.config for holder in leading)
    chosen = min(leading, key=lambda holder: (not holder.own, -counts[holder.meta.config], holder.fabric)).meta.config
    return chosen, {holder.fabric: holder.meta.config for holder in leading if holder.meta.config != chosen}


def log_of(place: PartitionPlace) -> tuple[str, int]:
    """Return what stays the same while a partition is the same log."""
    return (place.origin, place.log) if isinstance(place, Place) else ("", place.id)


def covered(keepers: Sequence[TopicMeta | None]) -> frozenset[str] | None:
    """Return the origins of which keepers have copies; None while one of them (None) has not told."""
    told = [meta for meta in keepers if meta is not None]
    return frozenset(place.origin for meta in told for place in meta.kept) if len(told) == len(keepers) else None


class Routes:
    """The choices of one client; they stay as long as they are good ones."""

    def __init__(self) -> None:
        self._chosen: dict[tuple[str, int], str] = {}
        self._shunned: dict[tuple[str, int], dict[str, int]] = {}

    def shun(self, log: tuple[str, int], holder: str, now: int) -> None:
        """Read ``log`` (see :func:`log_of`) at somebody else than ``holder`` for a minute, if that may be."""
        mine = {fabric: until for fabric, until in self._shunned.get(log, {}).items() if until > now}
        self._shunned[log] = mine | {holder: now + SHUN_NS}

    def places(self, holders: Sequence[Holder], now: int) -> list[tuple[str, int, Place]]:
        """Return (origin, number there, place) of each partition that the holders have between them.

        The number in a place is the one at the origin.
        """
        found: dict[tuple[str, int], _Found] = {}
        for holder in holders:
            for place in holder.meta.partitions:
                found.setdefault((holder.fabric, place.number), _Found()).led = holder, place
            for kept in holder.meta.kept:
                found.setdefault((kept.origin, kept.number), _Found()).copies.append((holder, kept))
        many = len({origin for origin, _ in found}) > DIRECT_MAX
        return [(*key, self._choose(key[0], entry, now, many=many)) for key, entry in found.items()]

    def _choose(self, origin: str, found: _Found, now: int, *, many: bool) -> Place:
        led = found.led
        # A copy of an older log, from before the topic was made anew, is none of this partition.
        log = led[1].id if led is not None else max(kept.source for _, kept in found.copies)
        copies = [(holder, kept) for holder, kept in found.copies if kept.source == log]
        shunned = [fabric for fabric, until in self._shunned.get((origin, log), {}).items() if until > now]
        able = [entry for entry in copies if entry[0].here and entry[0].fabric not in shunned]
        if not (able or (led is not None and led[0].here)):
            able = [entry for entry in copies if entry[0].here]  # Better than one that is away.
        if led is not None and not (able and (many or not led[0].here or origin in shunned)):
            self._chosen.pop((origin, log), None)
            holder, place = led
            return Place(place.id, place.number, holder.leader(place.leader), origin, log, place.number)
        chosen = self._chosen.get((origin, log))
        holder, kept = min(
            able or copies,
            key=lambda entry: (entry[0].fabric != chosen, not entry[0].own, _preference(entry[0].fabric, origin)),
        )
        self._chosen[origin, log] = holder.fabric
        return Place(kept.id, kept.number, holder.leader(kept.leader), origin, log, kept.number, copy=True)


def _preference(keeper: str, origin: str) -> int:
    return xxh3_64_intdigest(f"{keeper}/{origin}".encode())
