"""The origins of a mesh: one topic as readers see it, though every member leads partitions of its own.

An *origin* is a member's volume, named by its fabric id (16 hex digits). Identity is nothing else: a wiped disk is
another origin, one that comes back at another address is the same. What readers get is a *view*: the partitions of a
topic at all origins, as if they were one topic's. In it a partition bears a number that is the same for everybody
(:func:`mesh_number`), and a leader bears a number that only this client uses, because every origin has a leader 0.

Who there is comes from the table of members, which is a hint; what an origin leads comes from its own METADATA, asked
at its endpoint: when somebody reads a topic that its card shows (or may hide, where it says ``more``), when that card
changes, when a reader meets an error there, and every 30 seconds. A question without an answer is repeated after 50 ms
to 5 s.

Rules:

- Nothing of an origin is forgotten while somebody reads it. An origin that is away is read on when it is back, from
  where reading stopped; its reads wait, and nothing is raised.
- An endpoint belongs to one origin. Where another one shows up, the old one has no endpoint until it is seen again, and
  what is under way there is failed, so that nothing that was meant for one is answered by the other. The session checks
  the same by WELCOME (:meth:`Requests.expect <zfabric.core.client.requests.Requests.expect>`).
- The origin whose leader this client was given (the own one) is kept by ``client.py``; it has the numbers below
  :data:`OWN_LEADERS`.
- A topic that nobody shows within ``origin.UNKNOWN_NS`` is unknown: news of one that was made just now are under way.
  Not before the own leader has answered and others are known, or would be, and those have answered who may have it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

import msgspec
from xxhash import xxh3_64_intdigest

from zfabric import errors
from zfabric.core.client import room
from zfabric.core.client.adoption import Adoption
from zfabric.core.client.members import Change, Known
from zfabric.core.client.origin import PAUSE_NS, Opening, Origin, Sighting
from zfabric.core.client.pending import Pending
from zfabric.core.client.routes import DIRECT_MAX, SHUN_NS, Holder, Routes, View, covered, settings
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import LeaderAddress, Metadata, MetadataIs, PartitionPlace, TopicMeta

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

OWN_LEADERS: Final = 1 << 16
MESH_NUMBER_MAX: Final = (1 << 52) - 1
ASK_NS: Final = 5_000_000_000
AGE_NS: Final = 30_000_000_000
AGAIN_NS: Final = 100_000_000
NEWS_ORIGIN_NS: Final = 100_000
NEWS_MAX_NS: Final = 100_000_000
"""Readers are shown what many origins say at once: a topic's view costs them a look at all of its origins."""
EVADING_MAX: Final = 64
"""Origins at a time that are read directly because their keepers are not fit to be read at."""


def mesh_number(fabric: str, number: int) -> int:
    """Return the number by which everybody in a mesh knows partition ``number`` of the origin ``fabric``.

    It has 52 bits, so that JSON and floats hold it.
    """
    return xxh3_64_intdigest(f"{fabric}/{number}".encode()) >> 12


def _told(member: Known | None) -> object:
    """Return what of a member concerns readers."""
    if member is None:
        return None
    card = member.card
    topics = [(topic.name, topic.kept > 0) for topic in card.topics]
    return member.status, member.endpoint, card.fabric, card.more, topics


