"""The sockets of one client: performs what its core wants, collects what comes in.

Both pumps, of threads and of asyncio, drive one ``Ports``. A session is one socket with one connection: DEALER for
requests, SUB for subscriptions. Its life is told in order: ``CONNECTED`` once, then messages, then ``LOST`` once, and
nothing after that; or ``NOWHERE`` alone. Its socket is closed together with its connection, so nothing that waited in
it can arrive late; the core opens a new session. What the peer had sent before the connection broke and nobody had
read yet is missing too, as after any loss: libzmq drops it (measured; see IMMEDIATE in :mod:`zfabric.net.sockets`).

A listening session is one ROUTER with any number of connections: first its endpoint, then messages, each behind the
routing id of its sender. A peer that has gone is told when something is sent to it; so is one whose queue is full.

Messages sent before ``CONNECTED``, and those that a full queue does not take, wait here in order, at most
``WAITING_MAX`` of a session; a session that exceeds it is lost, as its peer takes nothing.

**Threads.** All methods are called under the pump's one lock. Threads may poll the descriptors outside it. A ZeroMQ
descriptor is edge-triggered: it turns readable when libzmq's I/O thread posts a command to the socket, stays so until
*any* operation on the socket takes the commands in, and is then silent though messages may be waiting. Hence two rules:

1. Every operation on a socket happens under the lock and puts its session into ``_due``. It stays there until EVENTS,
   read after the last operation, shows nothing left to do.
2. ``drain`` returns with ``more`` False only when ``_due`` is empty: every message is then handed out, and each
   descriptor turns readable again for the next one.

So a pump that calls ``drain`` after ``perform``, repeats it while ``more``, and only then polls, misses nothing: what
arrives after EVENTS was read makes the descriptor readable, before the poll or during it. Two threads that poll the
same descriptors may both wake for one message, and the second finds an empty ``drain``; or the second may not wake at
all, because the first has taken the commands in. So whoever drains hands the result to whoever waits for it.
``generation`` changes with the set of descriptors; a thread that polls an older set must be woken by the pump to poll
the new one. A stale number in ``ready`` is harmless: it is unknown, or belongs to a newer session, which is then looked
at once too often.

A session to a leader of this process (``nearby.py``) has no socket; it, and a lane (``lane.py``), keep the same rules.

**Interruption.** KeyboardInterrupt may strike between two frames of a message, or of what a monitor tells. The next one
would then be glued to half a message, so the next call declares that session lost. What ``drain`` had received before
stays for the next ``drain``.

Measured costs behind the code: reading EVENTS 1.5 us; a receive that finds nothing 3.3 us, for its exception; asking
RCVMORE after each frame 0.7 us, against nothing on a ``Frame``; ``send_multipart`` of three frames 4.8 us, against
1.1 us for three sends. EVENTS is read, and ``zmq_poll`` not called, because that releases the interpreter lock, which
a busy thread may then keep for 5 ms.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import zmq

from zfabric import errors
from zfabric.core import effects
from zfabric.net import nearby, sockets
from zfabric.net.connector import Connector
from zfabric.net.lane import Finder, Lane
from zfabric.net.session import Change, Incoming, Part, Session, Subscription, connecting

if TYPE_CHECKING:
    from zfabric.core.client.outbox import Express

_log = logging.getLogger(__name__)
WAITING_MAX: Final = 65_536
SUBSCRIPTION_QUEUE: Final = 256
"""Messages that a SUB keeps until they are drained; then its peer's queue fills, and then that one loses some."""
UNCLEAR: Final = -1
"""No descriptor."""
_BURST: Final = 16
"""Messages taken from one session before the next has its turn."""

# Plain integers: an enum member costs pyzmq a conversion at each call.
_EVENTS: Final = int(zmq.EVENTS)
_IN: Final = int(zmq.POLLIN)
_OUT: Final = int(zmq.POLLOUT)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_READY: Final = int(zmq.Event.HANDSHAKE_SUCCEEDED)
_EVENT: Final = struct.Struct("=HI")
_Send: Final = effects.Send


