"""Requests and their answers, over connections that come and go.

A connection has one endpoint and, one after the other, any number of sessions (sockets). States::

    closed --wanted--> opening --WELCOME--> ready
    opening, ready --lost, silent, GOODBYE--> closed, and opening again after a pause

A request belongs to its connection until it is answered or its deadline has come. Each new session repeats all
requests that are not answered, in the order in which they were made: so batches of a partition arrive in order, and a
client is never deaf after a reconnect. Every command may be repeated safely (see ``wire/messages.py``); a session's
socket is closed with it, so nothing that waited in it arrives late and out of order.

A leader that is silent for a request's patience while its connection lives (longer where much is on its way, see
``pace.py``) has lost the request or the answer: the session is replaced. So is one whose HELLO has no answer for three
seconds, be it lost or heard by something that is no leader (a port in the kernel's range for outgoing connections can
even be connected to itself), and one that says anything but WELCOME, GOODBYE or an error first. A leader that holds a
question says HELD: then it may be silent for longer, and one that was lost is noticed as soon as any other.

The pause before a new session doubles from 10 ms to 200 ms, with a random part of up to as much so that clients do not
return in step, and starts again at 10 ms with each WELCOME. A session waits by itself for a leader that does not listen
yet, so the pause is only for those that accept a connection and end it: a leader killed again and again at its start
may keep nobody waiting long once it is left alone.

A name (:meth:`Requests.lead`) stands for whoever is at an endpoint at present. Requests to it go over the connection to
that endpoint while that is ready, so that no second one is needed. When its session ends they go to the name's own
connection, which exists only then, and not wherever the others go: they were for whoever bears the name.

Where a leader is thought to be away the pause grows to 5 s. Where an endpoint is known to be that of one fabric
(:meth:`Requests.expect`), a WELCOME of another is no welcome: nothing is sent there, and the pause goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from zfabric import errors
from zfabric.core.client import answers
from zfabric.core.client.agenda import Agenda, Alarm
from zfabric.core.client.connection import PAUSE_NS, Connection, Request
from zfabric.core.client.overdue import overdue
from zfabric.core.client.pending import Pending
from zfabric.core.effects import ClientEffect, CloseSession, Locate, OpenSession, Send
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from random import Random

    from zfabric.core.client.outbox import Express

PAUSE_MAX_NS: Final = 200_000_000
AWAY_PAUSE_MAX_NS: Final = 5_000_000_000
PATIENCE_NS: Final = 5_000_000_000
HELLO_PATIENCE_NS: Final = 3_000_000_000
SCAN_NS: Final = 1_000_000_000
RELOCATE_NS: Final = 200_000_000


class Requests:
    """All connections of one client.

    Args:
        software: name and version, told in HELLO.
        home: endpoint of a leader of which the mode has to be asked where it is, and may have to start it, when it is
            lost; "" if there is none.

    Attributes:
        effects: what the pump has to do, in order; always the same list. next_id: gives an id that was never used.
        strangers: how often an endpoint had another fabric than was expected.
        own: of a mesh: endpoint of the own leader; the first fabric that it welcomes us to is expected from then on.
        connections: by where they lead to. agenda: when there is something to do for one.
        own_changed: called with another one that it has later, before anything is sent to that.
        express: gives the express way of a session to a partition id; set where a leader is in this process.
    """

    def __init__(self, software: str, random: Random, *, home: str = "") -> None:
        self._software = software
        self._random = random
        self._home = home
        self._expected: dict[str, str] = {}
        self._away: set[str] = set()
        self._named: dict[str, str] = {}
        self._lent: dict[str, str] = {}
        self.strangers = 0
        self.own = ""
        self.own_changed: Callable[[str], None] = lambda _: None
        self.express: Callable[[int, int], Express | None] | None = None
        self._phase_ns = random.randrange(SCAN_NS)
        self.agenda = Agenda()
        self._locating = Alarm(self._look_for_home)
        self.connections: dict[str, Connection] = {}
        self._by_session: dict[int, Connection] = {}
        self._next_session = 1
        self.next_id: Callable[[], int] = itertools.count(1).__next__
        self.effects: list[ClientEffect] = []
        self.frame_bytes_max = 17 << 20
        self.reconnects = 0

    # For the other machines.

    def effect(self, effect: ClientEffect) -> None:
        """Add an effect of another machine, in order with those here."""
        self.effects.append(effect)

    def new_session(self) -> int:
        """Return a session number that was never used."""
        number = self._next_session
        self._next_session += 1
        return number

    def call(
        self, endpoint: str, kind: int, body: msgspec.Struct, now: int, deadline_ns: int, what: str, seconds: float,
        *, patience_ns: int = PATIENCE_NS, size: int = 0, held_ns: int | None = None,
    ) -> Pending[Command]:  # fmt: skip
        """Send a command and return its answer to come; an ERROR answer comes as an error.

        With ``held_ns`` HELD may come first: then that is the patience, and the deadline no earlier.

        The error at the deadline is RequestTimeout, or Unreachable if the endpoint has never answered anything.
        """
        pending: Pending[Command] = Pending()

        def answered(command: Command) -> None:
            if command.type == Type.ERROR:
                pending.fail(errors.from_wire(command.body.code, command.body.values))
                return
            wrong = answers.check(kind, body, command)
            if wrong is not None:
                pending.fail(wrong)
            else:
                pending.resolve(command)

        def expired() -> None:
            pending.fail(overdue(self.connections.get(endpoint), endpoint, what, seconds))

        number = self.next_id()
        frames = (messages.command(kind, number, body),)
        request = Request(number, frames, answered, expired, deadline_ns, patience_ns, size)
        request.held_ns = held_ns
        self.send(endpoint, request, now)
        return pending

    def _connection(self, endpoint: str) -> Connection:
        connection = self.connections.get(endpoint)
        if connection is None:
            connection = self.connections[endpoint] = Connection(endpoint, self.agenda, self._open, self._scan)
            connection.away = endpoint in self._away
        return connection

    def send(self, endpoint: str, request: Request, now: int) -> None:
        """Send a request, and again on each new session until it is answered or withdrawn."""
        if endpoint in self._lent:
            request.name = endpoint
        connection = self._connection(self._lent.get(endpoint, endpoint))
        connection.waiting[request.id] = request
        if connection.ready:
            assert connection.session is not None
            self.effects.append(request.send(connection.session, now, connection.pace.loose))
        elif connection.session is None and connection.open_at_ns is None:
            self._open(connection, now)
        scan_ns = connection.scan_ns
        if scan_ns is None or scan_ns - now > SCAN_NS:
            connection.scan_from(scan_ns := self._scan_at(now))
        if request.deadline_ns is not None and request.deadline_ns < scan_ns:
            connection.scan_from(request.deadline_ns)

    def send_once(self, endpoint: str, frames: Sequence[bytes], now: int) -> None:
        """Send a command that has no answer; it is lost with the session, and dropped while there is none."""
        connection = self._connection(endpoint)
        if connection.session is None and connection.open_at_ns is None:
            self._open(connection, now)
        if connection.session is not None:
            connection.pace.loose += sum(map(len, frames))
            self.effects.append(Send(connection.session, frames))

    def withdraw(self, request_id: int) -> None:
        """Stop repeating a request, wherever it goes; an answer that still comes is ignored."""
        for connection in self.connections.values():
            connection.waiting.pop(request_id, None)

    def move(self, moved: dict[str, str], now: int) -> None:
        """Leaders listen elsewhere: what is not answered goes there, and nobody tries the old endpoints any more.

        Args:
            moved: old endpoint to new one; two leaders may have changed places.
        """
        left = [(moved[at], self.connections.pop(at)) for at in moved if at in self.connections]
        for endpoint, connection in left:
            connection.end()
            self._take_back(connection)
            if connection.session is not None:
                self._shut(connection.session)
            for request in connection.waiting.values():
                self.send(endpoint, request, now)

    def expect(self, endpoint: str, fabric: str) -> None:
        """Nobody but ``fabric`` is meant at an endpoint; what is under way to another one there fails."""
        if self._expected.get(endpoint) != fabric:
            self.leave(endpoint)
            self._expected[endpoint] = fabric

    def leave(self, endpoint: str) -> None:
        """Whoever was meant at an endpoint is not there any more: close its session, fail what is under way."""
        self._expected.pop(endpoint, None)
        self._away.discard(endpoint)
        connection = self.connections.pop(endpoint, None)
        if connection is None:
            return
        connection.end()
        self._take_back(connection)
        if connection.session is not None:
            self._shut(connection.session)
        self._fail_passing(endpoint, list(connection.waiting.values()))

    def lead(self, name: str, endpoint: str, now: int) -> None:
        """Let ``name`` stand for whoever is at an endpoint; what is not answered goes there."""
        self._named[name] = endpoint
        lender = self.connections.get(self._lent.get(name, ""))
        if lender is not None:
            self._take_back(lender)
        connection = self.connections.get(name)
        if self.connected(endpoint):
            if connection is not None:
                del self.connections[name]
                connection.end()
                if connection.session is not None:
                    self._shut(connection.session)
            self._lent[name] = endpoint
            for request in connection.waiting.values() if connection is not None else ():
                self.send(name, request, now)
        elif connection is not None and (connection.session is not None or connection.open_at_ns is not None):
            if connection.session is not None:
                self._replace(connection, now)
            connection.pause_ns = PAUSE_NS
            connection.open_from(now)

    def lent(self, name: str) -> bool:
        """Tell whether what is sent to a name goes over the connection to its endpoint, and not over one of its own."""
        return name in self._lent

    def _take_back(self, lender: Connection) -> None:
        """A connection serves no name any more: what is not answered goes on over the names' own ones."""
        for name in [name for name, endpoint in self._lent.items() if endpoint == lender.endpoint]:
            del self._lent[name]
            left = [request for request in lender.waiting.values() if request.name == name]
            for request in left:
                del lender.waiting[request.id]
                request.name = ""
            if left:
                own = self._connection(name)
                own.waiting.update((request.id, request) for request in left)
                own.open_from(0)  # With the next tick.
                own.scan_from(0)

    def be_patient(self, endpoint: str, *, away: bool) -> None:
        """Whoever is at an endpoint is thought to be away: try to connect less often, until it is back."""
        if away:
            self._away.add(endpoint)
        else:
            self._away.discard(endpoint)
        connection = self.connections.get(endpoint)
        if connection is not None and connection.away != away:
            connection.away = away
            if not away and not connection.ready:
                connection.pause_ns = PAUSE_NS
                if connection.open_at_ns is not None:
                    connection.open_from(0)

    def connected(self, endpoint: str) -> bool:
        """Tell whether a session to ``endpoint`` is ready."""
        return self.ready(endpoint) is not None

    def ready(self, endpoint: str) -> int | None:
        """Return the session to ``endpoint`` if it is ready."""
        connection = self.connections.get(self._lent.get(endpoint, endpoint))
        return connection.session if connection is not None and connection.ready else None

    @property
    def sessions(self) -> list[str]:
        """Where sessions lead to that are open or being opened: an endpoint for each, sorted."""
        return sorted(self._named.get(held.endpoint, held.endpoint) for held in self._by_session.values())

    def waited_for(self, endpoint: str) -> bool:
        """Tell whether something is not answered there."""
        connection = self.connections.get(endpoint)
        return connection is not None and bool(connection.waiting)

    def fail_all(self, error: Exception) -> None:
        """The mode cannot find or start a leader: tell everyone who waits."""
        waiting = [request for connection in self.connections.values() for request in connection.waiting.values()]
        for connection in self.connections.values():
            connection.waiting.clear()
        # Only now: whoever is told may send something new, which was not meant.
        for request in waiting:
            code, values = getattr(error, "code", 1), getattr(error, "values", {"message": str(error)})
            request.answered(Command(Type.ERROR, 0, request.id, messages.Failure(code, values), ()))

    # For the pump.

    def owns(self, session: int) -> bool:
        """Tell whether ``session`` is one of these connections' present ones."""
        return session in self._by_session

    def lost(self, session: int, now: int, *, nowhere: bool = False) -> None:
        """The session's connection has ended, or never began as no address of its host was found (``nowhere``)."""
        connection = self._by_session.get(session)
        if connection is not None:
            if connection.ready:
                connection.pace.lost(connection.waiting.values())
            self._replace(connection, now)
            if nowhere:
                connection.nowhere = self._named.get(connection.endpoint, connection.endpoint)

    def receive(self, session: int, frames: Sequence[Any], now: int) -> None:
        """Take a message of a session; what is not understood is dropped."""
        connection = self._by_session.get(session)
        if connection is None:
            return
        try:
            command = messages.read(frames)
        except (errors.ProtocolViolation, errors.UnsupportedVersion) as error:
            self._misunderstood(connection, messages.request_id(frames[0]), error, now)
            return
        if command.type == Type.GOODBYE:
            self._replace(connection, now)
        elif command.type == Type.WELCOME:
            self._welcome(connection, command.body, now)
        elif command.type == Type.HELD:
            request = connection.waiting.get(command.request)
            if request is not None:
                connection.pace.answered(request.sent_ns, 0, now, request.behind)
                request.held(command.body.bytes, now)
        else:
            request = connection.waiting.pop(command.request, None)
            if request is not None:
                size = sum(map(len, command.rest)) if command.rest else request.size
                connection.pace.answered(
                    request.sent_ns, 0 if command.type == Type.ERROR else size, now, request.behind
                )
                request.answered(command)
            elif command.request == 0 or not connection.ready:
                self._refused(connection, command, now)

    def _misunderstood(self, connection: Connection, number: int, error: errors.ZFabricError, now: int) -> None:
        """Fail the request that was answered with garbage, else every session would end with the same answer.

        Not a batch: whether it was stored is open, so it is repeated on a new session.
        """
        request = connection.waiting.get(number)
        if request is None or request.expired is None:
            self._replace(connection, now)
        else:
            del connection.waiting[number]
            request.answered(Command(Type.ERROR, 0, number, messages.failure_body(error), ()))

    def _refused(self, connection: Connection, command: Command, now: int) -> None:
        if connection.ready:
            return
        if command.type != Type.ERROR:
            self._replace(connection, now)
        else:  # To HELLO: no request will ever be answered there.
            waiting = list(connection.waiting.values())
            connection.waiting.clear()
            for request in waiting:
                request.answered(command)

    def tick(self, now: int) -> None:
        """Open what is due, expire what is over, replace what is silent."""
        self.agenda.tick(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        return self.agenda.next_deadline()

    @property
    def wants(self) -> bool:
        """Whether :meth:`take_effects` has any."""
        return bool(self.effects)

    def take_effects(self) -> list[ClientEffect]:
        """Return what the pump has to do, in order."""
        effects = self.effects[:]
        self.effects.clear()
        return effects

    def outstanding(self) -> bool:
        """Tell whether anything is not answered."""
        return any(connection.waiting for connection in self.connections.values())

    def close(self) -> None:
        """Close all sessions; nothing is sent any more."""
        for session in self._by_session:
            self.effects.append(CloseSession(session))
        self._by_session.clear()
        for connection in self.connections.values():
            connection.end()
        self.connections.clear()

    # Sessions.

    def _ask_where(self, now: int) -> None:
        self.effects.append(Locate())
        self._locating.at_ns = now + RELOCATE_NS
        self.agenda.note(self._locating)

    def _look_for_home(self, now: int) -> None:
        home = self.connections.get(self._home)
        if home is not None and not home.ready and home.waiting:
            self._ask_where(now)

    def _open(self, connection: Connection, now: int) -> None:
        if connection.endpoint == self._home and self._locating.at_ns is None:
            self._ask_where(now)
        endpoint = self._named.get(connection.endpoint, connection.endpoint)
        if not endpoint:
            connection.open_from(now + PAUSE_MAX_NS)  # Nobody knows yet where that is.
            return
        connection.open_at_ns = None
        connection.opened_ns = now
        connection.pace.begin()
        connection.session = self.new_session()
        self._by_session[connection.session] = connection
        self.effects.append(OpenSession(connection.session, endpoint, slow=connection.pace.slow))
        hello = messages.Hello(self._software, messages.LOWEST_VERSION, messages.VERSION)
        self.effects.append(Send(connection.session, (messages.command(Type.HELLO, self.next_id(), hello),)))
        if connection.scan_ns is None or connection.scan_ns - now > SCAN_NS:
            connection.scan_from(self._scan_at(now))

    def _shut(self, session: int) -> None:
        del self._by_session[session]
        self.effects.append(CloseSession(session))

    def _replace(self, connection: Connection, now: int) -> None:
        assert connection.session is not None
        self._take_back(connection)
        if not connection.away:
            self.reconnects += 1
        self._shut(connection.session)
        connection.session = None
        connection.ready = False
        connection.nowhere = ""
        connection.open_from(now + connection.pause_ns + self._random.randrange(connection.pause_ns))
        longest_ns = AWAY_PAUSE_MAX_NS if connection.away else PAUSE_MAX_NS
        connection.pause_ns = min(connection.pause_ns * 2, longest_ns)

    def _welcome(self, connection: Connection, body: messages.Welcome, now: int) -> None:
        if connection.ready:
            return
        if connection.endpoint == self.own and connection.endpoint not in self._expected:
            self._expected[connection.endpoint] = body.fabric
        if body.fabric != self._expected.get(connection.endpoint, body.fabric):
            self.strangers += 1
            self._replace(connection, now)
            if connection.endpoint == self.own:
                self._change_own(connection, body.fabric)
            return
        connection.ready = connection.welcomed = True
        connection.pause_ns = PAUSE_NS
        self.frame_bytes_max = body.frame_bytes_max
        assert connection.session is not None
        for request in connection.waiting.values():
            self.effects.append(request.send(connection.session, now, connection.pace.loose))

    def _change_own(self, connection: Connection, fabric: str) -> None:
        """The own leader has another disk: nothing that was under way is meant for that."""
        self._expected[connection.endpoint] = fabric
        waiting = list(connection.waiting.values())
        connection.waiting.clear()
        self.own_changed(fabric)
        self._fail_passing(connection.endpoint, waiting)

    def _fail_passing(self, endpoint: str, waiting: list[Request]) -> None:
        body = messages.failure_body(errors.Unreachable(url=endpoint, seconds=0.0, detail="it has left that address"))
        for request in waiting:
            request.answered(Command(Type.ERROR, 0, request.id, body, ()))

    def _scan_at(self, now: int) -> int:
        """Return when to look next at those that may be silent: all at once, else many would hardly leave a pause."""
        return now + SCAN_NS - (now - self._phase_ns) % SCAN_NS

    def _scan(self, connection: Connection, now: int) -> None:
        calm_ns = connection.calm_until()
        connection.scan_ns = self._scan_at(max(now, calm_ns - SCAN_NS)) if connection.waiting else None
        over = [r for r in connection.waiting.values() if r.deadline_ns is not None and r.deadline_ns <= now]
        for request in over:
            del connection.waiting[request.id]
            if request.expired is not None:
                request.expired()
        nearest = min((r.deadline_ns for r in connection.waiting.values() if r.deadline_ns is not None), default=None)
        if nearest is not None and connection.scan_ns is not None:
            connection.scan_ns = min(connection.scan_ns, max(nearest, now))
        silent = connection.ready and connection.pace.silent(connection.waiting.values(), now)
        unheard = not connection.ready and now - connection.opened_ns > HELLO_PATIENCE_NS
        if silent or (connection.session is not None and unheard):
            self._replace(connection, now)