class Origins:
    """All origins but the own one, and the views that readers have.

    Attributes:
        heard: the table of members was seen at least once. adoption: makes topics in the own fabric that others have.
        room: how many there may be.
    """

    def __init__(self, client: Client) -> None:
        self.heard = False
        self._client = client
        self._origins: dict[str, Origin] = {}
        self._by_leader: dict[int, Origin] = {}
        self._by_endpoint: dict[str, Origin] = {}
        self._next = OWN_LEADERS
        self._queue: list[tuple[int, int, Origin]] = []
        self._scheduled = 0
        self._openings: dict[str, Opening] = {}
        self.adoption = Adoption(client, self)
        self._direct: set[str] = set()
        self._news: set[str] = set()
        self._news_ns: int | None = None
        self._routes = Routes()
        self.room = room.Room()
        self._kept: dict[str, TopicMeta] = {}
        self._covered: dict[str, frozenset[str] | None] = {}
        client.members.listeners.append(self._changed)
        if not client.observer:
            client.requests.own, client.requests.own_changed = client.bootstrap, self._rehome

    # For readers.

    def view(self, topic: str) -> TopicMeta | None:
        """Return a topic with the partitions of all origins that are known to have it, in order of their numbers."""
        client = self._client
        own = client.topic(topic) or self._kept.get(topic)
        holders = [] if own is None or client.observer else [Holder(client.fabric, own, None, here=True, own=True)]
        for origin in self._origins.values():
            meta = origin.topics.get(topic)
            if meta is not None:
                here = origin.here and bool(origin.endpoint)
                holders.append(Holder(origin.fabric, meta, origin.leaders, here=here, own=False))
        if not holders:
            return None
        places: list[PartitionPlace] = [
            msgspec.structs.replace(place, number=mesh_number(fabric, number))
            for fabric, number, place in self._routes.places(holders, client.now)
        ]
        places.sort(key=lambda place: place.number)
        config, others = settings(holders)
        return View(topic, holders[0].meta.id, config, places, own.kept if own is not None else [], others)

    def want(self, topic: str, now: int, deadline_ns: int) -> Pending[TopicMeta]:
        """Return a topic's view to come: what those who are there have answered, and at least one of them has it."""
        opening = self._openings.get(topic)
        if opening is None:
            opening = self._openings[topic] = Opening(now, deadline_ns)
            self._client.members.use(now)
            self._ask_own(topic, opening)
            self._client.members.fresh(now, opening.settled_ns).on_done(lambda: self._refreshed(opening))
            for origin in list(self._origins.values()):
                self._wish(origin, now, topic)
            self._settle(now)
        return opening.pending

    def read(self, topic: str, now: int, deadline_ns: int) -> Pending[TopicMeta]:
        """Return a topic's view for somebody who reads all of it: LimitExceeded where this client cannot know all."""
        return self.room.check(topic, self.want(topic, now, deadline_ns))

    def _ask_own(self, topic: str, opening: Opening) -> None:
        client = self._client
        asked = client.control(
            Type.METADATA, Metadata([topic]), client.now, opening.deadline_ns, f"metadata of topic {topic!r}"
        )

        def answered() -> None:
            if asked.error is None:
                opening.own = True
                client.note(asked.result().body)
                self._settle(client.now)
            elif self._openings.get(topic) is opening:
                self._close(topic, opening, asked.error)

        asked.on_done(answered)

    def _refreshed(self, opening: Opening) -> None:
        opening.fresh = True
        self._settle(self._client.now)

    def _settle(self, now: int) -> None:
        """Give those who wait their views, where it is time."""
        for topic, opening in list(self._openings.items()):
            heard = opening.own and opening.fresh and self.heard and not self._silent(topic)
            if not heard and now < min(opening.settled_ns, opening.until_ns):
                continue
            view = self.view(topic)
            if view is not None:
                self._close(topic, opening, view)
            elif opening.until_ns <= now:
                late = opening.deadline_ns <= now
                if (heard and self._client.members.settled(now)) or (late and opening.own):
                    self._close(topic, opening, errors.UnknownTopic(topic=topic))
                else:  # Who does not even answer says nothing of topics: _ask_own tells of that.
                    opening.until_ns = now + AGAIN_NS if late else min(now + AGAIN_NS, opening.deadline_ns)

    def _silent(self, topic: str) -> bool:
        """Tell whether one that is there was asked for a topic and has not answered."""
        return any(origin.asked and topic in origin.asked and origin.here for origin in self._origins.values())

    def _close(self, topic: str, opening: Opening, result: TopicMeta | Exception) -> None:
        del self._openings[topic]
        self._client.members.release()
        if isinstance(result, Exception):
            opening.pending.fail(result)
        else:
            opening.pending.resolve(result)

    def evade(self, topic: str, number: int, log: tuple[str, int], leader: int, now: int) -> bool:
        """A partition cannot be read on where it is read: let it be read elsewhere for a while.

        False if nobody else is known. An origin that only its keepers were asked about is asked itself, and may turn
        out to be the one.
        """
        self._routes.shun(log, self.fabric_of(leader), now)
        view = self.view(topic)
        if view is None or all(place.leader == leader for place in view.partitions if place.number == number):
            origin = self._origins.get(log[0])
            if origin is not None and origin.here and topic not in origin.topics and len(self._direct) < EVADING_MAX:
                self._direct.add(origin.fabric)
                self._client.after(now + SHUN_NS, lambda: self._direct.discard(log[0]))
                self._wish(origin, now)
            return False
        self._client.show(topic)
        self._client.after(now + SHUN_NS, lambda: self._client.show(topic))
        return True

    def refresh(self, leader: int, now: int) -> None:
        """Ask the origin of ``leader`` again: something went wrong there."""
        origin = self._by_leader.get(leader)
        if origin is None or origin.asked is not None:
            return
        if origin.retry_ns <= now:
            self._ask(origin, now)
        else:
            self._schedule(origin, origin.retry_ns)

    # For the client.

    def endpoint(self, leader: int) -> str | None:
        """Return where a leader takes requests; None while its origin is not seen."""
        origin, address = self._address(leader)
        return None if address is None else origin.reach(address.endpoint)

    def publish_endpoint(self, leader: int) -> str | None:
        """Return where a leader publishes."""
        origin, address = self._address(leader)
        return None if address is None or not address.publish else origin.reach(address.publish)

    def _address(self, leader: int) -> tuple[Origin, LeaderAddress | None]:
        origin = self._by_leader[leader]
        return origin, origin.addresses.get(leader) if origin.endpoint else None

    def _rehome(self, fabric: str) -> None:
        """The own leader has another disk: what it led is another origin's, and is not to be found there any more."""
        self._client.fabric = fabric
        for topic in self._client.read_topics():
            self._client.forget(topic)
            self._client.show(topic)

    def _changed(self, changes: list[Change]) -> None:
        """The table of members has changed; loads and end offsets do so all the time, and are nothing to readers."""
        if self._client.members.complete and any(_told(change.before) != _told(change.after) for change in changes):
            self.look()

    def look(self) -> None:
        """Take the table of members as the client has it."""
        client = self._client
        for own in (member.card for member in client.members.all() if member.local and not client.observer):
            for topic in client.read_topics() & {shown.name for shown in own.topics}:
                if client.topic(topic) is None:  # Another client has made it there.
                    client.refresh(topic, client.now)
        others = [member for member in client.members.all() if client.observer or not member.local]
        self.learn(
            [Sighting((-member.status, member.incarnation), member.endpoint, member.card) for member in others],
            client.now,
        )

    def learn(self, sightings: Iterable[Sighting], now: int) -> None:
        """Take the table of members as it is now: all of it."""
        self.heard = True
        self._covered.clear()
        self.room.begin()
        here = {fabric for fabric, origin in self._origins.items() if origin.here}
        seen: dict[str, Sighting] = {}
        for sighting in sightings:
            fabric = sighting.card.fabric
            if not fabric or fabric == self._client.fabric or not sighting.endpoint.startswith(("tcp://", "sim://")):
                continue
            known = seen.get(fabric)
            if known is None or sighting.rank > known.rank:
                seen[fabric] = sighting
        for fabric, origin in self._origins.items():
            if fabric not in seen:
                self._place(origin, origin.endpoint, here=False)
        # Of two that say that they are at one place, the more certain one is, then the one that started later.
        ranked = sorted(seen.items(), key=lambda item: item[1].rank)
        holders = {sighting.endpoint: fabric for fabric, sighting in ranked}
        news = [self._see(fabric, each, seen, there=holders[each.endpoint] == fabric) for fabric, each in ranked]
        for new in news:  # Only now: whom to ask depends on all of them.
            if new is not None:
                new.pause_ns, new.retry_ns = PAUSE_NS, now
                self._wish(new, now)
        if here != {fabric for fabric, origin in self._origins.items() if origin.here}:
            for topic in self._client.read_topics():
                self._client.show(topic)  # What is away is read elsewhere, and what is back is read there again.
        self._settle(now)

    def _see(self, fabric: str, sighting: Sighting, seen: Collection[str], *, there: bool) -> Origin | None:
        """Take one member; returns it if it has news."""
        origin = self._origins.get(fabric)
        if origin is None:
            if len(self._origins) >= room.ORIGINS_MAX and not self._make_room(seen):
                self.room.pass_over(sighting.card)
                return None
            origin = self._origins[fabric] = Origin(fabric)
        here = sighting.here and there
        back = here and not origin.here
        hints = frozenset(topic.name for topic in sighting.card.topics)
        changed = hints != origin.hints or sighting.card.more != origin.more
        origin.hints, origin.more = hints, sighting.card.more
        keeps = frozenset(topic.name for topic in sighting.card.topics if topic.kept)
        changed |= keeps != origin.keeps
        origin.keeps = keeps
        moved = there and origin.endpoint != sighting.endpoint and (here or not origin.endpoint)
        self._place(origin, sighting.endpoint if moved else origin.endpoint, here=here)
        return origin if back or moved or changed else None

    def _make_room(self, seen: Collection[str]) -> bool:
        gone = self.room.make(self._origins, seen)
        if gone is not None:
            del self._origins[gone.fabric]
            gone.due_ns = None
            if self._by_endpoint.get(gone.endpoint) is gone:
                del self._by_endpoint[gone.endpoint]
                self._client.requests.leave(gone.endpoint)
        return gone is not None

    def _place(self, origin: Origin, endpoint: str, *, here: bool) -> None:
        requests = self._client.requests
        origin.here = here
        if endpoint != origin.endpoint:
            if self._by_endpoint.get(origin.endpoint) is origin:
                del self._by_endpoint[origin.endpoint]
                requests.leave(origin.endpoint)
            origin.endpoint = endpoint
            self._client.places += 1
            before = self._by_endpoint.get(endpoint)
            if before is not None:
                before.endpoint = ""
            self._by_endpoint[endpoint] = origin
            requests.expect(endpoint, origin.fabric)
            # Its other leaders tell their new places with the next METADATA; leader 0 of a peer is there.
            zero = origin.addresses.get(origin.leaders.get(0, -1))
            if zero is not None:
                origin.addresses[origin.leaders[0]] = LeaderAddress(zero.id, endpoint, "")
        if endpoint:
            requests.be_patient(endpoint, away=not here)

    def _wish(self, origin: Origin, now: int, topic: str = "") -> None:
        """Ask an origin as soon as that may be, if there is something to ask; at once for a ``topic`` that is new."""
        names = self._names(origin)
        if names:
            if origin.retry_ns <= now:
                self._ask(origin, now)
            elif topic in names and origin.pause_ns == PAUSE_NS and origin.asked is None:
                self._ask(origin, now, [topic])  # It answers, and has yet to be asked for this one.
            else:
                self._schedule(origin, origin.retry_ns)

    def _names(self, origin: Origin) -> list[str]:
        wanted = {*self._client.read_topics(), *self._openings}
        return sorted(topic for topic in wanted if origin.may_have(topic) and not self._is_covered(origin, topic))

    def _is_covered(self, origin: Origin, topic: str) -> bool:
        """Tell whether keepers tell all about a topic's partitions at an origin, or have yet to be asked about it."""
        if topic in origin.keeps or origin.fabric in self._direct:
            return False
        if topic not in self._covered:
            self._covered[topic] = self._cover(topic)
        covered = self._covered[topic]
        return covered is None or origin.fabric in covered

    def _cover(self, topic: str) -> frozenset[str] | None:
        """Return the origins of a topic that need not be asked themselves; None while that is not known."""
        there = [origin for origin in self._origins.values() if origin.here and topic in origin.hints]
        keepers = [origin.topics.get(topic) for origin in there if topic in origin.keeps]
        return frozenset() if len(there) <= DIRECT_MAX else covered(keepers)

    def _ask(self, origin: Origin, now: int, some: list[str] | None = None) -> None:
        """Ask an origin for what it has of the topics that are read, or of some of them."""
        names = some or self._names(origin)
        origin.due_ns = None
        if origin.asked is not None or not names or not origin.endpoint:
            return
        origin.asked = names
        asked = self._client.requests.call(
            origin.endpoint, Type.METADATA, Metadata(names), now, now + ASK_NS, "metadata", ASK_NS / 1e9
        )
        asked.on_done(lambda: self._answered(origin, asked))

    def _answered(self, origin: Origin, asked: Pending[Command]) -> None:
        names, origin.asked = origin.asked or [], None
        now = self._client.now
        body: MetadataIs | None = None if asked.error is not None else asked.result().body
        if body is None or body.fabric != origin.fabric:
            origin.postpone(now)
            self._schedule(origin, origin.retry_ns)
            self._settle(now)
            return
        origin.pause_ns = PAUSE_NS
        origin.retry_ns = now + PAUSE_NS
        # At once if somebody wants another one since.
        self._schedule(origin, origin.retry_ns if set(self._names(origin)) - set(names) else now + AGE_NS)
        self.take(origin, body)
        if origin.keeps.intersection(names):
            for other in list(self._origins.values()):  # Those of which no keeper knows are asked themselves.
                if other.asked is None and other.due_ns is None and not other.topics:
                    self._wish(other, now)
        self._settle(now)

    def take(self, origin: Origin, body: MetadataIs) -> None:
        """Take over what an origin says of its topics, and show it to readers: soon, since many may say something."""
        news = [name for name in body.unknown if origin.topics.pop(name, None) is not None]
        for address in body.leaders:
            if self._note_leader(origin, address):
                news += origin.topics
        for meta in body.topics:
            held = {place.leader for place in meta.partitions} | {place.leader for place in meta.kept}
            if held <= origin.leaders.keys() and origin.topics.get(meta.name) != meta:
                origin.topics[meta.name] = meta
                news.append(meta.name)
                if meta.kept:
                    self._covered.pop(meta.name, None)
        if origin.keeps and news:
            self._covered.clear()
        self._news.update(news)
        if news and self._news_ns is None:
            self._news_ns = self._client.now + min(len(self._origins) * NEWS_ORIGIN_NS, NEWS_MAX_NS)

    def _note_leader(self, origin: Origin, address: LeaderAddress) -> bool:
        """Take over where a leader is; tells whether that is new."""
        number = origin.leaders.get(address.id)
        if number is None:
            number = origin.leaders[address.id] = self._next
            self._next += 1
            self._by_leader[number] = origin
        new = origin.addresses.get(number) != address
        self._client.places += new
        origin.addresses[number] = address
        endpoint = self.endpoint(number)
        if endpoint is not None and endpoint != origin.endpoint:
            self._client.requests.expect(endpoint, origin.fabric)
        return new

    def note_own(self, body: MetadataIs) -> None:
        """The own leader 0 tells of its topics: of some it may have nothing but copies."""
        for name in (*body.unknown, *(meta.name for meta in body.topics)):
            self._kept.pop(name, None)
        every = self._client.observer
        self._kept.update((meta.name, meta) for meta in body.topics if every or not meta.partitions)

    def forget_own(self) -> None:
        """Leader 0 is another one's from now on."""
        self._kept.clear()

    def tick(self, now: int) -> None:
        """Ask whom it is time to ask."""
        due = []
        while self._queue and self._queue[0][0] <= now:
            at_ns, _, origin = heappop(self._queue)
            if origin.due_ns == at_ns:
                due.append(origin)
        for origin in due:
            if origin.due_ns is not None and origin.due_ns <= now:
                self._ask(origin, now)
        if self._news_ns is not None and self._news_ns <= now:
            self._news_ns = None
            news, self._news = self._news, set()
            for name in sorted(news):
                self._client.show(name)
        if self._openings:
            self._settle(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        while self._queue and self._queue[0][2].due_ns != self._queue[0][0]:
            heappop(self._queue)
        nearest = self._queue[0][0] if self._queue else None
        if self._news_ns is not None and (nearest is None or self._news_ns < nearest):
            nearest = self._news_ns
        for opening in self._openings.values():
            for wanted in (opening.settled_ns, opening.until_ns):
                if wanted > self._client.now and (nearest is None or wanted < nearest):
                    nearest = wanted
        return nearest

    def _schedule(self, origin: Origin, at_ns: int) -> None:
        """Ask an origin then; what stands in the queue for another time counts no more."""
        if origin.due_ns != at_ns:
            origin.due_ns = at_ns
            self._scheduled += 1
            heappush(self._queue, (at_ns, self._scheduled, origin))

    def here(self, leader: int) -> bool:
        """Tell whether the origin of a leader is there, as far as one knows."""
        return leader < OWN_LEADERS or self._by_leader[leader].here

    def fabric_of(self, leader: int) -> str:
        """Return the id of the origin of a leader."""
        return self._client.fabric if leader < OWN_LEADERS else self._by_leader[leader].fabric

    def known(self) -> list[Origin]:
        """Return all of them, in order of their fabric ids."""
        return [self._origins[fabric] for fabric in sorted(self._origins)]
