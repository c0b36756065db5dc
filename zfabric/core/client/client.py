"""The whole client without I/O: where topics are, requests, producers and consumers, as one machine for a pump.

A pump hands in what its sockets received (:meth:`Client.receive`, :meth:`Client.lost`), calls :meth:`Client.tick`
when :meth:`Client.next_deadline` has come, performs :meth:`Client.take_effects`, and after that runs
:meth:`Client.take_callbacks`. Everything that a caller waits for is a ``Pending``.

In a mesh this is the client of one member, its *own* fabric, to which it produces; what readers see are views of all
origins (``origins.py``).

Metadata comes from leader 0, at the bootstrap endpoint, and is kept until an answer shows that it is stale. For topics
in use it is asked again every 30 seconds, so that added partitions are found. Whenever a connection breaks the client
asks where the leaders are: a node that was started again may listen elsewhere, and what is not answered goes there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from zfabric.core.client.agenda import Chore
from zfabric.core.client.anchor import Anchor, Observed
from zfabric.core.client.later import Later
from zfabric.core.client.machine import Listener, Machine, Reader, Source
from zfabric.core.client.members import Members
from zfabric.core.client.origins import MESH_NUMBER_MAX, OWN_LEADERS, Origins, mesh_number
from zfabric.core.client.pending import Pending
from zfabric.core.client.producer import Producer
from zfabric.core.client.repeating import persist
from zfabric.core.client.requests import Requests
from zfabric.core.client.survey import survey
from zfabric.core.effects import ClientEffect
from zfabric.model import TopicConfig
from zfabric.settings import TOPIC_PARTITIONS_MAX
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import LeaderAddress, Metadata, MetadataIs, TopicMeta

if TYPE_CHECKING:
    from random import Random

    from zfabric.core.client.caller import Caller

REFRESH_NS = 50_000_000
AGE_NS = 30_000_000_000
ASK_NS = 10_000_000_000

Callback = tuple[Callable[[Any, Exception | None], None], Any, Exception | None]
"""A function of the user's, a delivery, and its error."""


