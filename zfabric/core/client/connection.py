"""One connection of a client, and one request; see ``requests.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zfabric.core.client.pace import Pace
from zfabric.wire.messages import Command

PAUSE_NS: Final = 10_000_000

Answer = Callable[[Command], None]


class Request:
    """One command under way.

    Attributes:
        id: repeated in the answer. frames: as they are sent, each time the same.
        deadline_ns: when its caller stops waiting, or None. patience_ns: how long one session may be silent about it.
        answered: called with the answer. expired: called at the deadline.
        size: bytes of it and of its answer, if those are many.
        name: that it was sent to, if that is one that another's session serves; else "".
    """

    __slots__ = ("answered", "deadline_ns", "expired", "frames", "id", "name", "patience_ns", "sent_ns", "size")

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
        self.sent_ns = 0


class Connection:
    """One endpoint: its present session, and what is not answered."""

    __slots__ = (
        "away",
        "endpoint",
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

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.away = False
        self.session: int | None = None
        self.ready = False
        self.welcomed = False
        self.waiting: dict[int, Request] = {}
        self.pause_ns = PAUSE_NS
        self.open_at_ns: int | None = None
        self.opened_ns = 0
        self.pace = Pace()
        self.scan_ns: int | None = None
