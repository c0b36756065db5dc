"""The instances of one service as one caller sees them, and which of them gets the next request.

**Which.** First the version, where there are several and none was asked for: each gets its instances' share of the
weights (so a canary of weight 10 beside three instances of 100 gets 10 requests of 310). First requests wait until all
known instances are connected, for ``SETTLE_NS`` at most, lest all go to the first, be it the canary. Then two
instances, one of the nearest ones and one of all, and of these the one with the lower cost: requests under way there
and this one, times its latency (a moving average of what was observed), times 2 for another host and 4 for another
zone. So what is near is preferred until it is twice as busy. Latencies within a factor of two of each other count as
the same, and so do those of instances that nobody has asked yet: else of two equal instances the one that was a little
faster last would get all requests of a caller that makes one at a time, and the other could not show that it is as
fast. One answer that took long, for whatever reason, does not make an instance slow: it counts as at most four times
what was usual there. Where weights differ within a version, the first of the two is drawn by weight, and gives way to
the second only when it is more than twice as busy for its weight: by the lower cost alone an instance of weight 50
would get nothing while another one is idle. Two random choices keep callers that know nothing of each other from
running to the same idle instance (Mitzenmacher 2001). What is not connected, draining, ejected or full is left out; if
all are ejected, none is. What has refused the like lately is left aside while there is another one
(:mod:`zfabric.core.client.refusals`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from zfabric import errors
from zfabric.core.client.breaker import Breaker
from zfabric.core.client.budget import Budget
from zfabric.core.client.errand import Attempt, Errand
from zfabric.core.client.refusals import Refusals
from zfabric.settings import CALLS_PER_INSTANCE_MAX, ERROR_TEXT_MAX
from zfabric.wire.card import DRAINING, ServiceCard

VERSIONS_MAX: Final = 100
"""Versions that were asked for, and sets of who is left aside, whose instances are remembered."""
SETTLE_NS: Final = 100_000_000
CONNECT_NS: Final = 1_000_000_000
LATENCY_MIN_NS: Final = 20_000
LATENCY_WEIGHT: Final = 0.2
LATENCY_JUMP: Final = 4
"""An answer that took longer than so many times the average counts as one that took so long."""
ALIKE: Final = 2.0
"""Latencies that differ by this factor at most are the same."""
_LOCAL: Final = ("tcp://127.", "tcp://[::1]", "tcp://localhost:", "ipc://")
_FADE_NS: Final = 1_000_000_000


class Channel:
    """One instance, and the connection to it.

    Attributes:
        card: what it says of itself. instance: its number, always the same. cost: factor of its distance.
        session: the open one, or None. ready: it is connected. draining: it takes nothing new. gone: not in the table
            any more. attempts: under way there, by number. latency_ns: moving average, 0.0 before the first answer.
            open_at_ns: when to connect again. pause_ns: the last pause before that. patience_ns: within which it
            has to say who it is after that. heard_ns: when it last did.
    """

    __slots__ = (
        "attempts",
        "breaker",
        "card",
        "cost",
        "draining",
        "faded_ns",
        "gone",
        "heard_ns",
        "instance",
        "latency_ns",
        "near",
        "open_at_ns",
        "opened_ns",
        "patience_ns",
        "pause_ns",
        "ready",
        "session",
    )

    def __init__(self, card: ServiceCard, host: str, zone: str) -> None:
        self.session: int | None = None
        self.instance = card.instance
        self.ready = False
        self.gone = False
        self.attempts: dict[int, Attempt] = {}
        self.breaker = Breaker()
        self.latency_ns = 0.0
        self.faded_ns = 0
        self.open_at_ns = 0
        self.opened_ns = 0
        self.heard_ns = 0
        self.pause_ns = 0
        self.patience_ns = CONNECT_NS
        self.learn(card, host, zone)

    def learn(self, card: ServiceCard, host: str, zone: str) -> None:
        """Take what the instance says of itself now."""
        self.card = card
        self.draining = bool(card.flags & DRAINING)
        distance = 0 if card.host == host else 1 if card.zone == zone else 2
        self.near = distance
        self.cost = (1.0, 2.0, 4.0)[distance]

    def observe(self, taken_ns: int) -> None:
        """A request was answered after so long."""
        latency_ns = self.latency_ns
        if latency_ns:
            self.latency_ns = latency_ns + (min(taken_ns, LATENCY_JUMP * latency_ns) - latency_ns) * LATENCY_WEIGHT
        else:
            self.latency_ns = float(max(taken_ns, LATENCY_MIN_NS))

    def observe_more(self, taken_ns: int) -> None:
        """A request was given up after so long, and would have taken longer."""
        if taken_ns > self.latency_ns:
            self.observe(taken_ns)

    def fade(self, now: int) -> None:
        """Forget a bad latency by and by: whoever is never asked could not show that it is better now."""
        if now - self.faded_ns > _FADE_NS:
            self.faded_ns = now
            self.latency_ns = self.latency_ns and max(0.8 * self.latency_ns, LATENCY_MIN_NS)

    def price(self) -> float:
        """Return what a request more costs here."""
        if self.breaker.trial and self.attempts:
            return float("inf")
        return (len(self.attempts) + 1) * max(self.latency_ns, LATENCY_MIN_NS) * self.cost

    def cheaper_than(self, other: Channel) -> bool:
        """Tell whether a request more costs less here than there, or as much."""
        here, there = max(self.latency_ns, LATENCY_MIN_NS), max(other.latency_ns, LATENCY_MIN_NS)
        if self.latency_ns and other.latency_ns and not here <= ALIKE * there <= ALIKE * ALIKE * here:
            return self.price() <= other.price()
        return self.price() * there <= other.price() * here

    def load(self) -> float:
        """Return how busy it is for its weight; that it answers slowly shows in what is under way."""
        if self.breaker.trial and self.attempts:
            return float("inf")
        return (len(self.attempts) / max(self.card.weight, 1) + 0.01) * self.cost

    @property
    def unreachable(self) -> bool:
        """Whether it listens where only callers of its own host, which is another one, can reach it."""
        return self.near > 0 and self.card.endpoint.startswith(_LOCAL)

    @property
    def full(self) -> bool:
        """Whether as many requests are under way here as may be."""
        return len(self.attempts) >= CALLS_PER_INSTANCE_MAX


class _Group:
    """Instances of one version, or of all; ``only``: there is one, and this is it. ``bounds``: if weights differ."""

    __slots__ = ("bounds", "channels", "near", "only")

    def __init__(self, channels: list[Channel]) -> None:
        channels = [channel for channel in channels if channel.card.weight] or channels
        self.channels = channels
        self.only = channels[0] if len(channels) == 1 else None
        nearest = min(channel.near for channel in channels)
        self.near = [channel for channel in channels if channel.near == nearest]
        differ = len({channel.card.weight for channel in channels}) > 1
        self.bounds = list(accumulate(channel.card.weight for channel in self.near)) if differ else None


def fits(version: str, wanted: str) -> bool:
    """Tell whether a version is the wanted one, or begins with its numbers: ``1.4.2`` fits ``1`` and ``1.4``."""
    return not wanted or version == wanted or version.startswith(wanted + ".")


class Pool:
    """All instances of one service.

    Args:
        silent: returns what to say of the fabric while that has not told of any service.

    Attributes:
        channels: by instance. hungry: errands that no instance could take yet. budget: for repeats.
        used_ns: when it was last asked for something. only: the instance that all get who want any, if there is one.
        refusals: what its instances have refused lately.
    """

    def __init__(
        self, service: str, random: Callable[[], float], silent: Callable[[], str | None] = lambda: None
    ) -> None:
        self.service = service
        self.channels: dict[int, Channel] = {}
        self.hungry: OrderedDict[Errand, None] = OrderedDict()
        self._choosy = 0
        self.budget = Budget()
        self.used_ns = 0
        self.only: Channel | None = None
        self.refusals = Refusals()
        self._settles_ns = 0
        self._random = random
        self._silent = silent
        # By version, and who is left aside.
        self._groups: dict[tuple[str, tuple[int, ...]], list[tuple[float, _Group]]] = {}

    def changed(self) -> None:
        """An instance came, went, or may be asked now and could not before, or the other way round."""
        self._groups.clear()
        self.only = None

    def add_hungry(self, errand: Errand) -> None:
        """No instance can take it now."""
        self.hungry[errand] = None
        self._choosy += errand.choosy

    def next_hungry(self) -> Errand:
        """Take out the next one, to try again."""
        errand, _ = self.hungry.popitem(last=False)
        self._choosy -= errand.choosy
        return errand

    def forget(self, errand: Errand) -> None:
        """It is over, wherever it waits: the first may wait for long, and any number behind it be over meanwhile."""
        if errand in self.hungry:
            del self.hungry[errand]
            self._choosy -= errand.choosy
        errand.hungry_ns = 0

    def still_hungry(self, errand: Errand) -> bool:
        """Put one back that no instance could take; tells whether others could fare better.

        They may be thousands, and are tried with each reply: if any instance would do for all, one of them says it all.
        """
        if self._choosy or errand.choosy:
            self.add_hungry(errand)
            return True
        self.hungry[errand] = None
        self.hungry.move_to_end(errand, last=False)
        return False

    def filled(self, now: int) -> None:
        """Its instances are known, and are about to be connected."""
        if len(self.channels) > 1 and not any(channel.ready for channel in self.channels.values()):
            self._settles_ns = now + SETTLE_NS

    def _settling(self, now: int) -> bool:
        connecting = (channel.session is not None and not channel.ready for channel in self.channels.values())
        if self._settles_ns <= now or not any(connecting):
            self._settles_ns = 0
        return self._settles_ns > 0

    def best_share(self, beside: Channel) -> float:
        """Return the least share of failures among the other instances that are asked."""
        shares = [
            channel.breaker.share
            for channel in self.channels.values()
            if channel is not beside and channel.ready and channel.breaker.samples
        ]
        return min(shares, default=1.0)

    def choose(self, errand: Errand, now: int) -> Channel | None:
        """Return the instance for an errand; None if none can take it now."""
        if errand.instance:
            channel = self.channels.get(errand.instance)
            if channel is None or not channel.ready or channel.draining or channel.full:
                return None
            return channel if channel.heard_ns >= errand.since_ns else None
        if self._settles_ns and self._settling(now):
            return None
        if self.refusals.any:
            found = self._among(errand, self.refusals.aside(errand.method, now), now)
            if found is not None:
                return found
        return self._among(errand, (), now)

    def takes_over(self, errand: Errand, error: errors.ZFabricError, now: int) -> bool:
        """Tell whether another instance is to be asked for what was refused with an error; it may cost a repeat."""
        if self._among(errand, self.refusals.aside(errand.method, now), now) is not None:
            return True
        lacking = isinstance(error, errors.UnknownMethod)
        return not lacking and self._among(errand, (), now) is not None and self.budget.spend()

    def _among(self, errand: Errand, aside: tuple[int, ...], now: int) -> Channel | None:
        groups = self._groups.get((errand.version, aside))
        if groups is None:
            if len(self._groups) >= VERSIONS_MAX:
                self.changed()
            groups = self._groups[errand.version, aside] = self._grouped(errand.version, aside)
            if not errand.version and not aside and len(groups) == 1:
                self.only = groups[0][1].only
        if not groups:
            return None
        chosen = groups[0][1] if len(groups) == 1 else self._version(groups)
        only = chosen.only
        if only is not None and not (errand.tried or errand.since_ns) and len(only.attempts) < CALLS_PER_INSTANCE_MAX:
            return only
        found = self._pick(chosen, errand, now)
        if found is None and len(groups) > 1:
            for _, other in groups:
                found = found or self._pick(other, errand, now)
        return found

    def awaits(self, errand: Errand, now: int) -> bool:
        """Tell whether an errand that no instance can take now is to wait on.

        For room at one that is connected; or, if it was never sent, for one that is known and may be reached yet.
        """
        fitting = self._fitting(errand)
        if errand.was_sent or errand.silence_ns <= now:
            return any(channel.ready for channel in fitting)
        return any(
            channel.ready or not (channel.gone or channel.draining or channel.unreachable) for channel in fitting
        )

    def _fitting(self, errand: Errand) -> list[Channel]:
        return [
            channel
            for channel in self.channels.values()
            if errand.instance in (0, channel.card.instance) and fits(channel.card.version, errand.version)
        ]

    def unavailable(self, errand: Errand, seconds: float) -> errors.ServiceUnavailable:
        """Return what to say of an errand that no instance could be given for so long."""
        wanted = f" instance {errand.instance:x}" if errand.instance else ""
        wanted += f" version {errand.version}" if errand.version else ""
        fitting = self._fitting(errand)
        if not fitting:
            versions = ", ".join(sorted({repr(channel.card.version) for channel in self.channels.values()}))
            silent = self._silent()
            if silent is not None and not versions:
                return errors.ServiceUnavailable(service=self.service, wanted=wanted, seconds=seconds, detail=silent)
            if not versions or errand.instance:
                return errors.ServiceUnavailable(service=self.service, wanted=wanted, seconds=seconds)
            detail = f"there is {versions[:ERROR_TEXT_MAX]}".replace("''", "one without a version")
            return errors.ServiceUnavailable(service=self.service, wanted=wanted, seconds=seconds, detail=detail)
        card = fitting[0].card
        where = f"{card.endpoint} of host {card.host!r}"
        detail = f"{len(fitting)} are known, as {where}, and none of them could be reached or had room"
        if len(fitting) == 1:
            detail = f"one is known, as {where}, and could not be reached or had no room"
        if all(channel.unreachable for channel in fitting):
            detail += "; that is reached from its own host only, so let it connect to the fabric by an outer address"
        return errors.ServiceUnavailable(service=self.service, wanted=wanted, seconds=seconds, detail=detail)

    def _version(self, groups: Sequence[tuple[float, _Group]]) -> _Group:
        place = self._random() * groups[-1][0]
        return next((group for bound, group in groups if place < bound), groups[-1][1])

    def _grouped(self, wanted: str, aside: tuple[int, ...]) -> list[tuple[float, _Group]]:
        able = [c for c in self.channels.values() if c.ready and not c.draining and fits(c.card.version, wanted)]
        able = [channel for channel in able if not channel.breaker.until_ns] or able
        able = [channel for channel in able if channel.instance not in aside]
        groups, bound = [], 0.0
        for version in sorted({channel.card.version for channel in able}):
            channels = [channel for channel in able if channel.card.version == version]
            share = float(sum(channel.card.weight for channel in channels))
            if share:
                bound += share
                groups.append((bound, _Group(channels)))
        if not groups and able:  # All of them want nothing, but there is nobody else.
            groups.append((1.0, _Group(able)))
        return groups

    def _pick(self, group: _Group, errand: Errand, now: int) -> Channel | None:
        channels, near = group.channels, group.near
        tried, since_ns = errand.tried, errand.since_ns
        if tried or since_ns:
            channels = [c for c in channels if c.instance not in tried and c.heard_ns >= since_ns]
            near = channels
        count = len(channels)
        if count == 0:
            return None
        bounds = None if tried or since_ns else group.bounds
        if bounds is None:
            one = near[int(self._random() * len(near))]
        else:
            one = near[bisect_right(bounds, self._random() * bounds[-1])]
        if count == 1:
            return None if one.full else one
        place = int(self._random() * count)
        other = channels[place]
        if other is one:
            other = channels[place - 1]
        one.fade(now)
        other.fade(now)
        if bounds is None:
            found = one if one.cheaper_than(other) else other
        else:
            found = one if one.load() <= 2 * other.load() else other
        if found.full:
            found = min(channels, key=Channel.price)
        return None if found.full else found
