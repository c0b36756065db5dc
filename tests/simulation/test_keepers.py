"""Keepers hold what origins lead: the same bytes at the same offsets, whatever fails."""

from __future__ import annotations

import keeping
import msgspec
import pytest
from keeping import TOPIC, Run, batches

from zfabric import errors
from zfabric.core.leader import copies, keys
from zfabric.core.leader.copies import Copies
from zfabric.core.leader.intake import Intake
from zfabric.core.leader.keepers import Keepers
from zfabric.model import TopicConfig
from zfabric.settings import LeaderSettings
from zfabric.sim.network import Weather
from zfabric.sim.world import SECOND
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type


def faults(run, process):
    kind = run.random.choice(["kill", "power_cut", "partition", "break", "fail", "freeze", "full", "map", "none"])
    if kind == "kill":
        run.kill(process)
    elif kind == "power_cut":
        run.power_cut(process)
    elif kind == "partition":
        other = run.random.choice(run.processes)
        run.network.partition(process.name, other.name)
        run.world.after(run.random.randrange(5 * SECOND), run.network.heal)
    elif kind == "break":
        run.network.break_some(0.5)
    elif kind == "fail":
        process.disk.fail_next_commit = True
    elif kind == "freeze":
        process.freeze(run.random.uniform(0.1, 5.0))
    elif kind == "full":
        process.disk.disk_full = True
        run.world.after(run.random.randrange(3 * SECOND), lambda: setattr(process.disk, "disk_full", False))
    elif kind == "map":
        process.disk.map_full_in = run.random.randrange(30)


def weather(run_seed):
    return [Weather.fair(), Weather(loss=0.02, duplicate=0.05, reorder=0.05, breaks=0.001)][run_seed % 2]


def store(seed, *, dial=False):
    """Two origins and two keepers that faults strike; afterwards every copy is whole."""
    run = Run(seed, dial=dial, weather=weather(seed))
    for number, origin in enumerate(run.origins):
        run.world.start(run.produce(origin, f"p{number}", acks="leader"))
    run.storm(faults)
    run.compare()
    assert {value for _, value in run.acked} <= run.everything_kept()
    return run


def lose_disks(seed):
    """The same with replicas=2, and origins that lose their disks."""
    run = Run(seed, config=TopicConfig(replicas=2), weather=weather(seed))
    for number, origin in enumerate(run.origins):
        run.world.start(run.produce(origin, f"p{number}"))
    lost = []

    def wipes(run, process):
        if run.random.random() < 0.15:
            origin = run.random.choice(run.origins)
            lost.append(origin.fabric)
            run.wipe(origin)
        else:
            faults(run, process)

    run.storm(wipes)
    run.compare()
    assert {value for _, value in run.acked} <= run.everything_kept()
    # A disk that was replaced is another origin, and what the first one had stays as it is.
    origins = {origin for keeper in run.keepers for origin, _, _ in run.copies(keeper)}
    assert {fabric for fabric, _ in run.acked} <= origins
    return run, lost


