"""Groups that were deleted: what is left of them, how it is told, and when it goes."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.unit.leader.test_keepers import KeeperNode, follow, followed
from tests.unit.leader.test_leader import Node
from zfabric import errors
from zfabric.core.leader import groups, keys
from zfabric.settings import GROUPS_PER_PARTITION_MAX
from zfabric.wire import messages
from zfabric.wire.messages import Type
from zfabric.wire.replication import Share, SharedOffset

DAY_MS = 86_400_000


@pytest.fixture
def node():
    node = Node()
    node.produce(0, [b"a", b"b", b"c"])
    return node


def commit(node, offset, group="g", *, force=False, partition=1):
    node.ask(
        Type.COMMIT_OFFSETS, messages.CommitOffsets(group, [messages.CommitOffset(partition, offset)], force=force)
    )


def delete(node, group="g"):
    node.ask(Type.DELETE_GROUP, messages.DeleteGroup(group))


def share(node, *told):
    node.ask(Type.SHARE, Share("f", list(told)))


def listed(node):
    return {part.group: part.offset for part in node.ask(Type.LIST_GROUPS, messages.ListGroups()).parts}


def rows(node):
    return [key for key, _ in node.disk.items() if key[:1] == keys.GROUP]


def test_a_deletion_is_told_to_keepers_and_nobody_sees_the_group_any_more(node):
    commit(node, 2)
    first = followed(follow(node, 3, epoch=1))
    delete(node)
    second = followed(follow(node, 3, epoch=1, run=first.run, since=first.since))
    assert second.commits == [SharedOffset(1, "g", 1, 0, node.wall, True)]
    assert listed(node) == {}
    assert node.ask(Type.GET_OFFSETS, messages.GetOffsets("g", [1])).parts[0].offset == -1
    node.restart()
    assert followed(follow(node, 3, epoch=1)).commits == second.commits


def test_an_older_commit_does_not_bring_a_group_back_and_a_newer_one_does(node):
    commit(node, 3)
    delete(node)
    share(node, SharedOffset(1, "g", 0, 3, node.wall))
    assert listed(node) == {}
    commit(node, 0)
    assert listed(node) == {"g": 0}
    share(node, SharedOffset(1, "g", 1, 0, node.wall, True))
    assert listed(node) == {"g": 0}
    share(node, SharedOffset(1, "g", 1, 2, node.wall))
    assert listed(node) == {"g": 2}


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_all_end_with_the_same_in_whatever_order_they_are_told(node, order):
    """A reset that was made elsewhere at the time of the deletion wins."""
    told = [
        SharedOffset(1, "g", 0, 3, 5),
        SharedOffset(1, "g", 1, 0, 6, True),
        SharedOffset(1, "g", 1, 1, 7),
        SharedOffset(1, "h", 4, 0, node.wall, True),
    ]
    for number in order:
        share(node, told[number])
    assert listed(node) == {"g": 1}


def test_a_copy_with_a_deleted_group_is_shared_and_its_age_is_judged_without_it():
    node = KeeperNode()
    commit(node, 4, partition=7)
    delete(node)
    assert node.leader.copies.committed == {7}
    node.keep(share=[7])
    assert node.leader.copies.shared == [SharedOffset(7, "g", 1, 0, node.wall, True)]


def test_tombstones_expire_after_thirty_days(node):
    commit(node, 2)
    delete(node)
    node.wall += 30 * DAY_MS
    node.now += 10_000_000_000
    node.turn()
    assert len(rows(node)) == 1
    node.wall += groups.TIDY_MS
    node.now += 10_000_000_000
    node.turn()
    assert rows(node) == []
    share(node, SharedOffset(1, "g", 1, 0, node.wall - 31 * DAY_MS, True))
    assert rows(node) == []


def test_tombstones_are_bounded_and_take_no_place_of_a_group(node, monkeypatch):
    monkeypatch.setattr(groups, "TOMBSTONES_MAX", 10)
    monkeypatch.setattr(groups, "GROUPS_PER_PARTITION_MAX", 3)
    for number in range(30):
        node.wall += 1
        commit(node, 1, f"g{number}")
        delete(node, f"g{number}")
        assert len(rows(node)) <= 10
    assert keys.group(1, "g29") in rows(node)
    for number in range(3):
        commit(node, 1, f"h{number}")
    with pytest.raises(errors.LimitExceeded):
        commit(node, 1, "h3")
    delete(node, "h0")
    commit(node, 1, "h3")
    assert sorted(listed(node)) == ["h1", "h2", "h3"]
    share(node, *(SharedOffset(1, f"x{number}", 1, 0, node.wall, True) for number in range(50)))
    assert len(rows(node)) <= 3 + 10
    assert GROUPS_PER_PARTITION_MAX > 3
