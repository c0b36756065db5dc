"""What a member believes of others and of itself: claims come in, the rules judge them, news go out.

The verdicts are those of :mod:`zfabric.core.mesh.rules`; here stands what each of them does to the table, to the
suspicions, to the events and to the queue of news. Everything that changes a belief is passed on, so that it
reaches everybody; nothing that changes none is, so that rumours die.
"""

from __future__ import annotations

from typing import Final

import msgspec

from zfabric.core.mesh import rules
from zfabric.core.mesh.events import EVENTS_MAX, Counters, Kind, MemberEvent
from zfabric.core.mesh.health import Allowance, Awareness
from zfabric.core.mesh.rules import Verdict
from zfabric.core.mesh.suspicion import Suspicion
from zfabric.core.mesh.table import Table
from zfabric.core.mesh.timers import Timers
from zfabric.core.mesh.voice import Voice
from zfabric.settings import MeshSettings
from zfabric.wire.gossip import Member, Message, Status, Type

SECOND: Final = 1_000_000_000
COLLISIONS_MAX: Final = 64
_SUSPECT: Final = int(Status.SUSPECT)
COLLISION_NS: Final = 60 * SECOND
"""A collision is told again after this time, while it lasts."""


class Beliefs:
    """The judging half of a member.

    Attributes:
        events: what became known. urgent: ids to probe next. round_trips: smoothed ns, by id.
        quiet_until: until then (monotonic ns) what anti-entropy tells is not passed on: a newcomer learns it last.
        next_merge: before that no further comparison begins because somebody came back.
    """

    def __init__(
        self, voice: Voice, table: Table, health: Awareness, timers: Timers, counters: Counters, settings: MeshSettings
    ) -> None:
        self.events: list[MemberEvent] = []
        self.urgent: list[bytes] = []
        self.round_trips: dict[bytes, int] = {}
        self.quiet_until = 0
        self.next_merge = 0
        self._voice = voice
        self._table = table
        self._health = health
        self._timers = timers
        self._counters = counters
        self._settings = settings
        self._suspicions: dict[bytes, Suspicion] = {}
        self._collided: dict[bytes, int] = {}
        self._jumps = Allowance(1, rules.JUMP_NS)

    def merge_all(self, message: Message, now: int) -> None:
        """Judge the news of a frame. Most are not new: those are passed over as quickly as that can be seen."""
        known_of, suspicions = self._table.members.get, self._suspicions
        for claim in message.updates:
            known = known_of(claim.id)
            if known is claim:
                continue
            if known is not None:
                if claim.incarnation <= known.incarnation and rules.stale(known, claim):
                    continue
                if claim.status == _SUSPECT and claim.incarnation == known.incarnation:
                    suspicion = suspicions.get(claim.id)
                    if suspicion is not None and not suspicion.wants(claim.accuser):
                        continue
            self.merge(claim, now, by=message)

    def merge(self, claim: Member, now: int, *, by: Message, own: bool = False, proven: bool = False) -> None:
        """Judge a claim of a frame: of its sender's ``own``; ``proven`` if that one has shown that it lives."""
        if claim.id == self._voice.me.id:
            self.about_me(claim, now)
            return
        known = self._table.get(claim.id)
        if known is claim:
            return
        if by.type == Type.STATE and claim.status == Status.FAILED:
            # In anti-entropy it is the other's opinion of long ago; let the member itself speak.
            claim = msgspec.structs.replace(claim, status=Status.SUSPECT, accuser=by.sender)
        verdict = rules.decide(known, claim, own=own)
        if verdict == Verdict.IGNORE:
            return
        if verdict == Verdict.ADMIT:
            self._admit(claim, now, proven=proven, quietly=by.type == Type.STATE and not proven)
            return
        assert known is not None
        if verdict <= Verdict.RETURN:
            self._alive(known, claim, now, merge=verdict == Verdict.RETURN and claim.id == by.sender)
        elif verdict <= Verdict.CONFIRM:
            self._suspect(known, claim, now)
        elif verdict <= Verdict.LEAVE:
            self._end(known, claim, now)
        elif verdict == Verdict.COLLIDE:
            self._collide(claim, now)
        else:
            self._counters.incarnations_refused += 1

    def _admit(self, claim: Member, now: int, *, proven: bool, quietly: bool) -> None:
        added = self._table.add(claim, proven=proven)
        while self._table.evicted:
            self._forgotten(self._table.evicted.pop())
        if added:
            self._note("joined", claim)
            if not quietly or now >= self.quiet_until:
                self._voice.spread(claim, now)

    def accuse(self, target: Member, now: int) -> None:
        """Suspect a member that did not answer, unless it is another one by now."""
        known = self._table.get(target.id)
        if known is not None and known.instance == target.instance and known.status <= Status.SUSPECT:
            me = self._voice.me.id
            claim = Member(known.id, known.instance, known.incarnation, Status.SUSPECT, accuser=me)
            self._suspect(known, claim, now)
            self._timers.add(now + self._suspicions[target.id].low, self._on_doubt, target.id)

    def about_me(self, claim: Member, now: int) -> None:
        """Judge a claim about this member itself, and refute it if it would win."""
        me = self._voice.me
        other = claim.instance != me.instance
        if other and claim.status == Status.ALIVE and claim.endpoint != me.endpoint:
            self._collide(claim, now)
        incarnation = rules.refutation(me, claim)
        if not incarnation or self._voice.leaving:
            return
        if rules.far(incarnation, me.incarnation) and not self._jumps.allow(now):
            self._counters.incarnations_refused += 1
            return
        self._counters.refutations += 1
        if claim.status != Status.ALIVE and not other:
            self._health.add(1)
        self._voice.renew(msgspec.structs.replace(me, incarnation=incarnation), now)

    def measured(self, member: bytes, took_ns: int) -> None:
        """Take the time that a probe took: a shorter one is the better measure, a longer one may be a busy moment.

        The first probe often makes a connection, or meets a process that has just begun.
        """
        before = self.round_trips.get(member, took_ns)
        self.round_trips[member] = min(took_ns, before + (took_ns - before) // 4)

    def woke_late(self, span_ns: int) -> None:
        """Give suspects the time that this process stood still: nobody could be heard."""
        for suspect, suspicion in self._suspicions.items():
            suspicion.extend(span_ns)
            self._timers.add(suspicion.deadline, self._on_suspicion, suspect)

    def _alive(self, known: Member, claim: Member, now: int, *, merge: bool) -> None:
        self._table.put(claim, now)
        self._clear(claim.id)
        if known.status >= Status.FAILED or claim.instance != known.instance:
            self._note("returned", claim)
        elif known.status == Status.SUSPECT:
            self._note("recovered", claim)
        else:
            self._note("updated", claim)
        self._voice.spread(claim, now)
        if merge and now >= self.next_merge:
            # It answered itself, so a partition may have healed: compare all, but not with each of many at once.
            self.next_merge = now + SECOND
            self._voice.push_pull(claim.endpoint, 0, now)

    def _suspect(self, known: Member, claim: Member, now: int) -> None:
        suspicion = self._suspicions.get(claim.id)
        if suspicion is not None and claim.incarnation == known.incarnation:
            if not suspicion.confirm(claim.accuser):
                return
        else:
            suspicion = Suspicion(claim.accuser, self._table.live + 1, self._settings, now)
            self._suspicions[claim.id] = suspicion
            # As ``replace`` would make it, in a fifth of the time: where frames are lost this is done very often.
            suspect = Member(
                known.id, known.instance, claim.incarnation, _SUSPECT,
                known.endpoint, known.version, known.metadata, claim.accuser,
            )  # fmt: skip
            self._table.put(suspect, now)
            if known.status == Status.ALIVE:
                self._note("suspected", suspect)
        self._timers.add(suspicion.deadline, self._on_suspicion, claim.id)
        self._voice.spread(claim, now)

    def _clear(self, suspect: bytes) -> None:
        """It is suspected no more."""
        if self._suspicions.pop(suspect, None) is not None:
            self._timers.cancel(self._on_suspicion, suspect)
            self._timers.cancel(self._on_doubt, suspect)

    def _on_doubt(self, now: int, suspect: bytes) -> None:
        """Nobody else finds it gone: ask again those that this member accused itself, until they answer or time is up.

        The news of a suspicion die out long before the suspicion does. If they could not reach the suspect, because a
        partition lay between, it would else hear of it by chance, or when it is taken for failed. This is no probe:
        those of a member that found many gone are far between, since it doubts itself.
        """
        suspicion, known = self._suspicions.get(suspect), self._table.get(suspect)
        if suspicion is not None and suspicion.deadline > now and known is not None:
            self._timers.add(now + suspicion.low, self._on_doubt, suspect)
            self._voice.ping(known, self._voice.sequence())

    def _on_suspicion(self, now: int, suspect: bytes) -> None:
        suspicion, known = self._suspicions.get(suspect), self._table.get(suspect)
        if suspicion is not None and suspicion.deadline <= now and known is not None:
            me = self._voice.me.id
            self._end(known, Member(suspect, known.instance, known.incarnation, Status.FAILED, accuser=me), now)

    def _end(self, known: Member, claim: Member, now: int) -> None:
        """It has failed or left."""
        ended = msgspec.structs.replace(
            known, status=claim.status, incarnation=claim.incarnation, accuser=claim.accuser
        )
        self._clear(claim.id)
        self.round_trips.pop(claim.id, None)
        self._table.put(ended, now)
        self._note("failed" if claim.status == Status.FAILED else "left", ended)
        self._voice.spread(claim, now)
        self._timers.add(now + self._keep(ended), self._reap, claim.id)

    def _keep(self, ended: Member) -> int:
        return self._settings.failed_keep_ns if ended.status == Status.FAILED else self._settings.left_keep_ns

    def _reap(self, now: int, gone: bytes) -> None:
        ended, known = self._table.ended_at(gone), self._table.get(gone)
        if ended is not None and known is not None and now >= ended + self._keep(known):
            self._table.remove(gone)
            self._forgotten(known)

    def _forgotten(self, gone: Member) -> None:
        """It is in the table no more: nothing else may remember it either."""
        self._voice.queue.forget(gone.id)
        self._timers.cancel(self._reap, gone.id)
        self.round_trips.pop(gone.id, None)
        self._note("reaped", gone)

    def _collide(self, claim: Member, now: int) -> None:
        """Two live under one id. The known one keeps it, if it answers a probe; both will hear of it."""
        self._counters.collisions += 1
        if now < self._collided.get(claim.id, 0):
            return
        if len(self._collided) >= COLLISIONS_MAX:
            self._collided.pop(next(iter(self._collided)))
        self._collided[claim.id] = now + COLLISION_NS
        self._note("collided", claim)
        if len(self.urgent) < COLLISIONS_MAX and claim.id != self._voice.me.id:
            self.urgent.append(claim.id)

    def _note(self, kind: Kind, member: Member) -> None:
        if len(self.events) < EVENTS_MAX:
            self.events.append(MemberEvent(kind, member))
            return
        self._counters.events_dropped += 1
        self.events[-1] = MemberEvent("lost", self._voice.me)
