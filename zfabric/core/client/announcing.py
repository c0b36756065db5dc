"""The announcement of one instance of a service: a lease at leader 0.

It is repeated thrice in its time and when the leader was lost, and given back at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from zfabric.wire.card import DRAINING, ServiceCard
from zfabric.wire.membership import Announce
from zfabric.wire.messages import Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.pending import Pending

LEASE_MS: Final = 6_000
ANNOUNCE_NS: Final = 2_000_000_000
ANNOUNCE_PATIENCE_NS: Final = 8_000_000_000


class Announcement:
    """Of one instance.

    Attributes:
        due_ns: when to make it again (monotonic); None before the first time. last: the latest answer, to come.
        patience_ns: how long the next one may take.
    """

    def __init__(self, client: Client) -> None:
        self.due_ns: int | None = None
        self.last: Pending[Any] | None = None
        self.patience_ns = ANNOUNCE_PATIENCE_NS
        self._client = client

    def make(self, card: ServiceCard, now: int) -> None:
        """Announce what the instance says of itself, unless that is under way."""
        self.due_ns = now + ANNOUNCE_NS
        if self.last is None or self.last.done or card.flags & DRAINING:
            self._tell(card, now, LEASE_MS)

    def repeat(self, card: ServiceCard, now: int) -> None:
        """The leader may have forgotten it."""
        if self.due_ns is not None:
            self.last = None
            self.make(card, now)

    def end(self, card: ServiceCard, now: int) -> None:
        """Give it back."""
        self._tell(card, now, 0)

    def _tell(self, card: ServiceCard, now: int, lease_ms: int) -> None:
        what = f"announcement of service {card.name!r}"
        body = Announce(card, lease_ms)
        until_ns, self.patience_ns = now + self.patience_ns, ANNOUNCE_PATIENCE_NS
        self.last = self._client.control(Type.ANNOUNCE, body, now, until_ns, what)
