"""A leader in this very process, as its own clients reach it: messages are handed over, with no socket in between.

A client that opens a session to an endpoint where a leader of this process serves gets a :class:`NearSession` instead
of a socket (``ports.py``); everybody else reaches the same leader over its sockets. What a client sends lies in
:attr:`Nearby.inbox` until a turn takes it; answers lie in the session until its client looks.

**Whose thread takes the turn.** The leader has a thread of its own, which is woken by a bell. A client that drives its
sockets itself first asks :attr:`Nearby.lend` to take the turn here and now: what it sends is then published before the
call returns, and no thread has to be woken. Where that is refused (the leader is busy, or the turn would wait for the
disk) the bell is rung.

**The express way.** A producer with a lone record for a topic in memory need not even send a command: it may ask once
for an express way, which takes such records one by one (``core/leader/express.py``).

**Threads.** ``inbox`` and the sessions' are deques, whose single operations are atomic; sessions come and go under
their pump's lock, turns are taken under the leader's. The order is pump, then leader: a leader never waits for a pump,
it rings.

In a forked child nobody leads: the list of leaders is empty there.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from zfabric.core.client.outbox import Express

WAITING_MAX: Final = 65_536
"""Messages of all clients that may wait for a leader; a session that would exceed it is lost."""

Lent = Literal["done", "left", "later"]
"""What became of a turn that was asked for: nothing is left; something is, for the leader's own thread; or the caller
took enough of them lately, and is to ask again if it waits."""

_here: dict[str, Nearby] = {}
_numbers = itertools.count()


class Bell:
    """A descriptor that is readable from :meth:`ring` to :meth:`hush`; to ring again meanwhile costs nothing."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.rung = False
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Wake whoever polls; any thread may. Whoever rings has put down first what it rings for."""
        if self.rung:
            return
        with self._lock:  # Else the number might be another descriptor's by the time it is written to.
            if self.fd >= 0:
                self.rung = True
                os.eventfd_write(self.fd, 1)

    def hush(self) -> None:
        """Be silent; whoever hushes looks after that what it was rung for."""
        with self._lock, suppress(BlockingIOError):
            self.rung = False
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Give the descriptor back; ringing does nothing from then on."""
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class NearSession:
    """One client's session with a leader of this process.

    Attributes:
        number: as the client's core knows it. inbox: messages from the leader, each a list of parts; None: it is over.
        sent: something was sent that no turn was asked for yet. over: closed.
    """

    __slots__ = ("_attending", "_put_off", "bell", "inbox", "leader", "number", "over", "peer", "sent")

    def __init__(self, number: int, leader: Nearby) -> None:
        self.number = number
        self.leader = leader
        # Nobody else can claim it: a routing id that comes over a socket is whatever the other side says it is.
        self.peer = b"near-%d-" % next(_numbers) + os.urandom(16)
        self.inbox: deque[list[Any] | None] = deque()
        self.bell = Bell()
        self.sent = self.over = False
        self._put_off = False
        self._attending = False

    def send(self, frames: Sequence[Any]) -> bool:
        """Hand one message over; False if too many wait already. :meth:`attend` must follow."""
        inbox = self.leader.inbox
        if len(inbox) >= WAITING_MAX:
            return False
        inbox.append((self.peer, frames))
        self.sent = True
        return True

    def attend(self, *, drives: bool, patient: bool) -> None:
        """See to it that what was sent gets its turn.

        Args:
            drives: the calling thread may take it. patient: it waits anyway.
        """
        if not (self.sent or (patient and self._put_off)):
            return
        self.sent = self._put_off = False
        if drives:
            self._attending = True  # Answers need no bell: the caller looks after this.
            try:
                lent = self.leader.lend(patient)
            finally:
                self._attending = False
            if lent == "done":
                return
            self._put_off = lent == "later"
        self.leader.bell.ring()

    def post(self, message: list[Any] | None) -> None:
        """Put a message from the leader down, and wake the client unless it is awake."""
        self.inbox.append(message)
        if not self._attending:
            self.bell.ring()

    def close(self) -> None:
        """The client has left."""
        self.over = True
        self.leader.sessions.pop(self.peer, None)
        self.bell.close()


class Nearby:
    """A leader of this process. Making one lets new sessions to ``endpoint`` be near ones.

    Attributes:
        inbox: what clients have sent: who, and the frames. sessions: by the ids that the leader knows them by.
        bell: rung when something waits that nobody else will take.
        lend: takes a turn in the calling thread, which may say that it is patient; tells what is left.
        express: returns the express way of a session to a partition, by its id; None if there is none now.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.inbox: deque[tuple[bytes, Sequence[Any]]] = deque()
        self.sessions: dict[bytes, NearSession] = {}
        self.bell = Bell()
        self.lend: Callable[[bool], Lent] = refuse
        self.express: Callable[[NearSession, int], Express | None] = no_express
        self._over = False
        _here[endpoint] = self

    def open(self, number: int) -> NearSession:
        """Return a new session for a client."""
        session = NearSession(number, self)
        self.sessions[session.peer] = session
        if self._over:  # It has ended meanwhile, and may not have seen this one.
            session.post(None)
        return session

    def post(self, peer: bytes, frames: Sequence[Any]) -> bool:
        """Send a client of this process a message; False if ``peer`` is none."""
        session = self.sessions.get(peer)
        if session is None:
            return False
        session.post(list(frames))
        return True

    def withdraw(self) -> None:
        """Take no new sessions: whoever comes now is to look for another leader."""
        if _here.get(self.endpoint) is self:
            del _here[self.endpoint]

    def refuse_all(self) -> None:
        """Let nobody but the leader's own thread do anything for it."""
        self.lend = refuse
        self.express = no_express

    def end(self) -> None:
        """The leader has ended: every session is lost."""
        self.withdraw()
        self._over = True
        self.refuse_all()
        for session in list(self.sessions.values()):
            session.post(None)
        self.sessions.clear()
        self.bell.close()


def refuse(patient: bool) -> Lent:  # noqa: FBT001 - what Nearby.lend is before a leader serves
    """Take no turn."""
    return "left"


def no_express(session: NearSession, partition_id: int) -> Express | None:
    """Know no express way."""
    return None


def find(endpoint: str) -> Nearby | None:
    """Return the leader of this process that serves at ``endpoint``, or is about to."""
    return _here.get(endpoint)


def any_here() -> bool:
    """Tell whether a leader of this process serves anywhere, or is about to."""
    return bool(_here)


os.register_at_fork(after_in_child=_here.clear)
