"""Lifeguard's local health multiplier."""

import pytest

from zfabric.core.mesh.health import Awareness


@pytest.mark.parametrize(
    ("points", "score"),
    [([], 0), ([1], 1), ([-1], 0), ([1, 1, 1], 3), ([10], 8), ([10, -1], 7), ([3, -5], 0), ([1, -1, 1], 1)],
)
def test_the_score_stays_within_its_bounds(points, score):
    health = Awareness(8)
    for point in points:
        health.add(point)
    assert health.score == score


@pytest.mark.parametrize(("score", "span"), [(0, 500), (1, 1_000), (8, 4_500)])
def test_a_sick_member_gives_others_more_time(score, span):
    health = Awareness(8)
    health.add(score)
    assert health.stretch(500) == span


def test_without_lifeguard_the_score_stays_zero():
    health = Awareness(0)
    health.add(5)
    assert health.stretch(500) == 500
