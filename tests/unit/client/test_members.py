"""The client's copy of the mesh: when it asks, what it takes over, whom it tells."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import SECOND, Wire
from zfabric import errors
from zfabric.core.client import members
from zfabric.wire import card as cards
from zfabric.wire.card import Card, ServiceCard, TopicCard
from zfabric.wire.gossip import Status
from zfabric.wire.membership import MemberIs, Members, MembersAre
from zfabric.wire.messages import Type

ME, OTHER = b"\1" * 16, b"\2" * 16
SERVICE = ServiceCard("s", "1", "tcp://h:1", 7, flags=cards.DRAINING)


@pytest.fixture
def wire():
    return Wire()


def member(id=ME, status=Status.ALIVE, incarnation=1, card=None, **rest):
    metadata = cards.fitting(card or Card(host="h"))
    return MemberIs(id, status, incarnation, "tcp://*:1", metadata, **rest)


def answer(wire, *entries, run=5, version=1, more=False, services=None):
    """Answer the last MEMBERS; returns what it had asked."""
    command = [command for _, command in wire.sent if command.type == Type.MEMBERS][-1]
    wire.answer(command, Type.MEMBERS_ARE, MembersAre(run, version, "m", ME, list(entries), more, services))
    return command.body


def asked(wire):
    return [command.body for _, command in wire.sent if command.type == Type.MEMBERS]


def fresh(wire, seconds=10):
    pending = wire.client.members.fresh(wire.now, wire.now + seconds * SECOND)
    wire.step()
    return pending


@pytest.fixture
def told(wire):
    changes = []

    def listen(found):
        changes.extend((change.kind, (change.after or change.before).id) for change in found)

    wire.client.members.listeners.append(listen)
    return changes


def test_nothing_is_asked_while_nobody_wants_to_know(wire):
    wire.pass_time(5.0)
    assert asked(wire) == []
    assert not wire.client.busy()


def test_a_fresh_answer_is_one_to_a_question_that_was_asked_after_the_call(wire):
    first, second = fresh(wire), fresh(wire)
    assert len(asked(wire)) == 1
    answer(wire, member())
    assert (first.done, second.done) == (True, False)
    assert answer(wire, version=2) == Members(5, 1)
    assert second.done
    assert [known.id for known in wire.client.members.all()] == [ME]


@pytest.mark.parametrize(("status", "told"), [(Status.ALIVE, True), (Status.FAILED, False)])
def test_who_lacks_a_topic_is_told_which_living_member_shows_it(wire, status, told):
    pending = wire.client.want("u", wire.now, wire.now + SECOND)
    wire.step()
    shows = Card(host="h", topics=[TopicCard("t"), TopicCard("u")])
    answer(wire, member(), MemberIs(OTHER, status, 1, "tcp://far:7", cards.fitting(shows)))
    assert isinstance(pending.error, errors.UnknownTopic)
    assert ("far:7" in pending.error.elsewhere, "zf+peer://m?role=client" in str(pending.error)) == (told, told)


def test_a_star_in_a_members_endpoint_is_the_host_by_which_we_came(wire):
    fresh(wire)
    answer(wire, member())
    assert wire.client.members.get(ME).endpoint == "tcp://h:1"


def test_while_it_is_used_it_is_asked_for_a_second_after_each_answer(wire):
    copy = wire.client.members
    copy.use(wire.now)
    wire.step()
    answer(wire, member())
    assert wire.client.busy()
    wire.pass_time(0.99)
    assert len(asked(wire)) == 1
    wire.pass_time(0.02)
    assert asked(wire)[-1] == Members(5, 1)
    answer(wire, version=1)
    copy.release()
    wire.pass_time(5.0)
    assert len(asked(wire)) == 2


def test_doubt_asks_at_once_but_not_again_and_again(wire):
    copy = wire.client.members
    copy.doubt(wire.now)
    wire.step()
    assert asked(wire) == []
    copy.use(wire.now)
    wire.step()
    answer(wire, member())
    for _ in range(20):
        copy.doubt(wire.now)
        wire.pass_time(0.01)
    assert len(asked(wire)) == 2


def test_a_table_comes_in_parts_and_is_shown_when_all_of_it_is_there(wire, told):
    pending = fresh(wire)
    answer(wire, member(), version=1, more=True)
    assert (wire.client.members.all(), pending.done) == ([], False)
    assert answer(wire, member(OTHER), version=2) == Members(5, 1)
    assert len(wire.client.members.all()) == 2
    assert told == [("joined", ME), ("joined", OTHER)]
    assert pending.done


def test_a_restarted_leader_has_a_new_table_and_only_the_differences_are_told(wire, told):
    fresh(wire)
    answer(wire, member(), member(OTHER))
    fresh(wire)
    told.clear()
    assert answer(wire, member(card=Card(host="i")), run=6, version=1) == Members(5, 1)
    assert told == [("updated", ME), ("forgotten", OTHER)]
    fresh(wire)
    assert answer(wire, run=6) == Members(6, 1)


def test_each_change_has_its_name(wire, told):
    fresh(wire)
    answer(wire, member(OTHER))
    steps = [
        (Status.SUSPECT, "suspected"), (Status.ALIVE, "recovered"), (Status.FAILED, "failed"),
        (Status.ALIVE, "returned"), (Status.LEFT, "left"), (members.FORGOTTEN, "forgotten"), (Status.FAILED, "failed"),
    ]  # fmt: skip
    for version, (status, _) in enumerate(steps, 2):
        fresh(wire)
        answer(wire, member(OTHER, status), version=version)
    assert [kind for kind, _ in told[1:]] == [kind for _, kind in steps]


@pytest.mark.parametrize(
    ("before", "after", "told_as"),
    [
        (Status.ALIVE, Status.ALIVE, ["returned"]), (Status.SUSPECT, Status.ALIVE, ["returned"]),
        (Status.SUSPECT, Status.SUSPECT, ["returned"]), (Status.FAILED, Status.ALIVE, ["returned"]),
        (Status.ALIVE, Status.SUSPECT, ["suspected"]), (Status.LEFT, Status.LEFT, []),
    ],
)  # fmt: skip
def test_another_process_of_a_member_has_returned_though_nobody_missed_it(wire, told, before, after, told_as):
    fresh(wire)
    answer(wire, member(OTHER, before, instance=7))
    fresh(wire)
    answer(wire, member(OTHER, after, incarnation=2, instance=8), version=2)
    assert [kind for kind, _ in told[1:]] == told_as
    assert members.info(wire.client.members.get(OTHER)).instance == "0" * 15 + "8"


def test_a_round_trip_alone_is_no_change_but_known(wire, told):
    fresh(wire)
    answer(wire, member(OTHER))
    fresh(wire)
    answer(wire, member(OTHER, round_trip_us=250), version=2)
    assert told == [("joined", OTHER)]
    assert members.info(wire.client.members.get(OTHER)).round_trip == 0.00025


def test_services_of_leader_0_are_told_even_if_no_member_changed(wire):
    calls = []
    wire.client.members.listeners.append(calls.append)
    fresh(wire)
    answer(wire, services=[SERVICE])
    assert wire.client.members.services == [SERVICE]
    fresh(wire)
    answer(wire, version=2)
    assert (calls, wire.client.members.services) == ([[]], [SERVICE])


def test_a_member_is_shown_with_all_that_its_card_says(wire):
    fresh(wire)
    who, card = cards.member_of("f"), Card("peer", "h", "z", "f", topics=[TopicCard("t", 2, 9, 1)], services=[SERVICE])
    answer(wire, member(who, card=card))
    shown = members.info(wire.client.members.get(who))
    assert (shown.id, shown.state, shown.kind, shown.zone, shown.fabric, shown.local) == (
        who.hex(), "alive", "peer", "z", "f", False,
    )  # fmt: skip
    assert (shown.topics[0].end, shown.services[0].draining, shown.round_trip) == (9, True, None)


def test_metadata_that_is_no_card_hides_no_member(wire):
    """Somebody in the mesh may be of another version, or lie."""
    fresh(wire)
    answer(wire, MemberIs(OTHER, 0, 1, "tcp://h:9", b"\xc1garbage"))
    assert wire.client.members.get(OTHER).card == Card()


def test_a_member_that_claims_to_lead_anothers_fabric_is_not_believed(wire):
    """Whose fabric it is says the id, and that belongs to whoever bears it already."""
    fresh(wire)
    mine = Card(kind="peer", fabric="f" * 16, topics=[TopicCard("t")])
    liar = MemberIs(OTHER, 0, 1 << 40, "tcp://h:9", cards.fitting(mine))
    answer(wire, MemberIs(cards.member_of("f" * 16), 0, 1, "tcp://h:8", cards.fitting(mine)), liar)
    assert wire.client.members.get(OTHER).card == Card()
    assert wire.client.members.get(cards.member_of("f" * 16)).card == mine


@pytest.mark.parametrize(
    "body",
    [
        MembersAre(5, 1, "", b"short", []),
        MembersAre(0, 1, "", ME, []),
        MembersAre(5, 1, "", ME, [MemberIs(b"x", 0, 1, "", b"")]),
    ],
)
def test_an_answer_that_cannot_be_one_is_an_error_and_changes_nothing(wire, body):
    pending = fresh(wire)
    wire.answer(wire.sent[-1][1], Type.MEMBERS_ARE, body)
    assert isinstance(pending.error, errors.ProtocolViolation)
    assert wire.client.members.all() == []


def test_more_that_never_advances_is_refused(wire):
    """A leader that says so for ever would be asked for ever."""
    fresh(wire)
    answer(wire, member())
    pending = fresh(wire)
    answer(wire, member(), version=1, more=True)
    assert isinstance(pending.error, errors.ProtocolViolation)


def test_a_leader_that_does_not_answer_is_unreachable_and_asked_again_while_somebody_uses_the_copy(wire):
    wire.up.clear()
    copy = wire.client.members
    copy.use(wire.now)
    pending = fresh(wire, seconds=3)
    wire.pass_time(6.0)
    assert isinstance(pending.error, errors.Unreachable)
    assert pending.error.seconds == 3.0  # Not what was left of it when the question before had ended.
    wire.up.add(wire.client.bootstrap)
    wire.pass_time(4.0)
    assert asked(wire)


def test_who_has_less_time_than_whoever_asks_waits_for_no_longer_than_it_said(wire):
    wire.up.clear()
    patient, hasty = fresh(wire, seconds=10), fresh(wire, seconds=2)
    wire.pass_time(2.0)
    assert not patient.done
    assert isinstance(hasty.error, errors.Unreachable)
    assert (hasty.error.seconds, hasty.error.url) == (2.0, wire.client.url)
    wire.up.add(wire.client.bootstrap)
    wire.pass_time(4.0)
    answer(wire, member())
    assert patient.done
    assert patient.error is None


def test_a_client_has_settled_when_it_knows_others_of_its_mesh_or_has_waited_for_them(wire):
    """What it does not know until then may be about to be known."""
    settled = wire.client.members.settled
    assert not settled(wire.now + 60 * SECOND)
    fresh(wire)
    answer(wire, member())
    assert not settled(wire.now)
    assert settled(wire.now + members.JOIN_NS)
    for status, known in ((Status.FAILED, False), (Status.ALIVE, True)):
        fresh(wire)
        answer(wire, member(OTHER, status), version=2 + known)
        assert settled(wire.now) == known


def test_a_fabric_without_a_mesh_has_told_all_when_it_has_answered(wire):
    fresh(wire)
    (command,) = (command for _, command in wire.sent if command.type == Type.MEMBERS)
    wire.answer(command, Type.MEMBERS_ARE, MembersAre(5, 1, "", ME, [member()], more=False, services=None))
    assert wire.client.members.settled(wire.now)
