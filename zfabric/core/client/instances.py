"""The instances of all services that a caller uses: who is known, and connections to them.

Known are the instances on the cards of living members, and those that have announced themselves at leader 0. A card
that had no room for all is completed by its member. Connections are made as soon as a service is used, to at most
``CONNECTED_MAX`` of its instances, the nearest first; among equals each caller has an order of its own. One that does
not come up, or breaks, is tried again after a pause that doubles; so does the time that it has to come up: where many
callers come at once, and an instance takes seconds for all of them, who gave up and came again would begin anew. A
service that was not used for ``IDLE_NS`` is
forgotten, with its connections, and one without an instance after ``EMPTY_NS``: there may be any number of those names.
Without any service the members table is not asked for any more.

The table is a hint: an instance that is not in it any more is asked as long as its connection is there (a leader that
was restarted knows nothing of it for a moment), and forgotten with that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from zfabric.core.client.completion import Completion
from zfabric.core.client.overdue import silent
from zfabric.core.client.pool import Channel, Pool
from zfabric.core.effects import CloseSession, OpenSession, Send
from zfabric.wire import calls
from zfabric.wire.card import GROUP_PREFIX, ServiceCard

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.errand import Errand
    from zfabric.core.client.machine import Machine
    from zfabric.core.client.pending import Pending

CONNECTED_MAX: Final = 32
CONNECT_MAX_NS: Final = 4_000_000_000
PAUSE_NS: Final = 20_000_000
PAUSE_MAX_NS: Final = 1_000_000_000
IDLE_NS: Final = 300_000_000_000
EMPTY_NS: Final = 5_000_000_000
COMPLETE_NS: Final = 5_000_000_000
METHODS_MAX: Final = 1_000
"""Methods whose service is remembered."""


class Instances:
    """All of them, for one caller.

    Args:
        owner: whose sessions they are. host, zone: where the caller is. want: asks for a tick at a time.
        fed: told of a pool in which another instance may be asked now.

    Attributes:
        cards: all known instances, by service. pools: of the services that are used; by_method: the same, for methods
            that are. by_session: open connections.
    """

    def __init__(
        self,
        client: Client,
        owner: Machine,
        host: str,
        zone: str,
        want: Callable[[int], None],
        fed: Callable[[Pool, int], None],
    ) -> None:
        self.cards: dict[str, list[ServiceCard]] = {}
        self.pools: dict[str, Pool] = {}
        self.by_method: dict[str, Pool] = {}
        self.by_session: dict[int, tuple[Pool, Channel]] = {}
        self._client = client
        self._owner = owner
        self._host = host
        self._zone = zone
        self._want = want
        self._fed = fed
        self._using = False
        self._salt = client.random.getrandbits(62)
        self._rest = Completion(client, COMPLETE_NS, self._refresh)
        client.members.listeners.append(lambda _: self._refresh())

    def use(self, now: int) -> None:
        """Have the members table kept fresh from now on."""
        if not self._using:
            self._using = True
            self._client.members.use(now)
            self._refresh()

    def whole(self, now: int) -> Pending[None]:
        """Return what comes when :attr:`cards` has whatever members tell: they are asked if their cards lack some."""
        self._client.now = now
        self._refresh()  # The table may have been complete before anybody asked for services.
        return self._rest.whole([member for member in self._client.members.all() if member.living], now)

    def _refresh(self) -> None:
        members, now = self._client.members, self._client.now
        cards: dict[tuple[str, int], ServiceCard] = {}
        for member in members.all():
            if member.living:
                told = [*member.card.services, *self._rest.services(member, now)]
                cards.update({(card.name, card.instance): card for card in told})
        cards.update({(card.name, card.instance): card for card in members.services})
        self.learn(list(cards.values()), now)

    def learn(self, cards: Sequence[ServiceCard], now: int) -> None:
        """Take all instances of all services that there are."""
        by_name: dict[str, list[ServiceCard]] = {}
        for card in cards:
            if card.name.startswith(GROUP_PREFIX):
                continue
            by_name.setdefault(card.name, []).append(card)
        self.cards = by_name
        for pool in list(self.pools.values()):
            self._fill(pool, now)
            self._fed(pool, now)

    def _silent(self) -> str | None:
        """Return what to say of a fabric that has not told of any service; None if it has."""
        client = self._client
        if client.members.heard_ns:
            return None
        return silent(client.requests.connections.get(client.bootstrap), client.url)

    def pool(self, service: str, now: int) -> Pool:
        """Return the instances of a service, which is used now."""
        pool = self.pools.get(service)
        if pool is None:
            self.use(now)
            client = self._client
            pool = self.pools[service] = Pool(service, client.random.random, self._silent)
            self._fill(pool, now)
            self._want(now + EMPTY_NS)
        pool.used_ns = now
        return pool

    def pool_of(self, errand: Errand, now: int) -> Pool:
        """Return the instances of the service that an errand is for."""
        self._client.now = now
        pool = self.pool(errand.service, now)
        if len(self.by_method) >= METHODS_MAX:
            self.by_method.clear()
        self.by_method[errand.method] = pool
        return pool

    def _fill(self, pool: Pool, now: int) -> None:
        """Make the pool's channels those of the cards."""
        cards = {card.instance: card for card in self.cards.get(pool.service, ())}
        for instance, channel in list(pool.channels.items()):
            card = cards.get(instance)
            channel.gone = card is None or card.endpoint != channel.card.endpoint
            if channel.gone and not channel.ready:
                self.drop(pool, channel)
            elif card is not None and not channel.gone:
                draining = channel.draining
                channel.learn(card, self._host, self._zone)
                channel.draining = channel.draining or draining
        for instance, card in cards.items():
            if instance not in pool.channels:
                pool.channels[instance] = Channel(card, self._host, self._zone)
        pool.changed()
        pool.filled(now)
        self.warm(pool, now)

    def drop(self, pool: Pool, channel: Channel) -> None:
        """Forget an instance."""
        self.shut(channel)
        pool.channels.pop(channel.card.instance, None)
        pool.changed()

    def shut(self, channel: Channel) -> None:
        """Close the connection to an instance."""
        channel.ready = False
        if channel.session is not None:
            self._client.shut(channel.session)
            self.by_session.pop(channel.session, None)
            self._client.requests.effect(CloseSession(channel.session))
            channel.session = None

    def warm(self, pool: Pool, now: int) -> None:
        """Connect to instances, the nearest first, as far as it is time."""
        wanted = [channel for channel in pool.channels.values() if not channel.gone]
        wanted.sort(key=lambda channel: (channel.near, channel.card.instance ^ self._salt))
        for channel in wanted[:CONNECTED_MAX]:
            if channel.session is not None or channel.draining:
                continue
            if channel.open_at_ns <= now:
                self._open(pool, channel, now)
            else:
                self._want(channel.open_at_ns)

    def _open(self, pool: Pool, channel: Channel, now: int) -> None:
        requests = self._client.requests
        channel.session = requests.new_session()
        channel.opened_ns = now
        self.by_session[channel.session] = pool, channel
        self._client.hold(self._owner, channel.session)
        requests.effect(OpenSession(channel.session, channel.card.endpoint, alert=True, alone_bytes=calls.ALONE_BYTES))
        self._want(now + channel.patience_ns)

    def greet_at(self, session: int) -> None:
        """Ask an instance who it is: its answer says that it is there."""
        self._client.requests.effect(Send(session, calls.bare(calls.PING, self._client.requests.next_id())))

    def greet(self, pool: Pool) -> None:
        """Ask all that are connected whether they are there."""
        for channel in pool.channels.values():
            if channel.ready and not channel.draining and channel.session is not None:
                self.greet_at(channel.session)

    def broken(self, pool: Pool, channel: Channel, now: int) -> None:
        """A connection has ended, or does not come up: try again after a pause."""
        was_ready = channel.ready
        self.shut(channel)
        channel.pause_ns = PAUSE_NS if was_ready else min(max(channel.pause_ns * 2, PAUSE_NS), PAUSE_MAX_NS)
        channel.open_at_ns = now + channel.pause_ns + int(self._client.random.random() * channel.pause_ns)
        pool.changed()
        self._client.members.doubt(now)

    def tick(self, pool: Pool, now: int) -> list[int]:
        """Do what is due for a service; returns sessions that did not come up."""
        idle_ns = IDLE_NS if pool.channels else EMPTY_NS
        if now - pool.used_ns >= idle_ns and not pool.hungry and not any(c.attempts for c in pool.channels.values()):
            self._forget(pool)
            return []
        self._want(pool.used_ns + idle_ns if pool.used_ns + idle_ns > now else now + idle_ns)
        stale = []
        for channel in list(pool.channels.values()):
            if channel.breaker.readmit(now):
                pool.changed()
            elif channel.breaker.until_ns:
                self._want(channel.breaker.until_ns)
            if channel.gone and not channel.ready:
                self.drop(pool, channel)
            elif channel.session is not None and not channel.ready:
                if now - channel.opened_ns >= channel.patience_ns:
                    channel.patience_ns = min(2 * channel.patience_ns, CONNECT_MAX_NS)
                    stale.append(channel.session)
                else:
                    self._want(channel.opened_ns + channel.patience_ns)
        self.warm(pool, now)
        return stale

    def _forget(self, pool: Pool) -> None:
        for channel in pool.channels.values():
            self.shut(channel)
        del self.pools[pool.service]
        self.by_method.clear()
        if not self.pools:
            self._using = False
            self._client.members.release()
