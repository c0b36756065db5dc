"""Lifeguard's dynamic suspicion timeout."""

import pytest

from zfabric.core.mesh import suspicion
from zfabric.core.mesh.suspicion import Suspicion
from zfabric.settings import MeshSettings

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("confirmed", "expected", "low", "high", "seconds"),
    [
        (0, 3, 2, 30, 30.0),
        (1, 3, 2, 30, 16.0),
        (2, 3, 2, 30, 7.810),
        (3, 3, 2, 30, 2.0),
        (4, 3, 2, 30, 2.0),
        (10, 3, 2, 30, 2.0),
        (0, 0, 2, 30, 2.0),
        (5, 0, 2, 30, 2.0),
        (0, 1, 4, 24, 24.0),
        (1, 1, 4, 24, 4.0),
        (0, 3, 5, 5, 5.0),
    ],
)
def test_each_accuser_brings_the_end_nearer(confirmed, expected, low, high, seconds):
    """max(low, high - (high - low) * log(C + 1) / log(K + 1)); the first rows are memberlist's own vectors."""
    span = suspicion.timeout(confirmed, expected, low * SECOND, high * SECOND)
    assert span / SECOND == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(
    ("members", "low", "high", "expected"),
    [(1, 4, 4, 0), (2, 4, 4, 0), (4, 4, 4, 0), (5, 4, 24, 3), (10, 4, 24, 3), (100, 8, 48, 3), (1_000, 12, 72, 3)],
)
def test_the_time_grows_with_the_logarithm_of_the_mesh(members, low, high, expected):
    """At least alpha * max(1, log10 n) intervals; without K + 2 members nobody could confirm."""
    assert suspicion.bounds(members, MeshSettings()) == (low * SECOND, high * SECOND, expected)


def test_only_independent_accusers_count():
    suspect = Suspicion(b"a", 100, MeshSettings(), 0)
    assert suspect.deadline == 48 * SECOND
    assert not suspect.confirm(b"a")
    assert suspect.confirm(b"b")
    assert not suspect.confirm(b"b")
    assert suspect.confirm(b"c")
    assert suspect.confirm(b"d")
    assert suspect.deadline == 8 * SECOND


def test_more_accusers_than_expected_are_not_kept():
    """A flood of accusers costs no memory and is not passed on."""
    suspect = Suspicion(b"a", 100, MeshSettings(), 0)
    assert sum(suspect.confirm(bytes([n])) for n in range(100)) == 3


def test_a_suspect_gets_the_time_back_that_the_accuser_stood_still():
    suspect = Suspicion(b"a", 100, MeshSettings(), 0)
    suspect.extend(5 * SECOND)
    assert suspect.deadline == 53 * SECOND
    for accuser in (b"b", b"c", b"d"):
        suspect.confirm(accuser)
    assert suspect.deadline == 13 * SECOND


def test_plain_swim_has_one_time_for_all():
    plain = MeshSettings(suspicion_stretch=1, confirmations=0)
    assert suspicion.bounds(100, plain) == (8 * SECOND, 8 * SECOND, 0)
