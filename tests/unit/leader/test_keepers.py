"""What a leader does for its keepers, and a keeper with what it is told; on a simulated disk."""

from __future__ import annotations

import random

import pytest

from tests.unit.leader.test_leader import Node
from zfabric import errors
from zfabric.core.leader import keys
from zfabric.core.leader.copies import Heard, Keep, KeptBatch
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Assign, AssignedTopic, PartitionPlace
from zfabric.wire.replication import Follow, FollowPart, KeptPlace, Share, SharedOffset

SECOND = 1_000_000_000


def follow(node, offset=0, *, wait_ms=0, keeper="k", fabric="f", epoch=0, time=0, since=0, run=0, version=1, request=9):
    body = Follow(fabric, keeper, 1 << 20, wait_ms, run, since, version, [FollowPart(1, offset, epoch, time)])
    answers, _ = node.turn(Type.FOLLOW, body)
    return answers


def woken(node):
    """Answer the questions that are held and have to be answered now."""
    with node.disk.read() as txn:
        for peer, command in node.leader.woken():
            node.leader.answer(peer, command, txn)
        return [messages.read(effect.frames) for effect in node.leader.take_effects()]


def followed(answers):
    [answer] = answers
    assert answer.type == Type.FOLLOWED
    return answer.body


def test_a_question_is_held_until_there_is_something():
    node = Node()
    run = followed(follow(node)).run
    assert follow(node, wait_ms=1000, run=run) == []
    assert woken(node) == []
    node.produce(0)
    [answer] = woken(node)
    [part] = answer.body.parts
    assert (part.start_offset, part.end_offset, part.length) == (0, 1, len(answer.rest[0]))
    assert woken(node) == []


def test_a_question_that_is_held_is_answered_when_its_time_is_over():
    node = Node()
    run = followed(follow(node)).run
    assert follow(node, wait_ms=1000, run=run) == []
    node.now += SECOND
    assert node.leader.next_deadline() <= node.now
    node.turn()
    [answer] = woken(node)
    assert answer.body.parts == []


def test_a_newer_question_has_the_held_one_answered():
    node = Node()
    run = followed(follow(node)).run
    assert follow(node, wait_ms=1000, run=run) == []
    command = messages.Command(Type.FOLLOW, 0, 10, Follow("f", "k", 1000, 1000, run, 0, 1, []), ())
    with node.disk.read() as txn:
        node.leader.answer(b"peer", command, txn)
    [reply] = node.leader.take_effects()
    assert messages.read(reply.frames).request == 9


def wanting(node, run=0, *, request=9, offset=0, part_bytes=16_384, peer=b"peer", epoch=0):
    """Ask as a keeper that wants to hear that its question has arrived."""
    body = Follow("f", "k", 1 << 20, 30_000, run, 0, 1, [FollowPart(1, offset, epoch)], part_bytes, True)
    with node.disk.read() as txn:
        node.leader.clock(node.now, 0)
        node.leader.answer(peer, messages.Command(Type.FOLLOW, 0, request, body, ()), txn)
    return [messages.read(effect.frames) for effect in node.leader.take_effects()]


def said(node, seconds):
    """Let time pass; return (type, request) of what is said meanwhile."""
    end, found = node.now + int(seconds * SECOND), []
    while (due := node.leader.next_deadline()) is not None and due <= end:
        node.now = max(node.now, due)
        found += [(answer.type, answer.request) for answer in node.turn()[0]]
    node.now = end
    return found


def test_a_keeper_hears_once_that_its_question_is_held():
    node = Node()
    run = followed(wanting(node)).run
    assert wanting(node, run, request=10) == []
    assert said(node, 0.9) == []
    assert said(node, 20.0) == [(Type.HELD, 10)]


def test_what_is_held_for_less_than_a_second_is_not_said_to_be():
    node = Node()
    run = followed(wanting(node)).run
    assert wanting(node, run, request=10) == []
    node.produce(0)
    assert [answer.request for answer in woken(node)] == [10]
    assert wanting(node, run, request=11, offset=1, epoch=1) == []
    assert said(node, 20.0) == [(Type.HELD, 11)]


def test_an_answer_that_no_question_follows_is_said_again_some_times():
    """It may be lost while the connection lives, and the keeper would wait for as long as questions are held."""
    node = Node()
    [answer] = wanting(node)
    assert said(node, 60.0) == [(Type.FOLLOWED, answer.request)] * 9
    wanting(node, request=10)
    assert wanting(node, answer.body.run, request=11) == []
    assert said(node, 20.0) == [(Type.HELD, 11)]


