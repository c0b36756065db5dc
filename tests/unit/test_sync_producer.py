"""When the synchronous producer looks for acknowledgements, with a core and a pump that the test plays."""

from __future__ import annotations

import threading

from zfabric.sync.producer import Producer

MS = 1_000_000


class Core:
    """Takes every record behind a batch that is under way, or with nothing under way if it ``rests``."""

    wants_flush = False

    def __init__(self, *, rests=False):
        self.rests = rests

    def append(self, topic, value, now):
        return object()


class Pump:
    """Tells the time that the test sets, and when it was flushed."""

    def __init__(self, *, rests=True):
        self.lock = threading.RLock()
        self.time = self.stepped_ns = 1_000 * MS
        self.flushed = []
        self.at_rest = rests

    def now(self):
        return self.time

    def rests(self, now):
        return self.at_rest

    def flush(self, *, look=True):
        self.stepped_ns = self.time
        self.flushed.append(self.time)


def sends(gap_ns, count, pump=None, *, rests=False):
    """Return how often a producer looked while records were sent so far apart."""
    pump = pump or Pump()
    producer = Producer(pump, Core(rests=rests), None, block=True)
    producer.send("t", b"v")
    pump.flushed.clear()
    for _ in range(count):
        pump.time += gap_ns
        producer.send("t", b"v")
    return len(pump.flushed)


def test_a_caller_that_pauses_between_records_looks_for_acknowledgements_at_each():
    """Else a record behind a batch that was acknowledged long ago would wait for the caller to come again."""
    assert sends(gap_ns=MS // 3, count=30) == 30


def test_a_caller_looks_for_nothing_where_each_record_was_acknowledged_as_it_was_sent():
    """Unless the pump has something to do, for others."""
    assert sends(gap_ns=MS // 3, count=30, rests=True) == 0
    assert sends(gap_ns=MS // 3, count=30, rests=True, pump=Pump(rests=False)) == 30


def test_a_caller_that_never_pauses_leaves_it_to_the_core_when_to_look():
    """A look costs as much as ten records."""
    assert sends(gap_ns=MS // 1_000, count=5_000) == 0


def test_a_pump_is_told_whether_who_sends_pauses():
    """One that does wants what it sends to go at once; one that does not fills batches, and takes turns by itself."""
    pump = Pump()
    sends(gap_ns=MS // 3, count=3, pump=pump)
    assert pump.paced_ns == pump.time
    producer = Producer(pump, Core(), None, block=True)
    producer.send("t", b"v")
    producer._core.wants_flush = True
    pump.time += MS // 1_000
    producer.send("t", b"v")
    assert (pump.flushed[-1], pump.paced_ns) == (pump.time, 0)
