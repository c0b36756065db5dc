"""Which members of a mesh a keeper follows: those that are there and lead a topic that it keeps, or may lead one.

Whoever has lost a part of its own logs asks those that keep copies of these topics.

A member that has failed or left is forgotten as a source until it is back; its copies stay. What a card says is a hint:
the follower asks the member itself which topics it has. Anybody may be one where a mesh has no key, so only addresses
of the network are taken from it, and it ends nothing that was known without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from zfabric.core.leader.follower import Follower
from zfabric.wire import card as cards
from zfabric.wire.gossip import Status
from zfabric.wire.membership import MemberIs

_THERE: Final = (Status.ALIVE, Status.SUSPECT)
_SCHEMES: Final = ("tcp://", "sim://")


class Sightings:
    """What a keeper has seen of its mesh.

    Args:
        patterns: of the topics that it keeps. follower: is told. known: endpoints that are followed in any case.
        dialled: keepers of our own that cannot reach us.
    """

    def __init__(
        self, patterns: Sequence[str], follower: Follower, known: Sequence[str] = (), dialled: Sequence[str] = ()
    ) -> None:
        self._patterns = tuple(patterns)
        self._follower = follower
        self._dialled = tuple(dialled)
        self._places: dict[bytes, str] = {}
        self._at = Counter(known)
        self._mending: frozenset[str] = frozenset()

    def look_for(self, topics: frozenset[str]) -> bool:
        """Keepers of these topics are wanted too; if that is news, :meth:`take` is wanted for all members."""
        before, self._mending = self._mending, topics
        for endpoint in self._dialled if bool(topics) != bool(before) else ():
            if topics:
                self._follower.learn(endpoint)
            elif not self._at[endpoint]:
                self._follower.forget(endpoint)
        return topics != before

    def take(self, members: Iterable[MemberIs], me: bytes) -> None:
        """Take members that have changed; ``me`` is the keeper itself."""
        for member in members:
            endpoint = member.endpoint if member.id != me and self._is_wanted(member) else ""
            before = self._places.pop(member.id, "")
            if endpoint:
                self._places[member.id] = endpoint
                self._at[endpoint] += 1
                self._follower.learn(endpoint)
            if before:
                self._at[before] -= 1
                if not self._at[before]:
                    del self._at[before]
                    self._follower.forget(before)

    def _is_wanted(self, member: MemberIs) -> bool:
        if not member.endpoint.startswith(_SCHEMES):
            return False
        card = cards.read(member.metadata) if member.status in _THERE else None
        if card is None:
            return False
        named = any(fnmatchcase(topic.name, pattern) for topic in card.topics for pattern in self._patterns)
        return named or card.more or any(topic.kept and topic.name in self._mending for topic in card.topics)
