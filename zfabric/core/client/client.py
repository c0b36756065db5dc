"""The whole client without I/O: where topics are, requests, producers and consumers, as one machine for a pump.

A pump hands in what its sockets received (:meth:`Client.receive`, :meth:`Client.lost`), calls :meth:`Client.tick`
when :meth:`Client.next_deadline` has come, performs :meth:`Client.take_effects`, and after that runs
:meth:`Client.take_callbacks`. Everything that a caller waits for is a ``Pending``.

Metadata comes from leader 0, at the bootstrap endpoint, and is kept until an answer shows that it is stale. For topics
in use it is asked again every 30 seconds, so that added partitions are found. Whenever a connection breaks the client
asks where the leaders are: a node that was started again may listen elsewhere, and what is not answered goes there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from zfabric import errors
from zfabric.core.client.members import Members
from zfabric.core.client.pending import Pending
from zfabric.core.client.producer import Producer
from zfabric.core.client.requests import Requests
from zfabric.core.effects import ClientEffect
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from random import Random

REFRESH_NS = 50_000_000
RETRY_NS = 20_000_000
RETRY_MAX_NS = 200_000_000
AGE_NS = 30_000_000_000
ASK_NS = 10_000_000_000

Callback = tuple[Callable[[Any, Exception | None], None], Any, Exception | None]
"""A function of the user's, a delivery, and its error."""


