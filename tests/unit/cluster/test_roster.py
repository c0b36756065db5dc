"""Who is in the mesh: the table that clients read, and the leases of services."""

from __future__ import annotations

import msgspec
import pytest

from zfabric import errors
from zfabric.core.cluster import roster as rosters
from zfabric.core.cluster.placement import Placement
from zfabric.core.cluster.roster import FORGOTTEN, TOMBSTONES_MAX, Roster
from zfabric.model import TopicConfig
from zfabric.settings import MEMBERS_TOLD_MAX, SERVICES_MAX
from zfabric.sim.disk import SimDisk
from zfabric.wire import card as cards
from zfabric.wire import messages
from zfabric.wire.card import Card, ServiceCard, TopicCard
from zfabric.wire.gossip import Member, Status
from zfabric.wire.membership import Announce, Members
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Attach, CreateTopic, PartitionEnd

SECOND = 1_000_000_000
SERVICE = ServiceCard("s", "1", "tcp://h:1", 7)


def made(**options):
    roster = Roster(5, "tcp://h:1", Card(host="h"), **options)
    roster.begin("f" * 16)
    roster.clock(SECOND, 1_000)
    return roster


def other(number, status=Status.ALIVE, incarnation=1, metadata=b"\x90", instance=1):
    return Member(number.to_bytes(16, "big"), instance, incarnation, status, f"tcp://h:{number}", 1, metadata)


def ask(roster, answer=None):
    return roster.answer(Members(answer.run, answer.version) if answer else Members())


def announce(roster, service=SERVICE, lease_ms=3_000, client=b"c"):
    roster.announce(Announce(service, lease_ms), client)


def card_of(answer):
    [me] = [member for member in answer.members if member.id == answer.me]
    return cards.read(me.metadata)


def test_without_a_mesh_there_is_one_member_itself():
    answer = ask(made())
    [me] = answer.members
    assert (me.id, me.status, me.endpoint, me.since_ms) == (answer.me, Status.ALIVE, "tcp://h:1", 1_000)
    assert (card_of(answer).fabric, card_of(answer).host, answer.mesh, answer.more) == ("f" * 16, "h", "", False)


def test_a_member_that_moves_is_where_it_is_now():
    roster = made()
    first = ask(roster)
    roster.move("tcp://elsewhere:1", "tcp://elsewhere:2")
    [me] = ask(roster, first).members
    assert (me.endpoint, cards.read(me.metadata).publish) == ("tcp://elsewhere:1", "tcp://elsewhere:2")
    assert cards.read(roster.metadata).publish == "tcp://elsewhere:2"


def test_a_directory_has_the_same_id_for_ever_and_another_one_has_another():
    assert made().me == made().me
    fresh = Roster(6)
    fresh.begin("e" * 16)
    assert fresh.me != made().me
    assert len(fresh.me) == 16


def test_nothing_is_told_twice():
    roster = made()
    answer = ask(roster)
    again = ask(roster, answer)
    assert (again.members, again.services, again.version) == ([], None, answer.version)


def test_only_what_changed_is_told():
    roster = made()
    roster.note(other(2))
    roster.note(other(3))
    answer = ask(roster)
    roster.note(other(3, Status.SUSPECT))
    [changed] = ask(roster, answer).members
    assert (changed.id, changed.status) == (other(3).id, Status.SUSPECT)


def test_a_status_began_when_it_was_first_heard_of():
    roster = made()
    roster.note(other(2))
    roster.clock(2 * SECOND, 2_000)
    roster.note(other(2, incarnation=2))
    assert ask(roster).members[-1].since_ms == 1_000
    roster.note(other(2, Status.FAILED))
    assert ask(roster).members[-1].since_ms == 2_000


