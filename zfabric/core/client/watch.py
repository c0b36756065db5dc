"""Changes of the mesh for one caller to take, one after the other.

It begins with what is known: each member once, as ``joined`` if it lives. Changes of one member that were not taken
before the next one came are told as one, so what waits is never more than there are members. That one is the last,
but what a member says of itself hides no other change; and whoever was not told of yet has joined while it lives.
"""

from __future__ import annotations

from zfabric.core.client.members import Change, Known, Members, first
from zfabric.core.client.pending import Pending


class Watch:
    """One caller's view of the changes. It keeps the client's copy fresh until it is closed.

    Attributes:
        closed: it gives nothing more.
    """

    def __init__(self, members: Members, now: int) -> None:
        self.closed = False
        self._since_ns = now
        self._members = members
        self._waiting: dict[bytes, Change] = {}
        self._pending: Pending[None] | None = None
        members.listeners.append(self._listen)
        members.use(now)
        self._listen([first(known) for known in members.all()])

    def all(self) -> list[Known]:
        """Return all members as they are known now."""
        return self._members.all()

    def age_ns(self, now: int) -> int:
        """Return how long ago leader 0 answered last, since this began; about a second while it is there."""
        return max(0, now - max(self._since_ns, self._members.heard_ns))

    def take(self) -> list[Change]:
        """Return what has changed since the last call."""
        taken, self._waiting = list(self._waiting.values()), {}
        return taken

    def ready(self) -> Pending[None]:
        """Return what comes when there is something to take."""
        if self._pending is None or self._pending.done:
            self._pending = Pending()
            if self._waiting or self.closed:
                self._pending.resolve(None)
        return self._pending

    def close(self) -> None:
        """Take part no more; whoever waits is told."""
        if not self.closed:
            self.closed = True
            self._members.listeners.remove(self._listen)
            self._members.release()
            self._waiting.clear()
            if self._pending is not None:
                self._pending.resolve(None)

    def _listen(self, changes: list[Change]) -> None:
        for change in changes:
            member = change.after or change.before
            assert member is not None
            before = self._waiting.pop(member.id, None)
            lives = change.kind in ("updated", "recovered", "returned")
            if before is not None and (change.kind == "updated" or (before.kind == "joined" and lives)):
                change = change._replace(kind=before.kind)  # noqa: PLW2901 - one name for one thing
            self._waiting[member.id] = change
        if self._waiting and self._pending is not None:
            self._pending.resolve(None)
