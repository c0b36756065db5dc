"""How often refused requests are told."""

from zfabric.server.refusals import MANY, WINDOW_NS, Refusals

SECOND = 1_000_000_000


def test_a_few_refusals_are_never_told():
    refusals = Refusals(0)
    total = 0
    for second in range(1, 1_000):
        total += MANY * SECOND // WINDOW_NS - 1
        assert refusals.look(total, second * SECOND) is None


def test_many_are_told_at_once_and_then_at_most_once_a_window_with_all_that_came_since():
    refusals = Refusals(0)
    assert refusals.look(MANY - 1, SECOND) is None
    assert refusals.look(MANY, 2 * SECOND) == (MANY, 2.0)
    told = [(second, refusals.look(MANY + 50 * second, second * SECOND)) for second in range(3, 34)]
    assert [entry for entry in told if entry[1] is not None] == [
        (12, (600, 10.0)), (22, (500, 10.0)), (32, (500, 10.0))
    ]  # fmt: skip


def test_what_comes_after_a_pause_is_told_at_once_and_alone():
    refusals = Refusals(0)
    assert refusals.look(1_000, SECOND) == (1_000, 1.0)
    assert refusals.look(1_010, 20 * SECOND) is None
    assert refusals.look(1_500, 21 * SECOND) == (490, 1.0)
