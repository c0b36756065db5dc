"""Probes under way: this member's own, and those that it makes for others.

A probe is a PING; when it is not answered in time, others are asked to ping (PING_REQ), and their ACK counts as well
(SWIM, section 3.1). One that asks for help expects an ACK or a NACK of each helper: if neither comes, the fault may be
its own (Lifeguard, section III.A). All of it is bounded: there is one own probe at a time, and at most
``RELAYS_MAX`` for others.
"""

from __future__ import annotations

from dataclasses import dataclass

from zfabric.wire.gossip import Member

RELAYS_MAX = 1_024
NACK_SHARE = 0.8
"""A helper says no after this part of the probe timeout, so that its NACK comes before the asker's probe ends."""


@dataclass(slots=True)
class Probe:
    """This member's own probe: whom, since when (monotonic ns), and the helpers that have said neither yes nor no."""

    sequence: int
    target: Member
    sent: int
    asked: bool = False
    silent: int = 0


@dataclass(frozen=True, slots=True)
class Relay:
    """A probe for somebody else: where its answer goes, under which sequence, and who asked."""

    endpoint: str
    sequence: int
    asker: bytes
    target: bytes


class Relays:
    """Probes for others, by the sequence of this member's own PING."""

    def __init__(self, most: int = RELAYS_MAX) -> None:
        self._most = most
        self._relays: dict[int, Relay] = {}

    def __len__(self) -> int:
        return len(self._relays)

    def add(self, sequence: int, relay: Relay) -> bool:
        """Note one; tells whether there was room."""
        if len(self._relays) >= self._most:
            return False
        self._relays[sequence] = relay
        return True

    def take(self, sequence: int) -> Relay | None:
        """Return and forget one, if it is there."""
        return self._relays.pop(sequence, None)

    def answered(self, sequence: int, target: bytes) -> Relay | None:
        """Return and forget one that its own target answered."""
        relay = self._relays.get(sequence)
        return self._relays.pop(sequence) if relay is not None and relay.target == target else None