def test_what_another_process_is_began_with_it():
    roster = made()
    assert [member.instance for member in ask(roster).members] == [roster.instance]
    roster.note(other(2))
    roster.clock(2 * SECOND, 2_000)
    roster.note(other(2, incarnation=2, instance=9))
    told = ask(roster).members[-1]
    assert (told.since_ms, told.instance) == (2_000, 9)


def test_a_forgotten_member_is_told_once_and_newcomers_never_hear_of_it():
    roster = made()
    roster.note(other(2))
    answer = ask(roster)
    roster.forget(other(2).id)
    [gone] = ask(roster, answer).members
    assert (gone.id, gone.status) == (other(2).id, FORGOTTEN)
    assert [member.id for member in ask(roster).members] == [roster.me]


def test_many_forgotten_members_begin_a_new_table():
    """Tombstones have a bound; whoever missed some reads all again, under another run."""
    roster = made()
    answer = ask(roster)
    for number in range(2, TOMBSTONES_MAX + 4):
        roster.note(other(number))
        roster.forget(other(number).id)
    again = ask(roster, answer)
    assert again.run != answer.run
    assert [member.id for member in again.members] == [roster.me]
    assert len(roster._entries) < 10


def test_a_large_table_is_told_in_parts():
    roster = made()
    for number in range(2, MEMBERS_TOLD_MAX + 50):
        roster.note(other(number))
    first = ask(roster)
    roster.note(other(2, incarnation=2))
    second = ask(roster, first)
    assert (first.more, second.more) == (True, False)
    told = {member.id: member.incarnation for member in [*first.members, *second.members]}
    assert len(told) == MEMBERS_TOLD_MAX + 49
    assert told[other(2).id] == 2


def test_a_version_that_this_run_never_gave_is_answered_with_everything():
    roster = made()
    answer = roster.answer(Members(5, 1 << 40))
    assert [member.id for member in answer.members] == [roster.me]


def test_a_round_trip_that_is_about_the_same_is_no_change():
    roster = made()
    roster.note(other(2))
    roster.measured(other(2).id, 1_000)
    answer = ask(roster)
    assert answer.members[-1].round_trip_us == 1_000
    roster.measured(other(2).id, 1_400)
    assert ask(roster, answer).members == []
    roster.measured(other(2).id, 1_600)
    assert ask(roster, answer).members[0].round_trip_us == 1_600


def test_the_round_trip_of_who_has_failed_is_forgotten():
    """It may come back as another process, on another machine."""
    roster = made()
    roster.note(other(2))
    roster.measured(other(2).id, 482_000)
    roster.note(msgspec.structs.replace(other(2), status=Status.FAILED))
    assert ask(roster).members[-1].round_trip_us == 0
    roster.note(msgspec.structs.replace(other(2), incarnation=9))
    assert ask(roster).members[-1].round_trip_us == 0


def test_nobody_but_itself_says_what_this_member_is():
    roster = made()
    roster.note(msgspec.structs.replace(other(2), id=roster.me, status=Status.FAILED))
    roster.forget(roster.me)
    assert [member.status for member in ask(roster).members] == [Status.ALIVE]


def test_its_incarnation_is_the_one_that_gossip_gave():
    roster = made()
    answer = ask(roster)
    roster.incarnate(9)
    assert [member.incarnation for member in ask(roster, answer).members] == [9]


# Services.


def test_a_service_is_on_the_card_at_once_and_told_to_clients():
    roster = made()
    answer = ask(roster)
    assert answer.services == []
    announce(roster)
    answer = ask(roster, answer)
    assert answer.services == [SERVICE]
    assert card_of(answer).services == [SERVICE]


def test_a_lease_ends_unless_it_is_renewed():
    roster = made()
    announce(roster)
    roster.clock(3 * SECOND, 3_000)
    announce(roster)
    answer = ask(roster)
    roster.clock(5 * SECOND, 5_000)
    assert ask(roster, answer).services is None
    roster.clock(6 * SECOND, 6_000)
    assert ask(roster, answer).services == []