@pytest.mark.parametrize("dial", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_copies_are_their_origins_logs_byte_by_byte_whatever_fails(seed, dial):
    assert len(store(seed, dial=dial).acked) > 50


@pytest.mark.parametrize("seed", range(4))
def test_what_all_have_acknowledged_survives_the_loss_of_the_origins_disk(seed):
    """I1, with replicas=2: one disk at a time may be lost."""
    run, lost = lose_disks(seed)
    assert lost
    assert len(run.acked) > 20


PLANTED = {}


def planted(scenario):
    def register(plant):
        PLANTED[plant.__name__] = (plant, scenario)
        return plant

    return register


@planted(lose_disks)
def acknowledge_before_a_keeper_has_it(patch):
    patch(Keepers, "wait", lambda *_: False)


@planted(lose_disks)
def ask_on_before_the_commit(patch):
    """A question then confirms what is not on the disk yet."""
    take = Copies.take

    def eager(self, body, *rest, **more):
        found = take(self, body, *rest, **more)
        for partition, header, *_ in body.batches:
            self.positions[partition] = self.positions[partition]._replace(end=header.next_offset + 1_000_000)
        return found

    patch(Copies, "take", eager)


@planted(store)
def stamp_a_batch_with_the_keepers_own_time(patch):
    stamp = batch.stamp
    patch(
        copies.batch,
        "stamp",
        lambda raw, partition, epoch, span, base, time: stamp(
            raw, partition, epoch, span, base, time + (time > 0 and partition > 1)
        ),
    )


@planted(store)
def append_what_leaves_a_hole(patch):
    answered = Intake.answered

    def forgetful(self, source, body, blob, *rest):
        parts = [(part, at) for part, at in zip(body.parts, range(len(body.parts)), strict=True)]
        answered(self, source, body, blob, *rest)
        if len(self.keep.batches) > 1 and parts:
            del self.keep.batches[0]

    patch(Intake, "answered", forgetful)
    append = Copies._append

    def careless(self, partition, entry, txn):
        partition.log.state.end = max(partition.log.state.end, entry.header.base_offset)
        return append(self, partition, entry, txn)

    patch(Copies, "_append", careless)


@planted(lose_disks)
def take_a_new_disk_for_the_old_one(patch):
    """Another fabric at the same address is asked under the first one's name, and answers."""
    follow = Keepers.follow

    def careless(self, peer, command, now, txn):
        body = msgspec.structs.replace(command.body, fabric=self._assigned.fabric)
        asked = command.body.fabric
        answers = follow(self, peer, command._replace(body=body), now, txn)
        found = []
        for waiter, given in answers:
            frames = given
            said = messages.read([bytes(frame) for frame in frames])
            if said.type == Type.FOLLOWED:
                said_body = msgspec.structs.replace(said.body, fabric=asked)
                frames = (messages.command(Type.FOLLOWED, said.request, said_body), *frames[1:])
            found.append((waiter, frames))
        return found

    patch(Keepers, "follow", careless)
    patch(Keepers, "_compare", lambda *_: None)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name, monkeypatch):
    plant, scenario = PLANTED[name]
    plant(monkeypatch.setattr)
    for seed in range(12):
        try:
            scenario(seed)
        except (AssertionError, errors.ZFabricError):
            return
    raise AssertionError(f"twelve seeds have not found: {name}")


def test_an_answer_to_all_waits_for_a_keeper_and_one_of_the_leader_does_not():
    run = Run(1, origins=1, keepers=1, config=TopicConfig(replicas=2))
    origin, keeper = run.origins[0], run.keepers[0]
    run.run(run.create(origin))
    run.restart = False
    keeper.kill()

    async def send():
        async with run.connect(origin) as fabric:
            async with fabric.producer(acks="leader") as hasty:
                await (await hasty.send(TOPIC, b"leader", partition=0)).result(5.0)
            producer = fabric.producer(acks="all")
            delivery = await producer.send(TOPIC, b"all", partition=0)
            with pytest.raises(errors.RequestTimeout):
                await delivery.result(30.0)
            keeper.start()
            meta = await delivery.result(30.0)
            await producer.close()
            return meta

    assert run.run(send()).offset == 1
    assert run.everything_kept() == {b"leader", b"all"}
    assert dict(run.describe(origin)[1].keepers) == {keeper.fabric: 2}


@pytest.mark.parametrize("kind", [Type.FOLLOW, Type.FOLLOWED], ids=["question", "answer"])
def test_a_question_or_an_answer_that_is_lost_delays_nobody_as_long_as_questions_are_held(kind, monkeypatch):
    """Their connection lives, so nothing tells but the silence: a question is held for 30 s."""
    run = Run(1, origins=1, keepers=1, config=TopicConfig(replicas=2))
    origin = run.origins[0]
    run.run(run.create(origin))
    lost = []

    def losing(send):
        def passed(*arguments):
            frames = arguments[-1]
            if frames[0][3] == kind and not lost:
                lost.append(frames)
            else:
                send(*arguments)

        return passed

    async def send():
        async with run.connect(origin) as fabric, fabric.producer(acks="all") as producer:
            await (await producer.send(TOPIC, b"first", partition=0)).result(30.0)
            await run.world.sleep(3.0)  # The question is held by now, and said to be.
            for name in ("send", "reply"):
                monkeypatch.setattr(run.network, name, losing(getattr(run.network, name)))
            began = run.world.now
            await (await producer.send(TOPIC, b"second", partition=0)).result(60.0)
            return run.world.now - began

    assert run.run(send()) < 8 * SECOND
    assert len(lost) == 1