def test_a_large_answer_is_announced_and_comes_in_parts():
    node = Node()
    node.turn(Type.PRODUCE, produced(0, [bytes(100_000)]))
    body = Follow("f", "k", 1 << 20, 0, 0, 0, 1, [FollowPart(1, 0)], 16_384, True)
    with node.disk.read() as txn:
        node.leader.answer(b"peer", messages.Command(Type.FOLLOW, 0, 9, body, ()), txn)
    held, answer = node.leader.take_effects()
    assert [len(frame) <= 16_384 for frame in answer.frames[1:]] == [True] * 7
    followed = messages.read(answer.frames)
    assert messages.read(held.frames).body.bytes == len(followed.rest[0]) == followed.body.parts[0].length


def test_another_fabric_is_not_answered_for():
    node = Node()
    with pytest.raises(errors.WrongFabric) as refused:
        node.ask(Type.FOLLOW, Follow("g", "k", 1000, 0, 0, 0, 0, []))
    assert (refused.value.wanted, refused.value.fabric) == ("g", "f")


def test_an_answer_waits_for_so_many_keepers_as_its_topic_says():
    node = Node(TopicConfig(replicas=3))
    answers, published = node.turn(Type.PRODUCE, produced(0))
    assert (answers, len(published)) == ([], 1)
    epoch = node.leader.epoch
    assert [answer.type for answer in follow(node, 1, keeper="a", epoch=epoch)] == [Type.FOLLOWED]
    # The same one twice is one disk.
    assert [answer.type for answer in follow(node, 1, keeper="a", epoch=epoch)] == [Type.FOLLOWED]
    assert [answer.type for answer in follow(node, 1, keeper="b", epoch=epoch)] == [Type.PRODUCED, Type.FOLLOWED]


def test_an_answer_of_the_leader_alone_does_not_wait():
    node = Node(TopicConfig(replicas=2))
    answers, _ = node.turn(Type.PRODUCE, produced(0), messages.FLAG_LEADER_ONLY)
    assert [answer.type for answer in answers] == [Type.PRODUCED]


def test_a_repeat_of_what_is_stored_and_not_confirmed_waits_and_one_of_what_is_confirmed_does_not():
    node = Node(TopicConfig(replicas=2))
    assert node.turn(Type.PRODUCE, produced(0))[0] == []
    assert node.turn(Type.PRODUCE, produced(0))[0] == []
    node.restart()
    assert node.turn(Type.PRODUCE, produced(0))[0] == []
    answers = follow(node, 1, epoch=1)
    assert [answer.type for answer in answers] == [Type.PRODUCED, Type.FOLLOWED]
    assert (answers[0].body.base_offset, answers[0].body.duplicate) == (0, 1)
    [again] = node.turn(Type.PRODUCE, produced(0))[0]
    assert again.type == Type.PRODUCED


def test_answers_go_when_the_topic_wants_fewer_copies():
    node = Node(TopicConfig(replicas=2))
    assert node.turn(Type.PRODUCE, produced(0))[0] == []
    topic = AssignedTopic(1, "t", TopicConfig(), [PartitionPlace(1, 0, 0)])
    [answer] = node.turn(Type.ASSIGN, Assign("f", 2, [topic], []))[0]
    assert answer.type == Type.PRODUCED


def test_a_turn_that_is_given_up_leaves_no_answer_behind():
    node = Node(TopicConfig(replicas=2))
    leader = node.turn(Type.PRODUCE, produced(0), commit=False)
    leader.abandon()
    node.disk.abandon()
    leader.reload(node.disk.write())
    node.disk.abandon()
    assert [answer.type for answer in follow(node, 0)] == [Type.FOLLOWED]
    assert node.turn(Type.PRODUCE, produced(0))[0] == []
    assert [answer.type for answer in follow(node, 1, epoch=1)] == [Type.PRODUCED, Type.FOLLOWED]


@pytest.mark.parametrize(
    ("offset", "epoch", "time"), [(2, 0, 0), (1, 7, 0), (1, 1, 5)], ids=["beyond the end", "epoch", "append time"]
)
def test_a_log_that_is_no_copy_confirms_nothing(offset, epoch, time):
    node = Node(TopicConfig(replicas=2))
    assert node.turn(Type.PRODUCE, produced(0))[0] == []
    [part] = followed(follow(node, offset, epoch=epoch, time=time)).parts
    error = errors.from_wire(*part.failure)
    assert isinstance(error, errors.LogsDiverged)
    assert (error.topic, error.partition, error.offset) == ("t", 0, offset)


