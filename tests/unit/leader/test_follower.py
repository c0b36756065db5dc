"""Whom a keeper asks, for what and when; its connections are played by the test."""

from __future__ import annotations

import heapq
import itertools
from random import Random

import pytest

from zfabric import errors
from zfabric.core.client.pending import Pending
from zfabric.core.leader import follower
from zfabric.core.leader.copies import Copies, Position
from zfabric.core.leader.counters import Counters
from zfabric.core.leader.damage import Damage, Stretch
from zfabric.core.leader.follower import Follower
from zfabric.core.leader.intake import Intake
from zfabric.core.leader.sources import Source
from zfabric.model import TopicConfig
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import MetadataIs, PartitionPlace, TopicMeta
from zfabric.wire.replication import Followed, FollowedPart, KeptPlace, SharedOffset

SECOND = 1_000_000_000


class Keeper:
    """What a follower sees of its leader: adopts at once, and is at the end of everything."""

    fabric = "me"

    def __init__(self):
        self.kept = {}
        self.damage = Damage(None, Counters())
        self.copies = Copies(None, self.damage, 0)
        self.assignment_version = 1

    def config(self, copy):
        return self.kept[copy].config

    def handle(self, command):
        if command.type == Type.ADOPT:
            self.assignment_version += 1
            for topic in command.body.topics:
                for number, source in topic.partitions:
                    copy = len(self.kept) + 1
                    self.kept[copy] = KeptPlace(copy, command.body.origin, number, 0, source, topic.config)
        else:
            for copy in command.body.load:
                self.copies.positions[copy] = Position(0, 0, 0)


class World:
    """Origins that have one topic each and nothing in it; they hold a question for as long as they may."""

    def __init__(self, origins, *, durability="fsync", leader=0):
        self.now = 0
        self.keeper = Keeper()
        self.asked = []
        self.due = []
        self.endpoints = set()
        self.config = TopicConfig(durability=durability)
        self.leader = leader
        self.away = set()
        self.follower = Follower(["s.*"], self, self.keeper)
        for number in range(origins):
            self.follower.learn(f"offer:{number}")

    # As connections.

    def connected(self, endpoint):
        return endpoint not in self.away

    def leave(self, endpoint):
        self.endpoints.discard(endpoint)
        left, self.due = (
            [entry for entry in self.due if entry[4] == endpoint],
            [entry for entry in self.due if entry[4] != endpoint],
        )
        heapq.heapify(self.due)
        for entry in left:
            entry[2].fail(errors.Unreachable(url=endpoint, seconds=0.0))

    def call(self, endpoint, kind, body, now, deadline_ns, what, seconds, *, patience_ns=0, held_ns=None):
        pending = Pending()
        self.endpoints.add(endpoint)
        self.asked.append((now, endpoint, kind, body))
        fabric = f"f{endpoint}"
        if kind == Type.METADATA:
            places = [PartitionPlace(7, 0, self.leader)]
            metas = [TopicMeta("s.x", 1, self.config, places), TopicMeta("o", 2, self.config, places)]
            answer, wait = MetadataIs(fabric, [], metas, []), 0
        elif kind == Type.FETCH:
            answer, wait = messages.Fetched([messages.FetchedPart(7, 0, 0, 1, 0)]), 0
        else:
            answer, wait = Followed(fabric, 1, 0, 1, []), 0 if body.run == 0 else body.wait_ms
        entry = (now + wait * 1_000_000, len(self.asked), pending, Command(kind, 0, 1, answer, (b"",)), endpoint)
        heapq.heappush(self.due, entry)
        return pending

    def run(self, seconds):
        end = self.now + seconds * SECOND
        while True:
            wanted = self.follower.next_deadline()
            nearest = min([self.due[0][0] if self.due else end, end if wanted is None else wanted])
            if nearest >= end:
                self.now = end
                return
            self.now = max(self.now, nearest)
            self.follower.clock(self.now, 0)
            while self.due and self.due[0][0] <= self.now:
                _, _, pending, command, _ = heapq.heappop(self.due)
                if command is None:
                    pending.fail(errors.Unreachable(url="x", seconds=1.0))
                else:
                    pending.resolve(command)
            self.follower.tick()
            for command in self.follower.take_commands():
                self.keeper.handle(command)
            self.follower.settled()

    def questions(self, since):
        return [entry for entry in self.asked if entry[2] == Type.FOLLOW and entry[0] >= since]


