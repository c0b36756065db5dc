"""Changes of the mesh for one caller."""

from __future__ import annotations

import pytest

from tests.unit.client import test_members
from tests.unit.client.test_members import ME, OTHER, answer, asked, fresh, member
from tests.unit.client.wire import SECOND, Wire
from zfabric.core.client.watch import Watch
from zfabric.wire.card import Card
from zfabric.wire.gossip import Status

FORGOTTEN = test_members.members.FORGOTTEN


@pytest.fixture
def wire():
    return Wire()


def watching(wire):
    return Watch(wire.client.members, wire.now)


def taken(watch):
    return [(change.kind, (change.after or change.before).id) for change in watch.take()]


def test_it_begins_with_what_is_known(wire):
    fresh(wire)
    answer(wire, member(), member(OTHER, Status.FAILED))
    watch = watching(wire)
    assert watch.ready().done
    assert taken(watch) == [("joined", ME), ("failed", OTHER)]
    assert taken(watch) == []


def test_it_knows_how_old_it_is(wire):
    """Somebody who shows it would else show for ever what was true when the last answer came."""
    watch = watching(wire)
    wire.step()
    wire.pass_time(1.5)
    assert watch.age_ns(wire.now) == 1.5 * SECOND
    answer(wire, member())
    assert watch.age_ns(wire.now) == 0
    wire.pass_time(7.0)
    assert watch.age_ns(wire.now) == 7 * SECOND


def test_it_asks_by_itself_and_tells_when_something_came(wire):
    watch = watching(wire)
    ready = watch.ready()
    wire.step()
    assert (ready.done, len(asked(wire))) == (False, 1)
    answer(wire, member())
    assert (ready.done, taken(watch)) == (True, [("joined", ME)])
    again = watch.ready()
    wire.pass_time(1.1)
    answer(wire, version=1)
    assert not again.done


def test_what_one_member_did_meanwhile_is_told_as_one(wire):
    watch = watching(wire)
    wire.step()
    answer(wire, member(), member(OTHER))
    for version, changed in enumerate([member(card=Card(host="i")), member(OTHER, Status.SUSPECT), member(OTHER)], 2):
        fresh(wire)
        answer(wire, changed, version=version)
    assert taken(watch) == [("joined", ME), ("recovered", OTHER)]


@pytest.mark.parametrize(("taken_before", "told_as"), [(True, "returned"), (False, "joined")])
def test_what_a_restarted_member_says_of_itself_does_not_hide_that_it_was(wire, taken_before, told_as):
    watch = watching(wire)
    wire.step()
    answer(wire, member(OTHER, instance=1))
    if taken_before:
        watch.take()
    for version in (2, 3):
        fresh(wire)
        answer(wire, member(OTHER, instance=2, card=Card(host=f"h{version}")), version=version)
    [change] = watch.take()
    assert (change.kind, change.after.card.host) == (told_as, "h3")


def test_a_forgotten_member_is_told_as_it_was_known_last(wire):
    watch = watching(wire)
    wire.step()
    answer(wire, member(OTHER, card=Card(host="gone")))
    watch.take()
    fresh(wire)
    answer(wire, member(OTHER, FORGOTTEN), version=2)
    [change] = watch.take()
    assert (change.kind, test_members.members.change(change).member.host) == ("forgotten", "gone")


def test_a_closed_watch_asks_no_more_and_wakes_whoever_waits(wire):
    watch = watching(wire)
    wire.step()
    answer(wire, member())
    watch.take()
    ready = watch.ready()
    watch.close()
    watch.close()
    assert ready.done
    wire.pass_time(5.0)
    assert len(asked(wire)) == 1
    assert not wire.client.busy()
