"""Many origins through three keepers, as real leader processes on this machine.

The keepers are a mesh. The origins are devices that dial all keepers and are no members: each has one partition with a
few records. Then every keeper holds all of them, and one consumer, which knows one keeper, reads them from their start
at the keepers. Idle is a time in which nobody produces; keepers hold one question open at each origin.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmark.meshed import Meshed, free_ports, idling, until
from benchmark.report import AT_MOST, Row
from benchmark.running import home, memory_mb
from zfabric import connect

TELL = Callable[[str], None]
PATIENCE_S = 300.0
KEEPERS = 3
RECORDS = 10
TOPIC = "sensor.x"


class _Peer(Meshed):
    """A keeper, or an origin."""

    def originate(self) -> None:
        """Have a topic with a few records."""
        with connect(self.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
            fabric.topics.create(TOPIC)
            for number in range(RECORDS):
                producer.send(TOPIC, b"%d" % number)

    def kept(self) -> int:
        """Return how many records it keeps."""
        with connect(self.url, timeout=PATIENCE_S) as fabric:
            if TOPIC not in fabric.topics.list():
                return 0
            return sum(copy.end_offset for copy in fabric.topics.describe(TOPIC).copies)


def measure(count: int, seconds: float, tell: TELL) -> list[Row]:
    """Measure ``count`` origins, and ``seconds`` of idling."""
    tell(f"keepers: {count} origins")
    peers: list[_Peer] = []
    with home() as directory:
        try:
            return _measure(f"keepers, {count} origins through {KEEPERS}", peers, directory, count, seconds)
        finally:
            for peer in peers:
                peer.end()


def _measure(group: str, peers: list[_Peer], directory: str, count: int, seconds: float) -> list[Row]:
    first = free_ports(2 * (count + KEEPERS))
    seeds = [f"tcp://127.0.0.1:{first}"]
    keepers = [
        _Peer(directory, first + 2 * number, seeds=seeds if number else [], keep=(TOPIC,)) for number in range(KEEPERS)
    ]
    peers += keepers
    dialled = tuple(keeper.endpoint for keeper in keepers)

    def start(number: int) -> None:
        peer = _Peer(directory, first + 2 * (KEEPERS + number), seeds=[], offer_to=dialled)
        peers.append(peer)
        peer.originate()

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(start, range(count)))
    started = time.monotonic()
    everything = [count * RECORDS] * KEEPERS
    until(lambda: [keeper.kept() for keeper in keepers] == everything, PATIENCE_S, "keepers did not get all")
    complete = time.monotonic()
    options = f"role=client&seed={keepers[0].url.removeprefix('zf://')}"
    with connect(f"zf+peer://bench?{options}", timeout=PATIENCE_S) as fabric:
        opened = time.monotonic()
        read = 0
        with fabric.consumer(TOPIC) as consumer:
            while read < count * RECORDS and time.monotonic() - opened < PATIENCE_S:
                read += len(consumer.poll(timeout=1.0))
            told = time.monotonic()
            connections = len(fabric._core.requests.sessions)
    if read != count * RECORDS:
        sys.exit(f"read {read} of {count * RECORDS} records")
    time.sleep(min(10.0, seconds))
    spent = idling(keepers, seconds)
    held = max(memory_mb(keeper.process.pid)[0] for keeper in keepers)
    goal = (AT_MOST, float(KEEPERS)) if count > 64 else None
    return [
        Row(group, "start and first records of all origins, two at a time", started - began, "s"),
        Row(group, "then all keepers have all", complete - started, "s"),
        Row(group, "a consumer's connections, its way into the mesh included", connections, "", goal=goal),
        Row(group, "a new consumer reads all", told - opened, "s"),
        Row(group, "resident memory, largest keeper", held, "MB"),
        Row(group, "idle: processor of a keeper, mean", statistics.fmean(spent), "% of a core"),
    ]