def test_what_matches_and_lies_on_disk_at_one_leader_is_adopted():
    world = World(2)
    world.run(1)
    assert {(place.origin, place.source) for place in world.keeper.kept.values()} == {("foffer:0", 7), ("foffer:1", 7)}
    for other in (World(2, durability="memory"), World(2, leader=1)):
        other.run(1)
        assert other.keeper.kept == {}


def test_ten_thousand_idle_origins_cost_less_than_two_hundred_questions_a_second():
    """Each holds a question for as long as it may: 30 s, and 3 ms more for each origin, but no more than a minute."""
    world = World(10_000)
    world.run(75)
    assert len(world.keeper.kept) == 10_000
    # Every round the same origins ask in the same moments: what counts is the mean over a round.
    asked = world.questions(world.now - 55 * SECOND)
    assert 9_000 <= len(asked) <= 11_000
    assert all(59_900 < entry[3].wait_ms <= 60_000 for entry in asked)
    assert {len(entry[3].parts) for entry in asked} == {1}


def test_idle_origins_are_answered_about_eight_at_a_time():
    """However they were found: a turn for the answers of several costs less than a turn for each."""
    world = World(0)
    for number in range(200):
        world.follower.learn(f"offer:{number}")
        world.run(0.15)
    world.run(90)
    asked = world.questions(world.now - 31 * SECOND)
    assert len(asked) >= 200
    assert len({at for at, *_ in asked}) <= 32
    assert all(29_600 <= body.wait_ms <= 30_600 for *_, body in asked)


def test_a_few_idle_origins_are_asked_every_thirty_seconds():
    world = World(10)
    world.run(120)
    assert 20 <= len(world.questions(world.now - 60 * SECOND)) <= 30


def test_no_more_than_a_thousand_origins_are_dialled_at_a_time_and_all_have_their_turns():
    world = World(0)
    for number in range(1_500):
        world.follower.learn(f"tcp://{number}")
    world.run(120)
    assert len(world.endpoints) <= 1_000
    assert len(world.keeper.kept) == 1_500
    assert len({entry[1] for entry in world.questions(world.now - 60 * SECOND)}) == 1_500


def test_an_origin_is_asked_by_one_of_its_addresses():
    world = World(1)

    call = world.call
    same = {"tcp://same": "offer:0"}
    world.call = lambda endpoint, *rest, **more: call(same.get(endpoint, endpoint), *rest, **more)
    world.follower.learn("tcp://same")
    world.run(30)
    assert len(world.keeper.kept) == 1
    assert len(world.questions(world.now - 10 * SECOND)) <= 3


@pytest.mark.parametrize("seed", range(20))
def test_answers_that_are_garbage_end_as_problems_of_their_copies(seed):
    random = Random(seed)
    keeper = Keeper()
    keeper.kept[1] = KeptPlace(1, "o", 0, 0, 7)
    keeper.copies.positions[1] = Position(5, 1, 0)
    intake = Intake(keeper)
    source = Source("tcp://o", fabric="o", asked={7: 1})
    blob = random.randbytes(random.choice([10, 96, 300]))
    parts = [
        FollowedPart(7, random.choice([0, 5]), 9, len(blob)),
        FollowedPart(8, 0, 9, 10**9),
        FollowedPart(7, 0, 9, 3),
        FollowedPart(7, 0, 0, 0, (999, {"x": "y"})),
    ]
    intake.answered(source, Followed("o", 1, 1, 1, parts), memoryview(blob), 0, 0)
    assert intake.keep.batches == []
    assert keeper.copies.problems[1]
    assert intake.failures > 0


