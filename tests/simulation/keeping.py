"""Origins and keepers in virtual time: real leaders that follow each other, on disks and links that fail.

A run lets producers write to origins while faults strike, then ends the faults and compares disks. Every batch that an
origin has ever held is remembered, so that a copy is compared with all of its origin's life, a lost disk included.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from random import Random

from zfabric import errors
from zfabric.aio.fabric import SOFTWARE, Fabric
from zfabric.core.client.client import Client
from zfabric.core.leader import keys
from zfabric.model import TopicConfig
from zfabric.settings import LeaderSettings
from zfabric.sim.network import Network, Weather
from zfabric.sim.process import Process
from zfabric.sim.pump import AsyncPump
from zfabric.sim.world import SECOND, World
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Metadata

TOPIC = "sensor.x"
START_S = 0.2
SETTINGS = LeaderSettings(origin_expiry_days=1)


def batches(process, partition):
    """Return what a leader's disk holds of a partition: (base offset, header, payload) each."""
    found = []
    mine = keys.prefix(keys.BATCH, partition)
    for key, value in process.disk.items():
        if key[:5] == mine:
            header = batch.parse(value)
            raw, payload = value[: batch.HEADER_BYTES], value[batch.HEADER_BYTES :]
            assert batch.damage(raw, payload, header, partition, keys.split_batch(key)[1]) == ""
            found.append((header.base_offset, header, payload))
    return found


def essence(header, payload):
    """What of a batch is the same at its origin and at every keeper: all but the partition's id."""
    return bytes(payload), header._replace(partition=0, header_crc=0)


