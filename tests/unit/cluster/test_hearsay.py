"""What a fabric that nobody can reach learns of the mesh from its keepers."""

from __future__ import annotations

import pytest

from zfabric.core.cluster import roster as rosters
from zfabric.core.cluster.hearsay import ASK_NS, IDLE_NS, Hearsay
from zfabric.core.cluster.roster import FORGOTTEN, Roster
from zfabric.wire.card import Card
from zfabric.wire.gossip import Member, Status
from zfabric.wire.membership import MemberIs, Members, MembersAre

SECOND = 1_000_000_000
KEEPERS = ["tcp://k:1", "tcp://k:2"]


def id_of(number):
    return number.to_bytes(16, "big")


def told(number, status=Status.ALIVE, incarnation=5):
    return MemberIs(id_of(number), status, incarnation, f"tcp://h:{number}", b"\x90")


def answer(*members, run=9, version=3, mesh="m", more=False):
    return MembersAre(run, version, mesh, id_of(1), list(members), more)


def by_gossip(number, status=Status.ALIVE, incarnation=5):
    return Member(id_of(number), 1, incarnation, status, f"tcp://gossip:{number}", 1, b"\x90")


@pytest.fixture
def roster():
    made = Roster(5, "tcp://me:1", Card(host="h"), mesh="m")
    made.begin("f" * 16)
    made.clock(SECOND, 1_000)
    return made


@pytest.fixture
def hearsay(roster):
    return Hearsay(roster, KEEPERS)


def seen(roster):
    """The members but itself: number to (status, endpoint)."""
    return {
        int.from_bytes(member.id, "big"): (member.status, member.endpoint)
        for member in roster.answer(Members()).members
        if member.id != roster.me
    }


def test_it_sees_whom_the_keeper_sees_and_asks_for_what_changes(roster, hearsay):
    assert (hearsay.keeper, hearsay.ask(SECOND), hearsay.next_deadline()) == (KEEPERS[0], Members(), None)
    hearsay.heard(answer(told(1), told(2)), SECOND)
    assert seen(roster) == {1: (Status.ALIVE, "tcp://h:1"), 2: (Status.ALIVE, "tcp://h:2")}
    assert hearsay.ask(SECOND) == Members(9, 3)
    hearsay.heard(answer(told(2, Status.FAILED), told(1, FORGOTTEN), version=4), SECOND)
    assert seen(roster) == {2: (Status.FAILED, "tcp://h:2")}


def test_it_asks_each_second_for_those_who_want_to_know_and_once_a_minute_for_nobody(roster, hearsay):
    hearsay.ask(2 * SECOND)
    hearsay.heard(answer(told(1)), 3 * SECOND)
    assert hearsay.next_deadline() == 3 * SECOND + IDLE_NS
    roster.clock(10 * SECOND, 1_000)
    roster.serve(Members())
    assert hearsay.next_deadline() == 3 * SECOND + ASK_NS
    hearsay.ask(10 * SECOND)
    hearsay.heard(answer(version=3), 10 * SECOND)
    assert hearsay.next_deadline() == 10 * SECOND + ASK_NS  # Who asked at that moment may not have got it yet.


def test_a_long_answer_is_read_to_its_end_at_once(roster, hearsay):
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(1), version=1, more=True), SECOND)
    assert hearsay.next_deadline() == SECOND
    assert hearsay.ask(SECOND) == Members(9, 1)
    hearsay.heard(answer(told(2), version=2), SECOND)
    assert sorted(seen(roster)) == [1, 2]


def test_a_keeper_that_started_again_has_a_new_table(roster, hearsay):
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(1), told(2)), SECOND)
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(1), run=10, version=1, more=True), SECOND)
    assert sorted(seen(roster)) == [1, 2]  # The rest of it is still to come.
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(3), run=10, version=2), SECOND)
    assert sorted(seen(roster)) == [1, 3]


