"""What a mesh tells its owner, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from zfabric.wire.gossip import Member

Kind = Literal[
    "joined", "updated", "returned", "suspected", "recovered", "failed", "left", "reaped", "collided", "lost"
]

EVENTS_MAX = 10_000


class MemberEvent(NamedTuple):
    """Something became known about a member.

    Attributes:
        kind: ``joined``: never heard of before. ``updated``: it said something new about itself,
            if only an incarnation. ``returned``: it had failed, left
            or was started again. ``suspected``, ``recovered``: it may have failed; it refuted that. ``failed``,
            ``left``. ``reaped``: its record is forgotten. ``collided``: another process claims its id; ``member`` is
            the claim. ``lost``: events were dropped, since nobody took them; look at all members again.
        member: as it is known now; this member itself where events were lost.
    """

    kind: Kind
    member: Member


@dataclass(slots=True)
class Counters:
    """What a member of a mesh has done and refused since it began; all are numbers of frames unless they say else.

    Attributes:
        sent, sent_bytes, received, received_bytes: all frames.
        refused_size, refused_format, refused_version, refused_mesh, refused_mac: what was no gossip of this mesh.
        replayed: of members, seen before. strangers: of those that are no members and have proven nothing.
        echoes: own frames that came back.
        members_refused: members for which there was no room. metadata_refused: metadata likewise.
        incarnations_refused: claims with an incarnation far above the known one.
        collisions: claims of an id that another process bears.
        news_dropped: from a full queue. events_dropped: that nobody took. relays_refused: probes for others not done.
        put_off: comparisons, since too much was told lately.
        probes, probes_failed: rounds. refutations: of claims about this member. pauses: wake-ups that came too late.
    """

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    refused_size: int = 0
    refused_format: int = 0
    refused_version: int = 0
    refused_mesh: int = 0
    refused_mac: int = 0
    replayed: int = 0
    strangers: int = 0
    echoes: int = 0
    members_refused: int = 0
    metadata_refused: int = 0
    incarnations_refused: int = 0
    collisions: int = 0
    news_dropped: int = 0
    events_dropped: int = 0
    relays_refused: int = 0
    put_off: int = 0
    probes: int = 0
    probes_failed: int = 0
    refutations: int = 0
    pauses: int = 0

    @property
    def refused(self) -> int:
        """Frames that were no gossip of this mesh."""
        return self.refused_size + self.refused_format + self.refused_version + self.refused_mesh + self.refused_mac
