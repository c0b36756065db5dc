"""How many origins one client has room for, and what happens beyond.

One that has gone, and of which nobody has read anything, makes room for another: in a mesh whose members come and go
under ever new ids a client would meet its bound in the end. Where there is nobody to go, those who come are passed
over, and whoever begins to read a topic that one of these shows is told so (LimitExceeded). Who reads it already is not
stopped by that; it can see how many they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from zfabric import errors
from zfabric.core.client.origin import Origin
from zfabric.core.client.pending import Pending
from zfabric.wire.card import Card
from zfabric.wire.metadata import TopicMeta

ORIGINS_MAX: Final = 20_000
"""Origins of one client: more than a mesh may have members."""


class Room:
    """The bound of one client's origins."""

    def __init__(self) -> None:
        self._over: Counter[str] = Counter()
        self._spare: list[Origin] | None = None

    def begin(self) -> None:
        """All members are looked at anew."""
        self._over.clear()
        self._spare = None

    def make(self, origins: dict[str, Origin], seen: Collection[str]) -> Origin | None:
        """Return an origin that may go for another one; None if each is there, or was read.

        Args:
            seen: fabric ids of those that there are now.
        """
        if self._spare is None:
            self._spare = [o for o in origins.values() if o.fabric not in seen and not o.leaders and o.asked is None]
        return self._spare.pop() if self._spare else None

    def pass_over(self, card: Card) -> None:
        """There is no room for this one."""
        self._over.update(topic.name for topic in card.topics)

    def over(self, topic: str) -> int:
        """Return how many that show a topic were passed over."""
        return self._over[topic]

    def check(self, topic: str, wanted: Pending[TopicMeta]) -> Pending[TopicMeta]:
        """Return a view to come, or LimitExceeded if somebody who was passed over has the topic too."""
        checked: Pending[TopicMeta] = Pending()

        def found() -> None:
            if wanted.error is not None:
                checked.fail(wanted.error)
            elif topic in self._over:
                checked.fail(self._exceeded(topic))
            else:
                checked.resolve(wanted.result())

        wanted.on_done(found)
        return checked

    def _exceeded(self, topic: str) -> errors.LimitExceeded:
        return errors.LimitExceeded(
            what=f"origins of a mesh, some of them with topic {topic!r}", value=ORIGINS_MAX + self._over[topic],
            limit=ORIGINS_MAX, instead="read it at a node that uplinks fill, or spread it over several meshes",
        )  # fmt: skip