def test_a_repeated_batch_that_is_stored_and_not_confirmed_waits_again():
    run = Run(2, origins=1, keepers=1, config=TopicConfig(replicas=2))
    origin, keeper = run.origins[0], run.keepers[0]
    run.run(run.create(origin))
    run.restart = False
    keeper.kill()

    async def send():
        fabric = run.connect(origin)
        producer = fabric.producer(acks="all")
        delivery = await producer.send(TOPIC, b"v", partition=0)
        await run.world.sleep(1.0)
        run.kill(origin)
        origin.start()
        with pytest.raises(errors.RequestTimeout):
            await delivery.result(20.0)
        stored = [header.base_offset for _, header, _ in batches(origin, 1)]
        keeper.start()
        meta = await delivery.result(30.0)
        await fabric.close()
        return stored, meta.offset

    assert run.run(send()) == ([0], 0)


def test_a_keeper_gets_from_another_one_what_the_origin_can_not_tell_any_more():
    run = Run(3, origins=1, keepers=2)
    origin, first, second = run.origins[0], *run.keepers
    run.run(run.create(origin))
    run.world.run(5.0)
    run.network.partition(second.name, origin.name)
    task = run.world.start(run.produce(origin, "p", acks="leader"))
    run.world.run(3.0)
    run.over = True
    run.world.run_until(lambda: task.done, 30.0)
    run.world.run(2.0)
    run.look(origin)
    run.restart = False
    origin.kill()
    run.world.run(60.0)
    assert run.everything_kept([second]) == run.everything_kept([first]) == {value for _, value in run.acked}
    run.compare(complete=False)


def flip(process, partition, offset, at):
    """Change a bit of one of a leader's batches, silently."""
    row = bytearray(process.disk._values[keys.batch(partition, offset)])
    row[at % len(row)] ^= 1
    process.disk._values[keys.batch(partition, offset)] = bytes(row)


@pytest.mark.parametrize("dial", [False, True])
@pytest.mark.parametrize("away", ["nobody", "the origin"])
def test_what_is_damaged_on_a_keepers_disk_is_found_and_fetched_again(dial, away):
    """By the scrub: nobody reads. From the origin, or from the other keeper while that is away."""
    run = Run(7, origins=1, keepers=2, partitions=2, dial=dial)
    origin, keeper = run.origins[0], run.keepers[0]
    run.run(run.create(origin))
    task = run.world.start(run.produce(origin, "p", acks="leader"))
    run.world.run(5.0)
    run.over = True
    assert run.world.run_until(lambda: task.done, 30.0)
    run.world.run(10.0)
    run.look(origin)
    run.restart = False
    if away == "the origin":
        origin.kill()
        run.world.run(10.0)
    good = keeper.disk.items()
    for copy in (1, 2):
        offsets = [base for base, _, _ in batches(keeper, copy)]
        for offset in (offsets[0], offsets[2], offsets[-1]):
            flip(keeper, copy, offset, run.random.randrange(100))
    keeper.kill()
    keeper.start()  # It begins a walk over its copies when it starts.
    run.world.run(60.0)
    assert (keeper.leader.counters.damaged, keeper.leader.counters.mended) == (6, 6)
    rows = [(key, value) for key, value in good if key[:1] == keys.BATCH]
    assert [(key, value) for key, value in keeper.disk.items() if key[:1] == keys.BATCH] == rows
    assert {part.problem for part in run.describe(keeper).values()} == {""}


def newest(process, partition):
    """Return the newest record of each key, with its offset, of a log without holes."""
    found, following = {}, None
    for base, header, payload in batches(process, partition):
        assert following in (None, base)
        following = header.next_offset
        columns = batch.decode_columns(header, payload)
        for key, value, distance in zip(columns.keys, columns.values, columns.distances, strict=True):
            found[key] = (base + distance, value)
    return found, following


