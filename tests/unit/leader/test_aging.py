"""How long a keeper holds what origins with wrong clocks have appended."""

from __future__ import annotations

import pytest

from tests.unit.leader.test_keepers import SECOND, KeeperNode, kept
from zfabric.core.leader import aging, keys
from zfabric.model import TopicConfig

YEAR_MS = 365 * 86_400_000
HOUR_MS = 3_600_000
CONFIG = TopicConfig(retention_ms=HOUR_MS)


class Node(KeeperNode):
    """A keeper at a time when there is a year to go back."""

    def __init__(self):
        super().__init__(config=CONFIG)
        self.wall = 3 * YEAR_MS

    def offsets(self):
        """Let retention do what it does; return where the copy begins and ends."""
        for _ in range(3):
            self.now += SECOND
            self.turn()
        with self.disk.read() as txn:
            state = self.leader._assigned.partition(7, txn).log.state
        return state.start, state.end

    def receive(self, offset, skew_ms, age_ms=0):
        """Take in a batch that its origin, whose clock is so far ahead, has appended some time ago."""
        self.keep([kept(offset, time=self.wall + skew_ms - age_ms)])


@pytest.mark.parametrize("skew_ms", [-YEAR_MS, YEAR_MS, 0], ids=["behind", "ahead", "right"])
def test_what_is_kept_stays_for_the_retention_whatever_the_clock_of_its_origin(skew_ms):
    node = Node()
    for offset in range(3):
        node.receive(offset, skew_ms)
        node.wall += HOUR_MS // 4
    assert node.offsets() == (0, 3)
    node.wall += HOUR_MS // 4 + 5_000
    assert node.offsets() == (1, 3)
    node.wall += HOUR_MS
    assert node.offsets() == (3, 3)


def test_that_a_clock_is_behind_is_known_after_a_restart():
    node = Node()
    node.receive(0, -YEAR_MS)
    node.restart()
    assert node.offsets() == (0, 1)
    node.wall += HOUR_MS + 5_000
    assert node.offsets() == (1, 1)


def test_a_clock_that_was_set_right_counts_from_then_on_as_it_does_at_the_origin():
    node = Node()
    node.receive(0, -YEAR_MS)
    assert node.offsets() == (0, 1)
    node.receive(1, 0)
    assert node.offsets() == (1, 2)
    node.restart()
    assert node.offsets() == (1, 2)


def test_what_was_stored_before_there_was_a_second_number_is_still_read():
    node = Node()
    txn = node.disk.write()
    txn.put(keys.heard(7), keys.U64.pack(99))
    node.disk.commit()
    with node.disk.read() as txn:
        assert aging.load(7, txn) == aging.Aging(99, 0)
        assert aging.load(8, txn) == aging.Aging(0, 0)
