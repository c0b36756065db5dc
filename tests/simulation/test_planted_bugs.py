"""Bugs of the protocol, planted by hand: the simulation finds each of them, and this table says by which anomaly.

A bug is a patch of the real machines. Seeds are tried until one shows something that is wrong; one of the named signs
must be among what it shows. ``stuck`` is a run in which clients did not finish, ``assertion`` an invariant of the
machines themselves, ``damage`` a log in which a reader found a hole.
"""

from dataclasses import dataclass, field, replace
from random import Random

import pytest
import workload

from zfabric import errors
from zfabric.core.client import feed
from zfabric.core.client.feed import Feed
from zfabric.core.client.requests import Requests
from zfabric.core.effects import Publish
from zfabric.core.leader import groups
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.log import StoredLog
from zfabric.core.leader.memory import MemoryLog
from zfabric.core.leader.producers import ProducerTable
from zfabric.core.leader.turn import Turn
from zfabric.sim.disk import SimDisk
from zfabric.sim.network import Weather
from zfabric.wire import batch

SEEDS = 40
PLANTED = {}


@dataclass
class Planted:
    """A bug: how to plant it, what shows it, and what a plan must have so that it can strike."""

    plant: object
    signs: set
    topics: dict = field(default_factory=dict)
    faults: tuple = ("kill", "power_cut", "breaks", "kill_client")
    weather: Weather | None = None


def planted(*signs, **needs):
    def register(plant):
        PLANTED[plant.__name__] = Planted(plant, set(signs), **needs)
        return plant

    return register


@planted("unseen", "vanished-read", "inconsistent-offsets", "duplicate", "assertion")
def acknowledge_without_fsync(patch):
    commit = SimDisk.commit
    patch(SimDisk, "commit", lambda self: commit(self, sync=False))


@planted("vanished-read", "inconsistent-offsets", "phantom", "assertion", faults=("failing_commit",))
def publish_before_the_commit(patch):
    change = Turn.change

    def eager(self, commands, now, wall_ms):
        try:
            return change(self, commands, now, wall_ms)
        except errors.StorageFailed:
            return [effect for effect in self._leader.take_effects() if isinstance(effect, Publish)]

    patch(Turn, "change", eager)


@planted("unseen", "lost-write", faults=("failing_commit",))
def acknowledge_before_the_commit(patch):
    change = Turn.change

    def eager(self, commands, now, wall_ms):
        try:
            return change(self, commands, now, wall_ms)
        except errors.StorageFailed:
            return [effect for effect in self._leader.take_effects() if not isinstance(effect, Publish)]

    patch(Turn, "change", eager)


@planted("duplicate")
def take_a_repeated_batch_for_new(patch):
    check = ProducerTable.check

    def careless(self, header, txn):
        check(self, header, txn)

    patch(ProducerTable, "check", careless)


@planted("inconsistent-offsets", "phantom")
def answer_a_retry_with_another_offset(patch):
    original = ProducerTable._original

    def wrong(self, *arguments):
        entry = original(self, *arguments)
        return type(entry)(entry.first, entry.last, entry.base_offset + 1, entry.append_time)

    patch(ProducerTable, "_original", wrong)


@planted("nonmonotonic-send", "unseen", "lost-write", "duplicate", weather=Weather(loss=0.1, reorder=0.1))
def append_after_a_gap_in_sequences(patch):
    check = ProducerTable.check

    def careless(self, header, txn):
        try:
            return check(self, header, txn)
        except errors.OutOfOrderSequence:
            return None

    patch(ProducerTable, "check", careless)


@planted("duplicate")
def forget_producers_with_the_process(patch):
    patch(ProducerTable, "flush", lambda self, txn: self._dirty.clear())


@planted("duplicate", weather=Weather(breaks=0.05))
def append_an_application_sequence_again(patch):
    check = ProducerTable.check

    def careless(self, header, txn):
        return None if header.flags & 2 else check(self, header, txn)

    patch(ProducerTable, "check", careless)


@planted("inconsistent-offsets", "unseen", "vanished-read", "end-regress", "assertion", "duplicate", "damage")
def forget_the_end_of_the_log(patch):
    patch(StoredLog, "flush", lambda self, txn: None)


@planted("inconsistent-offsets", "end-regress", "assertion", topics={"ring": {"partitions": 1, "durability": "memory"}})
def give_offsets_of_a_lost_ring_again(patch):
    patch(MemoryLog, "flush", lambda self, txn: None)