@pytest.mark.parametrize("seed", range(2))
def test_bits_that_flip_while_origin_and_keepers_compact_are_put_back(seed, monkeypatch):
    """Each compacts in its own time, so what is whole elsewhere is cut into other batches than what is damaged."""
    monkeypatch.setattr(keeping, "SETTINGS", LeaderSettings(compact_after_ms=1_000))
    run = Run(seed, origins=1, keepers=2, partitions=1, config=TopicConfig(cleanup="compact"))
    origin = run.origins[0]
    run.run(run.create(origin))
    task = run.world.start(run.produce(origin, "p", acks="leader", pause=0.01))
    for _ in range(12):
        run.world.run(1.0)
        disk = run.random.choice(run.keepers).disk
        rows = [key for key, _ in disk.items() if key[:5] == keys.prefix(keys.BATCH, 1)]
        key = run.random.choice(rows)
        row = bytearray(disk._values[key])
        row[run.random.randrange(len(row))] ^= 1 << run.random.randrange(8)
        disk._values[key] = bytes(row)
    run.over = True
    assert run.world.run_until(lambda: task.done, 30.0)
    run.restart = False
    for keeper in run.keepers:
        keeper.kill()
        keeper.start()  # It begins a walk over its copies when it starts.
    run.world.run(120.0)
    assert sum(keeper.leader.counters.mended for keeper in run.keepers) > 0
    assert [newest(keeper, 1) for keeper in run.keepers] == [newest(origin, 1)] * 2


def test_a_copy_that_its_origin_was_rolled_back_behind_stays_as_it_is_and_says_so():
    run = Run(4, origins=1, keepers=1, partitions=1)
    origin, keeper = run.origins[0], run.keepers[0]
    run.run(run.create(origin))

    def fill(name, seconds):
        run.over = False
        task = run.world.start(run.produce(origin, name, acks="leader"))
        run.world.run(seconds)
        run.over = True
        assert run.world.run_until(lambda: task.done, 30.0)

    fill("before", 2.0)
    backup = origin.disk.items()
    fill("lost", 2.0)
    run.world.run(10.0)
    before = batches(keeper, 1)
    run.restart = False
    origin.kill()
    txn = origin.disk.write()
    for entry in origin.disk.items():
        txn.delete(entry[0])
    for key, value in backup:
        txn.put(key, value)
    origin.disk.commit()
    origin.start()
    fill("after", 5.0)
    run.world.run(60.0)
    assert batches(keeper, 1) == before
    assert "rolled back" in run.describe(keeper)[1].problem


def test_a_copy_begins_again_where_its_origins_retention_has_passed_it():
    run = Run(5, origins=1, keepers=1, partitions=1, config=TopicConfig(retention_ms=20_000))
    origin, keeper = run.origins[0], run.keepers[0]
    run.run(run.create(origin))
    task = run.world.start(run.produce(origin, "p", acks="leader"))
    run.world.run(5.0)
    run.restart = False
    keeper.kill()
    run.world.run(60.0)
    run.over = True
    run.world.run_until(lambda: task.done, 30.0)
    keeper.start()
    run.world.run(3.0)
    here, there = run.describe(keeper)[1], run.describe(origin)[1]
    assert here.end_offset == there.end_offset
    # What the copy had at first is gone: nothing that is there still follows it.
    assert there.start_offset >= here.start_offset > 500
    left = {base for base, _, _ in batches(origin, 1)}
    assert left
    assert left <= {base for base, _, _ in batches(keeper, 1)}


def test_offsets_that_groups_commit_at_the_origin_or_at_a_keeper_are_known_at_both():
    run = Run(6, origins=1, keepers=2, partitions=1)
    origin, first, second = run.origins[0], *run.keepers
    run.run(run.create(origin))
    task = run.world.start(run.produce(origin, "p", acks="leader"))
    run.world.run(3.0)
    run.over = True
    run.world.run_until(lambda: task.done, 30.0)
    run.world.run(10.0)

    def commit(process, group, offset, *, force=False):
        run.ask(
            process, Type.COMMIT_OFFSETS, messages.CommitOffsets(group, [messages.CommitOffset(1, offset)], force=force)
        )
        run.world.run(10.0)

    def committed(group):
        return [
            run.ask(process, Type.GET_OFFSETS, messages.GetOffsets(group, [1])).parts[0].offset
            for process in (origin, first, second)
        ]

    commit(origin, "g", 3)
    assert committed("g") == [3, 3, 3]
    commit(first, "g", 7)
    assert committed("g") == [7, 7, 7]
    commit(second, "g", 5)
    assert committed("g") == [7, 7, 7]
    commit(origin, "g", 1, force=True)
    assert committed("g") == [1, 1, 1]
    run.restart = False
    origin.kill()
    commit(first, "g", 4)
    commit(first, "late", 2)
    first.kill()
    first.start()
    origin.start()
    run.world.run(20.0)
    assert committed("g") == [4, 4, 4]
    assert committed("late") == [2, 2, 2]


