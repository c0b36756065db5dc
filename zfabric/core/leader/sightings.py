"""Which members of a mesh a keeper follows: those that are there and lead a topic that it keeps, or may lead one.

A member that has failed or left is forgotten as a source until it is back; its copies stay. What a card says is a hint:
the follower asks the member itself which topics it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from zfabric.core.leader.follower import Follower
from zfabric.wire import card as cards
from zfabric.wire.gossip import Status
from zfabric.wire.messages import MemberIs

_THERE: Final = (Status.ALIVE, Status.SUSPECT)


class Sightings:
    """What a keeper has seen of its mesh.

    Args:
        patterns: of the topics that it keeps. follower: is told.
    """

    def __init__(self, patterns: Sequence[str], follower: Follower) -> None:
        self._patterns = tuple(patterns)
        self._follower = follower
        self._places: dict[bytes, str] = {}

    def take(self, members: Iterable[MemberIs], me: bytes) -> None:
        """Take members that have changed; ``me`` is the keeper itself."""
        for member in members:
            endpoint = member.endpoint if member.id != me and self._is_wanted(member) else ""
            before = self._places.pop(member.id, "")
            if before and before != endpoint and before not in self._places.values():
                self._follower.forget(before)
            if endpoint:
                self._places[member.id] = endpoint
                self._follower.learn(endpoint)

    def _is_wanted(self, member: MemberIs) -> bool:
        card = cards.read(member.metadata) if member.status in _THERE else None
        if card is None:
            return False
        named = any(fnmatchcase(topic.name, pattern) for topic in card.topics for pattern in self._patterns)
        return named or card.more