class Client:
    """One fabric as one process sees it.

    Args:
        bootstrap: endpoint of leader 0. url: what errors name it by. host: what ``*`` in endpoints stands for.
        locate: the mode has to be asked for leaders (embedded). publish: where leader 0 publishes for clients that
            reach it at ``bootstrap``, whatever it tells others; "": what it tells.
        mesh: readers see the topics of all members of the mesh. observed: of one that this is no member of; leader 0
            is an anchor's then (``anchor.py``), not to write to.
        random: seeded by whoever wants repeatable runs; for pauses and producer ids.

    Attributes:
        now: time of the last call that brought one (monotonic ns). fabric: id of the own one, "" until it is known.
        readers: consumers. agenda: what they have to do.
        origins: of a mesh; None where there is one fabric alone.
        restless: something may have changed the next deadline since a pump that minds it, and clears this, asked.
        handing: a service has requests for its workers, which the pump calls.
        places: counts changes of leaders' places. wall_offset_ms: wall clock ms minus monotonic ms; the pump keeps it.
        members: what leader 0 knows of its mesh.
        addresses: of the fabric that leader 0 is of, by their ids. host: by which that is reached.
        caller: of services, once there is one. machines: it, and the instances of services that are offered here.
    """

    def __init__(
        self, bootstrap: str, url: str, host: str, random: Random, *, software: str, locate: bool, publish: str = "",
        mesh: bool = False, observed: Observed | None = None,
    ) -> None:  # fmt: skip
        self.bootstrap = bootstrap
        self.url = url
        self.random = random
        self.now = 0
        self.restless, self.handing = True, False
        self.wall_offset_ms = 0
        self.requests = Requests(software, random, home=bootstrap if locate else "")
        self.members = Members(self)
        self.observer = observed is not None
        self.origins = Origins(self) if mesh else None
        self.fabric, self.places, self._told_places = "", 0, 0
        self.producers: list[Producer] = []
        self.readers: list[Reader] = []
        self.agenda = self.requests.agenda
        self._sources: dict[int, Source] = {}
        self.machines: list[Machine] = []
        self.caller: Caller | None = None
        self._owners: dict[int, Machine] = {}
        # What takes messages of the sessions of both.
        self._takers: dict[int, Callable[[int, Sequence[Any], int], bool]] = {}
        self.host = host
        self._publish = publish
        self._topics: dict[str, TopicMeta] = {}
        self.addresses: dict[int, LeaderAddress] = {}
        self._wanted: dict[str, list[Pending[TopicMeta]]] = {}
        self._refreshed: dict[str, int] = {}
        self._asking: set[str] = set()
        self._age_ns: int | None = None
        self._reconnects = 0
        self._later = Later()
        # Threads take from it without a lock: single operations of a deque are atomic, an exchanged list is not.
        self._callbacks: deque[Callback] = deque()
        self.anchor = None if observed is None else Anchor(self, observed)

    # For producers and consumers.

    def wall_ms(self, now: int) -> int:
        """Return the wall clock at ``now``, in ms since 1970."""
        return now // 1_000_000 + self.wall_offset_ms

    def endpoint(self, leader: int) -> str | None:
        """Return where a leader takes requests; None while that is not known."""
        if self.origins is not None and leader >= OWN_LEADERS:
            return self.origins.endpoint(leader)
        address = self.addresses.get(leader)
        return None if address is None else self.reach(address.endpoint)

    def publish_endpoint(self, leader: int) -> str | None:
        """Return where a leader publishes."""
        if self.origins is not None and leader >= OWN_LEADERS:
            return self.origins.publish_endpoint(leader)
        address = self.addresses.get(leader)
        return None if address is None else self.reach(address.publish)

    def reach(self, endpoint: str) -> str:
        """Return an endpoint as it is reached from here: ``*`` is the host by which we reach leader 0."""
        return endpoint.replace("://*:", f"://{self.host}:", 1)

    def topic(self, name: str) -> TopicMeta | None:
        """Return what is known of a topic in the own fabric."""
        return self._topics.get(name)

    @property
    def scattered(self) -> bool:
        """Whether what is read is led by many that come and go."""
        return self.origins is not None

    @property
    def partition_max(self) -> int:
        """Largest number by which users may know a partition."""
        return TOPIC_PARTITIONS_MAX - 1 if self.origins is None else MESH_NUMBER_MAX

    def own(self, leader: int) -> bool:
        """Tell whether a leader is of the own fabric."""
        return leader < OWN_LEADERS

    def view(self, name: str) -> TopicMeta | None:
        """Return a topic as readers see it."""
        return self._topics.get(name) if self.origins is None else self.origins.view(name)

    def show(self, name: str) -> None:
        """Tell readers how a topic of a mesh looks now."""
        view = self.view(name) or TopicMeta(name, 0, TopicConfig(), [])
        for reader in self.readers:
            reader.learn(view, self.now)

    def number(self, number: int) -> int:
        """Return the number by which users know partition ``number`` of a topic in the own fabric."""
        return number if self.origins is None else mesh_number(self.fabric, number)

    def read_topics(self) -> set[str]:
        """Return the topics that somebody reads."""
        return {reader.topic for reader in self.readers}

    def leaders(self) -> list[int]:
        """Return the ids of the known leaders."""
        return sorted(self.addresses)

    def due(self, chore: Chore) -> None:
        """A chore of a consumer may be due earlier than it was."""
        self.restless = True
        self.agenda.note(chore)

    def open(self, source: Source, session: int) -> None:
        """Note that ``session`` is the subscription of ``source``."""
        self._sources[session] = source
        self._takers[session] = source.published

    def shut(self, session: int) -> None:
        """Note that a session of a reader or a machine is over."""
        self._sources.pop(session, None)
        self._owners.pop(session, None)
        self._takers.pop(session, None)

    def hold(self, machine: Machine, session: int) -> None:
        """Note that ``session`` is one of ``machine``."""
        self._owners[session] = machine
        self._takers[session] = machine.received

    def later(
        self, callbacks: list[tuple[Callable[[Any, Exception | None], None], Any]], error: Exception | None
    ) -> None:
        """Have user callbacks run by the pump, outside its lock."""
        self.restless = True
        self._callbacks.extend((callback, delivery, error) for callback, delivery in callbacks)

    def after(self, at_ns: int, action: Callable[[], None]) -> None:
        """Call ``action`` in the tick at or after ``at_ns``."""
        self._later.add(at_ns, action)
        self.due(self._later)

    # For facades.

    def add(self, reader: Reader) -> None:
        """Let a consumer take part in ticks."""
        if self.origins is not None:
            self.members.use(self.now)
        self.readers.append(reader)

    def dismiss(self, producer: Producer) -> None:
        """The producer is closed."""
        with suppress(ValueError):
            self.producers.remove(producer)

    def remove(self, reader: Reader) -> None:
        """The consumer is closed."""
        if reader in self.readers:
            self.readers.remove(reader)
            for chore in reader.chores():
                self.due(chore)  # Which is never, from now on.
            if self.origins is not None:
                self.members.release()

    def want_view(self, name: str, now: int, deadline_ns: int) -> Pending[TopicMeta]:
        """Return a topic as readers see it, to come."""
        self.now = max(self.now, now)
        return self.want(name, now, deadline_ns) if self.origins is None else self.origins.read(name, now, deadline_ns)

    def survey(self, names: list[str] | None, now: int, deadline_ns: int) -> Pending[list[TopicMeta]]:
        """Return topics (all for None) as they are now and as readers see them, sorted by name, to come."""
        self.now = max(self.now, now)
        return survey(self, names, deadline_ns)

    def want(self, name: str, now: int, deadline_ns: int) -> Pending[TopicMeta]:
        """Return a topic's metadata to come, from memory or from leader 0."""
        pending: Pending[TopicMeta] = Pending()
        known = self._topics.get(name)
        if known is not None:
            self._teach(known)
            pending.resolve(known)
            return pending
        waiting = self._wanted.setdefault(name, [])
        waiting.append(pending)
        if len(waiting) == 1:
            self._fetch_metadata(name, now, deadline_ns)
        return pending

    def refresh(self, name: str, now: int, leader: int = 0) -> None:
        """Ask again where a topic is (of a mesh: what ``leader``'s origin has): once at a time, at most every 50 ms."""
        if self.origins is not None and leader >= OWN_LEADERS:
            self.origins.refresh(leader, now)
        elif self._may_ask(name, now):
            self._ask_again(name, [name])

    def refresh_leaders(self) -> None:
        """Ask where the leaders are: one may not have been up when we asked before, or listen elsewhere now."""
        if self._may_ask("", self.now):
            self._ask_again("", [])

    def _may_ask(self, what: str, now: int) -> bool:
        if what in self._asking or now - self._refreshed.get(what, -REFRESH_NS) < REFRESH_NS:
            return False
        self._refreshed[what] = now
        return True

    def _ask_again(self, what: str, names: list[str]) -> None:
        self._asking.add(what)
        asked = self.control(Type.METADATA, Metadata(names), self.now, self.now + ASK_NS, "metadata")

        def answered() -> None:
            self._asking.discard(what)
            if asked.error is None:
                self.note(asked.result().body)

        asked.on_done(answered)

    def _used(self) -> list[str]:
        """Return the topics that are read, or sent to."""
        used = self.read_topics()
        for producer in self.producers:
            if producer.in_use(self.now):
                used.update(producer.topics())
        return sorted(used)

    def _fetch_metadata(self, name: str, now: int, deadline_ns: int) -> None:
        asked = self.control(Type.METADATA, Metadata([name]), now, deadline_ns, f"metadata of topic {name!r}")

        def answered() -> None:
            waiting = self._wanted.pop(name, [])
            if asked.error is not None:
                for pending in waiting:
                    pending.fail(asked.error)
                return
            body: MetadataIs = asked.result().body
            self.note(body)
            meta = self._topics.get(name)
            for pending in waiting:
                if meta is not None:
                    pending.resolve(meta)
                elif self.origins is None:
                    self.members.lack(name, pending, self.now)
                else:
                    self.origins.adoption.adopt(name, pending, deadline_ns)

        asked.on_done(answered)

    def note(self, body: MetadataIs) -> None:
        """Remember metadata and tell producers and consumers."""
        if self.anchor is not None:
            self.anchor.note(body)
            return
        self.fabric = body.fabric
        moved = {}
        for address in body.leaders:
            if address.id == 0 and self._publish:
                address = LeaderAddress(0, self.bootstrap, self._publish)  # noqa: PLW2901 - as seen from here
            before = self.addresses.get(address.id)
            if before is not None and before.endpoint != address.endpoint:
                moved[self.reach(before.endpoint)] = self.reach(address.endpoint)
            self.places += before != address
            self.addresses[address.id] = address
        self.requests.move(moved, self.now)
        if self._age_ns is None:
            self._age_ns = self.now + AGE_NS
        if self.origins is not None:
            self.origins.note_own(body)
        # A topic without partitions is here for others' copies alone: nobody can produce to it.
        for name in (*body.unknown, *(meta.name for meta in body.topics if not meta.partitions)):
            self._lose(name)
        for meta in (meta for meta in body.topics if meta.partitions):
            self.adopt(meta)

    def _lose(self, name: str) -> None:
        self._topics.pop(name, None)
        if self.origins is not None:
            self.origins.adoption.lose(name)
        else:
            users: list[Producer | Reader] = [*self.producers, *self.readers]
            for user in users:
                user.gone(name, self.now)

    def adopt(self, meta: TopicMeta) -> None:
        """A topic was made in the own fabric."""
        self._topics[meta.name] = meta
        self._teach(meta)

    def forget(self, name: str) -> None:
        """A topic was deleted here."""
        self._topics.pop(name, None)

    def _teach(self, meta: TopicMeta) -> None:
        for producer in self.producers:
            producer.learn(meta)
        self.show(meta.name)

    def control(self, kind: int, body: Any, now: int, deadline_ns: int, what: str) -> Pending[Command]:
        """Ask leader 0, again while its error is a passing one and there is time."""
        if self.anchor is not None:
            return self.anchor.ask(kind, body, now, deadline_ns, what)
        return persist(self, lambda: self.bootstrap, 0, kind, body, now, deadline_ns, what)

    def call_partition(
        self, leader: int, kind: int, body: Any, now: int, deadline_ns: int, what: str, topic: str | None = None
    ) -> Pending[Command]:
        """Ask a leader, again while its error is a passing one and there is time.

        Args:
            topic: whose partitions it is about: the result is UnknownTopic if it turns out to be gone.
        """

        def where() -> str | None:
            return self.endpoint(leader) or (self.bootstrap if leader < OWN_LEADERS else None)

        return persist(self, where, leader, kind, body, now, deadline_ns, what, topic=topic)

    # For the pump.

    def receive(self, session: int, frames: Sequence[Any], now: int) -> None:
        """Take one received message."""
        self.now = now
        take = self._takers.get(session)
        if take is None:
            self.restless = True
            self.requests.receive(session, frames, now)
        elif not take(session, frames, now):
            self.restless = True

    def connected(self, session: int, now: int) -> None:
        """A session's connection is there."""
        self.now = now
        source = self._sources.get(session)
        if source is not None:
            source.connected(now)
        elif (machine := self._owners.get(session)) is not None:
            machine.connected(session, now)

    def listens(self, session: int, endpoint: str, now: int) -> None:
        """A listening session's socket is bound."""
        self.now = now
        machine = self._owners.get(session)
        if machine is not None:
            cast("Listener", machine).listens(session, endpoint, now)

    def left(self, session: int, peer: bytes, now: int) -> None:
        """Somebody who was connected to a listening session cannot be sent to any more."""
        self.now = now
        machine = self._owners.get(session)
        if machine is not None:
            cast("Listener", machine).left(peer, now)

    def lost(self, session: int, now: int, *, nowhere: bool = False) -> None:
        """A session's connection has ended, or never began as no address of its host was found (``nowhere``)."""
        self.now = now
        self._takers.pop(session, None)
        source = self._sources.pop(session, None)
        if source is not None:
            source.lost(now)
        elif (machine := self._owners.pop(session, None)) is not None:
            machine.lost(session, now)
        else:
            self.requests.lost(session, now, nowhere=nowhere)

    def tick(self, now: int) -> None:
        """Do what is due."""
        self.now = now
        self.agenda.tick(now)
        if self._reconnects != self.requests.reconnects:
            self._reconnects = self.requests.reconnects
            self.refresh_leaders()
            self.members.doubt(now)
            for kept in self.machines:
                kept.reconnected(now)
        if self._age_ns is not None and self._age_ns <= now:
            self._age_ns = now + AGE_NS
            used = self._used()
            if used:
                self._ask_again("", used)
        if self.origins is not None:
            self.origins.tick(now)
        for producer in self.producers:
            producer.tick(now)
        if self._told_places != self.places:
            self._told_places = self.places
            for reader in self.readers:
                reader.moved(now)
        for other in list(self.machines):  # One that has ended goes.
            other.tick(now)
        self.members.tick(now)  # Last: the others may have found reasons to doubt the table.

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        nearest = None
        if self._age_ns is not None and self._aging():
            nearest = self._age_ns
        origins = () if self.origins is None else (self.origins,)
        for machine in (self.agenda, self.members, *origins, *self.producers, *self.machines):
            wanted = machine.next_deadline()
            if wanted is not None and (nearest is None or wanted < nearest):
                nearest = wanted
        return nearest

    def busy(self) -> bool:
        """Tell whether something goes on that a pump has to attend to though nobody waits."""
        if self._later or self._callbacks or self.readers or self.members.used or self.requests.outstanding():
            return True
        return any(producer.used for producer in self.producers) or any(machine.busy() for machine in self.machines)

    def _aging(self) -> bool:
        return bool(self.readers) or any(producer.in_use(self.now) for producer in self.producers)

    def take_effects(self) -> list[ClientEffect]:
        """Return what the pump has to do, in order."""
        return self.requests.take_effects()

    @property
    def calling(self) -> bool:
        """Whether user callbacks are due."""
        return bool(self._callbacks)

    def take_callbacks(self) -> list[Callback]:
        """Return user callbacks that are due: (function, delivery, error). Needs no lock."""
        taken: list[Callback] = []
        with suppress(IndexError):
            while self._callbacks:
                taken.append(self._callbacks.popleft())
        return taken

    def return_callbacks(self, callbacks: list[Callback]) -> None:
        """Take those back that were not run: one before them was interrupted."""
        self._callbacks.extendleft(reversed(callbacks))