class Reader(Protocol):
    """What the client asks of its consumers.

    Attributes:
        topic: that it reads.
    """

    topic: str

    def published(self, session: int, frames: Sequence[Any], now: int) -> None:
        """Take a published message of one of the reader's sessions."""
        ...

    def connected(self, session: int, now: int) -> None:
        """One of the reader's sessions is connected."""
        ...

    def lost(self, session: int, now: int) -> None:
        """One of the reader's sessions has ended."""
        ...

    def learn(self, meta: messages.TopicMeta, now: int) -> None:
        """Take new metadata of a topic."""
        ...

    def gone(self, topic: str, now: int) -> None:
        """A topic does not exist any more."""
        ...

    def tick(self, now: int) -> None:
        """Do what is due."""
        ...

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next."""
        ...


class Client:
    """One fabric as one process sees it.

    Args:
        bootstrap: endpoint of leader 0. url: what errors name it by. host: what ``*`` in endpoints stands for.
        locate: the mode has to be asked for leaders (embedded).
        random: seeded by whoever wants repeatable runs; for pauses and producer ids.

    Attributes:
        now: time of the last call that brought one (monotonic ns).
        wall_offset_ms: wall clock ms minus monotonic ms; the pump keeps it.
        members: what leader 0 knows of its mesh.
    """

    def __init__(self, bootstrap: str, url: str, host: str, random: Random, *, software: str, locate: bool) -> None:
        self.bootstrap = bootstrap
        self.url = url
        self.random = random
        self.now = 0
        self.wall_offset_ms = 0
        self.requests = Requests(software, random, locate=locate)
        self.members = Members(self)
        self.producers: list[Producer] = []
        self._readers: list[Reader] = []
        self._by_session: dict[int, Reader] = {}
        self._host = host
        self._topics: dict[str, messages.TopicMeta] = {}
        self._leaders: dict[int, messages.LeaderAddress] = {}
        self._wanted: dict[str, list[Pending[messages.TopicMeta]]] = {}
        self._refreshed: dict[str, int] = {}
        self._asking: set[str] = set()
        self._age_ns: int | None = None
        self._reconnects = 0
        self._later: list[tuple[int, Callable[[], None]]] = []
        # Threads take from it without a lock: single operations of a deque are atomic, an exchanged list is not.
        self._callbacks: deque[Callback] = deque()

    # For producers and consumers.

    def wall_ms(self, now: int) -> int:
        """Return the wall clock at ``now``, in ms since 1970."""
        return now // 1_000_000 + self.wall_offset_ms

    def endpoint(self, leader: int) -> str | None:
        """Return where a leader takes requests; None while that is not known."""
        address = self._leaders.get(leader)
        return None if address is None else self.reach(address.endpoint)

    def publish_endpoint(self, leader: int) -> str | None:
        """Return where a leader publishes."""
        address = self._leaders.get(leader)
        return None if address is None else self.reach(address.publish)

    def reach(self, endpoint: str) -> str:
        """Return an endpoint as it is reached from here: ``*`` is the host by which we reach leader 0."""
        return endpoint.replace("://*:", f"://{self._host}:", 1)

    def topic(self, name: str) -> messages.TopicMeta | None:
        """Return what is known of a topic."""
        return self._topics.get(name)

    def leaders(self) -> list[int]:
        """Return the ids of the known leaders."""
        return sorted(self._leaders)

    def open(self, reader: Reader, session: int) -> None:
        """Note that ``session`` is a subscription of ``reader``."""
        self._by_session[session] = reader

    def shut(self, session: int) -> None:
        """Note that a subscription session is over."""
        self._by_session.pop(session, None)

    def later(
        self, callbacks: list[tuple[Callable[[Any, Exception | None], None], Any]], error: Exception | None
    ) -> None:
        """Have user callbacks run by the pump, outside its lock."""
        self._callbacks.extend((callback, delivery, error) for callback, delivery in callbacks)

    def after(self, at_ns: int, action: Callable[[], None]) -> None:
        """Call ``action`` in the tick at or after ``at_ns``."""
        self._later.append((at_ns, action))

    # For facades.

    def add(self, reader: Reader) -> None:
        """Let a consumer take part in ticks."""
        self._readers.append(reader)

    def dismiss(self, producer: Producer) -> None:
        """The producer is closed."""
        if producer in self.producers:
            self.producers.remove(producer)

    def remove(self, reader: Reader) -> None:
        """The consumer is closed."""
        if reader in self._readers:
            self._readers.remove(reader)

    def want(self, name: str, now: int, deadline_ns: int) -> Pending[messages.TopicMeta]:
        """Return a topic's metadata to come, from memory or from leader 0."""
        pending: Pending[messages.TopicMeta] = Pending()
        known = self._topics.get(name)
        if known is not None:
            self._teach(known, now)
            pending.resolve(known)
            return pending
        waiting = self._wanted.setdefault(name, [])
        waiting.append(pending)
        if len(waiting) == 1:
            self._fetch_metadata(name, now, deadline_ns)
        return pending

    def refresh(self, name: str, now: int) -> None:
        """Ask again where a topic is: once at a time, and at most every 50 ms."""
        if self._may_ask(name, now):
            self._ask_again(name, [name])

    def _refresh_leaders(self) -> None:
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
        asked = self.control(Type.METADATA, messages.Metadata(names), self.now, self.now + ASK_NS, "metadata")

        def answered() -> None:
            self._asking.discard(what)
            if asked.error is None:
                self.note(asked.result().body)

        asked.on_done(answered)

    def _used(self) -> list[str]:
        """Return the topics that are read, or sent to."""
        used = {reader.topic for reader in self._readers}
        for producer in self.producers:
            if producer.in_use(self.now):
                used.update(producer.topics())
        return sorted(used)

    def _fetch_metadata(self, name: str, now: int, deadline_ns: int) -> None:
        asked = self.control(Type.METADATA, messages.Metadata([name]), now, deadline_ns, f"metadata of topic {name!r}")

        def answered() -> None:
            waiting = self._wanted.pop(name, [])
            if asked.error is not None:
                for pending in waiting:
                    pending.fail(asked.error)
                return
            body: messages.MetadataIs = asked.result().body
            self.note(body)
            meta = self._topics.get(name)
            for pending in waiting:
                if meta is None:
                    pending.fail(errors.UnknownTopic(topic=name))
                else:
                    pending.resolve(meta)

        asked.on_done(answered)

    def note(self, body: messages.MetadataIs) -> None:
        """Remember metadata and tell producers and consumers."""
        moved = {}
        for address in body.leaders:
            before = self._leaders.get(address.id)
            if before is not None and before.endpoint != address.endpoint:
                moved[self.reach(before.endpoint)] = self.reach(address.endpoint)
            self._leaders[address.id] = address
        if moved:
            self.requests.move(moved, self.now)
        if self._age_ns is None:
            self._age_ns = self.now + AGE_NS
        for name in body.unknown:
            self._topics.pop(name, None)
            for producer in self.producers:
                producer.gone(name)
            for reader in self._readers:
                reader.gone(name, self.now)
        for meta in body.topics:
            self._topics[meta.name] = meta
            self._teach(meta, self.now)

    def forget(self, name: str) -> None:
        """A topic was deleted here."""
        self._topics.pop(name, None)

    def _teach(self, meta: messages.TopicMeta, now: int) -> None:
        for producer in self.producers:
            producer.learn(meta)
        for reader in self._readers:
            reader.learn(meta, now)

    def control(self, kind: int, body: Any, now: int, deadline_ns: int, what: str) -> Pending[Command]:
        """Ask leader 0, again while its error is a passing one and there is time."""
        return self._persist(lambda: self.bootstrap, kind, body, now, deadline_ns, what)

    def call_partition(
        self, leader: int, kind: int, body: Any, now: int, deadline_ns: int, what: str, topic: str | None = None
    ) -> Pending[Command]:
        """Ask a leader, again while its error is a passing one and there is time.

        Args:
            topic: whose partitions it is about: the result is UnknownTopic if it turns out to be gone.
        """
        return self._persist(lambda: self.endpoint(leader), kind, body, now, deadline_ns, what, topic)

    def _persist(
        self,
        where: Callable[[], str | None],
        kind: int,
        body: Any,
        now: int,
        deadline_ns: int,
        what: str,
        topic: str | None = None,
    ) -> Pending[Command]:
        pending: Pending[Command] = Pending()
        seconds = max((deadline_ns - now) / 1e9, 0.0)
        pause_ns = RETRY_NS

        def attempt() -> None:
            endpoint = where() or self.bootstrap
            asked = self.requests.call(endpoint, kind, body, self.now, deadline_ns, what, seconds)
            asked.on_done(lambda: judge(asked))

        def again() -> None:
            if topic is not None and topic not in self._topics:
                pending.fail(errors.UnknownTopic(topic=topic))
            else:
                attempt()

        def judge(asked: Pending[Command]) -> None:
            nonlocal pause_ns
            error = asked.error
            if error is None:
                pending.resolve(asked.result())
            elif isinstance(error, errors.Unreachable):
                pending.fail(errors.Unreachable(url=self.url, seconds=seconds, detail=error.values.get("detail")))
            elif (
                getattr(error, "retriable", False)
                and not isinstance(error, errors.RequestTimeout | errors.LeaderFailed | errors.StorageFull)
                and self.now + pause_ns < deadline_ns
            ):
                if isinstance(error, errors.NotLeader):
                    if topic is None:
                        self._refresh_leaders()
                    else:
                        self.refresh(topic, self.now)
                self.after(self.now + pause_ns, again)
                pause_ns = min(pause_ns * 2, RETRY_MAX_NS)
            else:
                pending.fail(error)

        self.now = max(self.now, now)
        attempt()
        return pending

    # For the pump.

    def receive(self, session: int, frames: Sequence[Any], now: int) -> None:
        """Take one received message."""
        self.now = now
        reader = self._by_session.get(session)
        if reader is not None:
            reader.published(session, frames, now)
        else:
            self.requests.receive(session, frames, now)

    def connected(self, session: int, now: int) -> None:
        """A session's connection is there."""
        self.now = now
        reader = self._by_session.get(session)
        if reader is not None:
            reader.connected(session, now)

    def lost(self, session: int, now: int) -> None:
        """A session's connection has ended."""
        self.now = now
        reader = self._by_session.pop(session, None)
        if reader is not None:
            reader.lost(session, now)
        else:
            self.requests.lost(session, now)

    def tick(self, now: int) -> None:
        """Do what is due."""
        self.now = now
        if self._later:
            due = [action for at_ns, action in self._later if at_ns <= now]
            self._later = [entry for entry in self._later if entry[0] > now]
            for action in due:
                action()
        self.requests.tick(now)
        if self._reconnects != self.requests.reconnects:
            self._reconnects = self.requests.reconnects
            self._refresh_leaders()
            self.members.doubt(now)
        if self._age_ns is not None and self._age_ns <= now:
            self._age_ns = now + AGE_NS
            used = self._used()
            if used:
                self._ask_again("", used)
        self.members.tick(now)
        for producer in self.producers:
            producer.tick(now)
        for reader in self._readers:
            reader.tick(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        nearest = self.requests.next_deadline()
        if self._age_ns is not None and (nearest is None or self._age_ns < nearest) and self._aging():
            nearest = self._age_ns
        for at_ns, _ in self._later:
            if nearest is None or at_ns < nearest:
                nearest = at_ns
        asking_ns = self.members.next_deadline()
        if asking_ns is not None and (nearest is None or asking_ns < nearest):
            nearest = asking_ns
        for machines in (self.producers, self._readers):
            for machine in machines:
                wanted = machine.next_deadline()
                if wanted is not None and (nearest is None or wanted < nearest):
                    nearest = wanted
        return nearest

    def busy(self) -> bool:
        """Tell whether something goes on that a pump has to attend to though nobody waits."""
        return bool(self._later or self._callbacks) or self._in_use() or self.requests.outstanding()

    def _aging(self) -> bool:
        return bool(self._readers) or any(producer.in_use(self.now) for producer in self.producers)

    def _in_use(self) -> bool:
        return self.members.used or bool(self._readers) or any(producer.used for producer in self.producers)

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
            while True:
                taken.append(self._callbacks.popleft())
        return taken

    def return_callbacks(self, callbacks: list[Callback]) -> None:
        """Take those back that were not run: one before them was interrupted."""
        self._callbacks.extendleft(reversed(callbacks))