def test_a_renewal_alone_is_no_news():
    roster = made()
    announce(roster)
    answer = ask(roster)
    announce(roster)
    assert ask(roster, answer).members == []


def test_an_instance_that_says_it_has_ended_is_gone_at_once():
    roster = made()
    announce(roster)
    announce(roster, lease_ms=0)
    announce(roster, lease_ms=0)
    answer = ask(roster)
    assert (answer.services, card_of(answer).services) == ([], [])


def test_instances_have_a_bound_and_those_that_are_there_stay():
    roster = made()
    for number in range(SERVICES_MAX):
        announce(roster, msgspec.structs.replace(SERVICE, instance=number))
    with pytest.raises(errors.LimitExceeded):
        announce(roster, msgspec.structs.replace(SERVICE, instance=SERVICES_MAX))
    announce(roster, msgspec.structs.replace(SERVICE, instance=5, weight=50))
    answer = ask(roster)
    assert len(answer.services) == SERVICES_MAX
    assert card_of(answer).more


def instance(number):
    return msgspec.structs.replace(SERVICE, instance=number, endpoint=f"tcp://h:{number}")


def held(roster):
    return {service.instance for service in ask(roster).services}


def test_a_client_that_fills_the_table_makes_room_for_others_up_to_their_share():
    """Each takes the latest of whoever has most; what has been announced within its share stays."""
    roster = made()
    for number in range(SERVICES_MAX):
        announce(roster, instance(number), client=b"greedy")
    for number in range(SERVICES_MAX, SERVICES_MAX + 400):
        announce(roster, instance(number), client=b"modest")
        with pytest.raises(errors.LimitExceeded):
            announce(roster, instance(5_000), client=b"greedy")
    assert held(roster) == {*range(SERVICES_MAX - 400), *range(SERVICES_MAX, SERVICES_MAX + 400)}
    for number in range(6_000, 6_000 + SERVICES_MAX // 2 - 400):
        announce(roster, instance(number), client=b"modest")
    with pytest.raises(errors.LimitExceeded):
        announce(roster, instance(7_000), client=b"modest")
    announce(roster, instance(3), client=b"greedy")
    assert len(held(roster)) == SERVICES_MAX


def test_a_client_with_many_instances_does_not_fill_the_card_alone():
    """What is not on it is found later, by asking its member."""
    roster = made()
    for number in range(200):
        announce(roster, instance(number), client=b"greedy")
    announce(roster, instance(1_000), client=b"modest")
    announce(roster, instance(1_001), client=b"modest")
    shown = [service.instance for service in card_of(ask(roster)).services]
    assert shown[:5] == [0, 1_000, 1, 1_001, 2]


def test_what_a_client_holds_follows_its_instances_to_its_next_connection_and_ends_with_their_leases():
    roster = made()
    for number in range(SERVICES_MAX):
        announce(roster, instance(number), client=b"before")
    for number in range(SERVICES_MAX):
        announce(roster, instance(number), lease_ms=60_000, client=b"after")
    for client in (b"after", b"after", b"third"):
        if client == b"third":
            announce(roster, instance(5_000), client=client)
        else:
            with pytest.raises(errors.LimitExceeded):
                announce(roster, instance(5_000), client=client)
    roster.clock(100 * SECOND, 100_000)
    assert held(roster) == set()
    for number in range(SERVICES_MAX):
        announce(roster, instance(number), client=b"after")
    assert len(held(roster)) == SERVICES_MAX
    assert dict(roster._held) == {b"after": SERVICES_MAX}


def test_the_number_of_an_instance_that_is_there_is_not_taken_for_another_endpoint():
    roster = made()
    announce(roster, instance(1), client=b"owner")
    forged = msgspec.structs.replace(instance(1), endpoint="tcp://evil:1")
    with pytest.raises(errors.InvalidArgument):
        announce(roster, forged, client=b"thief")
    announce(roster, forged, lease_ms=0, client=b"thief")
    assert ask(roster).services == [instance(1)]
    announce(roster, msgspec.structs.replace(instance(1), weight=5), client=b"the owner, connected again")
    assert [service.weight for service in ask(roster).services] == [5]
    roster.clock(10 * SECOND, 10_000)
    announce(roster, forged, client=b"thief")
    assert ask(roster).services == [forged]


@pytest.mark.parametrize(
    "change",
    [{"name": "../x"}, {"name": "a b"}, {"version": "1\n"}, {"endpoint": "tcp://h :1"}, {"endpoint": ""},
     {"endpoint": "tcp://\u0430:1"}],
)  # fmt: skip
def test_a_name_version_or_endpoint_that_cannot_be_one_is_refused(change):
    roster = made()
    with pytest.raises(errors.InvalidArgument):
        announce(roster, msgspec.structs.replace(SERVICE, **change))
    assert ask(roster).services == []


# Reports.


def test_load_is_told_every_ten_seconds_and_only_if_it_moved():
    roster = made()
    assert roster.wants_report
    roster.report(7)
    answer = ask(roster)
    assert (card_of(answer).load, roster.wants_report) == (7, False)
    roster.clock(11 * SECOND, 11_000)
    assert roster.wants_report
    roster.report(9)
    assert ask(roster, answer).members == []


def test_a_large_mesh_hears_reports_about_once_a_second_in_all():
    roster = made()
    for number in range(2, 101):
        roster.note(other(number))
    for number in range(2, 12):
        roster.note(other(number, Status.FAILED))
    roster.report(7)
    roster.clock(90 * SECOND, 90_000)
    assert not roster.wants_report
    roster.clock(91 * SECOND, 91_000)
    assert roster.wants_report


def test_more_topics_than_fit_are_left_out():
    roster = made()
    roster.lead(TopicCard(f"t{number}") for number in range(rosters.CARD_TOPICS_MAX + 5))
    assert card_of(ask(roster)).more
    roster.lead([TopicCard("t")])
    assert card_of(ask(roster)) == Card(host="h", fabric="f" * 16, topics=[TopicCard("t")])


# Within the controller.


def controller():
    placement = Placement(Roster(5, "tcp://h:1"))
    disk = SimDisk()
    placement.start("f" * 16, 2, 1 << 24, disk.write())
    disk.commit()
    return placement, disk


def tell(placement, kind, body):
    placement.answer(b"p", Command(kind, 0, 4, body, ()))
    [effect] = placement.take_effects()
    return messages.read(effect.frames)


def test_a_topic_is_on_the_card_when_it_is_made_and_its_end_offset_when_it_is_reported():
    placement, disk = controller()
    placement.clock(1, 1, 2)
    create = CreateTopic("t", 3, TopicConfig())
    placement.handle(b"p", Command(Type.CREATE_TOPIC, 0, 4, create, ()), disk.write())
    placement.take_effects()
    placement.clock(2, 2, 2)
    assert card_of(tell(placement, Type.MEMBERS, Members()).body).topics == [TopicCard("t", 3, 0, 2)]
    tell(
        placement,
        Type.ATTACH,
        Attach(1, "", "", 0, [PartitionEnd(3, 30), PartitionEnd(9, 9)]),
    )
    placement.report(0, [PartitionEnd(1, 10), PartitionEnd(2, 20)])
    assert card_of(tell(placement, Type.MEMBERS, Members()).body).topics == [TopicCard("t", 3, 60, 2)]


def test_an_announcement_that_is_refused_is_answered_with_its_error():
    placement, _ = controller()
    assert tell(placement, Type.ANNOUNCE, Announce(SERVICE, 100)).type == Type.DONE
    wrong = tell(placement, Type.ANNOUNCE, Announce(msgspec.structs.replace(SERVICE, name="/"), 100))
    assert wrong.body.code == errors.InvalidArgument.code
    assert placement.refused == 1
