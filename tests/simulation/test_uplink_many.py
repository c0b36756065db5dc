"""An uplink of a mesh with very many origins, all of them read at one keeper."""

from __future__ import annotations

import pytest
from test_kept_peers import hold

from zfabric import errors
from zfabric.core import appetite
from zfabric.core.client import feed
from zfabric.core.leader import keys
from zfabric.testing.simulation import Simulation
from zfabric.uplink import Uplink

ORIGINS = 200


@pytest.fixture
def keeper():
    """A peer that keeps one record of each of many origins, all away."""
    with Simulation(seed=5, peers=2, keep={0: ["t"]}) as simulation:
        simulation.advance(1.0)
        hold(simulation.processes[0], [f"{number:016x}" for number in range(ORIGINS)])
        simulation.advance(30.0)
        yield simulation


@pytest.fixture
def hub(keeper):
    with Simulation(beside=keeper) as made, made.connect() as fabric:
        yield fabric


@pytest.fixture
def source(keeper):
    return keeper.connect("uplink", peer=0, timeout=5.0)


def ship(uplink, count):
    for _ in range(500):
        uplink.advance()
        if uplink.status().records >= count:
            return
    raise AssertionError(uplink.status().problem)


def test_connections_and_questions_do_not_grow_with_the_origins(source, hub):
    uplink = Uplink(source, hub, topics="t")
    ship(uplink, ORIGINS)
    assert hub.topics.describe("t").partitions[0].end_offset == ORIGINS
    requests = source._core.requests
    assert len(source._core._sources) == 1
    assert len(requests.sessions) <= 2
    assert len(hub._core.requests.sessions) == 1
    asked = []
    call = requests.call
    requests.call = lambda endpoint, kind, *rest, **more: (asked.append(kind), call(endpoint, kind, *rest, **more))[1]
    began = source.waiting.now()
    while source.waiting.now() - began < 60 * 10**9:
        uplink.advance()
    # A look for topics every five seconds, for members every second, and for what was missed every four.
    assert len(asked) < 200
    uplink.close()
    assert source._core._sources == {}


def test_one_that_is_damaged_holds_up_no_other_and_all_is_committed_together(keeper, source, hub):
    process = keeper.processes[0]
    for key, row in process.disk.items():
        if key[:1] == keys.BATCH and keys.split_batch(key)[0] in (3, 7):
            process.disk._values[key] = row[:-1] + bytes([row[-1] ^ 1])
    uplink = Uplink(source, hub, topics="t")
    ship(uplink, ORIGINS - 2)
    for _ in range(200):  # Somebody may mend it, for all that is known.
        uplink.advance()
        if uplink.status().skipped == 2:
            break
    assert uplink.status().skipped == 2
    assert [notice.kind for notice in uplink.take_notices()].count("gap") == 2
    uplink.close()
    offsets = [entry.offset for entry in source.groups.describe(uplink._group)]
    assert offsets == [1] * ORIGINS


def test_what_is_received_and_not_taken_is_bounded_for_all_partitions_together(source, monkeypatch):
    """But for one answer more, which was on its way."""
    monkeypatch.setattr(feed, "FETCH_BYTES", 2_000)
    monkeypatch.setattr(appetite, "FIRST_BYTES", 2_000)
    consumer = source.consumer("t", partitions=source_numbers(source))
    consumer.bound(1_024)
    consumer.open()
    source.waiting.sleep(30.0)
    core = consumer._core
    held = core.tally.bytes
    assert held == sum(cursor.buffered for cursor in core.cursors.values())
    assert 1_024 <= held < 1_024 + 2_200
    found = []
    while len(found) < ORIGINS:
        found += consumer.poll(1, timeout=60.0)
        assert core.tally.bytes == sum(cursor.buffered for cursor in core.cursors.values())
    assert sorted(record.value for record in found) == sorted(b"%016x" % number for number in range(ORIGINS))
    assert core.tally.bytes == 0


def source_numbers(source):
    return [part.partition for part in source.topics.describe("t").partitions]


def test_partitions_come_and_go_while_a_consumer_reads(source):
    first, second, third = source_numbers(source)[:3]
    with source.consumer("t", partitions=[first]) as consumer:
        assert [record.partition for record in consumer.poll(timeout=60.0)] == [first]
        consumer.add(second, 0)
        assert [record.partition for record in consumer.poll(timeout=60.0)] == [second]
        consumer.add(third, 1)
        assert consumer.poll(timeout=5.0) == []
        consumer.remove(second)
        assert consumer.assignment == [first, third]
        consumer.add(second, 0)
        assert [record.partition for record in consumer.poll(timeout=60.0)] == [second]
        with pytest.raises(errors.UnknownPartition):
            consumer.add(5, 0)