@planted(
    "unseen", "vanished-read", "inconsistent-offsets", "assertion",
    topics={"page": {"partitions": 1, "durability": "os"}}, faults=("kill",),
)  # fmt: skip
def leave_the_journal_unread(patch):
    patch(Turn, "_restore", lambda self, txn: list(self._store.journaled()) and None)


@planted("poll-skip", "int-poll-skip", weather=Weather(publication_loss=0.5))
def go_on_after_a_gap_in_publications(patch):
    published = Feed.published

    def careless(self, session, frames, now):
        cursor = self.by_id.get(int.from_bytes(frames[0], "big"))
        if cursor is not None and cursor.live and len(frames) == 3:
            base = batch.parse(frames[1]).base_offset
            cursor.expected = max(cursor.expected, base)
        published(self, session, frames, now)

    patch(Feed, "published", careless)


@planted("deaf", weather=Weather(publication_loss=0.5))
def trust_publications_alone(patch):
    published = Feed.published
    patch(feed, "IDLE_NS", 1 << 60)
    patch(feed, "IDLE_MAX_NS", 1 << 61)
    patch(Feed, "published", lambda self, *given: len(given[1]) == 3 and published(self, *given))


@planted("stuck", "deaf")
def leave_requests_unrepeated_on_a_new_session(patch):
    welcome = Requests._welcome

    def forgetful(self, connection, body, now):
        waiting, connection.waiting = connection.waiting, {}
        welcome(self, connection, body, now)
        connection.waiting = waiting

    patch(Requests, "_welcome", forgetful)


@planted("stuck", "deaf", weather=Weather(loss=0.1))
def wait_for_ever_for_a_lost_answer(patch):
    patch("zfabric.core.client.requests.PATIENCE_NS", 1 << 60)
    patch("zfabric.core.client.sender.PATIENCE_NS", 1 << 60)
    patch("zfabric.core.client.requests.HELLO_PATIENCE_NS", 1 << 60)


@planted("lost-commit", weather=Weather(duplicate=0.3, reorder=0.3, delay=0.02), faults=("kill_client",))
def let_a_late_commit_of_offsets_win(patch):
    commit = groups.commit

    def careless(*arguments, **options):
        commit(*arguments, **{**options, "force": True})

    patch(groups, "commit", careless)


@planted("stuck")
def keep_an_assignment_in_memory_only(patch):
    start = Leader.start

    def forgetful(self, txn):
        start(self, txn)
        if self.epoch > 1:
            self._assigned._topics.clear()
            self._assigned.places.clear()

    patch(Leader, "start", forgetful)


@planted(
    "offset-gap", "assertion", "unseen", "inconsistent-offsets", "damage", "poll-skip", "int-poll-skip",
    "duplicate",
    faults=("full_map",),
)  # fmt: skip
def keep_what_an_abandoned_turn_appended(patch):
    patch(Leader, "abandon", lambda self: self._effects.clear())


def signs_of(seed, bug):
    random = Random(f"workload {seed}")
    plan = workload.Plan.draw(random)
    plan = replace(
        plan,
        topics={**plan.topics, **bug.topics},
        faults=list(bug.faults),
        weather=bug.weather or plan.weather,
        named=1,
        pause=0.2,
        newcomer=False,
        fleeting=False,  # It tells of deaf clients by an assertion, whatever made them so.
    )
    try:
        result = workload.run(seed, plan=plan)
    except AssertionError as error:
        return {"stuck"} if "have not finished" in str(error) or "nothing comes" in str(error) else {"assertion"}
    except errors.CorruptBatch:
        return {"damage"}
    except (TimeoutError, errors.ZFabricError):
        return {"stuck"}
    return {anomaly.kind for _, anomaly in result.anomalies}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name, monkeypatch):
    bug = PLANTED[name]

    def patch(*where):
        monkeypatch.setattr(*where)

    bug.plant(patch)
    for seed in range(SEEDS):
        signs = signs_of(seed, bug)
        if signs:
            break
    print(f"{name}: seed {seed} shows {', '.join(sorted(signs)) or 'nothing'}")
    assert signs & bug.signs
    monkeypatch.undo()
    assert signs_of(seed, bug) == set(), "without the bug, the same seed shows nothing"


def test_the_table_is_long_enough():
    assert len(PLANTED) >= 10
