"""What the client asks of its machines that have sessions of their own: consumers, the caller and the responders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from zfabric.core.client.agenda import Chore
    from zfabric.wire.metadata import TopicMeta


class Machine(Protocol):
    """A machine with sessions of its own."""

    def received(self, session: int, frames: Sequence[Any], now: int) -> bool:
        """Take a message; tells whether it was one of the usual ones, that change no deadline and no callback."""
        ...

    def connected(self, session: int, now: int) -> None:
        """A session's connection is there."""
        ...

    def lost(self, session: int, now: int) -> None:
        """A session has ended."""
        ...

    def reconnected(self, now: int) -> None:
        """A leader's connection was lost: it may have forgotten what is not on its disk."""
        ...

    def tick(self, now: int) -> None:
        """Do what is due."""
        ...

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next."""
        ...

    def busy(self) -> bool:
        """Tell whether a pump has to attend to it though nobody waits."""
        ...


class Listener(Machine, Protocol):
    """A machine that others connect to."""

    def listens(self, session: int, endpoint: str, now: int) -> None:
        """Its socket is bound."""
        ...

    def left(self, peer: bytes, now: int) -> None:
        """Somebody who was connected cannot be sent to any more."""
        ...


class Source(Protocol):
    """A subscription."""

    def published(self, session: int, frames: Sequence[Any], now: int) -> bool:
        """Take a published message; tells whether nothing has to be done for it, or earlier."""
        ...

    def connected(self, now: int) -> None:
        """Its session is connected."""
        ...

    def lost(self, now: int) -> None:
        """Its session has ended."""
        ...


class Reader(Protocol):
    """What the client asks of its consumers.

    Attributes:
        topic: that it reads.
    """

    topic: str

    def learn(self, meta: TopicMeta, now: int) -> None:
        """Take new metadata of a topic."""
        ...

    def gone(self, topic: str, now: int) -> None:
        """A topic does not exist any more."""
        ...

    def moved(self, now: int) -> None:
        """Leaders publish elsewhere."""
        ...

    def chores(self) -> Sequence[Chore]:
        """Return all that it has to do at times; each that may be due earlier tells the client (``agenda.py``)."""
        ...