@pytest.mark.parametrize("away", ["nobody", "the origin", "a keeper"])
def test_a_group_that_is_deleted_is_deleted_everywhere_and_does_not_come_back(away):
    """Whoever was away meanwhile, with what the group had committed, is told; a new commit begins it anew."""
    run = Run(6, origins=1, keepers=2, partitions=1)
    origin, first, second = run.origins[0], *run.keepers
    run.run(run.create(origin))
    task = run.world.start(run.produce(origin, "p", acks="leader"))
    run.world.run(3.0)
    run.over = True
    run.world.run_until(lambda: task.done, 30.0)
    run.world.run(10.0)

    def commit(process, offset):
        run.ask(process, Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(1, offset)]))
        run.world.run(10.0)

    def listed():
        return [
            [entry.offset for entry in run.ask(process, Type.LIST_GROUPS, messages.ListGroups("g")).parts]
            for process in (origin, first, second)
        ]

    commit(origin, 7)
    assert listed() == [[7], [7], [7]]
    run.restart = False
    absent = {"the origin": origin, "a keeper": second}.get(away)
    if absent is not None:
        absent.kill()
        run.world.run(10.0)
    run.ask(first, Type.DELETE_GROUP, messages.DeleteGroup("g"))
    run.world.run(10.0)
    if absent is not None:
        absent.start()
    run.world.run(70.0)
    assert listed() == [[], [], []]
    commit(second, 3)
    assert listed() == [[3], [3], [3]]


def test_a_copy_expires_when_its_origin_is_silent_and_all_its_groups_have_read_it():
    run = Run(7, origins=2, keepers=1, partitions=1)
    origin, other, keeper = *run.origins, run.keepers[0]
    for process in run.origins:
        run.run(run.create(process))
    tasks = [run.world.start(run.produce(each, each.name, acks="leader")) for each in run.origins]
    run.world.run(3.0)
    run.over = True
    run.world.run_until(lambda: all(task.done for task in tasks), 30.0)
    run.world.run(5.0)
    ids = {origin: copy for origin, _, copy in run.copies(keeper)}
    end = run.describe(keeper)[ids[origin.fabric]].end_offset
    run.restart = False
    origin.kill()
    other.kill()

    def commit(offset):
        part = messages.CommitOffset(ids[origin.fabric], offset)
        run.ask(keeper, Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [part]))

    commit(end - 1)
    clock = run.world.wall_ms
    run.world.wall_ms = lambda now=None: clock(now) + 2 * 86_400_000
    run.world.run(100.0)
    assert len(run.copies(keeper)) == 2
    commit(end)
    run.world.run(100.0)
    assert [origin for origin, _, _ in run.copies(keeper)] == [other.fabric]
    assert not batches(keeper, ids[origin.fabric])


def test_a_topic_that_was_deleted_and_made_anew_is_another_log():
    run = Run(8, origins=1, keepers=1, partitions=1)
    origin, keeper = run.origins[0], run.keepers[0]

    async def make(value):
        async with run.connect(origin) as fabric:
            await fabric.topics.create(TOPIC)
            async with fabric.producer() as producer:
                await producer.send(TOPIC, value)
            await run.world.sleep(3.0)
            kept = run.everything_kept()
            await fabric.topics.delete(TOPIC)
            return kept

    assert run.run(make(b"first")) == {b"first"}
    assert run.run(make(b"second")) == {b"first", b"second"}
    assert [source for _, source, _ in run.copies(keeper)] == [1, 2]
    assert [run.values(keeper, copy) for _, _, copy in run.copies(keeper)] == [[b"first"], [b"second"]]