def test_another_keeper_does_not_say_what_is_gone():
    keeper = Keeper()
    keeper.kept[1] = KeptPlace(1, "o", 0, 0, 7)
    keeper.copies.positions[1] = Position(5, 1, 0)
    for fabric, starts in (("k", []), ("o", [(1, 9)])):
        intake = Intake(keeper)
        source = Source("tcp://x", fabric=fabric, asked={7: 1})
        intake.answered(source, Followed(fabric, 1, 1, 1, [FollowedPart(7, 9, 12, 0)]), memoryview(b""), 0, 0)
        assert intake.keep.starts == starts


def test_a_source_that_fails_is_asked_again_after_a_pause_that_grows():
    world = World(1)
    times = []

    def refuse(endpoint, kind, body, now, *rest, **more):
        times.append(now)
        pending = Pending()
        heapq.heappush(world.due, (now, len(times), pending, None, endpoint))
        return pending

    world.call = refuse
    world.run(60)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] == SECOND // 10
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10 * SECOND


def test_what_is_committed_in_a_partition_that_is_new_is_asked_for_from_the_beginning():
    """Versions count all partitions that somebody follows: those of a new one may be older than what was told."""
    world = World(1)
    answer = world.call

    def tell(endpoint, kind, body, *rest, **more):
        pending = answer(endpoint, kind, body, *rest, **more)
        [entry] = [entry for entry in world.due if entry[2] is pending]
        body = entry[3].body
        if kind == Type.METADATA and world.now >= 100 * SECOND:
            place = PartitionPlace(8, 0, 0)
            body = MetadataIs(body.fabric, [], [*body.topics, TopicMeta("s.y", 3, world.config, [place])], [])
        elif kind == Type.FOLLOW:
            body = Followed(body.fabric, 1, 5, 2 if world.now >= 100 * SECOND else 1, [])
        world.due[world.due.index(entry)] = (*entry[:3], entry[3]._replace(body=body), entry[4])
        return pending

    world.call = tell
    world.run(240)
    told = [([part.partition for part in body.parts], body.since) for _, _, _, body in world.questions(0)]
    assert [since for parts, since in told if parts == [7]][:3] == [0, 5, 5]
    assert [since for parts, since in told if sorted(parts) == [7, 8]][:3] == [0, 5, 5]


def commit_for_ever(world, count):
    """Let two groups commit at the first copy again and again."""
    for offset in range(count):
        world.keeper.copies.shared = [SharedOffset(1, group, 0, offset, 0) for group in ("a", "b")]
        world.follower.settled()


def test_what_waits_for_an_origin_that_is_silent_is_bounded_by_its_groups():
    world = World(1)
    world.run(20)
    answer = world.call
    shared = []

    def silent(endpoint, kind, body, *rest, **more):
        if kind == Type.SHARE:
            shared.append(body)
            return Pending()
        return answer(endpoint, kind, body, *rest, **more)

    world.call = silent
    commit_for_ever(world, 1_000)
    world.run(1)
    commit_for_ever(world, 1_000)
    assert [[(told.group, told.offset) for told in body.commits] for body in shared] == [[("a", 999), ("b", 999)]]
    assert [len(waiting) for waiting in world.follower._to_share.values()] == [2]


def test_what_is_committed_for_an_origin_that_is_gone_is_told_when_it_is_back():
    world = World(1)
    world.run(20)
    world.follower.forget("offer:0")
    commit_for_ever(world, 1_000)
    world.follower.tick()
    assert world.follower._to_share == {}
    asked = []
    world.keeper.handle = lambda command: asked.extend(command.body.share if command.type == Type.KEEP else [])
    world.follower.learn("offer:0")
    world.run(20)
    assert asked == [1]


