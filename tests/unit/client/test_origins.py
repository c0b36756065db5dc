"""Origins of a mesh, as a reader's client asks them, with origins that the test plays."""

from __future__ import annotations

from tests.unit.client.test_many import calls_of
from tests.unit.client.wire import SECOND, Wire
from zfabric.core.client.origin import Sighting
from zfabric.core.client.origins import AGE_NS, ASK_NS, Origins
from zfabric.wire.card import Card


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
