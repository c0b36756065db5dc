"""A leader's partitions behave like the lists of ``log_model.py``, on real LMDB and on the simulated disk.

Each step is one or more turns of the real machines (leader, controller, logs, producers, groups, compaction) with
faults between and inside them: kill, power cut, a full map, a failed commit. What was answered before a fault is
there after it; what was not answered is there as a whole or not at all. Constants that pace compaction and the time
index are made small, so that short histories reach them.
"""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.model.log_inputs import (
    ACTIONS,
    CONFIGS,
    DAY_MS,
    GROUPS,
    MS,
    NAMES,
    PICK,
    PLACE,
    PRODUCERS,
    ROWS,
    WALL,
    OnSimDisk,
    numbers_of,
    produce_command,
)
from tests.model.log_machine import DrivenLeader
from tests.model.log_model import Answer, Model, Part
from tests.scale import scaled
from zfabric import errors
from zfabric.core.leader import compaction, keys, log, maintenance
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import AlterTopic, CreateTopic


class Logs(DrivenLeader):
    @initialize(small=st.booleans())
    def create(self, small):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(compaction, "DIRTY_BYTES_MIN", 2000)
        self.patch.setattr(compaction, "TARGET_BYTES", 3000)
        self.patch.setattr(compaction, "MAP_KEYS_MAX", 2 if small else 1000)
        self.patch.setattr(maintenance, "COMPACT_STEP_BYTES", 2000 if small else 1 << 20)
        self.patch.setattr(log, "INDEX_EVERY_BYTES", 500)
        self.backing = self.made()
        self.rng = random.Random(0)
        self.now, self.wall = 1000 * MS, WALL
        self.model = Model()
        self.committed = self.model.copy()
        self.snapshots = []
        self.waiting = {}
        self.topics = {}
        self.epoch = 0
        self.request = 0
        self.full = False
        self.start_machines()

    def teardown(self):
        self.backing.end()
        self.patch.undo()

    # Topics.

    @rule(name=NAMES, config=CONFIGS, partitions=st.integers(1, 2))
    def create_topic(self, name, config, partitions):
        answers = self.change(self.command(Type.CREATE_TOPIC, CreateTopic(name, partitions, config)))
        answer = answers[self.request]
        if name in self.topics:
            assert answer.body.code == errors.AlreadyExists.code
            self.take(answers)
            return
        meta = answer.body.topic
        self.topics[name] = meta
        for place in meta.partitions:
            assert place.id not in self.model.parts
            part = self.model.parts[place.id] = Part(place.id, name, place.number, config)
            part.configure(config)
        self.take(answers)
        assert not self.snapshots

    @precondition(lambda self: self.topics)
    @rule(pick=PICK, config=CONFIGS)
    def alter_topic(self, pick, config):
        name = sorted(self.topics)[pick % len(self.topics)]
        kept = self.topics[name].config.durability
        config = msgspec.structs.replace(
            config,
            durability=kept,
            cleanup="delete" if kept == "memory" else config.cleanup,
            commit_interval_ms=config.commit_interval_ms if kept == "fsync" else 0,
        )
        answers = self.change(self.command(Type.ALTER_TOPIC, AlterTopic(name, config)))
        self.topics[name] = answers[self.request].body.topic
        for part in self.model.parts.values():
            if part.topic == name:
                part.configure(config)
        self.take(answers)

    @precondition(lambda self: self.topics)
    @rule(pick=PICK, settle=st.booleans())
    def delete_topic(self, pick, settle):
        name = sorted(self.topics)[pick % len(self.topics)]
        answers = self.change(self.command(Type.DELETE_TOPIC, CreateTopic(name, 0, TopicConfig())))
        meta = self.topics.pop(name)
        for place in meta.partitions:
            del self.model.parts[place.id]
        self.take(answers)
        if settle:
            self.settle()
            assert {row[1] for row in self.rows() if row[0] != keys.VOLUME} <= set(self.model.parts)

    # Records.

    def make(self, part, producer, action, rows):
        """Build a batch for a producer that does what ``action`` says, judged by what it has sent so far."""
        seen = part.copy()
        for op in self.waiting.values():
            if op.part == part.id:
                seen.apply(op, self.wall)
        if action == "anonymous" and part.config.durability == "memory":
            # Without an identity a memory topic cannot know the commands of a repeated turn again.
            action = "next"
        numbers = numbers_of(seen.producers.get(producer), action, len(rows))
        producer = 0 if action == "anonymous" else producer
        return produce_command(part.id, producer, numbers, rows, self.wall)

    @precondition(lambda self: self.model.parts)
    @rule(sends=st.lists(st.tuples(PICK, PRODUCERS, ACTIONS, ROWS), min_size=1, max_size=5))
    def produce(self, sends):
        """Several batches in one turn: one commit, answers in the order of the commands."""
        self.send(sends)

    def send(self, sends):
        self.begin_step()
        commands, wanted, late = [], [], []
        for pick, producer, action, rows in sends:
            part = self.part(pick)
            op, body = self.make(part, producer, action, rows)
            commands.append(self.command(Type.PRODUCE, body))
            if part.config.commit_interval_ms:
                self.waiting[self.request] = op
                late.append(self.request)
                continue
            stored = part.config.durability != "memory"
            answer = Answer("StorageFull") if self.full and stored else part.apply(op, self.wall)
            wanted.append((self.request, answer, part))
            if part.config.durability == "os" and not answer.error and not answer.duplicate:
                self.snapshots.append(self.model.copy())
        grown = self.turns.grown
        answers = self.change(*commands)
        repeated = self.turns.grown > grown
        for request, answer, part in wanted:
            self.compare(answers[request], answer, part, repeated=repeated)
            if part.config.durability == "fsync" and not answer.error and not answer.duplicate:
                assert self.backing.commits() > self.commits_before
        self.take(answers)

    @precondition(lambda self: self.model.parts)
    @rule(pick=PICK, rows=ROWS, times=st.integers(5, 12))
    def fill(self, pick, rows, times):
        """Enough of one partition for retention, compaction and the time index to have work."""
        for _ in range(times):
            self.send([(pick, 1, "next", rows * 2)])
            self.now += 100 * MS

    @precondition(lambda self: self.model.parts)
    @rule(pick=PICK, rows=ROWS)
    def refuse_on_a_full_disk(self, pick, rows):
        if self.part(pick).config.commit_interval_ms:
            return
        self.full = True
        self.send([(pick, 2, "next", rows)])
        self.full = False

    @precondition(lambda self: self.model.parts)
    @rule(pick=PICK, producer=PRODUCERS)
    def begin_producer(self, pick, producer):
        part = self.part(pick)
        self.begin_step()
        answers = self.change(self.command(Type.INIT_PRODUCER, messages.InitProducer(part.id, producer)))
        body = answers[self.request].body
        assert (body.epoch, body.last_sequence) == part.begin(producer, self.wall)
        self.take(answers)

    # Groups.

    @precondition(lambda self: self.model.parts)
    @rule(
        pick=PICK,
        group=GROUPS,
        commits=st.lists(st.tuples(st.sampled_from([-1, 0, 1, 2, 3, 4, 5]), st.booleans()), min_size=2, max_size=4),
    )
    def commit_group(self, pick, group, commits):
        """I9: a committed offset goes back only by force."""
        part = self.part(pick)
        for quarters, force in commits:
            offset = part.end * quarters // 4 if quarters < 5 else part.end + 1
            body = messages.CommitOffsets(group, [messages.CommitOffset(part.id, offset)], force)
            answers = self.change(self.command(Type.COMMIT_OFFSETS, body))
            if not 0 <= offset <= part.end:
                assert answers[self.request].body.code == errors.OffsetOutOfRange.code
            elif force or offset > part.groups.get(group, -1):
                part.groups[group] = offset
            self.take(answers)

    @rule(group=GROUPS)
    def delete_group(self, group):
        answers = self.change(self.command(Type.DELETE_GROUP, messages.DeleteGroup(group)))
        for part in self.model.parts.values():
            part.groups.pop(group, None)
        self.take(answers)

    # Time.

    @rule(step_ms=st.sampled_from([1, 60, 250, 1100, 6000]))
    def wait(self, step_ms):
        self.now += step_ms * MS
        self.wall += step_ms
        self.take(self.change())

    @rule()
    def let_it_settle(self):
        """Retention and compaction come to an end, exactly where the configuration says."""
        self.settle()
        for part in self.model.parts.values():
            if not part.compacted:
                assert self.described(part).start_offset >= part.bound(self.wall)

    @precondition(lambda self: any("compact" in part.config.cleanup for part in self.model.parts.values()))
    @rule()
    def let_compaction_catch_up(self):
        """However little came, nothing superseded and no expired tombstone is left after 60 s and 10 s for each MiB."""
        self.settle()
        self.now += 70_000 * MS
        self.wall += 70_000
        self.settle()
        self.every_partition_holds_what_the_model_says()
        for part in self.model.parts.values():
            if "compact" in part.config.cleanup:
                self.check_compacted(part)
        before = self.rows()
        self.settle()
        assert [row[:3] for row in self.rows()] == [row[:3] for row in before], "a clean log is left alone"

    @precondition(lambda self: self.model.parts)
    @rule(sends=st.lists(st.tuples(PICK, PRODUCERS, ACTIONS, ROWS), max_size=2))
    def come_back_after_a_week(self, sends):
        """Producers that were idle are forgotten; one that sends again in that very turn is not."""
        self.now += 8 * DAY_MS * MS
        self.wall += 8 * DAY_MS
        # What waits for a shared commit is judged when it comes to that, as from an unknown producer.
        sends = [one for one in sends if not self.part(one[0]).config.commit_interval_ms]
        if sends:
            self.send(sends)
        self.settle()

    # Faults.

    @rule(power_cut=st.booleans())
    def crash(self, power_cut):
        candidates = [self.committed, *self.snapshots, self.model] if power_cut else [self.model]
        self.backing.again(power_cut=power_cut, rng=self.rng)
        self.resume(candidates)

    @rule()
    def stop_and_start(self):
        self.take(self.answers(self.turns.close(self.now, self.wall)))
        assert not self.waiting, "what waits for a shared commit is answered before the end"
        self.crash(power_cut=False)

    # What is seen.

    @precondition(lambda self: self.model.parts)
    @rule(pick=PICK, place=PLACE, most=st.sampled_from([1, 300, 2000, 1 << 20]))
    def read_anywhere(self, pick, place, most):
        part = self.part(pick)
        offset = part.start - 1 + place % (part.end - part.start + 3)
        if not part.start <= offset <= part.end:
            if offset >= 0:
                with pytest.raises(errors.OffsetOutOfRange):
                    self.fetch(part, offset, most)
            return
        found = self.fetch(part, offset, most)
        if offset == part.end:
            assert found == []
            return
        assert found[0][0].base_offset <= offset < found[0][0].next_offset
        sizes = [batch.HEADER_BYTES + header.payload_length for header, _ in found]
        assert len(sizes) == 1 or sum(sizes) <= most

    @precondition(lambda self: self.model.parts)
    @rule(pick=PICK, back_ms=st.integers(-4000, 30_000))
    def find_time(self, pick, back_ms):
        part, timestamp = self.part(pick), self.wall - back_ms
        body = messages.FindOffsets([messages.FindOffset(part.id, timestamp)])
        found = self.ask(Type.FIND_OFFSETS, body).body.parts[0].offset
        wanted = part.at_or_after(timestamp)
        if part.compacted:
            assert found == part.end or found in wanted
            before = [place for place in wanted if place < found]
            assert all(part.may_be_gone(place, self.wall) for place in before)
        else:
            assert found == (wanted[0] if wanted else part.end)

    @precondition(lambda self: self.model.parts)
    @rule(pick=PICK, place=PLACE, bit=PLACE)
    def damage(self, pick, place, bit):
        """I10: one flipped bit is an error that names the place, and the rest stays readable."""
        part = self.part(pick)
        mine = [row for row in self.rows() if row[:2] == (keys.BATCH, part.id)]
        if not mine:
            return
        _, _, rest, value = mine[place % len(mine)]
        base = int.from_bytes(rest, "big")
        following = [int.from_bytes(row[2], "big") for row in mine if row[2] > rest]
        broken = bytearray(value)
        broken[bit // 8 % len(value)] ^= 1 << bit % 8
        self.store.write().put(keys.batch(part.id, base), bytes(broken))
        with pytest.raises(errors.CorruptBatch) as found:
            self.fetch(part, base, 1 << 20)
        assert (found.value.topic, found.value.partition, found.value.offset) == (part.topic, part.number, base)
        assert found.value.next_offset == (following[0] if following else part.end)
        if following:
            assert self.fetch(part, following[0], 1)[0][0].base_offset == following[0]
        self.store.write().put(keys.batch(part.id, base), value)

    @invariant()
    def every_partition_holds_what_the_model_says(self):
        rows = self.rows()
        for part in self.model.parts.values():
            found = self.described(part)
            assert found.end_offset == part.end
            assert part.start <= found.start_offset <= max(part.justified, part.start)
            part.start = found.start_offset
            self.check_records(part)
            if part.config.durability != "memory":
                assert self.producers(part, rows) == self.known(part)
                self.check_rows(part, [row[::2] + row[3:] for row in rows if row[1] == part.id], found)


class LogsOnSimDisk(Logs):
    made = OnSimDisk

    @precondition(lambda self: self.model.parts)
    @rule(after=st.integers(0, 12), pick=PICK, rows=ROWS)
    def meet_a_full_map(self, after, pick, rows):
        """The turn is given up and repeated; nobody notices."""
        self.store.map_full_in = after
        self.send([(pick, 1, "next", rows), (pick + 1, 1, "next", rows), (pick, 2, "repeat", rows)])
        self.store.map_full_in = None

    @precondition(lambda self: self.model.parts)
    @rule(pick=PICK, rows=ROWS)
    def fail_to_commit(self, pick, rows):
        """Nothing is told, the process ends, and the commit is there as a whole or not at all."""
        part = self.part(pick)
        op, body = self.make(part, 1, "next", rows)
        if part.config.durability != "fsync" or part.config.commit_interval_ms or self.waiting or part.judge(op):
            return
        before = self.model.copy()
        part.apply(op, self.wall)
        self.store.fail_next_commit = True
        with pytest.raises(errors.StorageFailed):
            self.change(self.command(Type.PRODUCE, body))
        after = self.model
        for known in after.parts.values():
            known.justified = max(known.justified, known.bound(self.wall))
        self.backing.again(power_cut=False, rng=self.rng)
        self.resume([before, after])


CHECKS = settings(
    max_examples=scaled(40),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # A history is readable as it is, and shrinking one takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
)
Logs.TestCase.settings = CHECKS
LogsOnSimDisk.TestCase.settings = settings(CHECKS, max_examples=scaled(120))
TestLogsOnLmdb = Logs.TestCase
TestLogsOnSimDisk = LogsOnSimDisk.TestCase
