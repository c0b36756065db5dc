"""What a member of a mesh says in its log when it finds nobody, and when it hears those that it must not hear.

Two machines with different keys, or of meshes of different names, are silent to each other: frames of strangers are
never answered. So each says it in its own log, or whoever mistyped a key would look for the reason in the network.

- Alone: nobody was found five seconds after the start, and there are seeds that have not answered. Once, and again
  every ten minutes as long as that lasts. Who has met others is told of each that fails, and need not hear this.
- Refused: at once with the first frame, again a minute later, then each time after twice as long, up to an hour, with
  counts of all since the last time: a flood is a few lines. Beacons of other meshes are none of it: neighbours.
- Members: who came, failed or left, up to a hundred at once and ten a second. What is left out is counted in a line a
  second: whoever makes up members fills no disk with them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SECOND: Final = 1_000_000_000
ALONE_NS: Final = 5 * SECOND
ALONE_AGAIN_NS: Final = 600 * SECOND
REFUSED_AGAIN_NS: Final = 60 * SECOND
REFUSED_AGAIN_MAX_NS: Final = 3_600 * SECOND
MEMBERS_AT_ONCE: Final = 100
MEMBER_NS: Final = SECOND // 10
"""Time that pays for a line about a member."""


class Refused(NamedTuple):
    """Frames of gossip that were refused: of other meshes, with other keys, of other versions, and what was none.

    ``beacons``: those of a mesh of this name with another key.
    """

    meshes: int = 0
    keys: int = 0
    versions: int = 0
    garbage: int = 0
    beacons: int = 0


class Remarks:
    """When to say which. ``now`` is monotonic ns."""

    def __init__(self, now: int) -> None:
        self._met = False
        self._alone_due = now + ALONE_NS
        self._told = Refused()
        self._refused_due = now
        self._pause = REFUSED_AGAIN_NS
        self._members_ns = now - MEMBERS_AT_ONCE * MEMBER_NS
        self._left_out = 0

    def alone(self, others: int, unanswered: int, now: int) -> bool:
        """Tell whether to say that nobody was found.

        Args:
            others: members that are thought to live. unanswered: seeds that have not answered.
        """
        self._met = self._met or others > 0
        if self._met or not unanswered or now < self._alone_due:
            return False
        self._alone_due = now + ALONE_AGAIN_NS
        return True

    def refused(self, total: Refused, now: int) -> Refused | None:
        """Return what was refused since that was said last, if it is to be said now.

        Args:
            total: since the start.
        """
        if total == self._told or now < self._refused_due:
            return None
        news = Refused(*(count - before for count, before in zip(total, self._told, strict=True)))
        self._told, self._refused_due = total, now + self._pause
        self._pause = min(2 * self._pause, REFUSED_AGAIN_MAX_NS)
        return news

    def member(self, now: int) -> bool:
        """Tell whether to say what has become of a member."""
        self._members_ns = max(self._members_ns, now - MEMBERS_AT_ONCE * MEMBER_NS)
        if self._members_ns + MEMBER_NS > now:
            self._left_out += 1
            return False
        self._members_ns += MEMBER_NS
        return True

    def left_out(self) -> int:
        """Return of how many changes nothing was said since this was asked last."""
        count, self._left_out = self._left_out, 0
        return count
