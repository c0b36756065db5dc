"""Beacons on a local network: when to send one, and whom to meet of those that are heard.

A beacon is an introduction and nothing more: who is met has to prove itself like any stranger.

**Sending.** A member of a mesh of n sends every n seconds, give or take a quarter: so all together send about one a
second, which is enough for halves of a mesh that lost each other to meet again, for a newcomer that hears it (its own
is heard at once), and for somebody who only looks for a member, and sends none.

**Meeting.** A beacon of a member that is known to live at that endpoint is nothing new. Others are met after a random
pause of up to n / 10 seconds, at most 5, unless they have become known by then: so a newcomer is not met by everybody
at once.

**Bounds.** At most 64 endpoints wait to be met, and one of them is met every 100 ms at the most. A flood of beacons
with a right MAC costs ten frames a second; one with a wrong MAC costs reading what the shell takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from zfabric.core.mesh.membership import Mesh
from zfabric.wire.beacon import Beacon
from zfabric.wire.gossip import Status

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
SEND_NS: Final = 1 * SECOND
PAUSE_MAX_NS: Final = 5 * SECOND
MEET_NS: Final = SECOND // 10
WAITING_MAX: Final = 64


class Introductions:
    """Of one member.

    Attributes:
        heard: beacons of this mesh. refused: those for which there was no room.
    """

    def __init__(self, mesh: Mesh, random: Random, now: int) -> None:
        self.heard = 0
        self.refused = 0
        self._mesh = mesh
        self._random = random
        self._send_due = now
        self._meet_due = now
        self._waiting: dict[str, tuple[int, bytes]] = {}

    def hear(self, beacon: Beacon, now: int) -> None:
        """Take a beacon."""
        self.heard += 1
        if self._known(beacon.sender, beacon.endpoint) or beacon.endpoint in self._waiting:
            return
        if len(self._waiting) >= WAITING_MAX:
            self.refused += 1
            return
        pause = min(PAUSE_MAX_NS, self._mesh.live * SECOND // 10)
        self._waiting[beacon.endpoint] = now + int(self._random.random() * pause), beacon.sender

    def tick(self, now: int) -> bool:
        """Meet whoever it is time to meet; tells whether it is time to send a beacon."""
        if self._waiting and now >= self._meet_due:
            due = [endpoint for endpoint, (at, _) in self._waiting.items() if at <= now]
            for endpoint in due:
                _, sender = self._waiting.pop(endpoint)
                if not self._known(sender, endpoint):
                    self._meet_due = now + MEET_NS
                    self._mesh.meet(endpoint, now)
                    break
        if now < self._send_due:
            return False
        interval = SEND_NS * (self._mesh.live + 1)
        self._send_due = now + int(interval * (0.75 + self._random.random() / 2))
        return True

    def _known(self, sender: bytes, endpoint: str) -> bool:
        if sender == self._mesh.me.id:
            return True
        known = self._mesh.member(sender)
        return known is not None and known.status <= Status.SUSPECT and known.endpoint == endpoint