def test_a_keeper_that_asks_no_more_is_shown_for_ten_minutes():
    """One that is back with a wiped disk has another id, and asks under that."""
    node = Node(TopicConfig(replicas=2))
    node.turn(Type.PRODUCE, produced(0))
    follow(node, 1, keeper="old", epoch=1)

    def shown():
        return dict(node.ask(Type.DESCRIBE, messages.Describe([1])).partitions[0].keepers)

    node.now += 590 * SECOND
    follow(node, 0, keeper="new")
    assert shown() == {"old": 1, "new": 0}
    node.now += 20 * SECOND
    assert shown() == {"new": 0}


def test_a_topic_that_is_not_on_disk_has_no_copies():
    node = Node(TopicConfig(durability="memory"))
    [part] = followed(follow(node)).parts
    assert isinstance(errors.from_wire(*part.failure), errors.NotSupported)


def test_commits_are_told_once_and_all_of_them_to_a_new_run():
    node = Node()
    node.produce(0, [b"a", b"b", b"c"])
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(1, 2)]))
    first = followed(follow(node, 3, epoch=1))
    assert first.commits == [SharedOffset(1, "g", 0, 2, node.wall, False, 1, node.wall)]
    assert followed(follow(node, 3, epoch=1, run=first.run, since=first.since)).commits == []
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(1, 1)], force=True))
    second = followed(follow(node, 3, epoch=1, run=first.run, since=first.since))
    assert second.commits == [SharedOffset(1, "g", 1, 1, node.wall, False, 1, node.wall)]
    node.restart()
    again = followed(follow(node, 3, epoch=1, run=second.run, since=second.since))
    assert (again.run != second.run, again.commits) == (True, second.commits)


@pytest.mark.parametrize(("epoch", "later"), [(7, 0), (1, 1)], ids=["epoch", "append time"])
def test_an_offset_that_was_committed_in_another_log_is_none_of_this_one(epoch, later):
    node = Node()
    node.produce(0, [b"a", b"b", b"c"])
    node.ask(Type.SHARE, Share("f", [SharedOffset(1, "g", 0, 2, 5, False, epoch, node.wall + later)]))
    assert node.ask(Type.GET_OFFSETS, messages.GetOffsets("g", [1])).parts[0].offset == -1
    assert node.leader.copies.refused == 1
    commit = messages.CommitOffset(1, 2, 3, epoch, node.wall + later, 0, node.wall + later)
    with pytest.raises(errors.LogRewound) as told:
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [commit]))
    assert (told.value.topic, told.value.parted) == ("t", 0)
    node.ask(Type.SHARE, Share("f", [SharedOffset(1, "g", 0, 2, 5, False, 1, node.wall)]))
    commit = messages.CommitOffset(1, 3, 3, 1, node.wall, 0, node.wall)
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [commit]))
    [part] = node.ask(Type.GET_OFFSETS, messages.GetOffsets("g", [1])).parts
    assert (part.offset, part.epoch, part.append_time) == (3, 1, node.wall)


def test_merged_commits_never_undo_a_newer_one_or_a_reset():
    node = Node()
    node.produce(0, [b"a", b"b", b"c"])

    def share(resets, offset):
        node.ask(Type.SHARE, Share("f", [SharedOffset(1, "g", resets, offset, 5)]))
        return node.ask(Type.GET_OFFSETS, messages.GetOffsets("g", [1])).parts[0].offset

    assert [share(0, 2), share(0, 1), share(1, 1), share(0, 3), share(1, 3)] == [2, 2, 1, 1, 3]


# A keeper.


COPY = KeptPlace(7, "o", 0, 0, 1)


class KeeperNode(Node):
    """A leader that keeps one partition of the fabric ``o``, as id 7."""

    def __init__(self, config=None):
        super().__init__(config)
        self.assign(2, [COPY])

    def assign(self, version, kept):
        topic = AssignedTopic(1, "t", self.config, [PartitionPlace(1, 0, 0)], kept)
        self.turn(Type.ASSIGN, Assign("f", version, [topic], []))

    def keep(self, batches=(), **more):
        body = Keep(list(batches), [], [], {}, [], [], [], [])._replace(**more)
        return self.turn(Type.KEEP, body)

    def read(self, offset):
        answers, _ = self.turn(Type.FETCH, messages.Fetch(1 << 20, [messages.FetchPart(7, offset)]))
        if answers[0].body.parts[0].failure:
            raise errors.from_wire(answers[0].body.parts[0].failure.code, answers[0].body.parts[0].failure.values)
        return [(header, bytes(payload)) for header, _, payload in batch.split(answers[0].rest[0])]


