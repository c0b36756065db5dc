"""When a request is hedged by itself: after the 95th percentile of what was observed of its method."""

from __future__ import annotations

from random import Random

from zfabric.core.client import hedging
from zfabric.core.client.client import Client
from zfabric.core.client.hedging import ENOUGH, WINDOW, Hedging, Latencies


def test_the_percentile_is_that_of_the_latest_requests_of_enough():
    latencies, random = Latencies(), Random(1)
    seen = []
    for count in range(1, 3 * WINDOW):
        seen.append(random.randrange(1_000))
        latencies.add(seen[-1])
        latest = sorted(seen[-WINDOW:])
        assert latencies.percentile() == (latest[int(len(latest) * 0.95)] if count >= ENOUGH else None)


def test_methods_are_told_apart_and_a_bounded_number_of_them_is_remembered(monkeypatch):
    monkeypatch.setattr(hedging, "METHODS_MAX", 2)
    known = Hedging(Client("tcp://h:1", "zf://h", "h", Random(1), software="test", locate=False))
    for method, taken_ns in (("s.slow", 1_000), ("s.fast", 10)):
        for _ in range(ENOUGH):
            known.observe(method, taken_ns)
    assert (known.delay("s.slow"), known.delay("s.fast")) == (1_000, 10)
    for _ in range(ENOUGH):
        known.observe("s.new", 5)
    assert (known.delay("s.slow"), known.delay("s.fast"), known.delay("s.new")) == (None, 10, 5)