class Run:
    """So many origins, and keepers that keep all of them.

    Args:
        dial: origins cannot be reached and dial the keepers.
    """

    def __init__(self, seed, *, origins=2, keepers=2, dial=False, config=None, weather=None, partitions=2):
        self.random = Random(f"keeping {seed}")
        self.world = World(seed)
        self.network = Network(self.world, weather or Weather.fair())
        self.config = config or TopicConfig()
        self.partitions = partitions
        names = [f"origin-{number}" for number in range(origins)]
        keeps = [f"keeper-{number}" for number in range(keepers)]
        self.origins = [
            self._process(name, offer_to=[f"sim://{keeper}" for keeper in keeps] if dial else []) for name in names
        ]
        follow = [] if dial else [f"sim://{name}" for name in names]
        self.keepers = [
            self._process(
                name, keep=["sensor.*"], follow=follow + [f"sim://{other}" for other in keeps if other != name]
            )
            for name in keeps
        ]
        self.processes = self.origins + self.keepers
        self.held = {}
        self.acked = []
        self.restart = True
        self.over = False

    def _process(self, name, **options):
        process = Process(self.world, self.network, 0, 1, SETTINGS, peer=name, fabric=f"fabric of {name}", **options)
        process.died = self._died
        process.start()
        return process

    def _died(self, process):
        def again():
            if not process.alive and self.restart:
                process.start()

        self.world.after(int(START_S * SECOND), again)

    def kill(self, process):
        process.kill()
        self._died(process)

    def power_cut(self, process):
        process.power_cut()
        self._died(process)

    def wipe(self, process):
        """Lose a disk: what is started on the new one is another fabric."""
        self.look(process)
        process.kill()
        process.wipe(f"fabric {process.starts} of {process.name}")
        self._died(process)

    # Looking at disks.

    def look(self, process):
        """Remember what an origin holds now."""
        for number in range(self.partitions):
            for base, header, payload in batches(process, number + 1):
                kept = self.held.setdefault((process.fabric, number + 1), {})
                if not header.flags & batch.COMPACTED:
                    assert kept.setdefault(base, essence(header, payload)) == essence(header, payload)

    def copies(self, keeper):
        """Return the copies of a keeper: origin, id there, id here."""
        return [(place.origin, place.source, place.id) for place in keeper.leader.kept.values()]

    def compare(self, *, complete=True):
        """Every copy is its origin's log, byte by byte, from where it begins to where it ends."""
        for origin in self.origins:
            self.look(origin)
        for keeper in self.keepers:
            for origin, source, copy in self.copies(keeper):
                log = self.held.get((origin, source), {})
                mine = batches(keeper, copy)
                for base, header, payload in mine:
                    assert log.get(base) == essence(header, payload), f"offset {base}"
                spans = [(base, header.next_offset) for base, header, _ in mine]
                assert all(end == begin for (_, end), (begin, _) in pairwise(spans))
        if complete:
            for origin in self.origins:
                for number in range(self.partitions):
                    wanted = max(self.held.get((origin.fabric, number + 1), {0: None}))
                    for keeper in self.keepers:
                        held = {
                            base
                            for fabric, source, copy in self.copies(keeper)
                            if (fabric, source) == (origin.fabric, number + 1)
                            for base, _, _ in batches(keeper, copy)
                        }
                        assert max(held, default=0) == wanted, (origin.name, number, keeper.name)

    def values(self, process, partition):
        """Return all values in a partition."""
        found = []
        for _, header, payload in batches(process, partition):
            found += batch.decode_columns(header, payload).values
        return found

    def everything_kept(self, keepers=None):
        """Return all values in all copies."""
        return {
            value
            for keeper in keepers or self.keepers
            for _, _, copy in self.copies(keeper)
            for value in self.values(keeper, copy)
        }

    # Clients.

    def connect(self, process, name="client"):
        core = Client(
            process.endpoint, "zf://simulation", "sim", Random(self.world.random.getrandbits(64)), software=SOFTWARE,
            locate=False,
        )  # fmt: skip
        return Fabric("zf://simulation", AsyncPump(self.world, self.network, core, name), core, 10.0)

    def run(self, body, seconds=600.0):
        task = self.world.start(body)
        assert self.world.run_until(lambda: task.done, seconds), "not done"
        return task.result

    async def create(self, process):
        async with self.connect(process) as fabric:
            config = self.config
            await fabric.topics.create(
                TOPIC, partitions=self.partitions, replicas=config.replicas, cleanup=config.cleanup, if_absent=True,
                retention=None if config.retention_ms < 0 else config.retention_ms / 1000,
            )  # fmt: skip

    async def produce(self, process, name, *, acks="all", pause=0.05):
        """Send one record after the other, and remember which were acknowledged."""
        count = 0
        while not self.over:
            fabric = self.connect(process, name)
            producer = fabric.producer(acks=acks, delivery_timeout=20.0)
            fabric_id = process.fabric
            try:
                await self.create(process)
                while not self.over and process.fabric == fabric_id:
                    value = b"%s:%d" % (name.encode(), count)
                    count += 1
                    delivery = await producer.send(TOPIC, value, key=b"%d" % (count % 7))
                    await delivery.result(30.0)
                    self.acked.append((fabric_id, value))
                    await self.world.sleep(self.random.expovariate(1.0) * pause)
            except errors.ZFabricError:
                await self.world.sleep(0.1)
            fabric._pump.kill()

    def storm(self, faults, seconds=20.0):
        """Let faults strike, then end them, and wait until all is still."""
        end = self.world.now + int(seconds * SECOND)
        while self.world.now < end:
            self.world.run(self.random.expovariate(1.0) * 0.7)
            faults(self, self.random.choice(self.processes))
            self.compare(complete=False)
        self.network.weather = Weather.fair()
        self.network.heal()
        for process in self.processes:
            process.disk.disk_full = process.disk.fail_next_commit = False
            process.disk.map_full_in = None
        self.over = True
        self.world.run(60.0)

    def ask(self, process, kind, body):
        """Ask a leader one command and return the body of its answer."""
        asking = _Asking(self)
        self.network.open(asking, 1, process.endpoint)
        self.network.send(asking, 1, [messages.command(kind, 1, body)])
        assert self.world.run_until(lambda: asking.answer is not None, 10.0)
        self.network.leave(asking)
        return asking.answer.body

    def describe(self, process):
        """Return what a leader says of all its partitions and copies, by id."""
        meta = self.ask(process, Type.METADATA, Metadata(None))
        ids = [place.id for topic in meta.topics for place in (*topic.partitions, *topic.kept)]
        return {part.partition: part for part in self.ask(process, Type.DESCRIBE, messages.Describe(ids)).partitions}


@dataclasses.dataclass(eq=False)
class _Asking:
    run: Run
    name: str = "asking"
    answer: object = None

    def connected(self, session):
        pass

    def receive(self, session, frames):
        self.answer = messages.read(frames)

    def lost(self, session):
        pass
