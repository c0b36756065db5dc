"""One member of a mesh: who else is there, who failed, who left. A state machine without I/O.

**Promise.** Gossip is a hint, never authority: what it says costs a detour when it is wrong, never a record. Within
that: every member that lives and is connected learns of every change; a member that crashes is known as failed by all
in about the suspicion time plus two probe intervals; a member that lives and answers is not taken for failed, except
by those that cannot hear it; one that leaves says so and is not taken for failed; meshes with different names or keys
never mix; nothing that arrives makes this machine raise, or hold more than its bounds.

**Sources.** SWIM (Das, Gupta, Motivala, DSN 2002): probing, suspicion, infection-style dissemination. Lifeguard
(Dadgar, Phillips, Currey, DSN-W 2018, arXiv:1707.00788): :mod:`health`, :mod:`suspicion`, NACKs, and the buddy system:
whoever is thought suspect or failed hears it first, with the very next message. Of our own: a wake-up that comes
too late is no evidence against others; anti-entropy compares hashes before it sends anything; a stranger is answered
with little until it has proven that it lives at its endpoint.

**A period.** PING to the next target of the round. No ACK within the probe timeout: PING_REQ to k others. No ACK by
the end of the period: the target is suspected, and everybody is told. A suspect that does not refute in its time has
failed. Timeouts stretch with :class:`~zfabric.core.mesh.health.Awareness`.

**Joining.** PUSH_PULL to a seed, which does not know the sender and answers with a PUSH_PULL that repeats its
number; that proves the seed. The newcomer answers with STATE, which repeats the seed's number; that proves the
newcomer. From then on both are members, and news of it travel. What a stranger can make us send is bounded by one
frame of at most 4 KiB for each of its own, 4 in a second for those of one connection and 100 for all, and nothing that
it says is believed.
So a replayed frame of a member long gone brings nothing back.

**Partitions.** Each side takes the other for failed. Every ``reconnect_interval_ns`` each member pings one of the
failed; the first answer makes both sides compare all that they know. Whoever hears that it is thought failed
refutes with a higher incarnation. Whoever suspects somebody, and finds few others that do, asks it again each time
that the shortest suspicion time has passed: the news of it may not have come through. Seeds that are not members are
tried again for ever, at least once a minute.

**The shell's duties.** Hand in every frame with where to answer it, and drain them before ``tick``; tick at
``next_deadline()``; send what ``take_effects()`` gives, in any order; a lost frame costs nothing but time. ``now`` is
monotonic ns; ``incarnation`` must be higher than in the last run of the same id where that is known (the wall clock
in ms will do); where it is not, the first member that knows better says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric import errors
from zfabric.core.effects import Datagram
from zfabric.core.mesh import dissemination, rules
from zfabric.core.mesh.antientropy import differing
from zfabric.core.mesh.beliefs import Beliefs
from zfabric.core.mesh.checks import check_endpoint, check_member, is_endpoint
from zfabric.core.mesh.events import Counters, MemberEvent
from zfabric.core.mesh.health import Awareness, Strangers
from zfabric.core.mesh.probing import NACK_SHARE, Probe, Relay, Relays
from zfabric.core.mesh.table import Table
from zfabric.core.mesh.timers import Timers
from zfabric.core.mesh.voice import ROOM, Voice
from zfabric.settings import MeshSettings
from zfabric.wire import gossip
from zfabric.wire.gossip import Codec, Member, Message, Status, Type

if TYPE_CHECKING:
    from random import Random

SECOND: Final = 1_000_000_000
JOIN_RETRY_NS: Final = 1 * SECOND
JOIN_RETRY_MAX_NS: Final = 60 * SECOND
QUIET_NS: Final = 2 * SECOND
"""A newcomer does not spread what it is told in the first two seconds: everybody but itself knows it."""
LEAVE_NS: Final = 3 * SECOND
"""Leaving ends after this time, though its news may not have been sent as often as others are."""
SEEDS_MAX: Final = 64


class Mesh:
    """This member.

    Args:
        codec: of the mesh's name and key. id: 16 bytes that this member keeps for ever. instance: drawn anew at each
            start, 0 to 2**63 - 1. endpoint: where others reach it. metadata: opaque, at most 1,024 bytes.

    Raises:
        InvalidArgument: an id, endpoint, incarnation or metadata outside its range.
    """

    def __init__(
        self, codec: Codec, *, id: bytes, instance: int, endpoint: str, random: Random, now: int,
        metadata: bytes = b"", incarnation: int = 1, settings: MeshSettings | None = None,
    ) -> None:  # fmt: skip
        check_member(id, endpoint, incarnation, metadata)
        self._settings = settings = settings or MeshSettings()
        self._codec = codec
        self._random = random
        self._counters = Counters()
        self._timers = Timers()
        self._health = Awareness(settings.awareness_max)
        self._table = Table(settings, random, keyed=codec.keyed)
        me = Member(id, instance, incarnation, Status.ALIVE, endpoint, 1 if metadata else 0, metadata)
        self._voice = Voice(codec, me, self._table, self._timers, self._counters, settings, random, now)
        self._beliefs = Beliefs(self._voice, self._table, self._health, self._timers, self._counters, settings)
        self._relays = Relays()
        self._strangers = Strangers()
        self._probe: Probe | None = None
        self._seeds: dict[str, bytes] = {}
        self._join_retry = JOIN_RETRY_NS
        self._timers.add(now + random.randrange(settings.probe_interval_ns), self._on_probe)
        self._timers.add(now + random.randrange(self._sync_interval()), self._on_sync)
        self._timers.add(now + random.randrange(settings.reconnect_interval_ns), self._on_reconnect)

    # What the owner asks.

    @property
    def me(self) -> Member:
        """This member as others should know it."""
        return self._voice.me

    @property
    def left(self) -> bool:
        """Whether it has left, and does nothing more."""
        return self._voice.left

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        self._counters.members_refused = self._table.refused
        self._counters.metadata_refused = self._table.stripped
        self._counters.news_dropped = self._voice.queue.dropped
        return self._counters

    @property
    def health(self) -> int:
        """How slow this member finds itself: 0 is healthy."""
        return self._health.score

    @property
    def live(self) -> int:
        """How many others are alive or suspected."""
        return self._table.live

    @property
    def unanswered(self) -> list[str]:
        """Seeds behind which no member was found since the start."""
        return [seed for seed, known in self._seeds.items() if not known]

    def members(self) -> list[Member]:
        """Return all others that are known, failed and left ones included."""
        return list(self._table)

    def member(self, id: bytes) -> Member | None:
        """Return what is known of one."""
        return self._table.get(id)

    def heard(self, id: bytes) -> bool:
        """Tell whether a frame of a member's present process has come in: it is not known by hearsay alone."""
        return self._table.heard(id)

    def round_trip_ns(self, id: bytes) -> int | None:
        """Return the smoothed time that probes of a member took; None if it was not probed yet."""
        return self._beliefs.round_trips.get(id)

    def restore(self, members: Iterable[Member]) -> None:
        """Begin with members known from an earlier run; those that are gone will be found out."""
        me = self._voice.me.id
        self._table.fill([member for member in members if member.status == Status.ALIVE and member.id != me])

    def join(self, seeds: Sequence[str], now: int) -> None:
        """Find others through these endpoints, again and again until each is a member.

        Raises:
            InvalidArgument: more than 64 seeds, or one that is no endpoint.
        """
        if len(self._seeds | dict.fromkeys(seeds, b"")) > SEEDS_MAX:
            raise errors.InvalidArgument(name="seeds", value=f"{len(seeds)}", allowed=f"at most {SEEDS_MAX}")
        for seed in seeds:
            check_endpoint("seed", seed)
        first = not self._seeds
        for seed in seeds:
            if seed != self._voice.me.endpoint and seed not in self._seeds:
                self._seeds[seed] = b""
                self._voice.push_pull(seed, 0, now)
        if first and self._seeds:
            self._timers.add(now + self._join_retry, self._on_join)

    def meet(self, endpoint: str, now: int) -> None:
        """Introduce this member to whoever may be at an endpoint, once. One that cannot be an endpoint is ignored."""
        if endpoint != self._voice.me.endpoint and is_endpoint(endpoint):
            self._voice.push_pull(endpoint, 0, now)

    def update(self, metadata: bytes, now: int, endpoint: str = "") -> None:
        """Tell everybody this member's new metadata, and where it is reached from now on if that is new too.

        Raises:
            InvalidArgument: more than 1,024 bytes, or an endpoint that cannot be one.
        """
        me = self._voice.me
        endpoint = endpoint or me.endpoint
        check_member(me.id, endpoint, 1, metadata)
        if (metadata, endpoint) != (me.metadata, me.endpoint) and not self._voice.leaving:
            version = me.version if metadata == me.metadata else rules.next_version(me.version)
            incarnation = rules.next_incarnation(me.incarnation)
            news = {"incarnation": incarnation, "version": version, "metadata": metadata, "endpoint": endpoint}
            self._voice.renew(msgspec.structs.replace(me, **news), now)

    def leave(self, now: int) -> None:
        """Say good-bye; ``left`` becomes true when it was said often enough, in 3 s at most."""
        if self._voice.leaving:
            return
        self._voice.leaving = True
        self._probe = None
        if self._table.live:
            self._voice.renew(msgspec.structs.replace(self._voice.me, status=Status.LEFT), now)
            self._timers.add(now + LEAVE_NS, self._on_left)
        else:
            self._voice.left = True

    # What the shell drives.

    def next_deadline(self) -> int | None:
        """Return when (monotonic ns) to tick; None when there is nothing more to do."""
        return None if self._voice.left else self._timers.first

    def take_effects(self) -> list[Datagram]:
        """Return what is to be sent."""
        effects, self._voice.effects = self._voice.effects, []
        return effects

    def take_events(self) -> list[MemberEvent]:
        """Return what became known."""
        events, self._beliefs.events = self._beliefs.events, []
        return events

    def tick(self, now: int) -> None:
        """Do what is due."""
        first = self._timers.first
        if self._voice.left or first is None:
            return
        if now - first >= self._settings.pause_ns:
            # This process stood still: nobody could be heard, so nobody is to blame.
            self._counters.pauses += 1
            self._health.add(1)
            self._probe = None
            self._beliefs.woke_late(now - first)
        self._timers.run(now)

    def receive(self, endpoint: str, frame: bytes, now: int) -> None:
        """Take a frame, and answer it at ``endpoint``. Whatever it is, nothing is raised; see ``counters``."""
        counters = self._counters
        counters.received += 1
        counters.received_bytes += len(frame)
        if self._voice.left:
            return
        try:
            message = self._codec.read(frame, partial(self._expects, now))
        except errors.ProtocolViolation as error:
            name = f"refused_{error.values['refusal']}"
            setattr(counters, name, getattr(counters, name) + 1)
            return
        except errors.UnsupportedVersion:
            counters.refused_version += 1
            return
        if message.sender == self._voice.me.id:
            self._from_myself(endpoint, message, now)
            return
        known = self._table.get(message.sender)
        if known is None or known.instance != message.instance:
            self._from_stranger(endpoint, message, known, now)
        elif self._table.fresh(message.sender, message.number):
            if message.type != Type.STATE:  # Its sender's own record comes first.
                self._beliefs.merge_all(message, now)
            self._handlers[message.type](self, endpoint, message, now)
        else:
            counters.replayed += 1

    # Frames.

    def _expects(self, now: int, sender: bytes, instance: int, number: int, answers: int) -> bool:
        """Tell whether a STATE will be taken: decoding it costs what a hundred other frames do."""
        known = self._table.get(sender)
        if known is not None and known.instance == instance:
            return not self._table.seen(sender, number)
        return self._voice.exchanges.answered(answers, now) is not None

    def _from_myself(self, endpoint: str, message: Message, now: int) -> None:
        """An echo shows that a seed is this member; another instance of it is a restart, or a collision."""
        if message.instance == self._voice.me.instance:
            self._counters.echoes += 1
            if message.type == Type.PUSH_PULL:
                self._seeds.pop(self._voice.exchanges.take(message.body.sequence), None)
        elif message.type in (Type.PUSH_PULL, Type.STATE):
            claim = message.body.me
            self._beliefs.about_me(claim, now)
            if (
                message.type == Type.PUSH_PULL
                and not message.body.answers
                and claim.endpoint not in ("", self._voice.me.endpoint)
                and self._strangers.allow(endpoint, now)
            ):
                self._voice.push_pull(claim.endpoint, message.body.sequence, now)  # It may not know that there are two.

    def _from_stranger(self, endpoint: str, message: Message, known: Member | None, now: int) -> None:
        """Answer a stranger with little; take it for a member when it repeats a number of ours.

        Who bears the id of a known member hears what is known of it, so that it can take a higher incarnation.
        """
        kind, body = message.type, message.body
        if kind == Type.PING and body.target in (self._voice.me.id, gossip.NOBODY):
            buddy = [msgspec.Raw(gossip.encode(known))] if known is not None else []
            self._voice.send(endpoint, Type.ACK, gossip.Ack(body.sequence, 0, buddy))
            return
        if kind in (Type.PUSH_PULL, Type.STATE):
            asked = self._voice.exchanges.answered(body.answers, now)
            if asked is not None:
                self._admit(asked, message, now)
                self._voice.exchanges.take(body.answers)  # It proves one member: whoever reads it could name thousands.
                return
            if kind == Type.PUSH_PULL and body.me.endpoint and self._strangers.allow(endpoint, now):
                self._voice.push_pull(body.me.endpoint, body.sequence, now)
                if known is not None:
                    self._voice.gossip([body.me.endpoint], [gossip.encode(known)])
                return
        elif kind == Type.ACK and self._probe is not None and body.sequence == self._probe.sequence:
            # Somebody we know by hearsay alone, restarted: let us meet.
            self._voice.push_pull(endpoint, 0, now)
        elif kind == Type.GOSSIP:
            # A stranger may be one that knows us as somebody else: what concerns this member can be refuted at once.
            for update in message.updates:
                if update.id == self._voice.me.id:
                    self._beliefs.about_me(update, now)
            self._voice.send(endpoint, Type.ACK, gossip.Ack(0, 0, []))
        self._counters.strangers += 1

    def _admit(self, asked: str, message: Message, now: int) -> None:
        if not self._table.live:
            self._beliefs.quiet_until = now + QUIET_NS
            self._timers.add(self._beliefs.quiet_until, self._on_more, message.sender)
        self._beliefs.merge(message.body.me, now, by=message, own=True, proven=True)
        known = self._table.get(message.sender)
        if asked in self._seeds:
            self._seeds[asked] = message.sender
        if known is not None and known.instance == message.instance:
            self._table.fresh(message.sender, message.number)
            self._handlers[message.type](self, known.endpoint, message, now)

    def _on_ping(self, endpoint: str, message: Message, now: int) -> None:
        body = message.body
        if body.target in (self._voice.me.id, gossip.NOBODY):
            known = self._table.get(message.sender)
            assert known is not None
            heard = known.incarnation if known.status <= Status.SUSPECT else 0
            self._voice.send(endpoint, Type.ACK, gossip.Ack(body.sequence, heard, self._voice.news(ROOM, known)))

    def _on_ack(self, endpoint: str, message: Message, now: int) -> None:
        body = message.body
        probe = self._probe
        if probe is not None and body.sequence == probe.sequence:
            self._probe = None
            self._health.add(-1)
            if message.sender == probe.target.id:
                self._beliefs.measured(message.sender, now - probe.sent)
        relay = self._relays.answered(body.sequence, message.sender)
        if relay is not None:
            known = self._table.get(relay.asker)
            heard = known.incarnation if known is not None else 0
            self._voice.send(relay.endpoint, Type.ACK, gossip.Ack(relay.sequence, heard, self._voice.news(ROOM, known)))
        elif now >= self._beliefs.next_merge and (
            body.incarnation == 0 or rules.far(body.incarnation, self._voice.me.incarnation)
        ):
            self._beliefs.next_merge = now + SECOND
            self._voice.push_pull(endpoint, 0, now)  # It does not know us, thinks that we failed, or was lied to.

    def _on_ping_req(self, endpoint: str, message: Message, now: int) -> None:
        body = message.body
        target = self._table.get(body.target)
        sequence = self._voice.sequence()
        relay = Relay(endpoint, body.sequence, message.sender, body.target)
        # Only members are pinged: nobody shall use us to knock at any address.
        if target is None or target.endpoint != body.endpoint or not self._relays.add(sequence, relay):
            self._counters.relays_refused += 1
            self._voice.send(endpoint, Type.NACK, gossip.Nack(body.sequence, []))
            return
        self._voice.ping(target, sequence)
        self._timers.add(
            now + int(self._settings.probe_timeout_ns * NACK_SHARE), self._on_nack_due, sequence.to_bytes(8, "big")
        )

    def _on_nack(self, endpoint: str, message: Message, now: int) -> None:
        probe = self._probe
        if probe is not None and message.body.sequence == probe.sequence and probe.silent:
            probe.silent -= 1

    def _on_push_pull(self, endpoint: str, message: Message, now: int) -> None:
        body = message.body
        self._beliefs.merge(body.me, now, by=message, own=True)
        mine = self._voice.hashes(body.buckets)
        numbers = differing(gossip.unpack_hashes(body.hashes), mine)
        self._voice.state(endpoint, body.sequence, body.buckets, numbers, message.sender, now, want=True)

    def _on_state(self, endpoint: str, message: Message, now: int) -> None:
        body = message.body
        asked = self._voice.exchanges.answered(body.answers, now)
        if asked is not None and asked in self._seeds:
            self._seeds[asked] = message.sender
        self._beliefs.merge(body.me, now, by=message, own=True)
        self._beliefs.merge_all(message, now)
        if body.want:
            known = {member.id: member.incarnation for member in message.updates if member.status == Status.ALIVE}
            self._voice.state(endpoint, 0, body.buckets, body.want, message.sender, now, known=known)
        if body.more:
            self._timers.add(now + SECOND, self._on_more, message.sender)

    def _on_gossip(self, endpoint: str, message: Message, now: int) -> None:
        """Its news are all that it has."""

    _handlers: Final[dict[int, Callable[[Mesh, str, Message, int], None]]] = {
        Type.PING: _on_ping, Type.ACK: _on_ack, Type.PING_REQ: _on_ping_req, Type.NACK: _on_nack,
        Type.PUSH_PULL: _on_push_pull, Type.STATE: _on_state, Type.GOSSIP: _on_gossip,
    }  # fmt: skip

    # Timers.

    def _on_probe(self, now: int, _: bytes) -> None:
        if self._probe is not None:
            self._probe_failed(self._probe, now)
        self._timers.add(now + self._health.stretch(self._settings.probe_interval_ns), self._on_probe)
        self._probe = None
        target = None
        while self._beliefs.urgent and target is None:
            target = self._table.get(self._beliefs.urgent.pop())
            target = target if target is not None and target.status <= Status.SUSPECT else None
        target = target or self._table.next_target()
        if target is None or self._voice.leaving:
            return
        self._counters.probes += 1
        self._probe = Probe(self._voice.sequence(), target, now)
        self._voice.ping(target, self._probe.sequence)
        key = self._probe.sequence.to_bytes(8, "big")
        self._timers.add(now + self._health.stretch(self._settings.probe_timeout_ns), self._on_probe_timeout, key)

    def _on_probe_timeout(self, now: int, key: bytes) -> None:
        probe = self._probe
        if probe is None or probe.sequence != int.from_bytes(key, "big"):
            return
        probe.asked = True
        target = probe.target
        for helper in self._table.pick(self._settings.indirect_probes, target.id, helpers=True):
            probe.silent += 1
            news = self._voice.news(ROOM - len(target.endpoint) - 2, helper)
            body = gossip.PingReq(probe.sequence, target.id, target.endpoint, news)
            self._voice.send(helper.endpoint, Type.PING_REQ, body)

    def _probe_failed(self, probe: Probe, now: int) -> None:
        self._counters.probes_failed += 1
        self._health.add(probe.silent if probe.asked and self._table.live > 1 else 1)
        self._beliefs.accuse(probe.target, now)

    def _on_nack_due(self, now: int, key: bytes) -> None:
        relay = self._relays.take(int.from_bytes(key, "big"))
        if relay is not None:
            known = self._table.get(relay.asker)
            self._voice.send(relay.endpoint, Type.NACK, gossip.Nack(relay.sequence, self._voice.news(ROOM, known)))

    def _on_sync(self, now: int, _: bytes) -> None:
        self._timers.add(now + self._sync_interval(), self._on_sync)
        for other in self._table.pick(1) if not self._voice.leaving else ():
            self._voice.push_pull(other.endpoint, 0, now)

    def _on_more(self, now: int, id: bytes) -> None:
        other = self._table.get(id)
        if other is not None and not self._voice.leaving:
            self._voice.push_pull(other.endpoint, 0, now)

    def _on_reconnect(self, now: int, _: bytes) -> None:
        self._timers.add(now + self._settings.reconnect_interval_ns, self._on_reconnect)
        failed = self._table.failed()
        if failed and not self._voice.leaving:
            member = self._table.get(self._random.choice(failed))
            assert member is not None
            self._voice.ping(member, self._voice.sequence())

    def _on_join(self, now: int, _: bytes) -> None:
        """Try the seeds that are no members, each time after twice the time."""
        self._join_retry = min(JOIN_RETRY_MAX_NS, 2 * self._join_retry)
        self._timers.add(now + self._join_retry, self._on_join)
        for seed, known in self._seeds.items():
            member = self._table.get(known)
            if (member is None or member.status >= Status.FAILED) and not self._voice.leaving:
                self._voice.push_pull(seed, 0, now)

    def _on_left(self, now: int, _: bytes) -> None:
        self._voice.left = True

    def _sync_interval(self) -> int:
        return dissemination.sync_interval(self._settings.sync_interval_ns, self._table.live + 1)
