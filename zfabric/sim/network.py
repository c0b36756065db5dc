"""A network that behaves as ZeroMQ over TCP does at its worst, between clients' sessions and leaders' sockets.

A link is one session of a client and what the server knows of it. Its fault model:

* A session connects when the server listens and nothing lies between, else it tries again every 10 ms.
* Messages of a link arrive in order, each after its own delay. With ``reorder`` some overtake others, with
  ``duplicate`` some arrive twice, with ``loss`` some never: TCP does none of this, but a full queue of a ROUTER loses
  replies, and a machine that survives more needs less luck.
* Publications are lost at ``publication_loss`` on top: the queue of a slow subscriber.
* A link breaks when an end closes or dies, by chance, or 3 to 6 s after a partition began (heartbeats; 0.3 to 0.9 s
  for one between a caller and an instance of a service). What was on its
  way is lost; what the server had received stays in its queue. The client hears of it; the server does not.
* A partition stops one direction of a link or both; what is sent meanwhile waits and arrives when it heals, unless the
  link broke first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zfabric.sim.world import MILLISECOND, SECOND, World

CONNECT_RETRY_NS = 10 * MILLISECOND
Frames = list[bytes]


@dataclass(kw_only=True)
class Weather:
    """How bad the network is: probabilities for each message, and delays in seconds."""

    delay: float = 0.0002
    spikes: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    publication_loss: float = 0.0
    breaks: float = 0.0

    @classmethod
    def fair(cls) -> Weather:
        """Return one without faults."""
        return cls()


class Server(Protocol):
    """What the network asks of a leader's socket."""

    def take(self, peer: bytes, frames: Frames) -> None:
        """A message of ``peer`` has arrived."""
        ...

    def subscribe(self, peer: bytes, topic: bytes, *, on: bool) -> None:
        """A subscription of ``peer`` has arrived."""
        ...

    def left(self, peer: bytes) -> None:
        """The connection of ``peer`` has ended."""
        ...


class Host(Protocol):
    """What the network asks of a client."""

    name: str

    def connected(self, session: int) -> None:
        """The session's connection is there."""
        ...

    def receive(self, session: int, frames: Frames) -> None:
        """A message has arrived."""
        ...

    def lost(self, session: int) -> None:
        """The session's connection has ended."""
        ...


@dataclass(eq=False)
class Link:
    """One session, from its opening to its end."""

    host: Host
    session: int
    endpoint: str
    peer: bytes
    alert: bool = False
    server: Server | None = None
    open: bool = True
    waiting: list[Callable[[], None]] = field(default_factory=list)
    held: dict[str, list[Callable[[], None]]] = field(default_factory=lambda: {"up": [], "down": []})
    last: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})


