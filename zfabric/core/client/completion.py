"""What members have announced that their cards have no room for, asked of the members themselves.

A card that says ``more`` is one of those. Its member is asked for MEMBERS now and then, for what changed since its last
answer, so asking often costs little. A member that was not asked about for a minute is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from zfabric.core.client.pending import Pending
from zfabric.wire.membership import Members
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.members import Known
    from zfabric.wire.card import ServiceCard

ANSWER_NS: Final = 5_000_000_000
FORGET_NS: Final = 60_000_000_000
WHOLE_NS: Final = 1_000_000_000
"""Who wants to know all waits so long for members that do not answer."""


class _Asked:
    __slots__ = ("at_ns", "run", "services", "under_way", "version")

    def __init__(self) -> None:
        self.at_ns = 0
        self.under_way = False
        self.run = 0
        self.version = 0
        self.services: list[ServiceCard] = []


class Completion:
    """What one user of the members table knows of them.

    Args:
        every_ns: a member is asked again after this time. told: called when an answer has changed something.
    """

    def __init__(self, client: Client, every_ns: int, told: Callable[[], None]) -> None:
        self._client = client
        self._every_ns = every_ns
        self._told = told
        self._asked: dict[bytes, _Asked] = {}
        self._waiting: list[Pending[None]] = []

    def services(self, member: Known, now: int) -> list[ServiceCard]:
        """Return what a member was last known to have announced; none if its card is whole. Asks it if it is time."""
        if not member.card.more or member.local:
            return []
        asked = self._of(member, now)
        if now - asked.at_ns >= self._every_ns:
            self._ask(asked, member, now)
        return asked.services

    def whole(self, members: Iterable[Known], now: int) -> Pending[None]:
        """Ask all whose cards are not whole; comes when each has answered or failed to, after ``WHOLE_NS`` anyway."""
        for member in members:
            if member.card.more and not member.local:
                self._ask(self._of(member, now), member, now)
        pending: Pending[None] = Pending()
        self._waiting.append(pending)
        self._client.after(now + WHOLE_NS, lambda: pending.resolve(None))
        self._settle()
        return pending

    def _of(self, member: Known, now: int) -> _Asked:
        asked = self._asked.get(member.id)
        if asked is None:
            self._asked = {known: told for known, told in self._asked.items() if now - told.at_ns < FORGET_NS}
            asked = self._asked[member.id] = _Asked()
            asked.at_ns = now - self._every_ns
        return asked

    def _ask(self, asked: _Asked, member: Known, now: int) -> None:
        if asked.under_way:
            return
        asked.at_ns, asked.under_way = now, True
        answer = self._client.requests.call(
            member.endpoint, Type.MEMBERS, Members(asked.run, asked.version), now, now + ANSWER_NS, "services",
            ANSWER_NS / 1e9,
        )  # fmt: skip
        answer.on_done(lambda: self._answered(asked, answer))

    def _settle(self) -> None:
        if not any(asked.under_way for asked in self._asked.values()):
            waiting, self._waiting = self._waiting, []
            for pending in waiting:
                pending.resolve(None)

    def _answered(self, asked: _Asked, answer: Pending[Command]) -> None:
        asked.under_way = False
        if answer.error is None:
            body = answer.result().body
            asked.run, asked.version = body.run, body.version
            if body.services is not None and body.services != asked.services:
                asked.services = body.services
                self._told()
        self._settle()