def test_a_copy_of_an_origin_that_is_there_is_never_too_old():
    """A clock that jumps makes everything look as if it had not been heard of for long."""
    world = World(2)
    checked = []
    handle = world.keeper.handle

    def note(command):
        if command.type == Type.KEEP:
            checked.extend(world.keeper.kept[copy].origin for copy in command.body.check)
        handle(command)

    world.keeper.handle = note
    world.run(100)
    assert checked == []
    world.away.add("offer:0")
    world.follower.forget("offer:0")
    world.run(200)
    assert set(checked) == {"foffer:0"}


def test_what_a_turn_that_was_given_up_should_have_done_is_said_again():
    world = World(1)
    said = {Type.ADOPT: [], Type.KEEP: []}
    handle = world.keeper.handle
    answer = world.call

    def commit(endpoint, kind, body, *rest, **more):
        pending = answer(endpoint, kind, body, *rest, **more)
        if kind == Type.FOLLOW and not body.since:
            told = Followed(f"f{endpoint}", 1, 5, 1, [], [SharedOffset(7, "g", 0, 1, 0)])
            [entry] = [entry for entry in world.due if entry[2] is pending]
            world.due[world.due.index(entry)] = (*entry[:3], entry[3]._replace(body=told), entry[4])
        return pending

    def lose(command):
        if command.type == Type.KEEP and not command.body.commits:
            handle(command)
            return
        said[command.type].append((world.now, command.body))
        world.keeper.copies.lost = len(said[command.type]) < 3
        if not world.keeper.copies.lost:
            handle(command)

    world.call, world.keeper.handle = commit, lose
    world.run(240)
    assert [adopt.topics[0].name for _, adopt in said[Type.ADOPT]] == ["s.x"] * 3
    assert [[told.group for told in keep.commits] for _, keep in said[Type.KEEP]] == [["g"]] * 3
    asked = [at for at, _, kind, _ in world.asked if kind == Type.FOLLOW]
    first, second = [min(at for at in asked if at > lost) - lost for lost, _ in said[Type.KEEP][:2]]
    assert second > first > 0


def test_a_keeper_without_room_asks_nobody_for_batches_and_everybody_when_there_is_room():
    world = World(3)
    world.run(20)
    world.keeper.copies.full = errors.StorageFull(directory="d", free=0, reserve=1)
    world.run(20)
    full_from = world.now
    world.run(30)
    asked = world.questions(full_from)
    assert asked
    assert {len(entry[3].parts) for entry in asked} == {0}
    world.keeper.copies.full = None
    room_from = world.now
    world.run(6)
    assert {entry[1] for entry in world.questions(room_from) if entry[3].parts} == {f"offer:{n}" for n in range(3)}


def damaged(world, copy=1):
    """Let a stretch of a copy be damaged here."""
    world.keeper.damage.stretches = {copy: {0: Stretch(5, "flipped")}}
    world.keeper.damage.is_over = lambda partition, first: False


def test_what_is_damaged_is_asked_for_at_its_origin_after_pauses_that_grow():
    world = World(2)
    world.run(5)
    damaged(world)
    began = world.now
    world.run(120)
    asked = [entry for entry in world.asked if entry[2] == Type.FETCH]
    origin = world.keeper.kept[1].origin.removeprefix("f")
    assert {(entry[1], entry[3].parts[0].partition, entry[3].parts[0].offset) for entry in asked} == {(origin, 7, 0)}
    assert [(entry[0] - began) // SECOND for entry in asked] == [0, 1, 3, 7, 15, 31, 63]


def test_who_stands_in_line_is_dialled_for_what_is_damaged_alone(monkeypatch):
    monkeypatch.setattr(follower, "DIALLED_MAX", 1)
    world = World(0)
    for number in range(2):
        world.follower.learn(f"tcp://{number}")
    world.run(60)
    for copy in world.keeper.kept:
        damaged(world, copy)
        world.run(0.1)
        assert any(entry[2] == Type.FETCH for entry in world.asked)
        assert len(world.endpoints) <= 2
        world.keeper.damage.stretches = {}
        world.run(0.5)
        assert len(world.endpoints) <= 1
