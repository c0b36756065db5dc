"""One connection of a client, and one request; see ``requests.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zfabric.core.client.agenda import Agenda, Chore
from zfabric.core.client.pace import SLOWEST_KIB_NS, Pace
from zfabric.core.effects import Send
from zfabric.wire.messages import Command

PAUSE_NS: Final = 10_000_000

Answer = Callable[[Command], None]
Due = Callable[["Connection", int], None]
"""Does what is due for a connection, at a time."""


class Request:
    """One command under way.

    Attributes:
        id: repeated in the answer. frames: as they are sent, each time the same.
        deadline_ns: when its caller stops waiting, or None. patience_ns: how long one session may be silent about it.
        answered: called with the answer. expired: called at the deadline.
        size: bytes of it and of its answer, if those are many.
        name: that it was sent to, if that is one that another's session serves; else "".
        held_ns: the patience once the other side has said that it has it (HELD); None: that is not asked for, and
            changes nothing. announced: bytes of the answer, as
            HELD told them; -1 while it has said nothing. behind: what its connection's ``pace.loose`` was when it was
            sent.
    """

    __slots__ = (
        "announced", "answered", "behind", "deadline_ns", "expired", "frames", "held_ns", "id", "name", "patience_ns",
        "sent_ns", "size",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        frames: Sequence[object],
        answered: Answer,
        expired: Callable[[], None] | None,
        deadline_ns: int | None,
        patience_ns: int,
        size: int = 0,
    ) -> None:
        self.id = id
        self.frames = frames
        self.answered = answered
        self.expired = expired
        self.deadline_ns = deadline_ns
        self.patience_ns = patience_ns
        self.size = size
        self.name = ""
        self.held_ns: int | None = None
        self.announced = -1
        self.behind = 0
        self.sent_ns = 0

    def send(self, session: int, now: int, behind: int) -> Send:
        """Return the effect that sends it, on a session that has heard nothing of it."""
        self.sent_ns = now
        self.behind = behind
        self.announced = -1
        return Send(session, self.frames)

    def held(self, size: int, now: int) -> None:
        """The other side has it, and an answer of ``size`` bytes is on its way; 0: not yet."""
        if self.held_ns is None:
            return
        self.announced = size
        if self.deadline_ns is not None:
            self.deadline_ns = max(self.deadline_ns, now + self.held_ns + size * SLOWEST_KIB_NS // 1_024)

    def weight(self) -> int:
        """Return how many bytes of it may be on their way."""
        return max(self.size, self.announced)

    def patience(self) -> int:
        """Return how long its session may be silent about it, in ns, beside what those bytes take."""
        return self.patience_ns if self.held_ns is None or self.announced < 0 else self.held_ns


class Connection(Chore):
    """One endpoint: its present session, and what is not answered.

    Args:
        agenda: is told when there is something to do. opens: opens a session. scans: looks at what is waiting.

    Attributes:
        open_at_ns: when to open a session. scan_ns: when to look at what is waiting. None: not at all.
        nowhere: where the last session was to lead to, if no address of its host was found; else "".
    """

    __slots__ = (
        "_agenda",
        "_opens",
        "_scans",
        "away",
        "endpoint",
        "nowhere",
        "open_at_ns",
        "opened_ns",
        "pace",
        "pause_ns",
        "ready",
        "scan_ns",
        "session",
        "waiting",
        "welcomed",
    )

    def __init__(self, endpoint: str, agenda: Agenda, opens: Due, scans: Due) -> None:
        self._agenda = agenda
        self._opens = opens
        self._scans = scans
        self.endpoint = endpoint
        self.away = False
        self.session: int | None = None
        self.ready = False
        self.welcomed = False
        self.nowhere = ""
        self.waiting: dict[int, Request] = {}
        self.pause_ns = PAUSE_NS
        self.open_at_ns: int | None = None
        self.opened_ns = 0
        self.pace = Pace()
        self.scan_ns: int | None = None

    def open_from(self, at_ns: int) -> None:
        """Open a session at that time."""
        self.open_at_ns = at_ns
        self._agenda.note(self)

    def scan_from(self, at_ns: int) -> None:
        """Look at what is waiting from that time on."""
        self.scan_ns = at_ns
        self._agenda.note(self)

    def calm_until(self) -> int:
        """Return until when nothing that waits can be silent for too long, however little its bytes take."""
        return min((each.sent_ns + each.patience() for each in self.waiting.values()), default=0) if self.ready else 0

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        opens_ns, scans_ns = self.open_at_ns, self.scan_ns
        if opens_ns is None or (scans_ns is not None and scans_ns < opens_ns):
            return scans_ns
        return opens_ns

    def tick(self, now: int) -> None:
        """Do what is due."""
        if self.open_at_ns is not None and self.open_at_ns <= now:
            self._opens(self, now)
        if self.scan_ns is not None and self.scan_ns <= now:
            self._scans(self, now)

    def end(self) -> None:
        """It is none any more: nothing is due."""
        self.open_at_ns = self.scan_ns = None
