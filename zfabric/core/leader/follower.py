"""What a keeper follows: which fabrics it asks, for which partitions, and when. It holds no data and decides all.

A keeper is given patterns of topic names (``sensor.*``) and hears of *sources*: fabrics that can be asked, from the
mesh, from its options, or by an OFFER of one that can only dial out. For each source it

1. asks METADATA: at first, again whenever a FOLLOWED tells another version of its topics, and every ten minutes;
2. has the controller ADOPT every partition that the source leads of a topic that matches and is on disk there, all of
   it at leader 0;
3. asks FOLLOW for all its copies of that origin in one question, one question at a time (and where it has none, whether
   there is another version);
4. hands what comes to the leader as one KEEP, and asks on only when that is committed, so that the offsets in the
   next question are confirmed by this keeper's disk.

**Away.** A source is away whose connection is lost and that has not answered for 5 s. Its copies are then asked for at
another keeper that has them, as that one's METADATA says, until the origin answers again: offsets, epochs and bytes are
the same everywhere. Every 5 s it is seen whether one has gone away.

**Idle.** A leader holds a FOLLOW while it has nothing, for 30 s and 3 ms more for each source that the keeper has, up
to a minute: a keeper of 10,000 idle origins asks 167 questions a second, one of 200 asks seven. It waits a little less
so that about ``GROUP`` answers come at a time, at whole seconds or more often, and are one turn's work, not as many's.

**Lost.** A leader that holds a question says HELD after a second, and before a large answer. One that has said nothing
for 5 s has not got the question: it is asked again, so that nobody waits for ``acks="all"`` as long as questions are
held. An answer that is lost is the leader's to repeat.

**Bounds.** A question to a source that is caught up asks for 32 KiB at most. One that is behind asks for what its link
brings in a second or two (``core/appetite.py``), up to 4 MiB, and at most 16 of these are under way. A source that
fails, or whose batches could not be appended, is asked again after a pause that doubles from 0.1 s to 10 s. While this
keeper's disk is full nobody is asked for batches, and everybody at once when there is room again. At most 1,000 sources
are dialled at a time (OFFERs do not count): with more, they stand in line, questions are held for 5 s, and one that is
caught up or has failed makes room for the first.

**Damage.** Each batch is verified (header, payload, place) against the ids of whoever was asked before it is handed on.
One that is damaged is dropped with all behind it and asked for again; one that its leader finds damaged on its own disk
is asked for elsewhere. A partition that fails (it was deleted, the logs have diverged) is left out for 30 s. What is
damaged on this keeper's disk is asked for by ``mender.py``.

What clients have committed at a copy here is SHAREd with its origin, all of it once after each start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

import msgspec

from zfabric import errors
from zfabric.core.leader.intake import Intake
from zfabric.core.leader.mender import Mender
from zfabric.core.leader.sources import OFFERED, PAUSE_NS, Answer, Caller, Kept, Source, Sources
from zfabric.settings import FETCH_PARTITIONS_MAX, FOLLOW_WAIT_MS_MAX, SHARED_OFFSETS_MAX
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Metadata, MetadataIs, TopicMeta
from zfabric.wire.replication import Adopt, AdoptedTopic, Follow, Followed, FollowPart, Share, SharedOffset

SECOND: Final = 1_000_000_000
AGAIN_NS: Final = 5 * SECOND
METADATA_NS: Final = 600 * SECOND
CHECK_NS: Final = 60 * SECOND
PATIENCE_NS: Final = 5 * SECOND
WAIT_MS: Final = 30_000
WAIT_SOURCE_MS: Final = 3
WAIT_IN_LINE_MS: Final = 5_000
GROUP: Final = 8
IDLE_BYTES: Final = 32 << 10
BULK_MAX: Final = 16
DIALLED_MAX: Final = 1_000
CHECKED_AT_ONCE: Final = 200
ADOPT_NS: Final = 10_000_000
ADOPT_COPY_NS: Final = 100_000


class Follower:
    """The pulling half of a keeper, for one leader process. See the module.

    Args:
        patterns: of topic names, as in a shell. caller: its connections. leader: its own leader.
    """

    def __init__(self, patterns: Sequence[str], caller: Caller, leader: Kept) -> None:
        self._patterns = tuple(patterns)
        self._caller = caller
        self._leader = leader
        self._sources = Sources(caller, leader)
        self._intake = Intake(leader)
        self._mender = Mender(caller, leader, self._sources, self._intake)
        self._now = 0
        self._wall_ms = 0
        self._adopt: dict[str, list[AdoptedTopic]] = {}
        self._adopt_due = 0
        self._drop: list[int] = []
        self._said: tuple[dict[str, list[AdoptedTopic]], list[int]] = {}, []
        self._shared_to: set[str] = set()
        self._to_share: dict[str, dict[tuple[int, str], SharedOffset]] = {}
        self._sharing: set[str] = set()
        self._check_due = 0
        self._checking: list[int] = []
        self._settling: list[Source] = []
        self._in_turn: list[Source] = []
        self._bulk = 0
        self._dialled = 0
        self._line: deque[Source] = deque()
        self._failures = 0
        self._full = False
        self._away: set[str] = set()
        self._away_due = 0

    # What the shell says.

    @property
    def failures(self) -> int:
        """Answers, and parts of answers, that were errors or could not be used."""
        return self._failures + self._intake.failures

    def learn(self, endpoint: str) -> None:
        """A fabric can be asked at ``endpoint``: a ZeroMQ one, or ``offer:FABRIC`` of one that has dialled us."""
        if self._sources.at(endpoint) is None:
            self._sources.add(endpoint)

    def forget(self, endpoint: str) -> None:
        """The fabric is not there any more; its copies stay."""
        source = self._sources.at(endpoint)
        if source is not None:
            self._hang_up(source)
            self._sources.remove(source)
            self._caller.leave(endpoint)

    def hint(self, endpoint: str) -> None:
        """The topics of the fabric there have changed, as somebody says."""
        source = self._sources.at(endpoint)
        if source is not None:
            source.metadata_due = min(source.metadata_due, self._now)
            self._sources.schedule(source)

    def endpoints(self) -> list[str]:
        """Return where fabrics can be asked."""
        return self._sources.endpoints()

    def clock(self, now: int, wall_ms: int) -> None:
        """Note the time (monotonic ns, ms since 1970), before answers are handed in."""
        self._now, self._wall_ms = now, wall_ms

    def tick(self) -> None:
        """Ask what is to be asked."""
        if not self._leader.fabric:
            return
        changed = self._sources.group()
        if self._away_due <= self._now:
            changed += self._gone_away()
        full, self._full = self._full, self._leader.copies.full is not None
        if full and not self._full:
            changed = self._sources.all()
        for source in changed:
            # Whatever it holds for us now is not all that we want to know.
            self._stop_asking(source)
            source.ask_at = self._now
            self._sources.schedule(source)
        for source in self._sources.take_due(self._now):
            self._attend(source)
        self._mender.tick(self._now)
        self._share()
        if self._check_due <= self._now:
            self._check()

    def _gone_away(self) -> list[Source]:
        """Return the keepers of origins that have gone away: they are to be asked for these too."""
        self._away_due = self._now + AGAIN_NS
        before, self._away = self._away, {o for o in self._sources.mine if self._sources.is_away(o, self._now)}
        return self._sources.keepers_of(self._away - before)

    def _attend(self, source: Source) -> None:
        if source.fabric and source.fabric == self._leader.fabric:
            self.forget(source.endpoint)
        elif source.metadata_due <= self._now and not source.learning:
            self._learn(source)
        elif source.ask_at <= self._now and not source.asking and not source.settling:
            self._follow(source)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        if not self._leader.fabric or not len(self._sources):
            return None
        wanted = [self._check_due, self._away_due, self._sources.next_deadline(), self._mender.next_deadline()]
        if self._adopt or self._drop:
            wanted.append(self._adopt_due)
        return min(due for due in wanted if due is not None)

    def take_commands(self) -> list[Command]:
        """Return what is for the next turn."""
        commands = []
        self._said = {}, []
        if (self._adopt or self._drop) and self._adopt_due <= self._now:
            adopted = [Adopt(origin, topics) for origin, topics in self._adopt.items()]
            if self._drop:
                adopted.append(Adopt("", [], self._drop))
            commands = [Command(Type.ADOPT, 0, 0, adopt, ()) for adopt in adopted]
            self._said = self._adopt, self._drop
            self._adopt, self._drop = {}, []
            # A topic's row names all its copies: with many, they are adopted many at a time.
            self._adopt_due = self._now + ADOPT_NS + ADOPT_COPY_NS * len(self._leader.kept)
        keep = self._intake.take()
        if keep is not None:
            commands.append(Command(Type.KEEP, 0, 0, keep, ()))
        self._in_turn += self._settling
        self._settling = []
        return commands

    def settled(self) -> None:
        """The turn with the commands taken is committed: what it appended is on disk. Or it was given up."""
        copies = self._leader.copies
        if copies.lost:
            self._say_again()
        for shared in copies.shared:
            place = self._leader.kept.get(shared.partition)
            # Of a log that the origin has no more, offsets would be those of other records there.
            if place is not None and shared.partition not in copies.parted:
                told = msgspec.structs.replace(shared, partition=place.source)
                self._to_share.setdefault(place.origin, {})[place.source, shared.group] = told
        copies.shared = []
        self._drop += copies.expired
        copies.expired = []
        in_turn, self._in_turn = self._in_turn, []
        for source in in_turn:
            source.settling = False
            self._go_on(source)
            self._sources.schedule(source)

    def _say_again(self) -> None:
        """There was no room on the disk for the turn: all that was said in it is said in another one."""
        adopt, drop = self._said
        self._said = {}, []
        self._adopt = adopt | self._adopt
        self._drop += drop
        for source in self._in_turn:
            source.settling = False
            source.told = {}
            source.before = {}
            self._shared_to.discard(source.fabric)
            self._fail(source)
            self._sources.schedule(source)
        self._in_turn = []

    # METADATA.

    def _learn(self, source: Source) -> None:
        if not self._dial(source):
            return
        source.learning = True
        source.metadata_due = self._now + METADATA_NS
        answer = self._caller.call(
            source.endpoint, Type.METADATA, Metadata(None), self._now, self._now + PATIENCE_NS * 2,
            "metadata", PATIENCE_NS * 2 / 1e9,
        )  # fmt: skip
        answer.on_done(lambda: self._learned(source, answer))

    def _learned(self, source: Source, answer: Answer) -> None:
        source.learning = False
        if not self._sources.knows(source):
            return
        if answer.error is not None:
            self._fail(source)
            source.metadata_due = source.ask_at
        else:
            self._note(source, answer.result().body)
        self._sources.schedule(source)

    def _note(self, source: Source, body: MetadataIs) -> None:
        """Take what a source says of itself, and adopt what is new and wanted."""
        source.answered_ns = self._now
        if source.fabric != body.fabric:
            self._stop_asking(source)
            self._sources.name(source, body.fabric, self._now)
            self._shared_to.discard(body.fabric)
        source.pause_ns = PAUSE_NS
        source.ask_at = self._now
        topics = [topic for topic in body.topics if self._matches(topic)]
        source.led = {place.id for topic in topics for place in topic.partitions}
        holds = {(place.origin, place.source): place.id for topic in topics for place in topic.kept}
        mine = [place for topic in body.topics for place in topic.kept if place.origin == self._leader.fabric]
        self._sources.hold(source, holds | {(place.origin, place.source): place.id for place in mine})
        kept = self._leader.kept
        copies = [copy for copy in self._sources.mine.get(body.fabric, ()) if copy in kept]
        have = {kept[copy].source: self._leader.config(copy) for copy in copies}
        adopted = []
        for topic in topics:
            led = [(place.number, place.id) for place in topic.partitions if have.get(place.id) != topic.config]
            if led:
                adopted.append(AdoptedTopic(topic.name, topic.config, led))
        if adopted:
            self._adopt[body.fabric] = adopted

    def _matches(self, topic: TopicMeta) -> bool:
        # Copies are pulled from leader 0, which is all that a peer has; a topic is kept as a whole or not at all.
        able = topic.config.durability == "fsync" and all(place.leader == 0 for place in topic.partitions)
        return able and any(fnmatchcase(topic.name, each) for each in self._patterns)

    # FOLLOW.

    def _wait_ns(self) -> int:
        wait_ms = WAIT_IN_LINE_MS if self._line else WAIT_MS + WAIT_SOURCE_MS * len(self._sources)
        return min(wait_ms, FOLLOW_WAIT_MS_MAX) * 1_000_000

    def _held_ms(self) -> int:
        """Return for how long a question that is asked now is held, so that it is answered together with others."""
        longest_ns = self._wait_ns()
        apart_ns = min(SECOND, GROUP * longest_ns // len(self._sources))
        return (longest_ns - (self._now + longest_ns) % apart_ns) // 1_000_000

    def _follow(self, source: Source) -> None:
        if not source.fabric:
            return
        if not self._sources.is_used(source, self._now):
            source.ask_at = self._now + AGAIN_NS
            return
        wanted = {
            there: copy
            for there, copy in self._sources.wanted(source, self._now).items()
            if not self._intake.is_left_out(copy, self._now)
        }
        positions = self._leader.copies.positions
        unknown = [copy for copy in wanted.values() if copy not in positions]
        if unknown:
            self._intake.keep.load.extend(unknown)
            self._settle(source)
        elif self._dial(source):
            self._ask(source, wanted)

    def _ask(self, source: Source, wanted: dict[int, int]) -> None:
        source.bulk = source.behind and self._bulk < BULK_MAX
        self._bulk += source.bulk
        source.asking = True
        source.question += 1
        question = source.question
        positions = self._leader.copies.positions
        last = {there: at for at, there in enumerate(source.order)}
        # Those first that did not get anything last time.
        ordered = sorted(wanted, key=lambda there: last.get(there, -1))[:FETCH_PARTITIONS_MAX]
        if self._full:
            ordered = []  # Whatever came would have to be thrown away: it only says that its topics have changed.
        source.asked = {there: wanted[there] for there in ordered}
        body = Follow(
            source.fabric, self._leader.fabric, source.appetite.bytes if source.bulk else IDLE_BYTES,
            self._held_ms(), source.run, source.since(), max(source.version, 0),
            [FollowPart(there, *positions[wanted[there]]) for there in ordered],
            source.appetite.part_bytes, True,
        )  # fmt: skip
        patience = self._wait_ns() + PATIENCE_NS
        answer = self._caller.call(
            source.endpoint, Type.FOLLOW, body, self._now, self._now + 2 * patience, "follow", 2 * patience / 1e9,
            patience_ns=PATIENCE_NS if source.signs else patience, held_ns=patience,
        )  # fmt: skip
        bulk, asked_ns = body.max_bytes if source.bulk else 0, self._now
        answer.on_done(lambda: self._followed(source, question, answer, bulk, asked_ns))

    def _followed(self, source: Source, question: int, answer: Answer, bulk: int, asked_ns: int) -> None:
        if question != source.question or not self._sources.knows(source):
            return
        if bulk and answer.error is not None:
            source.appetite.failed(bulk)
        elif bulk:
            source.appetite.answered(bulk, self._now - asked_ns, len(answer.result().rest[0]), self._now)
        self._stop_asking(source)
        error = answer.error
        body: Followed | None = None if error is not None else answer.result().body
        if body is None or body.fabric != source.fabric:
            self._fail(source)
            if body is not None or isinstance(error, errors.WrongFabric):
                source.metadata_due = self._now
            self._sources.schedule(source)
            return
        source.answered_ns = self._now
        source.tell(body.run, body.since)
        source.signs = body.signs
        if source.version != body.version:
            source.version = body.version
            source.metadata_due = self._now
        blob = memoryview(answer.result().rest[0])
        self._intake.answered(source, body, blob, self._now, self._wall_ms)
        if source.fabric not in self._shared_to:
            self._shared_to.add(source.fabric)
            self._intake.keep.share.extend(self._sources.mine.get(source.fabric, ()))
        self._settle(source)

    def _settle(self, source: Source) -> None:
        source.settling = True
        self._settling.append(source)
        self._sources.schedule(source)

    def _stop_asking(self, source: Source) -> None:
        """Expect no answer any more: one that comes all the same is to an older question."""
        if source.asking:
            source.asking = False
            source.question += 1
            self._bulk -= source.bulk
            source.bulk = False

    def _go_on(self, source: Source) -> None:
        """What a question brought is on disk; if nothing of it could be stored, there is a pause before the next."""
        positions = self._leader.copies.positions
        moved = [copy for copy, end in source.before.items() if copy in positions and positions[copy].end > end]
        if source.before and not moved:
            self._fail(source)
        else:
            source.ask_at = self._now
            source.pause_ns = PAUSE_NS
            if self._line and not source.behind:
                self._hang_up(source)
        source.before = {}

    def _fail(self, source: Source) -> None:
        self._failures += 1
        source.fail(self._now)
        if self._line:
            self._hang_up(source)

    # Connections.

    def _dial(self, source: Source) -> bool:
        """Make sure that the source may have a connection; False if all are taken."""
        if not source.dialled and not source.endpoint.startswith(OFFERED):
            if self._dialled >= DIALLED_MAX:
                source.in_line = True
                self._line.append(source)
                return False
            source.dialled = True
            self._dialled += 1
        return True

    def _hang_up(self, source: Source) -> None:
        self._stop_asking(source)
        if source.dialled:
            source.dialled = False
            self._dialled -= 1
            self._caller.leave(source.endpoint)
            self._let_in()

    def _let_in(self) -> None:
        """A connection is free: whoever waits first may have it."""
        while self._line:
            first = self._line.popleft()
            first.in_line = False
            if self._sources.knows(first):
                self._sources.schedule(first)
                return

    # SHARE.

    def _share(self) -> None:
        committed = self._leader.copies.committed
        if committed:
            self._intake.keep.share.extend(sorted(committed))
            committed.clear()
        for origin, entries in list(self._to_share.items()):
            source = self._sources.of(origin)
            if source is None:
                self._share_later(origin)
            if source is None or origin in self._sharing:
                continue
            told = [entries.pop(which) for which in list(islice(entries, SHARED_OFFSETS_MAX))]
            if not entries:
                del self._to_share[origin]
            self._sharing.add(origin)
            answer = self._caller.call(
                source.endpoint, Type.SHARE, Share(origin, told), self._now, self._now + 60 * SECOND, "share", 60.0
            )
            answer.on_done(lambda origin=origin, answer=answer: self._shared(origin, answer))  # type: ignore[misc]

    def _shared(self, origin: str, answer: Answer) -> None:
        self._sharing.discard(origin)
        if answer.error is not None:
            self._share_later(origin)

    def _share_later(self, origin: str) -> None:
        """All of it again, when it is back: it may be away for ever, and the rows know what was committed."""
        self._shared_to.discard(origin)
        self._to_share.pop(origin, None)

    # Age.

    def _check(self) -> None:
        """Look, some at a time, for copies whose origins have gone for good.

        One that is there has not, whatever the clock says now of the time at which it was heard of.
        """
        self._check_due = self._now + CHECK_NS
        if not self._checking:
            kept = self._leader.kept
            away = {origin for origin in self._sources.mine if self._sources.is_away(origin, self._now)}
            self._checking = sorted(copy for copy, place in kept.items() if place.origin in away)
        self._intake.keep.check.extend(self._checking[:CHECKED_AT_ONCE])
        del self._checking[:CHECKED_AT_ONCE]
        if self._checking:
            self._check_due = self._now + SECOND