class Ports:
    """The open sessions of one client.

    Args:
        patient: connections for requests may be probed seldom.

    Attributes:
        generation: changes whenever the set of :meth:`fds` does.
        more: whether the last :meth:`drain` stopped at its limit; it must be called again before polling.
        drives: whoever calls :meth:`drain` may take a turn of a leader of this process.
    """

    def __init__(self, ctx: sockets.Context, frame_max: int, *, patient: bool = False) -> None:
        self.generation = 0
        self.more = False
        self._ctx = ctx
        self._frame_max = frame_max
        self._patient = patient
        self._sessions: dict[int, Session] = {}
        self._by_fd: dict[int, Session] = {}
        self._talking: dict[int, Session] = {}  # The same, of sockets whose messages can be taken.
        self._near: dict[int, nearby.NearSession] = {}
        self.drives = False
        self._nearly = False  # Something was sent to a leader of this process that was not asked yet to take it.
        # What may have a monitor. Ctrl-C between two lines of _open or _close must not leave one behind: see close().
        self._monitored: dict[sockets.Socket, None] = {}
        # An ordered set; its operations are atomic, so an interruption leaves no session out.
        self._due: dict[Session, None] = {}
        self._torn: Session | None = None
        self._incoming: list[Incoming] = []
        self._connector = Connector()
        self._finder = Finder(frame_max)

    def fds(self) -> list[int]:
        """Return the descriptors to poll for reading: one or two of each open session, and one of names."""
        return [*self._by_fd, *(session.bell.fd for session in self._near.values()), *self._connector.fds()]

    def close(self) -> None:
        """Close all sessions and drop what waits in them. The context stays the caller's."""
        for session in list(self._sessions.values()):
            self._close(session)
        for number in list(self._near):
            self._close_near(number)
        self._connector.close()
        for socket in list(self._monitored):
            sockets.stop_monitored(socket)
        self._monitored.clear()

    # Outwards.

    def perform(self, wanted: Iterable[effects.ClientEffect]) -> bool:
        """Perform ``wanted`` in order, without waiting; return whether a :class:`Locate` was among them.

        Effects on a session that is not open are dropped: the core has yet to hear that it was lost. A session that
        cannot be opened is lost at once. :meth:`drain` must follow before the next poll.
        """
        if self._torn is not None:
            self._mend()
        locate = False
        for effect in wanted:
            if type(effect) is _Send:
                self.put(effect)
            elif type(effect) is effects.Locate:
                locate = True
            else:
                self._arrange(effect)
        return locate

    def _arrange(self, effect: effects.ClientEffect) -> None:
        match effect:
            case effects.OpenSession(number, endpoint, False, _) if (leader := nearby.find(endpoint)) is not None:
                self._open_near(number, leader)
            case effects.OpenSession():
                self._open(effect)
            case effects.Listen(number, endpoint):
                self._listen(number, endpoint)
            case effects.CloseSession(number) if number in self._sessions:
                self._close(self._sessions[number])
            case effects.CloseSession(number) if number in self._near:
                self._close_near(number)
            case effects.Subscribe(number, topic, on):
                session = self._sessions.get(number)
                if isinstance(session, Subscription | Lane):
                    session.subscribe(topic, on=on)
                    self._due[session] = None

    # Inwards.

    def drain(self, limit: int = 1_024, ready: Iterable[int] | None = None, *, patient: bool = False) -> list[Incoming]:
        """Return what has come in, without waiting.

        Args:
            limit: messages, at least 1; if it stops the call, :attr:`more` is True.
            ready: the descriptors that a poll found readable, to look at these and at what is due; all if None.
            patient: the caller waits for what comes of what was sent.
        """
        if self._torn is not None:
            self._mend()
        if self._near:
            self._nearly = False
            self._attend(patient=patient)
        if self._connector.rung:
            self._reach()
        incoming, due = self._incoming, self._due
        left = limit
        for fd in list(self._by_fd) if ready is None else ready:
            session = self._by_fd.get(fd)
            if session is None:
                continue
            due[session] = None
            if fd == session.monitor_fd:
                self._watch(session)
            elif session.connected and (ready is not None or type(session) is Lane):
                # Nearly always there is a message: saves one reading of EVENTS, which tells nothing of a lane's.
                left -= self._receive(session)
        while due and left > 0:
            burst = min(_BURST, max(1, left // len(due)))
            for session in list(due):
                left -= self._take(session, burst)
        self.more = bool(due)
        self._incoming = []
        return incoming

    def put(self, send: effects.Send) -> None:
        """Send one message; :meth:`unread` or :meth:`drain` must follow before the next poll."""
        if self._torn is not None:
            self._mend()
        session = self._sessions.get(send.session)
        if session is None:
            self._send_near(send.session, send.frames)
            return
        if not session.waiting and session.connected:
            self._due[session] = None
            try:
                if session.write(send.frames):
                    return
            except BaseException:
                self._torn = session
                raise
        self._keep(session, send.frames)

    def unread(self) -> int | None:
        """Return a descriptor where a message has come in since something was sent or received there.

        None if there is none, so that the next poll may follow; ``UNCLEAR`` if it is not as simple as that.
        """
        if self._incoming or self._nearly or self._torn is not None:
            return UNCLEAR
        due = self._due
        while due:
            session, *_ = due
            if session.waiting:
                return UNCLEAR
            if session.get(_EVENTS) & _IN:
                return session.socket_fd
            del due[session]
        return None

    def take(self, fd: int) -> tuple[int, list[Part]] | None:
        """Return a session, and a message that has come in at its descriptor.

        None if it is not as simple as that: call :meth:`drain`.
        """
        session = self._talking.get(fd)
        if session is None or self._torn is not None:
            return None
        self._due[session] = None
        try:
            parts = session.read()
        except BaseException:
            self._torn = session
            raise
        return None if parts is None else (session.number, parts)

    def _take(self, session: Session, most: int) -> int:
        """Send what waits, receive up to ``most`` messages; return how many. A session left with nothing is not due."""
        get = session.get
        taken = 0
        while session in self._due:
            events = get(_EVENTS)
            if not events & _IN and not session.waiting:
                del self._due[session]  # Nearly always, after something was sent.
                break
            if not session.connected and events & _IN:
                if taken == most:
                    break
                taken += self._begin(session)
            elif session.waiting and session.connected and events & _OUT:
                self._flush(session)
            elif not events & _IN:
                del self._due[session]
            elif taken == most:
                break
            else:
                taken += self._receive(session)
        return taken

    def _begin(self, session: Session) -> int:
        """Take note of a handshake, always told before the first message; drop a message without one, and return 1."""
        self._watch(session)
        if session.connected or session not in self._due:
            return 0
        self._torn = session
        parts = session.read()  # ZMTP 1 and 2 have none, nor has garbage that looks like one of them.
        if type(session) is Subscription and parts is not None:
            self._change_over(session, parts)
        self._torn = None
        return 1

    def _receive(self, session: Session) -> int:
        """Receive one message; return 1, or 0 if there is none."""
        try:
            parts = session.read()
        except BaseException:
            self._torn = session
            raise
        if parts is None:
            if session.over:
                self._lose(session, "its lane has ended")
            return 0
        self._incoming.append((session.number, parts))
        return 1

    def _watch(self, session: Session) -> None:
        """Read a session's monitor until it is empty, or tells that the session is lost."""
        while session.monitor_get(_EVENTS) & _IN:
            self._torn = session
            assert session.monitor is not None
            event, _ = _EVENT.unpack(session.monitor.recv_multipart(_NOBLOCK)[0])
            if event == _READY:
                if type(session) is not Subscription:
                    self._connected(session)
            elif session.connected:
                self._lose(session, "connection lost")
                return
            # Else a handshake failed; libzmq tries again.
            self._torn = None

    def _change_over(self, session: Subscription, parts: list[Part]) -> None:
        """A subscription's leader is there: go on by a lane, if that is what it says first."""
        if (lane := self._finder.instead_of(session, parts)) is None:
            self._connected(session)
        else:
            self._close(session)
            self._torn = lane
            self._begin_with(lane, Change.CONNECTED)

    def _connected(self, session: Session) -> None:
        session.connected = True
        self._talking[session.socket_fd] = session
        self._incoming.append((session.number, Change.CONNECTED))
        self._due[session] = None

    # Sessions with leaders of this process.

    def express(self, number: int, partition_id: int) -> Express | None:
        """Return the express way of a session to a partition of its leader; None if there is none now."""
        session = self._near.get(number)
        return None if session is None or not self.drives else session.leader.express(session, partition_id)

    @property
    def drives_near(self) -> bool:
        """Whether a session leads to a leader of this process, whose turns may be taken here."""
        return self.drives and bool(self._near)

    def prefer_near(self) -> None:
        """Lose the sessions over sockets to leaders that have turned out to be in this process."""
        if nearby.any_here():
            for session in list(self._sessions.values()):
                if type(session) is Session and not session.listening and nearby.find(session.endpoint) is not None:
                    self._lose(session, "its leader is in this process")

    def _send_near(self, number: int, frames: effects.Frames) -> None:
        session = self._near.get(number)
        if session is not None:
            self._nearly = True
            if not session.send(frames):
                self._lose_near(number)

    def _attend(self, *, patient: bool) -> None:
        """Let the leaders take what was sent to them, and collect what they say."""
        for number, session in list(self._near.items()):
            session.attend(drives=self.drives, patient=patient)
            if session.bell.rung:
                session.bell.hush()
            inbox = session.inbox
            while inbox:
                message = inbox.popleft()
                if message is None:
                    self._lose_near(number)
                    break
                self._incoming.append((number, message))

    def _open_near(self, number: int, leader: nearby.Nearby) -> None:
        assert number not in self._near, "session numbers are not reused"
        self._near[number] = leader.open(number)
        self.generation += 1
        self._incoming.append((number, Change.CONNECTED))

    def _close_near(self, number: int) -> None:
        self.generation += 1
        self._near.pop(number).close()

    def _lose_near(self, number: int) -> None:
        self._incoming.append((number, Change.LOST))
        self._close_near(number)

    # One session.

    def _open(self, wanted: effects.OpenSession) -> None:
        number, endpoint = wanted.session, wanted.endpoint
        assert number not in self._sessions, "session numbers are not reused"
        opened: list[sockets.Socket] = []
        try:
            if wanted.subscribe:
                opened.append(sockets.sub(self._ctx, self._frame_max, SUBSCRIPTION_QUEUE))
            else:
                opened.append(sockets.dealer(self._ctx, self._frame_max))
                if self._patient:
                    sockets.patient(opened[0])
            if wanted.alert:
                sockets.alert(opened[0])
            if wanted.slow:
                sockets.slow(opened[0])
            self._monitored[opened[0]] = None
            opened.append(sockets.monitor(self._ctx, opened[0]))
            self._connector.connect(opened[0], endpoint)
        except zmq.ZMQError as problem:
            # A bad address in the metadata, or no descriptor left: to the core, a leader that cannot be reached.
            if len(opened) == 2:
                sockets.close_monitored(opened[0], opened[1])
            else:
                for socket in opened:
                    sockets.stop_monitored(socket)
            for socket in opened:
                self._monitored.pop(socket, None)
            self._incoming.append((number, self._connector.refused(endpoint, problem)))
            return
        session = connecting(wanted, opened[0], opened[1])
        self._sessions[number] = session
        self._by_fd[session.socket_fd] = self._by_fd[session.monitor_fd] = session
        self._due[session] = None
        self.generation += 1
        # A pipe that was never found empty takes its reader to be awake: the descriptor would stay silent.
        self._watch(session)

    def _reach(self) -> None:
        """Go on with sessions whose endpoints' names were found, or were not."""
        found = self._connector.found()
        for session in [one for one in self._sessions.values() if type(one) is not Lane and one.socket in found]:
            self._due[session] = None
            if (problem := found[session.socket]) is not None:
                self._lose(session, "its name leads nowhere", self._connector.refused(session.endpoint, problem))

    def _listen(self, number: int, endpoint: str) -> None:
        assert number not in self._sessions, "session numbers are not reused"
        socket: sockets.Socket | None = None
        try:
            socket = sockets.service(self._ctx, self._frame_max)
            bound = sockets.bind(socket, endpoint)
        except (zmq.ZMQError, errors.PortInUse) as problem:
            if socket is not None:
                socket.close(linger=0)
            self._incoming.append((number, self._connector.refused(endpoint, problem)))
            return
        self._begin_with(Session(number, endpoint, socket, None), bound)

    def _begin_with(self, session: Session, what: Change | str) -> None:
        """Take a session that can be used at once."""
        self._sessions[session.number] = session
        self._by_fd[session.socket_fd] = self._talking[session.socket_fd] = session
        self._due[session] = None
        self.generation += 1
        self._incoming.append((session.number, what))

    def _close(self, session: Session) -> None:
        self.generation += 1
        self._due.pop(session, None)
        self._by_fd.pop(session.socket_fd, None)
        self._talking.pop(session.socket_fd, None)
        self._sessions.pop(session.number, None)
        session.waiting.clear()
        if type(session) is Lane:
            session.close()
            return
        if session.monitor is None:
            session.socket.close(linger=sockets.SERVER_LINGER_MS)
            return
        self._by_fd.pop(session.monitor_fd, None)
        sockets.close_monitored(session.socket, session.monitor)
        self._monitored.pop(session.socket, None)
        self._connector.forget(session.socket, session.endpoint)

    def _lose(self, session: Session, reason: str, change: Change = Change.LOST) -> None:
        _log.info("session_lost session=%d reason=%s", session.number, reason)
        self._torn = session  # Should this be interrupted, it is done again: a core that is told twice takes no harm.
        self._incoming.append((session.number, change))
        self._close(session)
        self._torn = None

    def _mend(self) -> None:
        if self._torn is not None:
            self._lose(self._torn, "interrupted within a message")

    def _keep(self, session: Session, frames: effects.Frames) -> None:
        """A message cannot be sent now: of a listening session because its peer has gone, or takes nothing."""
        if session.listening:
            self._incoming.append((session.number, bytes(frames[0])))
            return
        session.waiting.append(frames)
        if len(session.waiting) > WAITING_MAX:
            self._lose(session, f"more than {WAITING_MAX} messages wait to be sent")

    def _flush(self, session: Session) -> None:
        waiting = session.waiting
        self._torn = session
        while waiting and session.write(waiting[0]):
            waiting.popleft()
        self._torn = None
