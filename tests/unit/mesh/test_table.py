"""The table of members: bounds, order, replays."""

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from zfabric.core.mesh.table import Table
from zfabric.core.mesh.timers import Timers
from zfabric.settings import MeshSettings
from zfabric.wire import gossip
from zfabric.wire.gossip import Member, Status


def member(number, status=Status.ALIVE, metadata=b""):
    return Member(number.to_bytes(16, "big"), 1, 1, status, f"x:{number}", 1, metadata)


def table_of(count, **settings):
    table = Table(MeshSettings(**settings), Random(1))
    for number in range(1, count + 1):
        table.add(member(number), proven=True)
    return table


def test_everybody_is_probed_once_in_each_round():
    """SWIM, 4.3: so the time to a failure's detection is bounded."""
    table = table_of(50)
    rounds = [[table.next_target().id for _ in range(50)] for _ in range(3)]
    assert all(len(set(order)) == 50 for order in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_who_has_failed_is_not_probed():
    table = table_of(10)
    table.put(member(3, Status.FAILED), 5)
    assert member(3).id not in {table.next_target().id for _ in range(18)}
    assert table.live == 9


def test_a_newcomer_is_probed_in_the_round_that_it_came_in():
    table = table_of(10)
    for _ in range(4):
        table.next_target()
    table.add(member(11), proven=True)
    assert member(11).id in {table.next_target().id for _ in range(7)}


def test_removal_keeps_the_round():
    table = table_of(10)
    seen = [table.next_target().id for _ in range(5)]
    table.remove(seen[0])
    rest = [table.next_target().id for _ in range(5)]
    assert len({*seen, *rest}) == 10


def test_nobody_is_probed_where_nobody_is():
    assert table_of(0).next_target() is None
    table = table_of(1)
    table.put(member(1, Status.LEFT), 5)
    assert table.next_target() is None


def test_helpers_are_different_and_alive_and_not_the_target():
    table = table_of(30)
    table.put(member(3, Status.FAILED), 5)
    for _ in range(50):
        chosen = {helper.id for helper in table.pick(3, member(1).id)}
        assert len(chosen) == 3
        assert not chosen & {member(1).id, member(3).id}


def test_among_many_failed_the_living_are_found():
    table = table_of(100)
    for number in range(1, 99):
        table.put(member(number, Status.FAILED), 5)
    assert {helper.id for helper in table.pick(3)} == {member(99).id, member(100).id}


def heard(table, numbers):
    """Let a frame of each of these arrive."""
    for number in numbers:
        assert table.fresh(member(number).id, 1)


def test_a_full_table_refuses():
    table = table_of(10, members_max=10)
    heard(table, range(1, 11))
    assert not table.add(member(11), proven=True)
    assert (len(table), table.refused) == (10, 1)


def test_a_full_table_forgets_the_ones_that_failed_first():
    table = table_of(10, members_max=10)
    table.put(member(4, Status.FAILED), 5)
    table.put(member(2, Status.LEFT), 6)
    assert table.add(member(11), proven=True)
    assert table.get(member(4).id) is None
    assert table.get(member(2).id) is not None


def test_the_last_tenth_is_for_those_that_came_in_person():
    """Bad input 24: 10**5 forged members keep no honest one out."""
    table = Table(MeshSettings(members_max=100), Random(1))
    for number in range(1, 1_001):
        table.add(member(number), proven=False)
    assert (len(table), table.refused) == (90, 910)
    assert table.add(member(2_000), proven=True)


def test_one_that_comes_in_person_has_the_place_of_one_known_by_hearsay():
    table = table_of(10, members_max=10)
    heard(table, range(2, 11))
    assert not table.add(member(11), proven=False)
    assert table.add(member(12), proven=True)
    assert [gone.id for gone in table.evicted] == [member(1).id]
    table.put(member(2, Status.FAILED), 5)
    table.put(member(12, Status.FAILED), 6)
    assert table.add(member(13), proven=True)
    assert table.evicted[-1].id == member(12).id, "failed last, but never heard"


GONE = range(901, 905)


def doubting(failed=GONE):
    """Return a table of ten that were heard and a thousand that were not, of which some have failed."""
    table = table_of(1_000)
    heard(table, range(1, 11))
    for number in failed:
        table.put(member(number, Status.FAILED), 5)
    return table


REAL = {member(number).id for number in range(1, 11)}


def test_while_those_known_by_hearsay_fail_those_that_were_heard_are_probed_every_second_time():
    """Ten among a thousand that somebody made up would else hardly ever probe each other."""
    table = doubting()
    targets = [table.next_target().id for _ in range(40)]
    assert [sum(target == real for target in targets[::2]) for real in REAL] == [2] * 10
    assert len(set(targets[1::2]) - REAL) > 10
    heard(table, [800])
    assert len({table.next_target().id for _ in range(40)} - REAL) > 30


def test_while_those_known_by_hearsay_fail_helpers_were_heard_and_so_were_most_that_are_told_news():
    table = doubting()
    for _ in range(50):
        assert {helper.id for helper in table.pick(3, member(1).id, helpers=True)} <= REAL - {member(1).id}
        assert len({told.id for told in table.pick(3)} & REAL) >= 2
    assert 10 < sum(table.pick(1)[0].id in REAL for _ in range(100)) < 90, "each second comparison"
    calm = doubting(failed=GONE[1:])
    assert sum(helper.id in REAL for _ in range(20) for helper in calm.pick(3, helpers=True)) < 20


def test_while_those_known_by_hearsay_fail_those_that_were_heard_are_tried_again_first():
    table = doubting()
    for number in (3, 500, 501):
        table.put(member(number, Status.FAILED), 5)
    assert table.failed() == [member(3).id]
    table.remove(member(3).id)
    assert table.failed() == [member(number).id for number in (*GONE, 500, 501)]
    table.put(msgspec.structs.replace(member(4), instance=2, incarnation=2), 6)
    assert (table.heard(member(4).id), table.heard(member(5).id)) == (False, True)


def test_where_all_that_were_heard_have_gone_others_are_probed_and_asked():
    table = doubting()
    for number in range(1, 11):
        table.put(member(number, Status.FAILED), 5)
    assert table.doubt == len(GONE), "those were heard"
    assert table.next_target() is not None
    assert len(table.pick(3, helpers=True)) == 3


def test_metadata_is_bounded_in_total():
    table = Table(MeshSettings(metadata_bytes_max=1_000), Random(1))
    for number in range(1, 21):
        assert table.add(member(number, metadata=bytes(100)), proven=True)
    assert sum(len(known.metadata) for known in table) == 1_000
    assert table.stripped == 10
    table.remove(member(1).id)
    table.put(member(15, metadata=bytes(100)), 5)
    assert sum(len(known.metadata) for known in table) == 1_000


@given(st.lists(st.integers(1, 200), max_size=150))
def test_each_number_is_taken_at_most_once(numbers):
    """RFC 4303, 3.4.3: of those within 64 of the highest each once, of those below none; nor of those before the first.

    Those came from a stranger: whoever recorded them would be heard once as the member that it has become.
    """
    table = table_of(1)
    taken, highest = set(), 0
    for number in numbers:
        expected = number not in taken and number > highest - 64 and number >= numbers[0]
        assert table.fresh(member(1).id, number) == expected
        if expected:
            taken.add(number)
            highest = max(highest, number)


@given(st.lists(st.integers(1, 200), max_size=150))
def test_without_a_key_nobody_is_silenced_by_a_number_that_was_forged(numbers):
    """What is older than the window is taken; within it each number is taken once."""
    table = Table(MeshSettings(), Random(1), keyed=False)
    table.add(member(1), proven=True)
    assert table.fresh(member(1).id, 1 << 63)
    for number in numbers:
        assert not table.seen(member(1).id, number)
        assert table.fresh(member(1).id, number)
    assert not table.fresh(member(1).id, 1 << 63)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 4), st.integers(1, 2), st.sampled_from(Status)), max_size=60),
    st.sampled_from([1, 2, 8, 256]),
)
def test_hashes_are_those_of_all_that_live(changes, buckets):
    """Kept up with each change: a frame of 140 bytes that asked for others took 7 ms in a table of 8,000."""
    table = table_of(0)
    table.fill([member(number) for number in range(40, 50)])
    for number, incarnation, instance, status in changes:
        changed = Member(bytes([8 * number]) * 16, instance, incarnation, status, "x:1")
        if table.get(changed.id) is None and status == Status.ALIVE:
            table.add(changed, proven=True)
        elif table.get(changed.id) is not None and incarnation == 4:
            table.remove(changed.id)
        elif table.get(changed.id) is not None:
            table.put(changed, 5)
    me = member(300)
    expected = [0] * buckets
    for known in [me, *table]:
        expected[known.id[0] % buckets] ^= gossip.fingerprint(known)
    assert table.hashes(buckets, me) == expected


