"""A consumer's share in its group, without a coordinator: each member computes it from the members that it sees.

A member of a group is a consumer that reads a topic for it, known by a number drawn at random. It announces itself at
its leader 0 as services do, under a name that is made of the group and the topic, and gossip carries that to everybody.
Which partitions are whose is :func:`zfabric.core.assignment.owner` of the members seen: equal members, equal shares.

Members see a change at different times, so each goes through::

    reading --members changed--> giving up --what was processed is committed--> waiting --all agree--> reading

- *Giving up*: partitions that are another one's now are read no more. That begins when the application comes back for
  more, because then it has processed what it got; what it has processed is committed before anything else.
- *Waiting*: what it announces says for which members it has computed (a hash of them). Once all of them say the same,
  everybody has given up what it had to, and what is new here is read from what is committed. It waits for at most
  :data:`PATIENCE_NS`: one that does not come back for so long cannot hold up the others. If members have only gone,
  their partitions are nobody's, and there is nothing to wait for.
- A card has room for about fifteen members at one peer. One that has more says so, and that peer is asked for the rest
  every second.
- The first time, it waits :data:`JOIN_NS` for news of others if there may be any, and has nothing to give up.

That is **at least once**: between two commits of the same partition, records may be read again by another member. It
happens when one dies (what it had not committed), when one did not come back in time, and when the mesh is divided:
then each part is a group of its own. Nothing is left out, since nobody begins behind what is committed; where nothing
was committed yet and the start is "latest", whoever is the first to take a partition up commits its
end before it reads.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_hexdigest

from zfabric.core.assignment import owner
from zfabric.core.client.agenda import Chore
from zfabric.core.client.completion import Completion
from zfabric.core.client.members import Change
from zfabric.wire.card import GROUP_PREFIX, ServiceCard
from zfabric.wire.membership import Announce
from zfabric.wire.messages import Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.consumer import Consumer

LEASE_MS: Final = 1_500
RENEW_NS: Final = 400_000_000
JOIN_NS: Final = 1_000_000_000
PATIENCE_NS: Final = 3_000_000_000
LOOK_NS: Final = 100_000_000
"""Between two looks at the table of members while something is waited for."""
COMMIT_NS: Final = 2_000_000_000
REST_NS: Final = 1_000_000_000


def service_name(topic: str, group: str) -> str:
    """Return the name under which the members of a group that read a topic announce themselves."""
    return GROUP_PREFIX + xxh3_64_hexdigest(f"{topic}/{group}".encode())


def agreement(members: Collection[int]) -> str:
    """Return what a member says that has computed the shares of these members."""
    return xxh3_64_hexdigest(",".join(map(str, sorted(members))).encode())[:12]


class Share(Chore):
    """The share of one consumer.

    Attributes:
        me: this member's number.
    """

    def __init__(self, client: Client, consumer: Consumer, topic: str, group: str) -> None:
        self.me = client.random.getrandbits(62) + 1
        self._client = client
        self._consumer = consumer
        self._name = service_name(topic, group)
        self._applied: frozenset[int] | None = None
        self._settled = False
        self._giving = False
        self._announcing = False
        self._said = ""
        self._renew_ns: int | None = None
        self._join_ns = 0
        self._patience_ns = 0
        self._look_ns: int | None = None
        self._rest = Completion(client, REST_NS, self._doubted)
        self._others: dict[int, str] | None = None

    # For the consumer.

    def start(self, now: int) -> None:
        """Take part from now on."""
        members = self._client.members
        members.use(now)
        members.listeners.append(self._changed)
        others = sum(1 for member in members.all() if member.living and not member.local)
        self._join_ns = now + JOIN_NS if others or not members.complete else now
        self._announce(now)
        self._step(now)

    def stop(self) -> None:
        """Leave: the others share what was read here."""
        if self._renew_ns is None:
            return
        self._renew_ns = None
        members = self._client.members
        members.listeners.remove(self._changed)
        members.release()
        self._say(0, self._client.now)

    def reads(self, number: int) -> bool:
        """Tell whether a partition is this member's to begin with now."""
        return self._settled and self._applied is not None and owner(number, self._applied) == self.me

    def returned(self) -> None:
        """The application has come back for more."""
        if self._renew_ns is not None:
            self._step(self._client.now)

    def tick(self, now: int) -> None:
        """Do what is due."""
        if self._renew_ns is None:
            return
        if self._renew_ns <= now:
            self._announce(now)
            for member in self._client.members.all():
                if member.living:
                    self._rest.services(member, now)
        if self._look_ns is not None and self._look_ns <= now:
            self._step(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        wanted = [at_ns for at_ns in (self._renew_ns, self._look_ns) if at_ns is not None]
        return min(wanted, default=None) if self._renew_ns is not None else None

    # Seeing.

    def _seen(self) -> dict[int, str]:
        """Return the members of the group, and for whom each has computed."""
        if self._others is None:  # As long as nobody has changed, at each poll of a busy application.
            members, now = self._client.members, self._client.now
            cards: list[ServiceCard] = list(members.services)
            for member in members.all():
                if member.living and not member.local:
                    cards += member.card.services
                    cards += self._rest.services(member, now)
            self._others = {card.instance: card.version for card in cards if card.name == self._name}
        return self._others | {self.me: self._said}

    def _changed(self, changes: list[Change]) -> None:
        self._doubted()

    def _doubted(self) -> None:
        """Somebody may be there, or gone, or say something else."""
        self._others = None
        if self._renew_ns is not None:
            self._step(self._client.now)

    # Going on.

    def _step(self, now: int) -> None:
        """Go on with whatever can be done now."""
        self._look_ns = None
        if self._giving:
            return
        if now < self._join_ns:
            self._look(now, self._join_ns)
            return
        seen = self._seen()
        members = frozenset(seen)
        if members != self._applied:
            lost = [number for number in self._consumer.cursors if owner(number, members) != self.me]
            if not lost:
                self._apply(members, now)
            elif self._consumer.idle:
                self._give_up(lost, members)
                return
            else:
                return  # Until the application comes back.
        if not self._settled:
            agreed = agreement(members)
            if all(said == agreed for member, said in seen.items() if member != self.me) or now >= self._patience_ns:
                self._settle()
            else:
                self._look(now, self._patience_ns)

    def _look(self, now: int, until_ns: int) -> None:
        """Look at the members more often than usual while something is waited for."""
        self._client.members.doubt(now)
        self._look_ns = min(now + LOOK_NS, max(until_ns, now + 1))
        self._client.due(self)

    def _give_up(self, lost: list[int], members: frozenset[int]) -> None:
        self._giving = True
        self._settled = False  # What was this member's until now must not be taken up again meanwhile.
        committed = self._consumer.give_up(lost, self._client.now + COMMIT_NS)

        def known() -> None:
            self._giving = False
            if self._renew_ns is not None:
                self._apply(members, self._client.now)
                self._step(self._client.now)

        committed.on_done(known)

    def _apply(self, members: frozenset[int], now: int) -> None:
        """Everything that is another one's has been given up."""
        before, self._applied = self._applied, members
        self._patience_ns = now + PATIENCE_NS
        only_gone = self._settled and before is not None and members < before
        self._settled = members == {self.me} or only_gone
        self._said = agreement(members)
        self._announce(now)
        if self._settled:
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        self._consumer.take_up()

    # Announcing.

    def _announce(self, now: int) -> None:
        self._renew_ns = now + RENEW_NS
        self._client.due(self)
        self._say(LEASE_MS, now)

    def _say(self, lease_ms: int, now: int) -> None:
        """Tell leader 0; who is not heard says it again soon, so nothing waits for the answer."""
        body = Announce(ServiceCard(self._name, self._said, "-", self.me), lease_ms)
        self._client.control(Type.ANNOUNCE, body, now, now + RENEW_NS, "membership of a group")