class Network:
    """All links between hosts and servers.

    Attributes:
        weather: may be changed at any time. messages: how many were sent.
    """

    def __init__(self, world: World, weather: Weather | None = None) -> None:
        self.weather = weather or Weather.fair()
        self.messages = 0
        self._world = world
        self._servers: dict[str, tuple[str, Server]] = {}
        self._links: dict[tuple[int, int], Link] = {}
        self._peers: dict[bytes, Link] = {}
        self._cut: set[tuple[str, str, str]] = set()
        self._numbers = 0

    # Servers.

    def bind(self, endpoint: str, name: str, server: Server) -> None:
        """Let ``server``, on the machine ``name``, listen."""
        self._servers[endpoint] = (name, server)

    def unbind(self, server: Server) -> None:
        """The server is gone: its links break."""
        self._servers = {at: known for at, known in self._servers.items() if known[1] is not server}
        for link in list(self._links.values()):
            if link.server is server:
                self._break(link)

    def reply(self, peer: bytes, frames: Sequence[object], *, publication: bool = False) -> bool:
        """Send from a server to the client behind ``peer``; tells whether it is still there."""
        link = self._peers.get(peer)
        if link is None:
            return False
        parts = [bytes(frame) for frame in frames]  # type: ignore[call-overload]
        lossy = self._world.random.random() < self.weather.publication_loss
        if not (publication and lossy):
            self._carry(link, "down", lambda: link.host.receive(link.session, parts))
        return True

    # Clients.

    def open(self, host: Host, session: int, endpoint: str, *, alert: bool = False) -> None:
        """Begin to connect a session; an ``alert`` one notices within a second that the other side is gone."""
        self._numbers += 1
        link = Link(host, session, endpoint, b"\0" + self._numbers.to_bytes(4, "big"), alert)
        self._links[id(host), session] = link
        self._world.after(self._delay(), lambda: self._connect(link))

    def send(self, host: Host, session: int, frames: Sequence[object]) -> None:
        """Send on a session; waits while it is not connected."""
        link = self._links.get((id(host), session))
        if link is None:
            return
        parts = [bytes(frame) for frame in frames]  # type: ignore[call-overload]
        self._up(link, lambda server: server.take(link.peer, parts))

    def subscribe(self, host: Host, session: int, topic: bytes, *, on: bool) -> None:
        """Change a session's subscriptions."""
        link = self._links.get((id(host), session))
        if link is not None:
            self._up(link, lambda server: server.subscribe(link.peer, topic, on=on), exact=True)

    def close(self, host: Host, session: int) -> None:
        """Close a session."""
        link = self._links.get((id(host), session))
        if link is not None:
            self._end(link)

    def leave(self, host: Host) -> None:
        """The client is gone, with all its sessions."""
        for link in [link for link in self._links.values() if link.host is host]:
            self._end(link)

    # Faults.

    def partition(self, host: str, server: str, directions: Sequence[str] = ("up", "down")) -> None:
        """Stop what goes between a client and a machine: ``up`` to the server, ``down`` from it."""
        for direction in directions:
            self._cut.add((host, server, direction))
        self._world.note(f"partition {host} {server} {'+'.join(directions)}")
        patience = SECOND * 3 + self._world.random.randrange(3 * SECOND)
        for link in list(self._links.values()):
            if link.server is not None and link.host.name == host and self._name(link) == server:
                wait = patience // 7 if link.alert else patience
                self._world.after(wait, lambda link=link: self._expire(link))  # type: ignore[misc]

    def silence(self, server: Server) -> None:
        """The server's process stands still: its links are given up by their clients, unless it goes on before."""
        for link in list(self._links.values()):
            if link.server is server:
                wait = (3 * SECOND + self._world.random.randrange(3 * SECOND)) // (7 if link.alert else 1)
                self._world.after(wait, lambda link=link: self._silent(link))  # type: ignore[misc]

    def _silent(self, link: Link) -> None:
        if link.open and link.server is not None and getattr(link.server, "frozen", False):
            self._break(link)

    def heal(self, host: str | None = None, server: str | None = None) -> None:
        """End partitions: of one pair, or all."""
        self._cut = {
            cut
            for cut in self._cut
            if (host is not None and cut[0] != host) or (server is not None and cut[1] != server)
        }
        for link in list(self._links.values()):
            for direction, held in link.held.items():
                if held and not self._is_cut(link, direction):
                    link.held[direction] = []
                    for arrive in held:
                        self._schedule(link, direction, arrive)

    def break_some(self, share: float) -> None:
        """Break each link with probability ``share``."""
        for link in list(self._links.values()):
            if link.server is not None and self._world.random.random() < share:
                self._break(link)

    def apart(self, host: str, server: str) -> bool:
        """Tell whether a partition lies between two machines."""
        return any((host, server, direction) in self._cut for direction in ("up", "down"))

    # Links.

    def _name(self, link: Link) -> str:
        known = self._servers.get(link.endpoint)
        return known[0] if known is not None else ""

    def _is_cut(self, link: Link, direction: str) -> bool:
        return bool(self._cut) and (link.host.name, self._name(link), direction) in self._cut

    def _delay(self) -> int:
        random, weather = self._world.random, self.weather
        seconds = weather.delay * (0.5 + random.expovariate(1.0))
        if weather.spikes and random.random() < weather.spikes:
            seconds += random.uniform(0.0, 1.0)
        return int(seconds * SECOND)

    def _connect(self, link: Link) -> None:
        if not link.open:
            return
        known = self._servers.get(link.endpoint)
        cut = self._is_cut(link, "up") or self._is_cut(link, "down")
        if known is None or cut or getattr(known[1], "frozen", False):
            self._world.after(CONNECT_RETRY_NS, lambda: self._connect(link))
            return
        link.server = known[1]
        self._peers[link.peer] = link
        link.last = {"up": 0, "down": 0}
        self._schedule(link, "down", lambda: link.host.connected(link.session))
        waiting, link.waiting = link.waiting, []
        for send in waiting:
            send()

    def _up(self, link: Link, arrive: Callable[[Server], None], *, exact: bool = False) -> None:
        def send() -> None:
            server = link.server
            assert server is not None
            self._carry(link, "up", lambda: arrive(server), exact=exact)

        if link.server is None:
            link.waiting.append(send)
        else:
            send()

    def _carry(self, link: Link, direction: str, arrive: Callable[[], None], *, exact: bool = False) -> None:
        random, weather = self._world.random, self.weather
        self.messages += 1
        if weather.breaks and random.random() < weather.breaks:
            self._world.note(f"break {link.host.name} session {link.session}")
            self._break(link)
            return
        if not exact and weather.loss and random.random() < weather.loss:
            self._world.note(f"loss {link.host.name} session {link.session} {direction}")
            return
        if self._is_cut(link, direction):
            link.held[direction].append(arrive)
            return
        self._schedule(link, direction, arrive, exact=exact)
        if not exact and weather.duplicate and random.random() < weather.duplicate:
            self._schedule(link, direction, arrive)

    def _schedule(self, link: Link, direction: str, arrive: Callable[[], None], *, exact: bool = False) -> None:
        when = self._world.now + self._delay()
        weather = self.weather
        if exact or not weather.reorder or self._world.random.random() >= weather.reorder:
            when = link.last[direction] = max(when, link.last[direction])
        server = link.server

        def happen() -> None:
            if link.open and link.server is server:
                arrive()

        self._world.at(when, happen)

    def _expire(self, link: Link) -> None:
        if link.open and (self._is_cut(link, "up") or self._is_cut(link, "down")):
            self._break(link)

    def _break(self, link: Link) -> None:
        """End a link that was connected; the client hears of it after a while."""
        if not link.open:
            return
        self._end(link)
        self._world.after(self._delay(), lambda: link.host.lost(link.session))

    def _end(self, link: Link) -> None:
        link.open = False
        self._links.pop((id(link.host), link.session), None)
        self._peers.pop(link.peer, None)
        if link.server is not None:
            link.server.left(link.peer)
