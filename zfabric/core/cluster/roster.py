"""Who is in this mesh, for clients to ask: the table behind MEMBERS and ANNOUNCE, hosted by leader 0 beside placement.

Gossip (where there is any) hands in members as its events bring them. Without a mesh the table has one member, the one
that it is about itself, so clients need no other way to find services where there is a single node.

**Versions.** Each change of an entry takes the next version, and entries are kept in the order of theirs, so what
changed after a given one is the table's end. A forgotten member leaves a tombstone; when there are a thousand, all are
dropped under a new ``run``, and every client reads the whole table once. Another run is also what a restart brings.

**Leases.** An instance of a service is there until its lease ends or it says that it has ended. At most
``SERVICES_MAX`` are: one more is refused, since forgetting another one would take it from its callers. Only a client
that has at least two fewer than the one with most takes a place from that one, its latest: so nobody can fill the table
alone, and what a client has within its fair share stays. The card has room for some; clients have it in turns. While an
instance is there, its number is not taken for another endpoint from another client.

**The card** says what this member leads and offers. Topics and services change it at once. End offsets and load go
onto it when they are reported: every 10 s, or as many seconds as there are members, so that all members of a mesh
together report about once a second. A report is a change of the card, some 300 bytes that each member passes on
``3 ln(n + 1)`` times: 8 KB a second and member in a mesh of 10,000. It is no change while the end offsets stay and
the load moves by less than five percent of a core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from operator import itemgetter
from typing import Final

import msgspec

from zfabric import errors
from zfabric.settings import MEMBERS_TOLD_MAX, SERVICES_MAX, check_name
from zfabric.wire import card as cards
from zfabric.wire.card import Card, ServiceCard, TopicCard
from zfabric.wire.gossip import Member, Status
from zfabric.wire.membership import Announce, MemberIs, Members, MembersAre
from zfabric.wire.metadata import TopicMeta

FORGOTTEN: Final = 4
"""Status of a member that is told for the last time."""
TOMBSTONES_MAX: Final = 1_000
HEARD_MAX: Final = 10_000
"""Members known by what keepers say alone: as many as gossip holds."""
REPORT_NS: Final = 10_000_000_000
REPORT_MEMBER_NS: Final = 1_000_000_000
LOAD_STEP: Final = 5
CARD_TOPICS_MAX: Final = 128
CARD_SERVICES_MAX: Final = 64
"""More never fit a card: how many are tried."""


class _Lease(msgspec.Struct):
    service: ServiceCard
    until: int
    client: bytes


class Roster:
    """The members of one mesh as leader 0 knows them, itself among them.

    Args:
        run: drawn at random by each start, 1 to 2**63 - 1. endpoint: where this member takes requests.
        card: what it says of itself for good: kind, host, zone, publish, software. mesh: its name, "" without one.

    Attributes:
        mesh: as given. me: own id, 16 bytes made of the fabric's, so that a directory keeps it for ever.
        instance: number of this process, another one after each start. metadata: own card as it travels.
        asked_ns: when a client last asked for members (monotonic ns).
    """

    def __init__(self, run: int = 1, endpoint: str = "", card: Card | None = None, *, mesh: str = "") -> None:
        self.mesh = mesh
        self.me = bytes(16)
        self.metadata = b""
        self.asked_ns = 0
        self.instance = run
        self._run = run
        self._endpoint = endpoint
        self._card = card or Card()
        self._incarnation = 1
        self._version = 0
        self._entries: dict[bytes, tuple[int, MemberIs]] = {}
        self._tombstones = 0
        self._living = 0
        self._heard: set[bytes] = set()
        self._leases: dict[tuple[str, int], _Lease] = {}
        self._held: Counter[bytes] = Counter()
        self._services_version = 0
        self._now = 0
        self._wall_ms = 0
        self._since_ms = 0
        self._expires: int | None = None
        self._report_due = 0

    def begin(self, fabric: str) -> None:
        """The fabric's id is known: this member is somebody."""
        if self._card.fabric != fabric:
            self._forget(self.me)
            self.me = cards.member_of(fabric)
            self._card = msgspec.structs.replace(self._card, fabric=fabric)
            self._renew()

    def clock(self, now: int, wall_ms: int) -> None:
        """Note the time (monotonic ns, ms since 1970), and end the leases that are over."""
        self._now, self._wall_ms = now, wall_ms
        if not self._since_ms:
            self._since_ms = wall_ms
            self._renew()
        if self._expires is not None and self._expires <= now:
            ended = [key for key, lease in self._leases.items() if lease.until <= now]
            for key in ended:
                self._release(key)
            self._expires = min((lease.until for lease in self._leases.values()), default=None)
            if ended:
                self._offer()

    # What others say.

    def note(self, member: Member) -> None:
        """Take what gossip says of a member now."""
        if member.id == self.me:
            return
        _, known = self._entries.get(member.id, (0, None))
        if member.id in self._heard:
            if known is not None and known.incarnation > member.incarnation:
                return
            self._heard.discard(member.id)
        same = known is not None and (known.status, known.instance) == (member.status, member.instance)
        since = known.since_ms if known is not None and same else self._wall_ms
        # Nobody is there to be measured; who comes back may be another process, on another machine.
        took = known.round_trip_us if known is not None and member.status <= Status.SUSPECT else 0
        self._put(
            MemberIs(
                member.id, member.status, member.incarnation, member.endpoint, member.metadata,
                took, since, member.instance,
            )
        )  # fmt: skip

    def measured(self, member: bytes, round_trip_us: int) -> None:
        """Take the time that a probe took; one that is about the known one changes nothing."""
        _, known = self._entries.get(member, (0, None))
        if known is not None and abs(round_trip_us - known.round_trip_us) * 2 > known.round_trip_us:
            self._put(msgspec.structs.replace(known, round_trip_us=round_trip_us))

    def forget(self, member: bytes) -> None:
        """Gossip knows nothing of a member any more."""
        if member != self.me and member not in self._heard:
            self._forget(member)

    def ids(self) -> list[bytes]:
        """Return the ids of all members but this one that gossip knows."""
        return [
            entry.id
            for _, entry in self._entries.values()
            if entry.id != self.me and entry.status != FORGOTTEN and entry.id not in self._heard
        ]

    # What a keeper says of others (``hearsay.py``).

    def hear(self, told: MemberIs) -> None:
        """Take what a keeper says of a member, unless gossip has something as new."""
        _, known = self._entries.get(told.id, (0, None))
        if told.id == self.me:
            return
        if known is not None and known.status != FORGOTTEN and told.id not in self._heard:
            if told.status == FORGOTTEN or told.incarnation <= known.incarnation:
                return
        elif told.status == FORGOTTEN:
            self._unhear(told.id)
            return
        if len(self._heard) >= HEARD_MAX and told.id not in self._heard:
            return
        self._heard.add(told.id)
        entry = msgspec.structs.replace(told, round_trip_us=0)  # That is the keeper's.
        if entry != known:
            self._put(entry)

    def hear_only(self, listed: set[bytes]) -> None:
        """Forget what was heard of others than these."""
        for member in self._heard - listed:
            self._unhear(member)

    def doubt_heard(self) -> None:
        """Nobody vouches any more for what was heard: who was alive is suspect."""
        for member in self._heard:
            _, known = self._entries[member]
            if known.status == Status.ALIVE:
                self._put(msgspec.structs.replace(known, status=Status.SUSPECT))

    def _unhear(self, member: bytes) -> None:
        if member in self._heard:
            self._heard.discard(member)
            self._forget(member)

    def _put(self, entry: MemberIs) -> None:
        before = self._entries.pop(entry.id, None)
        if entry.id != self.me:
            self._living += _lives(entry) - (before is not None and _lives(before[1]))
        self._tombstones += (entry.status == FORGOTTEN) - (before is not None and before[1].status == FORGOTTEN)
        self._version += 1
        self._entries[entry.id] = self._version, entry
        if self._tombstones > TOMBSTONES_MAX:
            self._run = self._run % ((1 << 63) - 1) + 1
            self._tombstones = 0
            self._entries = {key: told for key, told in self._entries.items() if told[1].status != FORGOTTEN}

    def _forget(self, member: bytes) -> None:
        _, known = self._entries.get(member, (0, None))
        if known is not None and known.status != FORGOTTEN:
            self._put(MemberIs(member, FORGOTTEN, known.incarnation, "", b"", 0, self._wall_ms))

    # What this member says of itself.

    def incarnate(self, incarnation: int) -> None:
        """Gossip has given this member's statements a new number."""
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            self._renew()

    def move(self, endpoint: str, publish: str) -> None:
        """This member is reached elsewhere from now on."""
        self._endpoint = endpoint
        self._card = msgspec.structs.replace(self._card, publish=publish)
        self._renew()

    def lead(self, topics: Iterable[TopicCard]) -> None:
        """Say which topics are led here, and how far they are."""
        tried = list(topics)
        more = len(tried) > CARD_TOPICS_MAX
        card = msgspec.structs.replace(self._card, topics=tried[:CARD_TOPICS_MAX], more=more)
        if card != self._card:
            self._card = card
            self._renew()

    @property
    def wants_report(self) -> bool:
        """Whether it is time for :meth:`report`."""
        return self._now >= self._report_due

    def report(self, load: int) -> None:
        """Note the load (percent of one core), if it has changed so that others may want to know."""
        self._report_due = self._now + max(REPORT_NS, REPORT_MEMBER_NS * (self._living + 1))
        load = min(max(load, 0), (1 << 16) - 1)
        if abs(load - self._card.load) >= LOAD_STEP:
            self._card = msgspec.structs.replace(self._card, load=load)
            self._renew()

    def announce(self, body: Announce, client: bytes) -> None:
        """Take an instance's word that it is there, or has ended; ``client`` is the connection that it came over.

        Raises:
            InvalidArgument: a name, version or endpoint that cannot be one, or the number of another instance.
            LimitExceeded: there are too many, and this client has its share.
        """
        service = body.service
        key = service.name, service.instance
        known = self._leases.get(key)
        foreign = known is not None and known.client != client and known.service.endpoint != service.endpoint
        if body.lease_ms == 0:
            if known is not None and not foreign:
                self._release(key)
                self._offer()
            return
        check_name("service", service.name)
        _check_text("version", service.version, empty=True)
        _check_text("endpoint", service.endpoint, empty=False)
        if foreign:
            allowed = "a number of its own, drawn at random: an instance with another endpoint has this one"
            raise errors.InvalidArgument(name="service instance", value=f"{service.instance:x}", allowed=allowed)
        if known is None:
            self._make_room(client)
        else:
            self._holds(known.client, -1)
        self._holds(client, 1)
        until = self._now + body.lease_ms * 1_000_000
        if known is not None and known.service == service:
            known.until, known.client = until, client
        else:
            self._leases[key] = _Lease(service, until, client)
            self._offer()
        self._expires = until if self._expires is None else min(self._expires, until)

    def _make_room(self, client: bytes) -> None:
        """One lease more is wanted: see that there is room, if need be one fewer of whoever has most."""
        if len(self._leases) < SERVICES_MAX:
            return
        [(greedy, most)] = self._held.most_common(1)
        if self._held[client] + 1 >= most:
            raise errors.LimitExceeded(
                what="instances of services at one leader", value=len(self._leases) + 1, limit=SERVICES_MAX
            )
        self._release(next(key for key in reversed(self._leases) if self._leases[key].client == greedy))

    def _release(self, key: tuple[str, int]) -> None:
        self._holds(self._leases.pop(key).client, -1)

    def _holds(self, client: bytes, more: int) -> None:
        self._held[client] += more
        if not self._held[client]:
            del self._held[client]

    def _offer(self) -> None:
        """What is offered here has changed."""
        self._renew()
        self._services_version = self._version

    def _renew(self) -> None:
        services = self._in_turns()
        more = self._card.more or len(services) > CARD_SERVICES_MAX
        card = msgspec.structs.replace(self._card, services=services[:CARD_SERVICES_MAX], more=more)
        self.metadata = cards.fitting(card)
        self._put(
            MemberIs(
                self.me, Status.ALIVE, self._incarnation, self._endpoint, self.metadata,
                0, self._since_ms, self.instance,
            )
        )  # fmt: skip

    def _in_turns(self) -> list[ServiceCard]:
        """Return the services as the card shows them while it has room: each client's first, then each one's second."""
        before: Counter[bytes] = Counter()
        ranked = []
        for lease in self._leases.values():
            ranked.append((before[lease.client], lease.service))
            before[lease.client] += 1
        return [service for _, service in sorted(ranked, key=itemgetter(0))]

    # What clients ask.

    def serve(self, asked: Members) -> MembersAre:
        """Answer a client."""
        self.asked_ns = self._now
        return self.answer(asked)

    def answer(self, asked: Members) -> MembersAre:
        """Return what changed after what the client has, as much as fits one answer."""
        since = asked.since if asked.run == self._run and asked.since <= self._version else 0
        newer: list[tuple[int, MemberIs]] = []
        for told in reversed(self._entries.values()):
            if told[0] <= since:
                break
            newer.append(told)
        newer.reverse()
        more = len(newer) > MEMBERS_TOLD_MAX
        del newer[MEMBERS_TOLD_MAX:]
        changed = self._services_version > since or since == 0
        services = [lease.service for lease in self._leases.values()] if changed else None
        return MembersAre(
            self._run, newer[-1][0] if more else self._version, self.mesh, self.me,
            [entry for _, entry in newer if since or entry.status != FORGOTTEN], more, services,
        )  # fmt: skip


def _lives(entry: MemberIs) -> bool:
    return entry.status <= Status.SUSPECT


def _check_text(name: str, text: str, *, empty: bool) -> None:
    if not (text or empty) or not text.isascii() or not text.isprintable() or " " in text:
        allowed = "printable ASCII characters without blanks"
        raise errors.InvalidArgument(name=f"service {name}", value=repr(text)[:100], allowed=allowed)


def topic_cards(topics: Iterable[TopicMeta], ends: Mapping[int, int], epoch: int) -> list[TopicCard]:
    """Return what a card says of topics.

    Args:
        ends: end offsets by partition id, as far as they are known. epoch: of the leader.
    """
    made = []
    for meta in islice(topics, CARD_TOPICS_MAX + 1):
        end = sum(ends.get(place.id, 0) for place in meta.partitions)
        made.append(TopicCard(meta.name, len(meta.partitions), end, epoch, min(len(meta.kept), (1 << 16) - 1)))
    return made