def test_the_newer_statement_of_a_member_wins_and_of_equals_gossip(roster, hearsay):
    roster.note(by_gossip(2))
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(2, Status.FAILED), told(3)), SECOND)
    assert seen(roster)[2] == (Status.ALIVE, "tcp://gossip:2")
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(2, incarnation=6), version=4), SECOND)
    assert seen(roster)[2] == (Status.ALIVE, "tcp://h:2")
    roster.note(by_gossip(2, Status.FAILED, incarnation=5))
    assert seen(roster)[2] == (Status.ALIVE, "tcp://h:2")
    roster.note(by_gossip(2, incarnation=7))
    roster.note(by_gossip(3))
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(2, FORGOTTEN), told(3, FORGOTTEN), version=5), SECOND)
    assert seen(roster) == {2: (Status.ALIVE, "tcp://gossip:2"), 3: (Status.ALIVE, "tcp://gossip:3")}


def test_gossip_that_forgets_somebody_does_not_take_what_a_keeper_says(roster, hearsay):
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(1)), SECOND)
    roster.forget(id_of(1))
    assert sorted(seen(roster)) == [1]
    assert roster.ids() == []  # Nobody here has probed it.


def test_keepers_that_are_silent_are_asked_in_turn_and_leave_doubts(roster, hearsay):
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(1), told(2, Status.LEFT)), SECOND)
    hearsay.ask(SECOND)
    hearsay.missed(SECOND)
    assert (hearsay.keeper, seen(roster)[1][0]) == (KEEPERS[1], Status.ALIVE)
    version = roster.answer(Members()).version
    assert hearsay.ask(SECOND) == Members()
    hearsay.heard(answer(told(1), told(2, Status.LEFT), run=77), SECOND)
    assert roster.answer(Members()).version == version  # All of it was known.
    hearsay.ask(SECOND)
    hearsay.missed(SECOND)
    hearsay.ask(SECOND)
    hearsay.missed(SECOND)
    assert {number: status for number, (status, _) in seen(roster).items()} == {1: Status.SUSPECT, 2: Status.LEFT}
    assert hearsay.keeper == KEEPERS[1]
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(1)), SECOND)
    assert seen(roster) == {1: (Status.ALIVE, "tcp://h:1")}


def test_keepers_that_know_nothing_of_the_mesh_are_not_asked_all_the_time(roster, hearsay):
    """As those that are members of none."""
    for _ in range(2):
        assert hearsay.next_deadline() <= 2 * SECOND + ASK_NS
        hearsay.ask(2 * SECOND)
        hearsay.heard(answer(told(1), mesh=""), 2 * SECOND)
    assert hearsay.next_deadline() == 2 * SECOND + IDLE_NS
    roster.clock(3 * SECOND, 1_000)
    roster.serve(Members())
    assert hearsay.next_deadline() == 2 * SECOND + ASK_NS


def test_what_a_keeper_says_has_a_bound(roster, hearsay, monkeypatch):
    monkeypatch.setattr(rosters, "HEARD_MAX", 3)
    hearsay.ask(SECOND)
    hearsay.heard(answer(*(told(number) for number in range(1, 9))), SECOND)
    assert sorted(seen(roster)) == [1, 2, 3]
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(2, FORGOTTEN), told(3, incarnation=6), told(9), version=4), SECOND)
    assert sorted(seen(roster)) == [1, 3, 9]


def test_members_of_another_mesh_are_none_and_nobody_says_where_this_one_is(roster, hearsay):
    hearsay.ask(SECOND)
    hearsay.heard(answer(told(1), mesh="another"), SECOND)
    assert (seen(roster), hearsay.keeper) == ({}, KEEPERS[1])
    hearsay.ask(SECOND)
    me = MemberIs(roster.me, Status.FAILED, 99, "tcp://elsewhere:1", b"")
    hearsay.heard(answer(me), SECOND)
    assert seen(roster) == {}
    [own] = roster.answer(Members()).members
    assert (own.status, own.endpoint) == (Status.ALIVE, "tcp://me:1")