def produced(sequence, values=(b"v",)):
    payload = batch.encode_columns(0, None, list(values), None)
    header, payload = batch.seal(
        payload, codec=0, flags=0, count=len(values), base_timestamp=500, max_timestamp=500, producer_id=5,
        producer_epoch=0, base_sequence=sequence, last_sequence=sequence + len(values) - 1, partition=1,
    )  # fmt: skip
    return messages.Produce(header, payload, payload)


def kept(offset, count=1, epoch=3, time=700):
    body = produced(0, [b"%d" % (offset + number) for number in range(count)])
    raw = batch.stamp(body.header, 1, epoch, count, offset, time)
    return KeptBatch(7, batch.parse(raw), raw, body.payload)


def test_the_end_of_a_copy_is_what_its_origin_has_told_though_the_copy_is_behind():
    node = KeeperNode()
    asked = messages.FindOffsets([messages.FindOffset(7, -1)])
    for heard, offset in ({}, 3), ({7: Heard(1, 9)}, 9), ({7: Heard(1, 2)}, 3):
        node.keep([kept(0, 3)], heard=heard)
        [answer] = node.turn(Type.FIND_OFFSETS, asked)[0]
        [part] = answer.body.parts
        assert (part.offset, part.end_offset) == (offset, 3)


def test_a_kept_batch_has_its_offset_epoch_time_and_bytes_and_the_id_of_the_copy():
    node = KeeperNode()
    entry = kept(0, 3)
    _, published = node.keep([entry])
    [(header, payload)] = node.read(0)
    assert header._replace(header_crc=0) == entry.header._replace(partition=7, header_crc=0)
    assert payload == entry.payload
    assert next(bytes(part) for part in published[0]) == messages.PARTITION.pack(7)
    assert node.leader.copies.positions[7] == (3, 3, 700)
    node.restart()
    node.keep(load=[7])
    assert node.leader.copies.positions[7] == (3, 3, 700)


def test_what_is_there_already_is_passed_over_and_what_leaves_a_hole_is_refused():
    node = KeeperNode()
    node.keep([kept(0), kept(0), kept(1)])
    node.keep([kept(3)])
    assert [header.base_offset for header, _ in node.read(0)] == [0, 1]
    assert "at 3" in node.leader.copies.problems[7]
    node.keep([kept(2)])
    assert 7 not in node.leader.copies.problems


def test_an_epoch_that_falls_is_another_log():
    node = KeeperNode()
    node.keep([kept(0, epoch=5)])
    node.keep([kept(1, epoch=4)])
    assert [header.base_offset for header, _ in node.read(0)] == [0]
    assert "rolled back" in node.leader.copies.problems[7]


def test_of_a_batch_that_was_compacted_across_the_end_the_part_beyond_is_kept():
    node = KeeperNode()
    node.keep([kept(0, 2)])
    payload = batch.encode_columns([0, 5], [b"a", b"b"], [b"1", b"3"], [None, None], [1, 3])
    raw, payload = batch.seal(
        payload, codec=0, flags=batch.COMPACTED, count=2, base_timestamp=500, max_timestamp=505, producer_id=0,
        producer_epoch=0, base_sequence=0, last_sequence=0, partition=1,
    )  # fmt: skip
    raw = batch.stamp(raw, 1, 3, 5, 0, 700)
    node.keep([KeptBatch(7, batch.parse(raw), raw, payload)])
    [_, (header, left)] = node.read(0)
    assert (header.base_offset, header.next_offset, header.append_time) == (2, 5, 700)
    columns = batch.decode_columns(header, left)
    assert (columns.keys, columns.values, list(columns.distances), columns.timestamps) == ([b"b"], [b"3"], [1], [505])


def test_a_producer_can_not_write_to_a_copy():
    node = KeeperNode()
    with pytest.raises(errors.NotLeader):
        node.produce(0, partition=7)
    with pytest.raises(errors.NotLeader):
        node.ask(Type.INIT_PRODUCER, messages.InitProducer(7, 5))


