"""One pure function says who reads what."""

from hypothesis import given
from hypothesis import strategies as st

from zfabric.core.assignment import assign, owner

numbers = st.integers(0, (1 << 52) - 1)
members = st.integers(1, (1 << 62))


def test_the_owner_is_the_same_in_every_version():
    """Members of different versions share a group."""
    assert [owner(partition, [11, 22, 33]) for partition in range(8)] == [33, 22, 11, 11, 11, 22, 22, 33]


@given(st.sets(numbers, max_size=50), st.sets(members, min_size=1, max_size=8))
def test_each_partition_has_one_owner_whatever_the_order(partitions, group):
    shares = assign(sorted(partitions), sorted(group))
    assert shares.keys() == group
    assert sorted(number for share in shares.values() for number in share) == sorted(partitions)
    assert shares == assign(sorted(partitions), sorted(group, reverse=True))


@given(st.sets(numbers, max_size=50), st.sets(members, min_size=2, max_size=8))
def test_only_what_a_member_had_moves_when_it_goes(partitions, group):
    gone = min(group)
    for partition in partitions:
        before = owner(partition, group)
        if before != gone:
            assert owner(partition, group - {gone}) == before


def test_without_members_nobody_reads():
    assert owner(1, []) is None
    assert assign([1, 2], []) == {}


def test_many_partitions_are_shared_about_evenly():
    shares = assign(range(10_000), range(1, 11))
    assert all(850 < len(share) < 1_150 for share in shares.values())
