"""Turns that callers take themselves: as many as delay nobody, and few enough for a flood to fill batches."""

from __future__ import annotations

import pytest

from zfabric.core.leader.allowance import AHEAD_NS, APART, TURN_NS, Allowance

US = 1_000


def flood(turn_ns, between_ns, seconds=1.0, interrupted=lambda now: 0):
    """Return how many turns are taken, and refused, of one that wants another as soon as the last is over."""
    allowance, now, taken, refused = Allowance(), 10**9, 0, 0
    end = now + int(seconds * 1e9)
    while now < end:
        now += between_ns + interrupted(now)
        if allowance.allows(now):
            allowance.spent(now, now + turn_ns)
            now += turn_ns
            taken += 1
        else:
            refused += 1
    return taken, refused


@pytest.mark.parametrize("turn_us", [20, 50, 200])
def test_one_without_a_pause_spends_a_third_of_its_time_on_turns(turn_us):
    taken, refused = flood(turn_us * US, 5 * US)
    assert taken * turn_us * US == pytest.approx(1e9 / 3 + AHEAD_NS, rel=0.1)
    assert refused > taken


@pytest.mark.parametrize(("turn_us", "every_us"), [(30, 100), (150, 500), (240, 750), (400, 1_000), (2_000, 4_000)])
def test_one_that_pauses_twice_as_long_as_a_turn_takes_each_of_them(turn_us, every_us):
    """A turn that takes much longer was interrupted: it counts as a short one."""
    taken, refused = flood(turn_us * US, (every_us - turn_us) * US)
    assert (taken > 200, refused) == (True, 0)


def test_a_turn_that_was_interrupted_delays_nobody_s_next_record():
    allowance = Allowance()
    allowance.spent(10**9, 10**9 + 100 * AHEAD_NS)
    assert allowance.allows(10**9 + 100 * AHEAD_NS)


def test_one_who_is_interrupted_every_few_milliseconds_still_fills_batches():
    """On a slow and busy core, with 0.5 ms a turn: each pause gives back a few turns and no more."""
    due = 10**9

    def pause(now):
        nonlocal due
        if now < due:
            return 0
        due = now + 8_000_000
        return 4_000_000

    taken, refused = flood(500 * US, 20 * US, seconds=2.0, interrupted=pause)
    assert taken < 250 * 8
    assert refused > 5 * taken


def test_a_burst_after_a_rest_is_taken_at_once_and_no_more_than_that():
    allowance, now, taken = Allowance(), 10**12, 0
    while allowance.allows(now):
        allowance.spent(now, now + TURN_NS)
        now += TURN_NS
        taken += 1
    assert taken == AHEAD_NS // TURN_NS
    now += 10**9
    for _ in range(taken):
        assert allowance.allows(now)
        allowance.spent(now, now + TURN_NS)
        now += TURN_NS
    assert not allowance.allows(now)


def test_a_caller_lets_go_of_its_core_unless_a_turn_was_interrupted_not_long_ago():
    """Whoever else wants the core takes a slice of it each time: that is to be a twentieth of the time at most."""
    allowance, now = Allowance(), 10**9
    assert allowance.lets_go(now)
    allowance.spent(now, now + TURN_NS)
    assert allowance.lets_go(now + TURN_NS)
    allowance.spent(now, now + 3 * AHEAD_NS)
    due = now + 3 * AHEAD_NS * (1 + APART)
    assert (allowance.lets_go(due - 1), allowance.lets_go(due)) == (False, True)
    allowance.spent(due - US, due)
    assert allowance.lets_go(due)
