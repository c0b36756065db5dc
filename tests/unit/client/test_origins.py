"""Origins of a mesh, as a reader's client asks them, with origins that the test plays."""

from __future__ import annotations

from tests.unit.client.test_many import calls_of
from tests.unit.client.wire import SECOND, Wire
from zfabric.core.client import room
from zfabric.core.client.members import Change, Known
from zfabric.core.client.origin import Sighting
from zfabric.core.client.origins import AGE_NS, ASK_NS, Origins
from zfabric.model import TopicConfig
from zfabric.wire.card import Card, TopicCard
from zfabric.wire.metadata import LeaderAddress, MetadataIs, PartitionPlace, TopicMeta


def scattered(count):
    """Return a client's wire and its origins: ``count`` that are there, may have any topic, and answer nothing."""
    wire = Wire()
    origins = wire.client.origins = Origins(wire.client)
    wire.consumer()
    cards = [Card(kind="peer", fabric=f"{number:016x}", more=True) for number in range(count)]
    seen = [Sighting((0, 0), f"tcp://o:{number + 1}", card) for number, card in enumerate(cards)]
    origins.learn(seen, wire.now)
    return wire, origins


def test_an_origin_that_does_not_answer_is_asked_again_and_nobody_is_looked_at_until_then():
    wire, origins = scattered(60)
    assert all(origin.asked == ["t"] for origin in origins.known())
    assert origins.next_deadline() is None
    wire.now += ASK_NS
    wire.client.tick(wire.now)
    due = origins.next_deadline()
    assert wire.now < due < wire.now + SECOND
    assert calls_of(lambda: (origins.next_deadline(), origins.tick(due - 1))) < 20
    assert all(origin.asked is None for origin in origins.known())
    origins.tick(due)
    assert all(origin.asked == ["t"] for origin in origins.known())


def test_an_origin_that_was_asked_meanwhile_is_not_asked_when_its_older_time_comes():
    wire, origins = scattered(1)
    wire.now += ASK_NS
    wire.client.tick(wire.now)
    [origin] = origins.known()
    due = origins.next_deadline()
    origins._schedule(origin, due + AGE_NS)
    origins.tick(due)
    assert (origin.asked, origins.next_deadline()) == (None, due + AGE_NS)


def test_what_an_origin_says_again_costs_readers_nothing_and_what_many_say_is_shown_at_once():
    """Else each of a thousand origins would cost a look at all of them, every 30 seconds."""
    wire, origins = scattered(300)
    shown = []
    wire.client.show = shown.append

    def answer():
        for number, origin in enumerate(origins.known()):
            leader = LeaderAddress(0, f"tcp://o:{number + 1}", f"tcp://p:{number + 1}")
            meta = TopicMeta("t", 1, TopicConfig(), [PartitionPlace(1, 0, 0)])
            origins.take(origin, MetadataIs(origin.fabric, [leader], [meta], []))

    answer()
    wire.pass_time(1.0)
    assert shown == ["t"]
    answer()
    wire.pass_time(1.0)
    assert shown == ["t"]
    assert len(origins.view("t").partitions) == 300


def test_a_change_of_load_or_of_end_offsets_is_no_reason_to_look_at_all_members():
    wire, origins = scattered(3)
    looked = []
    origins.look = lambda: looked.append(1)
    members = wire.client.members
    members.complete = True

    def known(**options):
        card = Card(kind="peer", fabric="f", topics=[TopicCard("t", end=options.pop("end", 0))], **options)
        return Known(b"i" * 16, 0, 1, "tcp://o:1", card, 0, 0, False)

    for listener in members.listeners:
        listener([Change("updated", known(), known(end=7, load=3))])
    assert looked == []
    for listener in members.listeners:
        listener([Change("updated", known(), known(more=True))])
    assert looked == [1]


def met(number, *, here=True):
    """A member that shows topic ``t``."""
    card = Card(kind="peer", fabric=f"{number:016x}", topics=[TopicCard("t", 0)])
    return Sighting((0 if here else -3, 0), f"tcp://o:{number + 1}", card)


def test_whoever_begins_to_read_more_origins_than_a_client_can_know_is_told(monkeypatch):
    monkeypatch.setattr(room, "ORIGINS_MAX", 3)
    wire = Wire()
    origins = wire.client.origins = Origins(wire.client)
    wire.up.add("tcp://o:1")
    origins.learn([met(number) for number in range(3)], wire.now)
    fine = origins.read("t", wire.now, wire.now + SECOND)
    origins.learn([met(number) for number in range(5)], wire.now)
    many = origins.read("t", wire.now, wire.now + SECOND)
    mine = origins.want("t", wire.now, wire.now + SECOND)
    assert [wire.consumer(topic).passed_over for topic in ("t", "u")] == [2, 0], "who reads it already can see that"
    wire.pass_time(2.0)
    assert (many.error.value, many.error.limit) == (5, 3)
    assert fine.done
    assert mine.error is None, "who only makes it, or shows it, needs not know all"


def test_an_origin_that_has_gone_unread_makes_room_for_another(monkeypatch):
    monkeypatch.setattr(room, "ORIGINS_MAX", 3)
    wire = Wire()
    origins = wire.client.origins = Origins(wire.client)
    for number in range(10):
        origins.learn([met(number), met(number + 1)], wire.now)
    assert [origin.fabric for origin in origins.known() if origin.here] == [f"{number:016x}" for number in (9, 10)]
    assert len(origins.known()) == 3