def test_a_copy_that_is_kept_no_longer_is_removed():
    node = KeeperNode()
    node.keep([kept(0)], heard={7: Heard(5_000, 1)})
    node.assign(3, [])
    assert 7 not in node.leader.kept
    with pytest.raises(errors.NotLeader):
        node.read(0)
    for _ in range(5):
        node.now += 10 * SECOND
        node.turn()
    assert [key for key, _ in node.disk.items() if int.from_bytes(key[1:5], "big") == 7 and key[:1] != b"C"] == []


def test_a_full_disk_takes_no_batches_and_the_rest_goes_on():
    node = KeeperNode()
    node.leader.storage_full = errors.StorageFull(directory="d", free=0, reserve=1)
    node.keep([kept(0)], load=[7])
    assert node.leader.copies.positions[7].end == 0
    node.leader.storage_full = None
    node.keep([kept(0)])
    assert node.leader.copies.positions[7].end == 1


def test_a_group_may_be_further_than_a_copy_is_and_not_than_what_is_led_here():
    node = KeeperNode()
    node.keep(load=[7], commits=[SharedOffset(7, "g", 0, 2, 5), SharedOffset(1, "g", 0, 2, 5)])
    found = node.ask(Type.GET_OFFSETS, messages.GetOffsets("g", [7, 1])).parts
    assert [part.offset for part in found] == [2, -1]
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(7, 3)]))
    with pytest.raises(errors.OffsetOutOfRange):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(1, 3)]))


def test_when_an_origin_was_heard_of_is_known_to_an_hour_after_a_restart():
    node = KeeperNode()
    hour = 3_600_000
    node.keep(heard={7: Heard(10 * hour, 4)})
    node.keep(heard={7: Heard(10 * hour + 1_000, 5)})
    part = node.ask(Type.DESCRIBE, messages.Describe([7])).partitions[0]
    assert (part.heard_ms, part.origin_end) == (10 * hour + 1_000, 5)
    node.restart()
    assert node.ask(Type.DESCRIBE, messages.Describe([7])).partitions[0].heard_ms == 10 * hour


@pytest.mark.parametrize("bits", range(12))
def test_a_damaged_copy_is_an_error_and_never_other_bytes(bits):
    """I10."""
    node = KeeperNode()
    node.keep([kept(0), kept(1)])
    good = [payload for _, payload in node.read(0)]
    assert node.disk.flip_bit(random.Random(bits)) is not None
    try:
        found = [payload for header, payload in node.read(0)]
    except errors.ZFabricError:
        return
    assert found == good[: len(found)]


@pytest.mark.parametrize("group", ["\N{SNOWMAN}" * 200, "a/b", ".", "x" * 201])
def test_a_group_with_a_name_that_is_none_is_not_shared_and_the_others_are(group):
    node = KeeperNode()
    names = [SharedOffset(1, group[:200] if len(group) < 201 else "-", 0, 0, 5), SharedOffset(1, "g", 0, 0, 5)]
    node.ask(Type.SHARE, Share("f", names))
    keys_there = [key for key, _ in node.disk.items() if key[:1] == keys.GROUP]
    assert keys_there == [keys.group(1, "g")]


def test_a_reset_of_a_group_that_was_set_back_as_often_as_can_be_told_can_still_be_told():
    node = Node()
    node.produce(0, [b"a", b"b"])
    node.ask(Type.SHARE, Share("f", [SharedOffset(1, "g", (1 << 63) - 1, 2, 5)]))
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(1, 1)], True))
    assert node.ask(Type.GET_OFFSETS, messages.GetOffsets("g", [1])).parts[0].offset == 1
    [commit] = followed(follow(node)).commits
    assert (commit.resets, commit.offset) == ((1 << 63) - 1, 1)


def damage(node, key):
    node.disk.write().put(key, b"\xc1")
    node.disk.commit()


def test_a_damaged_row_of_a_group_does_not_keep_a_turn_from_the_disk():
    """A keeper confirms what it asks on from: that may not be ahead of its disk."""
    node = KeeperNode()
    node.keep(load=[7])
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("bad", [messages.CommitOffset(7, 0)]))
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("good", [messages.CommitOffset(7, 0)]))
    damage(node, keys.group(7, "bad"))
    node.keep([kept(0)], share=[7], check=[7], heard={7: Heard(5, 1)})
    assert node.leader.copies.positions[7].end == 1
    assert [shared.group for shared in node.leader.copies.shared] == ["good"]
    node.restart()
    node.keep(load=[7])
    assert node.leader.copies.positions[7].end == 1