def test_a_new_instance_begins_its_numbers_again():
    table = table_of(1)
    assert table.fresh(member(1).id, 100)
    assert not table.fresh(member(1).id, 1)
    table.put(msgspec.structs.replace(member(1), instance=2, incarnation=2), 5)
    assert table.fresh(member(1).id, 1)


def test_timers_that_are_put_off_take_no_memory():
    """A forger that lets suspicions begin again and again fills nothing."""
    timers = Timers()
    done = []

    def action(now, key):
        done.append((now, key))

    for when in range(10_000):
        timers.add(when, action, b"a")
    assert len(timers) < 100
    timers.run(20_000)
    assert done == [(20_000, b"a")]
    assert timers.first is None


def test_what_was_known_before_is_taken_as_far_as_there_is_room():
    table = Table(MeshSettings(members_max=100), Random(1))
    table.fill([member(number, metadata=b"abc") for number in range(1, 51)])
    assert (len(table), table.live) == (50, 50)
    table.fill([member(number) for number in range(1, 201)])
    assert (len(table), table.live, table.refused) == (90, 90, 110)
    assert len({table.next_target().id for _ in range(90)}) == 90


@given(st.lists(st.integers(1, 300), max_size=60))
def test_what_was_seen_is_what_would_not_be_fresh(numbers):
    table = table_of(1)
    for number in numbers:
        seen = table.seen(member(1).id, number)
        assert seen == table.seen(member(1).id, number), "looking changes nothing"
        assert table.fresh(member(1).id, number) != seen
