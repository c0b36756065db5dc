"""Peers in a storm: lossy links, partitions, killed, frozen and wiped leaders; who reads gets every origin whole.

What must come of it, for each reader and each partition: offsets without a gap and none twice, at each offset the value
that was acknowledged there, and, once the storm is over, all that was acknowledged on a disk that is still there.
"""

from random import Random

import pytest

from zfabric import errors
from zfabric.core.client.consumer import Consumer
from zfabric.core.client.feed import Feed
from zfabric.core.client.requests import Requests
from zfabric.testing.simulation import Simulation, Weather

PEERS = 3
STORM_SECONDS = 20.0
CALM_SECONDS = 90.0
PASSING = (errors.Unreachable, errors.RequestTimeout, errors.UnknownTopic, errors.LeaderFailed, errors.Draining)


class Storm:
    """One run: a producer at each peer, readers at two of them."""

    def __init__(self, seed, *, wipes=True):
        self.random = Random(f"peers {seed}")
        self.sim = Simulation(seed, peers=PEERS)
        self.wipes = wipes
        self.acknowledged = {}
        self.kept = {}
        self.seen = {}
        self.readers = {}
        self.over = False
        self.wrong = []

    def _fabric(self, number):
        return self.sim.processes[number].fabric

    async def produce(self, peer):
        count = 0
        while not self.over:
            fabric = self.sim.connect_async(f"producer-{peer}", peer=peer)
            producer = fabric.producer(delivery_timeout=5.0)
            disk = self._fabric(peer)
            while not self.over and disk == self._fabric(peer):
                value = b"%d:%d" % (peer, count)
                count += 1
                try:
                    delivery = await producer.send("t", value, key=b"%d" % self.random.randrange(5))
                    meta = await delivery.result(10.0)
                except (*PASSING, errors.DeliveryTimeout):
                    continue
                if disk == self._fabric(peer):  # Else it may be of either disk.
                    self.acknowledged[meta.partition, meta.offset] = value
                    self.kept.setdefault(disk, {})[meta.partition, meta.offset] = value
                await self.sim.sleep(self.random.expovariate(1.0) * 0.05)
            self.sim.kill_client(fabric)

    async def read(self, peer):
        fabric = self.sim.connect_async(f"reader-{peer}", peer=peer)
        consumer = fabric.consumer("t")
        while True:
            try:
                await consumer.open()
                break
            except PASSING:
                continue
        self.readers[peer] = consumer
        seen = self.seen.setdefault(peer, {})
        while True:
            for record in await consumer.poll(timeout=0.5):
                place = seen.setdefault(record.partition, [])
                if record.offset != len(place):
                    self.wrong.append(f"reader {peer}: offset {record.offset} after {len(place)} of {record.partition}")
                place.append(record.value)

    def strike(self):
        sim, number = self.sim, self.random.randrange(PEERS)
        kinds = ["kill", "power", "freeze", "apart", "apart", "break", "weather", *(["wipe"] if self.wipes else [])]
        kind = self.random.choice(kinds)
        if kind == "kill":
            sim.kill_leader(number)
        elif kind == "power":
            sim.power_cut(number)
        elif kind == "freeze":
            sim.freeze_leader(number, self.random.uniform(0.1, 5.0))
        elif kind == "apart":
            other = self.random.randrange(PEERS)
            for host in (f"reader-{other}", f"peer-{other}"):
                sim.network.partition(host, f"peer-{number}")
            sim.world.after(self.random.randrange(8_000_000_000), sim.network.heal)
        elif kind == "break":
            sim.network.break_some(0.5)
        elif kind == "wipe":
            self.kept.pop(self._fabric(number), None)
            sim.wipe_disk(number)
        else:
            sim.network.weather = Weather(
                delay=self.random.choice([0.0002, 0.02]), loss=self.random.choice([0.0, 0.02]),
                duplicate=self.random.choice([0.0, 0.05]), reorder=self.random.choice([0.0, 0.1]),
                publication_loss=self.random.choice([0.0, 0.3]),
            )  # fmt: skip

    def run(self):
        sim = self.sim
        with sim:
            sim.advance(1.0)
            sim.connect().topics.create("t", partitions=2)
            for peer in range(PEERS):
                sim.start(self.produce(peer))
            for peer in (0, 1):
                sim.start(self.read(peer))
            end = sim.now + STORM_SECONDS
            while sim.now < end:
                sim.advance(self.random.expovariate(1.0))
                self.strike()
            sim.network.weather = Weather.fair()
            sim.heal()
            self.over = True
            sim.world.run_until(lambda: not self.missing(), CALM_SECONDS)
        for reader, seen in self.seen.items():
            for (partition, offset), value in self.acknowledged.items():
                values = seen.get(partition, [])
                if offset < len(values) and values[offset] != value:
                    self.wrong.append(f"reader {reader}: {values[offset]} at {partition}/{offset}, not {value}")
        return self.wrong + self.missing()

    def missing(self):
        wanted = [place for places in self.kept.values() for place in places]
        return [
            f"reader {reader} has not read {place}"
            for reader in (0, 1)
            for place in wanted
            if len(self.seen.get(reader, {}).get(place[0], ())) <= place[1]
        ]


@pytest.mark.parametrize("seed", range(12))
def test_every_acknowledged_record_of_every_origin_is_read_once_and_in_order(seed):
    storm = Storm(seed)
    assert storm.run() == []
    assert len(storm.acknowledged) > 50


def believe_every_welcome(patch):
    patch.setattr(Requests, "expect", lambda self, endpoint, fabric: None)
    patch.setattr(Requests, "leave", lambda self, endpoint: None)


def believe_publications_of_anybody(patch):
    """With the first as well: alone it wants a disk that is exchanged within milliseconds."""
    believe_every_welcome(patch)
    patch.setattr(Feed, "trusted", property(lambda self: True, lambda self, value: None), raising=False)


def forget_what_was_seen_while_opening(patch):
    patch.setattr(Consumer, "take_up", lambda self: None)
    patch.setattr(Consumer, "learn", lambda self, meta, now: None)


@pytest.mark.parametrize("bug", [
    believe_every_welcome, believe_publications_of_anybody, forget_what_was_seen_while_opening,
])  # fmt: skip
def test_a_planted_bug_is_caught(bug, monkeypatch):
    bug(monkeypatch)
    for seed in range(12):
        try:
            if Storm(seed).run():
                return
        except (AssertionError, errors.ZFabricError):
            return
    pytest.fail("nobody noticed")
