"""What keepers say of the mesh to a fabric that others cannot reach, and that so is no member that gossip tells of.

A fabric behind a router that it can only look out of dials its keepers (``core/leader/offers.py``). Gossip admits
nobody who does not answer at its endpoint, so such a fabric would see nobody. Therefore it asks a keeper for its
members, as clients do, what changed since the last answer, and puts them into its own roster: its applications then see
the mesh, and read it over connections that they open.

**How often.** A second after the last answer if a client has asked for the members since then, else a minute after it:
a keeper of ten thousand such fabrics, whose applications only send, shall hear of each once a minute.

**Precedence.** The member itself gives its statements a higher incarnation each time, so the higher one is the newer,
whoever passes it on; with the same one gossip is believed, which is closer.

**Which keeper.** One at a time; the next one after ``PATIENCE_NS`` without an answer, and all is asked anew there. What
was heard is kept meanwhile, as suspect once each of them has failed to answer: nobody vouches for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zfabric.core.cluster.roster import Roster
from zfabric.wire.membership import Members, MembersAre

ASK_NS: Final = 1_000_000_000
IDLE_NS: Final = 60_000_000_000
PATIENCE_NS: Final = 5_000_000_000


class Hearsay:
    """The questions of one fabric to its keepers, one at a time.

    Args:
        roster: gets what is heard. keepers: their endpoints, at least one.
    """

    def __init__(self, roster: Roster, keepers: Sequence[str]) -> None:
        self._roster = roster
        self._keepers = keepers
        self._number = 0
        self._question = Members()
        self._asking = False
        self._missed = 0
        self._asked_ns = self._due = 0
        self._listed: set[bytes] | None = set()

    @property
    def keeper(self) -> str:
        """Return the endpoint of the keeper to ask."""
        return self._keepers[self._number]

    def next_deadline(self) -> int | None:
        """When :meth:`ask` is wanted (monotonic ns); None while a question is under way."""
        if self._asking:
            return None
        return self._due if self._roster.asked_ns >= self._asked_ns else self._due + IDLE_NS - ASK_NS

    def ask(self, now: int) -> Members:
        """Return what to ask :attr:`keeper`; :meth:`heard` or :meth:`missed` follows."""
        assert not self._asking, "one question is under way at a time"
        self._asking = True
        self._asked_ns = now
        return self._question

    def heard(self, told: MembersAre, now: int) -> None:
        """Take the keeper's answer. The members of another mesh are none here."""
        if told.mesh != self._roster.mesh:
            self.missed(now)
            return
        self._asking = False
        self._missed = 0
        if told.run != self._question.run:
            self._listed = set()
        for member in told.members:
            self._roster.hear(member)
        if self._listed is not None:
            self._listed.update(member.id for member in told.members)
            if not told.more:
                self._roster.hear_only(self._listed)
                self._listed = None
        advanced = (told.run, told.version) != (self._question.run, self._question.since)
        self._question = Members(told.run, told.version)
        self._due = now + ASK_NS
        if told.more and advanced:
            self._asked_ns, self._due = 0, now

    def missed(self, now: int) -> None:
        """There was no answer, or none that is of use: another keeper is asked, for everything."""
        self._asking = False
        self._missed += 1
        if self._missed == len(self._keepers):
            self._roster.doubt_heard()
        self._number = (self._number + 1) % len(self._keepers)
        self._question = Members()
        self._asked_ns = 0 if self._missed % len(self._keepers) else now  # After each round it is not urgent.
        self._due = now + ASK_NS
