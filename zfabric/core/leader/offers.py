"""Connections that run in reverse: a fabric that others cannot reach dials its keepers, and they ask it down that line.

The dialling side (:class:`Offering`) says OFFER on each new connection, and every two seconds while nobody asks FOLLOW:
a message may be lost. It answers what keepers may ask (``REVERSED``) and nothing else.

The keeper's side (:class:`Offers`) makes such a line look like a session to whoever asks: ``offer:FABRIC`` is its
endpoint, a session opened there is the connection that said OFFER last. An older line of the same fabric is lost with
that: the fabric was started again, or its address has changed. A connection offers one fabric, the one that it named
last, and what has no connection any more is not asked: it says OFFER when it is back.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from zfabric.core.effects import ClientEffect, CloseSession, OpenSession, Reply, Send
from zfabric.core.leader.follower import Follower
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.replication import Offer

SCHEME: Final = "offer:"
REPEAT_NS: Final = 2_000_000_000
QUIET_NS: Final = 10_000_000_000
OFFERS_MAX: Final = 20_000
"""Lines known at a time; beyond, the one that has been quiet for longest is forgotten until it says OFFER again."""


class Offering:
    """The dialling side of one line."""

    def __init__(self) -> None:
        self._due = 0

    def next_deadline(self) -> int:
        """When :meth:`offer` is wanted next (monotonic ns)."""
        return self._due

    def connected(self) -> None:
        """There is a new connection: whoever is behind it knows nothing of us."""
        self._due = 0

    def offer(self, fabric: str, now: int) -> bytes | None:
        """Return what to say now, if it is time and there is something to offer."""
        if now < self._due:
            return None
        self._due = now + REPEAT_NS
        return messages.command(Type.OFFER, 1, Offer(fabric)) if fabric else None

    def admits(self, command: Command, now: int) -> bool:
        """Tell whether the keeper may ask this. One that has asked FOLLOW asks again when that is answered."""
        if command.type == Type.FOLLOW:
            self._due = now + command.body.wait_ms * 1_000_000 + QUIET_NS
        return command.type in messages.REVERSED


class Offers:
    """The keeper's side of all lines: sessions by number, as ``core/client/requests.py`` opens them.

    Args:
        follower: is told what can be asked.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._peers: OrderedDict[str, bytes] = OrderedDict()
        self._fabrics: dict[bytes, str] = {}
        self._sessions: dict[int, bytes] = {}
        self._by_peer: dict[bytes, int] = {}

    def take(self, peer: bytes, fabric: str) -> list[int]:
        """An OFFER has come; returns the sessions that are lost by it."""
        lost = self.gone(peer) if self._fabrics.get(peer, fabric) != fabric else []
        before = self._peers.get(fabric)
        if before is None and len(self._peers) >= OFFERS_MAX:
            lost += self.gone(next(iter(self._peers.values())))
        self._peers[fabric] = peer
        self._peers.move_to_end(fabric)
        self._fabrics[peer] = fabric
        if before is not None and before != peer:
            lost += self.gone(before)
        self._follower.learn(SCHEME + fabric)
        return lost

    def gone(self, peer: bytes) -> list[int]:
        """A connection has ended; returns the sessions that are lost by it."""
        fabric = self._fabrics.pop(peer, None)
        if fabric is not None and self._peers.get(fabric) == peer:
            del self._peers[fabric]
            self._follower.forget(SCHEME + fabric)
        session = self._by_peer.pop(peer, None)
        if session is None:
            return []
        del self._sessions[session]
        return [session]

    def session(self, peer: bytes) -> int | None:
        """Return the session that a message of ``peer`` belongs to, if it is one of these lines."""
        return self._by_peer.get(peer)

    def owns(self, effect: ClientEffect) -> bool:
        """Tell whether an effect is about one of these lines, and for :meth:`perform`."""
        if isinstance(effect, OpenSession):
            return effect.endpoint.startswith(SCHEME)
        return isinstance(effect, Send | CloseSession) and effect.session in self._sessions

    def perform(self, effect: ClientEffect) -> Reply | int | None:
        """Return what the shell has to send; or the session, if it cannot be opened and is lost."""
        if isinstance(effect, OpenSession):
            peer = self._peers.get(effect.endpoint.removeprefix(SCHEME))
            if peer is None:
                return effect.session
            older = self._by_peer.get(peer)
            if older is not None:
                del self._sessions[older]
            self._sessions[effect.session] = peer
            self._by_peer[peer] = effect.session
        elif isinstance(effect, CloseSession):
            self._by_peer.pop(self._sessions.pop(effect.session), None)
        elif isinstance(effect, Send):
            return Reply(self._sessions[effect.session], effect.frames)
        return None
