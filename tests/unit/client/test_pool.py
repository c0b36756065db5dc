"""Which instance gets a request: weights, distance, load; and when one is left alone."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from zfabric.core.client import breaker
from zfabric.core.client.breaker import Breaker
from zfabric.core.client.budget import MOST, Budget
from zfabric.core.client.errand import Attempt, Errand
from zfabric.core.client.pool import VERSIONS_MAX, Channel, Pool
from zfabric.settings import CALLS_PER_INSTANCE_MAX
from zfabric.wire.card import DRAINING, ServiceCard

SECOND = 1_000_000_000


def pool_of(*cards):
    """A pool whose instances are connected, as a caller on host ``here`` in zone ``z`` sees them."""
    pool = Pool("s", Random(1).random)
    for number, card in enumerate(cards, 1):
        fields = {"name": "s", "version": "1.0", "endpoint": f"sim://{number}", "instance": number, "host": "here"}
        channel = pool.channels[number] = Channel(ServiceCard(**(fields | card)), "here", "z")
        channel.ready = True
    return pool


def asked(pool, times=2_000, **options):
    """How many of so many requests each instance gets, with none of them answered before the next."""
    found = Counter()
    for number in range(times):
        errand = Errand("s.m", b"", b"", 60 * SECOND, 60.0)
        errand.choose(**options)
        channel = pool.choose(errand, SECOND)
        found[channel and channel.card.instance] += 1
        if channel:
            channel.attempts[number] = Attempt(number, errand, channel, 0)
    return found


def test_equal_instances_get_equal_shares():
    found = asked(pool_of({}, {}, {}), times=900)
    assert all(abs(count - 300) <= 10 for count in found.values())


def test_versions_share_by_the_weight_of_their_instances():
    """A canary of weight 10 beside three of 100 gets 10 of 310."""
    found = asked(pool_of({}, {}, {}, {"version": "2.0", "weight": 10}))
    assert 2_000 * 10 / 310 / 2 < found[4] < 2_000 * 10 / 310 * 2


def test_within_a_version_an_instance_of_half_the_weight_gets_half_as_much():
    """Whether nothing is answered before the next request, or everything is."""
    found = asked(pool_of({}, {"weight": 50}), times=900)
    assert abs(found[2] - 300) <= 60
    pool = pool_of({}, {"weight": 50})
    pool.channels[1].latency_ns, pool.channels[2].latency_ns = (
        1_000_000,
        3_000_000,
    )  # As that of an instance that is seldom asked is.
    errand = Errand("s.m", b"", b"", 60 * SECOND, 60.0)
    found = Counter(pool.choose(errand, SECOND).card.instance for _ in range(900))
    assert abs(found[2] - 300) <= 60


def test_weight_0_wants_none_while_others_want_some():
    assert asked(pool_of({}, {"weight": 0, "version": "2.0"}), times=100) == {1: 100}
    assert asked(pool_of({}, {"weight": 0}), times=100) == {1: 100}
    assert asked(pool_of({"weight": 0}), times=10) == {1: 10}
    assert set(asked(pool_of({"weight": 0}, {"weight": 0}), times=10)) == {1, 2}


def test_an_instance_that_is_busier_than_its_weight_allows_gets_less():
    pool = pool_of({}, {"weight": 200})
    for number in range(100):
        pool.channels[2].attempts[-number] = None
    assert asked(pool, times=20) == {1: 20}


@pytest.mark.parametrize(("version", "named"), [("2.0", "'1.0', '2.0'"), ("", "one without a version, '1.0'")])
def test_what_is_said_of_a_version_that_is_not_there_names_those_that_are(version, named):
    pool = pool_of({}, {"version": version})
    errand = Errand("s.m", b"", b"", 60 * SECOND, 60.0)
    errand.choose(version="3")
    assert str(pool.unavailable(errand, 1.0)).endswith(f"there is {named}")


@pytest.mark.parametrize(
    ("host", "endpoint", "said"),
    [
        ("there", "tcp://127.0.0.1:4711", True),
        ("there", "ipc:///data/run/svc", True),
        ("there", "tcp://10.0.0.5:4711", False),
        ("here", "tcp://127.0.0.1:4711", False),
    ],
)
def test_an_instance_that_another_host_cannot_reach_is_said_to_be_one(host, endpoint, said):
    pool = pool_of({"host": host, "endpoint": endpoint})
    told = str(pool.unavailable(Errand("s.m", b"", b"", 60 * SECOND, 60.0), 1.0))
    assert endpoint in told
    assert ("from its own host only" in told) is said


@pytest.mark.parametrize(("wanted", "instances"), [("1", {1, 2}), ("1.4", {2}), ("1.4.2", {2}), ("1.40", {None})])
def test_a_version_is_asked_for_by_its_first_numbers(wanted, instances):
    assert set(asked(pool_of({"version": "1.3"}, {"version": "1.4.2"}), times=50, version=wanted)) == instances


def test_what_is_near_is_preferred_until_it_is_busier():
    pool = pool_of({}, {"host": "there", "zone": "z"}, {"host": "far", "zone": "y"})
    assert set(asked(pool, times=1)) == {1}
    found = asked(pool, times=700)
    assert found[1] > found[2] > found[3] > 0


def test_a_slow_instance_gets_less():
    pool = pool_of({}, {})
    pool.channels[1].latency_ns, pool.channels[2].latency_ns = 10_000_000, 1_000_000
    found = asked(pool, times=550)
    assert found[2] > 5 * found[1] > 0


def one_by_one(pool, taken_ns, times):
    """How many requests each instance gets from a caller that makes one at a time, which take as long as drawn."""
    found = Counter()
    for number in range(times):
        errand = Errand("s.m", b"", b"", 60 * SECOND, 60.0)
        channel = pool.choose(errand, SECOND + number * 1_000_000)
        found[channel.card.instance] += 1
        channel.observe(taken_ns(channel.card.instance))
    return found


def test_equal_instances_share_the_requests_of_a_caller_that_makes_one_at_a_time():
    """Though one of them is always the one that answered a little faster last, and some answers take very long."""
    rng = Random(5)
    found = one_by_one(
        pool_of({}, {}, {}), lambda _: rng.choice([100_000] * 50 + [10_000_000]) * rng.uniform(0.8, 1.25), 3_000
    )
    assert all(count > 600 for count in found.values())


def test_a_caller_that_makes_one_request_at_a_time_asks_the_fast_one_of_two():
    found = one_by_one(pool_of({}, {}), {1: 100_000, 2: 1_000_000}.get, 2_000)
    assert found[1] > 20 * found[2] > 0


def test_an_instance_that_nobody_has_asked_yet_gets_requests_at_once():
    pool = pool_of({}, {})
    pool.channels[1].observe(50_000)
    assert one_by_one(pool, {1: 50_000, 2: 60_000}.get, 100)[2] > 25


@pytest.mark.parametrize("state", ["draining", "unconnected", "ejected"])
def test_an_instance_that_cannot_be_asked_is_not(state):
    pool = pool_of({"flags": DRAINING} if state == "draining" else {}, {})
    pool.channels[1].ready = state != "unconnected"
    pool.channels[1].breaker.until_ns = SECOND if state == "ejected" else 0
    assert asked(pool, times=50) == {2: 50}


def test_if_all_are_ejected_none_is():
    pool = pool_of({}, {})
    for channel in pool.channels.values():
        channel.breaker.until_ns = SECOND
    assert set(asked(pool, times=50)) == {1, 2}


def test_a_full_instance_gets_nothing_more():
    assert asked(pool_of({}), times=CALLS_PER_INSTANCE_MAX + 1) == {1: CALLS_PER_INSTANCE_MAX, None: 1}


def test_what_was_tried_is_not_tried_again():
    pool = pool_of({}, {})
    errand = Errand("s.m", b"", b"", 60 * SECOND, 60.0)
    errand.tried += (1,)
    assert {pool.choose(errand, SECOND).card.instance for _ in range(20)} == {2}
    errand.tried += (2,)
    assert pool.choose(errand, SECOND) is None


def test_five_failures_in_a_row_open_the_circuit_and_one_success_closes_it():
    circuit = Breaker()
    assert [circuit.failure(0, 1.0, own=True) for _ in range(5)] == [False] * 4 + [True]
    assert not circuit.readmit(breaker.FIRST_NS - 1)
    assert circuit.readmit(breaker.FIRST_NS)
    assert circuit.trial
    assert circuit.failure(breaker.FIRST_NS, 1.0, own=True)
    assert circuit.until_ns == 3 * breaker.FIRST_NS
    assert circuit.readmit(circuit.until_ns)
    circuit.success()
    assert not circuit.trial


@pytest.mark.parametrize(("others", "ejected"), [(0.0, True), (0.9, False), (1.0, False)])
def test_exceptions_of_handlers_eject_an_outlier_only(others, ejected):
    """What fails everywhere is the request's fault."""
    circuit = Breaker()
    assert any(circuit.failure(0, others, own=False) for _ in range(100)) is ejected


def test_an_instance_on_trial_gets_one_request_at_a_time():
    pool = pool_of({}, {})
    pool.channels[1].breaker.trial = True
    assert asked(pool, times=100)[1] == 1


def test_repeats_are_a_fifth_of_the_requests_in_the_long_run():
    budget = Budget()
    spent = 0
    for _ in range(1_000):
        budget.earned += 1
        spent += budget.spend()
    assert spent == pytest.approx(200 + MOST, abs=2)


def test_versions_that_are_asked_for_are_not_all_remembered():
    pool = pool_of({}, {"version": "2.0"})
    for number in range(1_000):
        assert asked(pool, times=1, version=f"3.{number}") == {None: 1}
    assert len(pool._groups) <= VERSIONS_MAX
    assert set(asked(pool, times=1, version="2")) == {2}
