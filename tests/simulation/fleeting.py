"""A topic that is altered, deleted and made again while clients use it, in ways that the others of a run do not.

Its records have no history: with ``acks="none"``, and with the topic, records may go. What must hold is that nobody
gets an error that does not tell the truth, and that nobody is deaf or dumb once the storm is over: what its producers
send then, to every partition that there is, reaches its consumers.
"""

from __future__ import annotations

from zfabric import errors

TOPIC = "fleeting"
PASSING = (errors.Unreachable, errors.RequestTimeout, errors.NotLeader, errors.StorageFull)
MISSING = (errors.UnknownTopic, errors.UnknownPartition)
GIVEN_UP = (*PASSING, *MISSING, errors.DeliveryTimeout, errors.DeliveryError, errors.BufferFull, errors.Closed)
CONFIGS = ({}, {"durability": "os"}, {"durability": "memory"}, {"retention_bytes": 2_000},
           {"cleanup": "compact", "tombstone_retention": 0.5}, {"retention": 1.0})  # fmt: skip
PATIENCE_SECONDS = 100.0
"""More than a client takes to ask again for metadata of what it uses, and to try once more what was refused."""


class Fleeting:
    """The topic's clients; ``run`` is the run that they belong to."""

    def __init__(self, run) -> None:
        self.run = run
        self.sim = run.sim
        self.random = run.random
        self.over = False
        self.partitions = 0
        self.settled = False
        self.seen: dict[str, set[bytes]] = {"all": set(), "pausing": set()}
        self.opened: set[str] = set()
        self.producers: list = []

    def start(self) -> None:
        """Begin: one who changes the topic, producers of every kind of acknowledgement, consumers."""
        self.sim.start(self.change(), "fleeting-admin")
        for acks in ("all", "leader", "none"):
            self.sim.start(self.produce(acks), f"fleeting-{acks}")
        for name in self.seen:
            self.sim.start(self.consume(name), f"fleeting-{name}")

    async def change(self) -> None:
        """Make, alter and delete the topic, and never hear anything untrue of it."""
        fabric = self.sim.connect_async("fleeting-admin", timeout=5.0)
        sure = True
        while not self.run.over:
            try:
                if self.partitions == 0:
                    count = self.random.randint(1, 3)
                    config = self.random.choice(CONFIGS)
                    await fabric.topics.create(TOPIC, partitions=count, if_absent=not sure, **config)
                    self.partitions = count
                elif self.partitions < 5 and self.random.random() < 0.5:
                    await fabric.topics.alter(TOPIC, partitions=self.partitions + 1)
                    self.partitions += 1
                else:
                    await fabric.topics.delete(TOPIC)
                    self.partitions = 0
                sure = True
            except MISSING:
                if sure:
                    raise
                self.partitions = await self._look(fabric)
            except PASSING:
                sure, self.partitions = False, await self._look(fabric)
            await self.sim.sleep(self.random.expovariate(1.0) * 0.5)
        while not self.settled:
            try:
                self.partitions = await self._look(fabric)
                if not self.partitions:
                    await fabric.topics.create(TOPIC, partitions=2, if_absent=True)
                else:
                    # Whoever waits for a lost answer takes longer than the shortest retention keeps a record.
                    await fabric.topics.alter(TOPIC, retention=3600.0)
                    self.settled = True
            except PASSING:
                continue

    async def _look(self, fabric) -> int:
        """Return how many partitions there are, 0 without the topic; ask until there is an answer."""
        while True:
            try:
                return len((await fabric.topics.describe(TOPIC)).partitions)
            except errors.UnknownTopic:
                return 0
            except PASSING:
                await self.sim.sleep(0.1)

    async def produce(self, acks: str) -> None:
        """Send one by one and in bulk; what is given up is given up."""
        fabric = self.sim.connect_async(f"fleeting-{acks}", timeout=5.0)
        producer = fabric.producer(acks=acks, delivery_timeout=3.0, buffer_bytes=5_000)
        self.producers.append((acks, producer))
        while not self.run.over:
            try:
                if self.random.random() < 0.3:
                    count = self.random.randint(1, 30)
                    await producer.send_many(TOPIC, [b"v"] * count, [b"%d" % (number % 5) for number in range(count)])
                else:
                    await producer.send(TOPIC, b"v", key=b"%d" % self.random.randrange(5))
                if self.random.random() < 0.1:
                    await producer.flush(1.0)
            except GIVEN_UP:
                await self.sim.sleep(0.05)
            await self.sim.sleep(self.random.expovariate(1.0) * 0.03)

    async def consume(self, name: str) -> None:
        """Read what there is, now and then without some partitions."""
        fabric = self.sim.connect_async(f"fleeting-reader-{name}", timeout=5.0)
        consumer = fabric.consumer(TOPIC, missing="skip", start=self.random.choice(["earliest", "latest"]))
        while True:
            try:
                await consumer.open()
                self.opened.add(name)
                break
            except (*PASSING, *MISSING):
                await self.sim.sleep(0.1)
        paused = False
        while not self.over:
            if name == "pausing":
                chosen = [number for number in consumer.assignment if self.random.random() < 0.5]
                paused = bool(chosen) and not paused and not self.run.over
                (consumer.pause if paused else consumer.resume)(*(chosen if paused else ()))
            self.seen[name].update(record.value for record in await consumer.poll(100, timeout=0.3))

    async def finish(self) -> None:
        """Prove that nobody is deaf or dumb: each producer reaches each consumer through each partition."""
        wanted: set[bytes] = set()
        until = self.sim.now + PATIENCE_SECONDS
        while not self.settled or self.opened != set(self.seen):
            assert self.sim.now < until, f"settled: {self.settled}, only {sorted(self.opened)} could be opened"
            await self.sim.sleep(0.5)
        for acks, producer in self.producers:
            for number in range(self.partitions):
                value = b"last %s %d" % (acks.encode(), number)
                await self._send_for_sure(acks, producer, number, value)
                wanted.add(value)
        until = self.sim.now + PATIENCE_SECONDS
        while any(wanted - seen for seen in self.seen.values()):
            missing = {name: sorted(wanted - seen) for name, seen in self.seen.items()}
            assert self.sim.now < until, f"not read: {missing}"
            await self.sim.sleep(0.5)
        self.over = True

    async def _send_for_sure(self, acks: str, producer, number: int, value: bytes) -> None:
        """Send until it is known to be there: a producer may have to hear first that the topic is another one."""
        until, problem = self.sim.now + PATIENCE_SECONDS, "it does not arrive"
        while True:
            try:
                delivery = await producer.send(TOPIC, value, key=b"k", partition=number)
                await delivery.result(10.0)
                if acks != "none" or await self._arrived(value):
                    return
            except (*GIVEN_UP, errors.ProtocolViolation) as error:
                problem = repr(error)
                await self.sim.sleep(1.0)
            assert self.sim.now < until, f"{acks} cannot send to partition {number}: {problem}"

    async def _arrived(self, value: bytes) -> bool:
        for _ in range(10):
            if any(value in seen for seen in self.seen.values()):
                return True
            await self.sim.sleep(0.5)
        return False
