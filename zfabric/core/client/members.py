"""The client's copy of what leader 0 knows of its mesh: members, their cards, and services announced at leader 0.

One question is under way at a time and asks for what changed since the last answer, so asking often costs little.

- Nobody uses the copy: nothing is asked.
- Somebody does (:meth:`Members.use`): asked a second after each answer; in one that could not be had as well.
- Somebody has reason to doubt it (a connection to a member broke): asked at once, but not within 50 ms of the last
  question.
- A caller wants to know what is true now (:meth:`Members.fresh`): it gets the answer to a question of its own.
  Where that has to wait for the end of another one, it waits for no longer than it said.

A table of another run takes the old one's place when all of it is there, and whoever listens is told the differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zfabric import errors
from zfabric.core.client.overdue import overdue
from zfabric.core.client.pending import Pending
from zfabric.model import MemberChange, MemberChangeKind, MemberInfo, MemberService, MemberState, MemberTopic
from zfabric.wire import card as cards
from zfabric.wire import membership
from zfabric.wire.card import DRAINING, GROUP_PREFIX, Card, ServiceCard
from zfabric.wire.gossip import Status
from zfabric.wire.messages import Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

REFRESH_NS: Final = 1_000_000_000
DOUBT_NS: Final = 50_000_000
ASK_NS: Final = 2_000_000_000
JOIN_NS: Final = 3_000_000_000
FORGOTTEN: Final = 4
WHAT: Final = "members of the mesh"
MEMBERS_MAX: Final = 100_000
STATES: Final[tuple[MemberState, ...]] = ("alive", "suspect", "failed", "left")


class Known(NamedTuple):
    """One member as leader 0 sees it.

    Attributes:
        id: 16 bytes. status: a :class:`~zfabric.wire.gossip.Status`. endpoint: as a client here reaches it.
        card: what it says of itself; an empty one where that cannot be read, or is another's.
        round_trip_us: 0 where not measured. since_ms: when the status began, or another process took its place, ms
            since 1970 of leader 0's clock. instance: number of its process, 0 where not known.
        local: it is leader 0 itself. mesh: its name, "" without one.
    """

    id: bytes
    status: int
    incarnation: int
    endpoint: str
    card: Card
    round_trip_us: int
    since_ms: int
    local: bool
    mesh: str = ""
    instance: int = 0

    @property
    def living(self) -> bool:
        """Whether it is thought to live."""
        return self.status <= Status.SUSPECT


class Change(NamedTuple):
    """A difference between two states of the copy: ``before`` is None for a new member, ``after`` for a forgotten."""

    kind: MemberChangeKind
    before: Known | None
    after: Known | None


Listener = Callable[[list[Change]], None]
"""Called after an answer that changed something; with no changes where only the services of leader 0 did."""


class Members:
    """All members.

    Attributes:
        mesh: its name, "" without one. complete: whether the whole table was read once.
        services: instances announced at leader 0.
        listeners: told of changes. They may not raise.
        heard_ns: when the last answer came (monotonic); 0 before the first.
    """

    def __init__(self, client: Client) -> None:
        self.mesh = ""
        self.complete = False
        self.services: list[ServiceCard] = []
        self.listeners: list[Listener] = []
        self.heard_ns = 0
        self._client = client
        self._complete_ns = 0
        self._known: dict[bytes, Known] = {}
        self._new: dict[bytes, Known] | None = {}
        self._run = 0
        self._version = 0
        self._users = 0
        self._asking = False
        self._asked_ns = -DOUBT_NS
        self._due_ns: int | None = None
        self._waiting: list[tuple[Pending[None], int, float]] = []

    # For whoever uses the copy.

    def all(self) -> list[Known]:
        """Return all members."""
        return list(self._known.values())

    def ends(self, topic: str) -> dict[str, int]:
        """Return end offsets, as of some seconds ago, of a topic's only partitions, by the fabrics that lead them."""
        return {
            member.card.fabric: shown.end
            for member in self._known.values()
            for shown in member.card.topics
            if shown.name == topic and shown.partitions == 1
        }

    def settled(self, now: int) -> bool:
        """Tell whether what is not known is not there: not so in a client that has just begun.

        Until the table has come, or nobody else is known in a mesh, which may be about to be joined: for ``JOIN_NS``.
        """
        if not self.complete or not self.mesh or now - self._complete_ns >= JOIN_NS:
            return self.complete
        return any(member.living and not member.local for member in self._known.values())

    def get(self, member: bytes) -> Known | None:
        """Return one member."""
        return self._known.get(member)

    def use(self, now: int) -> None:
        """Keep the copy fresh until :meth:`release`; counted."""
        self._users += 1
        if self._users == 1:
            self._want(now)

    def release(self) -> None:
        """One user fewer."""
        assert self._users > 0
        self._users -= 1

    @property
    def used(self) -> bool:
        """Whether it is kept fresh."""
        return self._users > 0

    def doubt(self, now: int) -> None:
        """Something does not fit what is known: ask soon, if anybody uses the copy."""
        if self._users:
            self._want(max(now, self._asked_ns + DOUBT_NS))

    def fresh(self, now: int, deadline_ns: int) -> Pending[None]:
        """Return what comes when the copy is as leader 0 sees it after this call, or the error that prevented it."""
        pending: Pending[None] = Pending()
        seconds = (deadline_ns - now) / 1e9
        self._waiting.append((pending, deadline_ns, seconds))
        if self._asking:  # For somebody who may have more time.
            self._client.after(deadline_ns, lambda: self._give_up(pending, seconds))
        else:
            self._ask(now)
        return pending

    def _give_up(self, pending: Pending[None], seconds: float) -> None:
        if not pending.done:
            connection = self._client.requests.connections.get(self._client.bootstrap)
            pending.fail(overdue(connection, self._client.url, WHAT, seconds))

    def lack(self, topic: str, pending: Pending[Any], now: int) -> None:
        """Fail what waits for a topic that the own fabric does not have, saying who in its mesh shows one."""
        known = self.fresh(now, now + ASK_NS)
        known.on_done(lambda: pending.fail(self.lacking(topic)))

    def lacking(self, topic: str) -> errors.UnknownTopic:
        """Return the error that tells of such a topic what the copy knows."""
        for member in self._known.values():
            if member.living and not member.local and any(shown.name == topic for shown in member.card.topics):
                place = member.endpoint.removeprefix("tcp://")
                return errors.UnknownTopic(
                    topic=topic,
                    elsewhere=f"; member {place} of mesh {self.mesh!r} has one: connect to it, or read what all "
                    f"members have through 'zf+peer://{self.mesh}?role=client&seed={place}'",
                )
        return errors.UnknownTopic(topic=topic)

    # For the client.

    def tick(self, now: int) -> None:
        """Ask if it is time."""
        if self._due_ns is not None and self._due_ns <= now and not self._asking:
            self._due_ns = None
            if self._users:
                self._ask(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next."""
        return None if self._asking or not self._users else self._due_ns

    def _want(self, at_ns: int) -> None:
        self._due_ns = at_ns if self._due_ns is None else min(self._due_ns, at_ns)

    # Questions.

    def _ask(self, now: int) -> None:
        waiting, self._waiting = [waiter for waiter in self._waiting if not waiter[0].done], []
        self._asking = True
        self._asked_ns = now
        deadline_ns = max((deadline for _, deadline, _ in waiting), default=now + ASK_NS)
        self._ask_for(now, deadline_ns, [(pending, seconds) for pending, _, seconds in waiting])

    def _ask_for(self, now: int, deadline_ns: int, waiting: list[tuple[Pending[None], float]]) -> None:
        body = membership.Members(self._run, self._version)
        asked = self._client.control(Type.MEMBERS, body, now, deadline_ns, WHAT)

        def answered() -> None:
            error = asked.error
            again = error is None and self._check(asked.result().body)
            anchor = self._client.anchor
            if anchor is not None and not anchor.sure:
                error = anchor.wrong or error
            if again or (error is None and self._take(asked.result().body)):
                self._ask_for(self._client.now, deadline_ns, waiting)
                return
            self._asking = False
            for pending, seconds in waiting:
                if isinstance(error, errors.Unreachable | errors.RequestTimeout):
                    # That question may have begun, when the one before it ended, with hardly any time left.
                    pending.fail(type(error)(**{**error.values, "seconds": seconds}))
                elif error is not None:
                    pending.fail(error)
                else:
                    pending.resolve(None)
            if anchor is not None and error is None:
                anchor.settle(self._client.now)  # Last: not while somebody waits for it.
            if self._users:
                self._want(self._client.now + REFRESH_NS)
            if self._waiting and not self._asking:
                self._ask(self._client.now)

        asked.on_done(answered)

    # Answers.

    def _check(self, body: membership.MembersAre) -> bool:
        """Tell whether the answer is one of another mesh than is meant, and somebody else to be asked."""
        anchor = self._client.anchor
        return anchor is not None and anchor.check(body.mesh, self._client.now)

    def _take(self, body: membership.MembersAre) -> bool:
        """Take over an answer; tells whether there is more to ask for."""
        self.heard_ns = self._client.now
        again = body.run != self._run
        if again:
            self._new = {}
        known = self._known if self._new is None else self._new
        advanced = again or body.version > self._version
        self._run, self._version, self.mesh = body.run, body.version, body.mesh
        changes: list[Change] = []
        for entry in body.members:
            after = None if entry.status == FORGOTTEN else self._read(entry, local=entry.id == body.me)
            if self._new is None:
                changes += _difference(known.get(entry.id), after)
            if after is None:
                known.pop(entry.id, None)
            elif entry.id in known or len(known) < MEMBERS_MAX:
                known[entry.id] = after
        offered = body.services is not None and body.services != self.services
        if body.services is not None:
            self.services = body.services
        if body.more and advanced:
            self._tell(changes, offered=offered)
            return True
        if self._new is not None:
            new, self._new = self._new, None
            for member in [*new, *(gone for gone in self._known if gone not in new)]:
                changes += _difference(self._known.get(member), new.get(member))
            self._known = new
            self._complete_ns = self._complete_ns if self.complete else self._client.now
            self.complete = True
        self._tell(changes, offered=offered)
        return False

    def _tell(self, changes: list[Change], *, offered: bool) -> None:
        if changes or offered:
            for listener in list(self.listeners):
                listener(changes)

    def _read(self, entry: membership.MemberIs, *, local: bool) -> Known:
        endpoint = self._client.reach(entry.endpoint)
        card = cards.read(entry.metadata) or Card()
        if card.fabric and cards.member_of(card.fabric) != entry.id:
            card = Card()  # It claims to be another member: nothing of that is believed.
        return Known(
            entry.id, entry.status, entry.incarnation, endpoint, card,
            entry.round_trip_us, entry.since_ms, local, self.mesh, entry.instance,
        )  # fmt: skip


def _difference(before: Known | None, after: Known | None) -> list[Change]:
    """Return how a member has changed, if that is more than its round trip or the number of its last statement."""
    if before is None:
        return [] if after is None else [Change("joined" if after.living else _ended(after), None, after)]
    if after is None:
        return [Change("forgotten", before, None)]
    kind: MemberChangeKind
    restarted = before.instance != after.instance and after.living
    if restarted and (before.status, after.status) != (Status.ALIVE, Status.SUSPECT):
        kind = "returned"
    elif before.status != after.status:
        if after.status == Status.SUSPECT:
            kind = "suspected"
        elif after.status == Status.ALIVE:
            kind = "recovered" if before.status == Status.SUSPECT else "returned"
        else:
            kind = _ended(after)
    elif before.card != after.card or before.endpoint != after.endpoint:
        kind = "updated"
    else:
        return []
    return [Change(kind, before, after)]


def first(known: Known) -> Change:
    """Return what whoever begins to watch is told of a member."""
    return _difference(None, known)[0]


def _ended(member: Known) -> MemberChangeKind:
    return "failed" if member.status == Status.FAILED else "left"


def info(member: Known) -> MemberInfo:
    """Return a member as the SDK shows it."""
    card = member.card
    return MemberInfo(
        id=member.id.hex(),
        state=STATES[member.status],
        incarnation=member.incarnation,
        endpoint=member.endpoint,
        kind=card.kind,
        host=card.host,
        zone=card.zone,
        fabric=card.fabric,
        round_trip=member.round_trip_us / 1e6 if member.round_trip_us else None,
        load=card.load,
        since=member.since_ms,
        local=member.local,
        topics=[MemberTopic(name=t.name, partitions=t.partitions, end=t.end, epoch=t.epoch) for t in card.topics],
        services=[
            MemberService(
                name=s.name,
                version=s.version,
                endpoint=s.endpoint,
                instance=s.instance,
                weight=s.weight,
                draining=bool(s.flags & DRAINING),
            )
            for s in card.services
            if not s.name.startswith(GROUP_PREFIX)
        ],
        more=card.more,
        mesh=member.mesh,
        instance=f"{member.instance:016x}" if member.instance else "",
    )


def change(found: Change) -> MemberChange:
    """Return a change as the SDK shows it; a member that is forgotten with what was known last."""
    member = found.after or found.before
    assert member is not None
    return MemberChange(kind=found.kind, member=info(member))


def shown(known: list[Known]) -> list[MemberInfo]:
    """Return members as the SDK shows them, sorted by host and endpoint."""
    return sorted(map(info, known), key=lambda member: (member.host, member.endpoint))
