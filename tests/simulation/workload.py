"""What a simulated fabric is put through: one seed decides clients, topics, weather and faults.

Producers send values that are unique, consumers read and commit, and all of it goes into a history for each topic.
Faults strike for some virtual seconds; then everything heals, the producers finish, and a last reader takes each topic
from its start to its end. What the history must not contain is in ``zfabric/sim/history.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from fleeting import Fleeting

from zfabric import errors
from zfabric.sim.history import Anomaly, History, Poll, Seen, Send
from zfabric.sim.network import Weather
from zfabric.testing.simulation import Simulation

STORM_SECONDS = 6.0
CALM_SECONDS = 60.0
FRESH_SECONDS = 10.0
SETTLE_SECONDS = 5.0
"""What a producer gave up may still be on its way, or wait for a shared commit."""
UNKNOWN = (errors.DeliveryTimeout, errors.Closed, errors.ProducerFenced)
PASSING = (errors.Unreachable, errors.RequestTimeout, errors.NotLeader, errors.StorageFull, errors.DeliveryError)


@dataclass
class Plan:
    """What a seed has decided.

    Attributes:
        faults: names of methods of :class:`Storm` that may strike. fleeting: with a topic that comes and goes.
        newcomer: somebody produces after the storm; what is published then shows consumers what they had missed, so
            not in all plans.
    """

    leaders: int
    embedded: bool
    topics: dict[str, dict]
    weather: Weather
    producers: int
    named: int
    faults: list[str]
    pause: float
    fleeting: bool = False
    newcomer: bool = True

    @classmethod
    def draw(cls, random: Random) -> Plan:
        """Choose; each fault is on in half of all plans, so that combinations differ (swarm testing)."""
        topics = {"log": {"partitions": random.randint(1, 3)}}
        if random.random() < 0.3:
            topics["page"] = {"partitions": 1, "durability": "os"}
        if random.random() < 0.3:
            topics["ring"] = {"partitions": 1, "durability": "memory"}
        if random.random() < 0.3:
            topics["shared"] = {"partitions": 1, "commit_interval": random.choice([0.01, 0.2])}
        bad = random.random() < 0.8
        weather = Weather(
            delay=random.choice([0.0001, 0.001, 0.01]),
            spikes=random.choice([0.0, 0.02]) * bad,
            loss=random.choice([0.0, 0.0, 0.02, 0.1]) * bad,
            duplicate=random.choice([0.0, 0.0, 0.05]) * bad,
            reorder=random.choice([0.0, 0.0, 0.05]) * bad,
            publication_loss=random.choice([0.0, 0.1, 0.9]) * bad,
            breaks=random.choice([0.0, 0.0, 0.01]) * bad,
        )
        embedded = random.random() < 0.2
        return cls(
            leaders=1 if embedded else random.randint(1, 3),
            embedded=embedded,
            topics=topics,
            weather=weather,
            producers=random.randint(1, 3),
            named=random.randint(0, 1),
            faults=[name for name in Storm.FAULTS if random.random() < 0.5],
            pause=random.choice([0.05, 0.2, 0.6]),
            fleeting=random.random() < 0.3,
            newcomer=random.random() < 0.5,
        )


@dataclass
class Result:
    """What came of a run: broken rules by topic, and how much was done, to see that something was."""

    plan: Plan
    anomalies: list[tuple[str, Anomaly]] = field(default_factory=list)
    acknowledged: int = 0
    polled: int = 0
    deaths: int = 0
    steps: int = 0


class Storm:
    """The faults, each a method that strikes once."""

    FAULTS = (
        "kill", "power_cut", "freeze", "partition", "half_partition", "breaks", "failing_commit", "full_map",
        "full_disk", "stop", "kill_client", "slow_disk",
    )  # fmt: skip

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sim = run.sim
        self.random = run.random

    def _process(self):
        return self.random.choice(self.sim.processes)

    def kill(self):
        self.run.lost_memory()
        self.sim.kill_leader(self._process().number)

    def power_cut(self):
        self.run.lost_memory()
        self.run.lost_pages()
        self.sim.power_cut(self._process().number)

    def stop(self):
        process = self._process()
        self.run.lost_memory()
        try:
            process.stop()
        except errors.StorageFailed:
            process.kill()
        self.sim._died(process)

    def freeze(self):
        self.sim.freeze_leader(self._process().number, self.random.uniform(0.01, 5.0))

    def partition(self):
        self._partition(("up", "down"))

    def half_partition(self):
        self._partition((self.random.choice(["up", "down"]),))

    def _partition(self, directions):
        host = self.random.choice(self.run.names)
        self.sim.network.partition(host, self._process().name, directions)
        self.sim.world.after(self.random.randrange(6_000_000_000), self.sim.network.heal)

    def breaks(self):
        self.sim.network.break_some(0.5)

    def failing_commit(self):
        self.run.lost_memory()
        self.run.lost_pages()  # The commit that failed may have been the one after a journal's entries.
        self._process().disk.fail_next_commit = True

    def full_map(self):
        self._process().disk.map_full_in = self.random.randrange(20)

    def full_disk(self):
        disk = self._process().disk
        disk.disk_full = True
        self.sim.world.after(self.random.randrange(2_000_000_000), lambda: setattr(disk, "disk_full", False))

    def slow_disk(self):
        process = self._process()
        process.commit_seconds = self.random.choice([0.0001, 0.005, 0.1])

    def kill_client(self):
        self.run.doomed.add(self.random.choice(self.run.names))


class Run:
    """One simulated fabric with its clients, from the plan to the result."""

    def __init__(self, seed: int, *, plan: Plan | None = None) -> None:
        self.random = Random(f"workload {seed}")
        self.plan = plan or Plan.draw(self.random)
        plan = self.plan
        self.sim = Simulation(seed, leaders=plan.leaders, embedded=plan.embedded, weather=Weather.fair())
        self.histories = {name: History() for name in plan.topics}
        self.names: list[str] = []
        self.doomed: set[str] = set()
        self.over = False
        self.consumers: dict[str, tuple[str, object]] = {}
        self.result = Result(plan)

    def lost_memory(self) -> None:
        """A leader may die: memory topics may lose what they had."""
        if "ring" in self.histories:
            self.histories["ring"].loses = True

    def lost_pages(self) -> None:
        """The page cache may be lost: so may acknowledged records of "os" topics, and their offsets be given again."""
        if "page" in self.histories:
            self.histories["page"].loses = self.histories["page"].reuses = True

    # Clients. A client whose name is doomed dies the next time it looks.

    def _dies(self, name, fabric):
        if name not in self.doomed or self.over:
            return False
        self.doomed.discard(name)
        self.sim.kill_client(fabric)
        return True

    async def produce(self, name: str, topics: list[str]) -> None:
        count = 0
        for incarnation in range(1_000):
            process = f"{name}.{incarnation}"
            fabric = self.sim.connect_async(name)
            producer = fabric.producer(
                linger=self.random.choice([0.0, 0.0, 0.005]),
                batch_bytes=self.random.choice([200, 256 << 10]),
                delivery_timeout=self.random.choice([1.0, 120.0]),
            )
            died = False
            while not self.over and not died:
                for _ in range(self.random.choice([1, 1, 3, 12])):
                    topic = self.random.choice(topics)
                    value = b"%s:%d" % (name.encode(), count)
                    count += 1
                    await self._send(producer, process, topic, value, key=b"%d" % self.random.randrange(8))
                await self.sim.sleep(self.random.expovariate(1.0) * 0.03)
                died = self._dies(name, fabric)
            if died:
                continue
            await self._finish(producer)
            await fabric.close()
            return

    async def produce_named(self, name: str, topic: str) -> None:
        """An application with its own sequence: it sends again what it does not know to be stored."""
        acknowledged = -1
        sends: list[Send] = []
        for _ in range(1_000):
            fabric = self.sim.connect_async(name)
            producer = fabric.producer(name=name)
            sequence = acknowledged + 1
            died = False
            while not died and (not self.over or sequence < len(sends)):
                if sequence == len(sends):
                    sends.append(Send(name, 0, b"%s:%d" % (name.encode(), sequence)))
                    self.histories[topic].sends.append(sends[-1])
                send = sends[sequence]
                try:
                    delivery = await producer.send(topic, send.value, partition=0, sequence=sequence)
                    meta = await delivery.result(30.0)
                except (*PASSING, *UNKNOWN):
                    self.sim.kill_client(fabric)
                    break
                send.outcome = "ok"
                send.offset = max(send.offset, meta.offset)
                acknowledged = sequence
                sequence += 1
                await self.sim.sleep(self.random.expovariate(1.0) * 0.05)
                died = self._dies(name, fabric)
            else:
                if not died:
                    await self._finish(producer)
                    await fabric.close()
                    return

    async def _send(self, producer, process, topic, value, *, key):
        history = self.histories[topic]

        def delivered(delivery, error):
            if error is None:
                send.outcome = "ok"
                send.offset = delivery.metadata().offset
                self.result.acknowledged += 1
            elif not isinstance(error, UNKNOWN):
                send.outcome = "fail"

        try:
            delivery = await producer.send(topic, value, key=key, on_delivery=delivered)
        except PASSING:
            return
        send = Send(process, delivery.batch.partition, value)
        history.sends.append(send)

    async def _finish(self, producer):
        try:
            await producer.close(CALM_SECONDS / 2)
        except errors.DeliveryError:
            return  # The deliveries were told.

    async def consume(self, name: str, topic: str, group: str | None) -> None:
        history = self.histories[topic]
        while True:
            fabric = self.sim.connect_async(name)
            consumer = fabric.consumer(topic, group=group)
            if not await self._open(consumer):
                self.sim.kill_client(fabric)
                continue
            if group is not None:
                history.commits += [(group, number, offset, "begun") for number, offset in consumer.position.items()]
            self.consumers[name] = (topic, consumer)
            fresh = True
            while not self._dies(name, fabric):
                try:
                    records = await consumer.poll(self.random.choice([1, 10, 500]), timeout=0.5)
                except errors.OffsetOutOfRange as error:
                    assert history.reuses, "only a log that lost its tail can end before a consumer"
                    fresh = await self._seek(consumer, error.partition)
                    continue
                seen = [Seen(record.partition, record.offset, record.value) for record in records]
                history.polls.append(Poll(name, seen, fresh))
                self.result.polled += len(seen)
                fresh = False
                if group is not None and records and self.random.random() < 0.3:
                    await self._commit(consumer, group, history)
                if self.random.random() < 0.05:
                    await self.sim.sleep(self.random.random())
                if not self.over and self.random.random() < 0.02:
                    fresh = await self._seek(consumer)
            self.consumers.pop(name)

    async def _open(self, consumer):
        try:
            await consumer.open()
        except PASSING:
            return False
        return True

    async def _commit(self, consumer, group, history):
        positions = {n: at for n, at in consumer.position.items() if n not in consumer.problems}
        try:
            await consumer.commit()
        except errors.OffsetOutOfRange:
            assert history.reuses, "only a log that lost its tail can end before a consumer"
            return
        except PASSING:
            return
        history.commits += [(group, number, offset, "committed") for number, offset in positions.items()]

    async def _seek(self, consumer, number=None):
        number = self.random.choice(consumer.assignment) if number is None else number
        try:
            await consumer.seek(number, self.random.choice(["earliest", "latest"]))
        except PASSING:
            return False
        return True

    async def observe(self, topic: str) -> None:
        fabric = self.sim.connect_async("observer")
        while not self.over:
            await self.sim.sleep(0.2)
            try:
                info = await fabric.topics.describe(topic)
            except PASSING:
                continue
            self.histories[topic].ends += [("observer", part.partition, part.end_offset) for part in info.partitions]

    # The course of events.

    async def _prepare(self):
        async with self.sim.connect_async("admin") as fabric:
            for name, config in self.plan.topics.items():
                await fabric.topics.create(name, **config)

    async def _send_anew(self):
        """A client that comes after the storm, and only produces, is heard in every partition."""
        async with self.sim.connect_async("newcomer") as fabric, fabric.producer() as producer:
            for topic, config in self.plan.topics.items():
                for number in range(config["partitions"]):
                    value = b"newcomer:%s:%d" % (topic.encode(), number)
                    send = Send("newcomer", number, value)
                    self.histories[topic].sends.append(send)
                    delivery = await producer.send(topic, value, key=b"k", partition=number)
                    send.offset = (await delivery.result(FRESH_SECONDS)).offset
                    send.outcome = "ok"

    async def _last_reading(self):
        """Read every topic from its start to the end that its leaders tell."""
        async with self.sim.connect_async("reader") as fabric:
            for name, history in self.histories.items():
                info = await fabric.topics.describe(name)
                for part in info.partitions:
                    position = part.start_offset
                    consumer = fabric.consumer(name, partitions=[part.partition])
                    while position < part.end_offset:
                        records = await consumer.poll(500, timeout=10.0)
                        assert records, f"{name} [{part.partition}] at {position} of {part.end_offset}: nothing comes"
                        history.final += [Seen(part.partition, record.offset, record.value) for record in records]
                        position = records[-1].offset + 1
                    await consumer.close()

    async def _wait_for_consumers(self):
        """Give those who live a while to read to the end."""
        for _ in range(int(CALM_SECONDS * 2)):
            await self.sim.sleep(0.5)
            if not any(history._deaf() for history in self._placed()):
                return

    def _placed(self):
        for history in self.histories.values():
            history.positions.clear()
        for name, (topic, consumer) in self.consumers.items():
            for number, position in consumer.position.items():
                self.histories[topic].positions[name, number] = position
        return list(self.histories.values())

    def execute(self) -> Result:
        """Run it to the end."""
        sim, plan, random = self.sim, self.plan, self.random
        with sim:
            sim.run(self._prepare(), seconds=60.0)
            writers = []
            topics = list(plan.topics)
            for number in range(plan.producers):
                self.names.append(f"producer-{number}")
                writers.append(sim.start(self.produce(self.names[-1], topics), self.names[-1]))
            for number in range(plan.named):
                self.names.append(f"named-{number}")
                writers.append(sim.start(self.produce_named(self.names[-1], "log"), self.names[-1]))
            for topic in topics:
                for group in (None, "readers"):
                    self.names.append(f"consumer-{topic}-{group}")
                    sim.start(self.consume(self.names[-1], topic, group), self.names[-1])
            sim.start(self.observe("log"), "observer")
            fleeting = Fleeting(self)
            if plan.fleeting:
                fleeting.start()
            self.network_storm(random)
            self.over = True
            finished = sim.world.run_until(lambda: all(task.done for task in writers), CALM_SECONDS * 4)
            assert finished, f"producers have not finished: {[task.name for task in writers if not task.done]}"
            if plan.newcomer:
                sim.run(self._send_anew(), seconds=CALM_SECONDS * 4)
            if plan.fleeting:
                sim.run(fleeting.finish())
            sim.advance(SETTLE_SECONDS)
            sim.run(self._last_reading(), seconds=CALM_SECONDS * 4)
            sim.run(self._wait_for_consumers())
            self._placed()
        for topic, history in self.histories.items():
            self.result.anomalies += [(topic, anomaly) for anomaly in history.anomalies()]
        self.result.deaths = sum(process.deaths for process in sim.processes)
        self.result.steps = sim.world.steps
        return self.result

    def network_storm(self, random: Random) -> None:
        """Let faults strike, then end them all."""
        sim, plan = self.sim, self.plan
        storm = Storm(self)
        sim.network.weather = plan.weather
        end = sim.now + STORM_SECONDS
        while sim.now < end:
            sim.advance(random.expovariate(1.0) * plan.pause)
            if plan.faults:
                getattr(storm, random.choice(plan.faults))()
        sim.network.weather = Weather.fair()
        sim.heal()
        for process in sim.processes:
            process.disk.disk_full = process.disk.fail_next_commit = False
            process.disk.map_full_in = None
            process.commit_seconds = 0.0005


def run(seed: int, *, plan: Plan | None = None) -> Result:
    """Run one seed."""
    return Run(seed, plan=plan).execute()