def test_a_copy_with_a_damaged_row_of_a_group_does_not_expire():
    node = KeeperNode()
    node.keep([kept(0)], heard={7: Heard(5, 1)})
    for group in ("bad", "good"):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets(group, [messages.CommitOffset(7, 1)]))
    node.wall += 1_000 * 86_400_000
    node.keep(check=[7])
    assert node.leader.copies.expired == [7]
    node.leader.copies.expired.clear()
    damage(node, keys.group(7, "bad"))
    node.keep(check=[7])
    assert node.leader.copies.expired == []


def test_a_damaged_row_of_a_group_does_not_keep_others_from_keepers():
    node = Node()
    node.produce(0)
    for group in ("a", "b", "c"):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets(group, [messages.CommitOffset(1, 1)]))
    damage(node, keys.group(1, "b"))
    answer = followed(follow(node))
    assert [commit.group for commit in answer.commits] == ["a", "c"]
    assert len(answer.parts) == 1


def test_a_leader_lets_go_of_the_own_part_of_a_topic_and_keeps_its_copies():
    node = KeeperNode()
    node.produce(0)
    node.keep([kept(0)])
    topic = AssignedTopic(1, "t", node.config, [], [COPY])
    node.turn(Type.ASSIGN, Assign("f", 3, [topic], []))
    assert [header.base_offset for header, _ in node.read(0)] == [0]
    with pytest.raises(errors.NotLeader):
        node.produce(1)
    node.restart()
    assert (node.leader.partition_ids(), list(node.leader.kept)) == ({7}, [7])


def compacted(deltas, *, base=0, span=3, offset=0):
    """A batch of a source that may be anybody, compacted, with keys ``a`` and ``b``."""
    payload = batch.encode_columns(deltas, [b"a", b"b"], [b"1", b"3"], [None, None], [1, 2])
    raw, payload = batch.seal(
        payload, codec=0, flags=batch.COMPACTED, count=2, base_timestamp=base, max_timestamp=base, producer_id=0,
        producer_epoch=0, base_sequence=0, last_sequence=0, partition=1,
    )  # fmt: skip
    raw = batch.stamp(raw, 1, 3, span, offset, 700)
    return KeptBatch(7, batch.parse(raw), raw, payload)


@pytest.mark.parametrize("deltas", [[0, 1 << 63], [-1 << 63, (1 << 64) - 1], [1 << 62, 1 << 63]])
def test_times_that_no_batch_can_carry_are_a_problem_of_their_copy(deltas):
    node = KeeperNode()
    node.keep([kept(0, 1), compacted(deltas, base=(1 << 63) - 1)])
    assert [header.next_offset for header, _ in node.read(0)] == [1]
    assert 7 in node.leader.copies.problems


def test_an_offset_that_no_command_can_carry_is_a_problem_of_its_copy():
    node = KeeperNode()
    last = (1 << 63) - 1
    node.keep(starts=[(7, last)])
    node.keep([kept(last)])
    assert node.leader.copies.positions[7].end == last
    assert 7 in node.leader.copies.problems
    [part] = node.ask(Type.DESCRIBE, messages.Describe([7])).partitions
    assert part.end_offset == last


@pytest.mark.parametrize("deltas", [[0, 1 << 63], [-1 << 63, (1 << 64) - 1]])
def test_times_that_no_batch_can_carry_end_no_pass_of_compaction(deltas):
    node = Node(TopicConfig(cleanup="compact"))
    payload = batch.encode_columns(deltas, [b"a", b"a"], [b"1", b"2"], None)
    header, payload = batch.seal(
        payload, codec=0, flags=0, count=2, base_timestamp=500, max_timestamp=500, producer_id=5, producer_epoch=0,
        base_sequence=0, last_sequence=1, partition=1,
    )  # fmt: skip
    node.ask(Type.PRODUCE, messages.Produce(header, payload, payload))
    node.produce(2, [b"x"])
    for _ in range(20):
        node.now += 10 * SECOND
        node.wall += 3_600_000
        node.turn()
    answers, _ = node.turn(Type.FETCH, messages.Fetch(1 << 20, [messages.FetchPart(1, 0)]))
    assert answers[0].body.parts[0].end_offset == 3
