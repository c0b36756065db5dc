"""Callers and instances of one service in a simulated mesh of faults, and what may never be seen there.

Each request has a number. Handlers write down what they execute, callers what they are told. The rules:

* ``executed-twice``: a request that is not idempotent was executed more than once.
* ``wrong-reply``: a reply, or a chunk of a stream, that is another request's, or out of order.
* ``executed-though-refused``: a caller was told that a request was not executed, and it was.
* ``late``: a call did not end by its deadline. ``late-loss``: a dead callee was noticed later than
  within two seconds, by a request that goes to one only.
* ``failed``: a request failed that may not in a run with such faults.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from zfabric import errors
from zfabric.sim.network import Weather
from zfabric.testing.simulation import Simulation

FAULTS = ("kill", "freeze", "cut", "breaks", "drain", "leader")
UNEXECUTED = (errors.ServiceUnavailable, errors.Overloaded, errors.ServiceDraining, errors.WrongInstance)
CHUNKS = 30


@dataclass
class Run:
    """One run: what was executed and told, and the anomalies that were seen."""

    seed: int
    faults: tuple = ()
    weather: Weather | None = None
    instances: int = 3
    callers: int = 3
    requests: int = 60
    timeout: float = 5.0
    executed: Counter = field(default_factory=Counter)
    seen: list = field(default_factory=list)
    errors: Counter = field(default_factory=Counter)
    answered: int = 0

    def play(self):
        with Simulation(self.seed) as simulation:
            self.simulation = simulation
            self.random = simulation.world.random
            self.living = []
            self.started = 0
            self.next = 0
            self.over = False
            for _ in range(self.instances):
                simulation.run(self.begin(), seconds=60.0)
            simulation.network.weather = self.weather or Weather.fair()
            self.faulty = simulation.start(self.disturb(), "faults") if self.faults else None
            simulation.run(*(self.call(number) for number in range(self.callers)), seconds=3_600.0)
            self.over = True
            simulation.heal()
            simulation.network.weather = Weather.fair()
            simulation.run(self.recover(), seconds=3_600.0)
        return self

    @property
    def anomalies(self):
        return sorted({kind for kind, _ in self.seen})

    # Instances.

    async def begin(self):
        self.started += 1
        name = f"host-{self.started}"
        fabric = self.simulation.connect_async(name)
        service = fabric.service("users", version="1.0", concurrency=8, queue=50)
        service.method("get", idempotent=True)(self.handle)
        service.method("put")(self.handle)
        service.method("list", idempotent=True)(self.chunks)
        service.method("tell")(self.handle)
        await service.start()
        self.living.append((fabric, service, name))

    async def handle(self, request):
        self.executed[int(request.value)] += 1
        await self.simulation.sleep(self.random.expovariate(100.0))
        return b"ok " + request.value

    async def chunks(self, request):
        self.executed[int(request.value)] += 1
        for number in range(CHUNKS):
            await self.simulation.sleep(0.001)
            yield b"%d %b" % (number, request.value)

    # Callers.

    async def call(self, number):
        fabric = self.simulation.connect_async(f"caller-{number}")
        for _ in range(self.requests):
            await self.simulation.sleep(self.random.expovariate(20.0))
            await self.one(fabric)
        await fabric.close()

    async def one(self, fabric):
        self.next += 1
        number, value = self.next, b"%d" % self.next
        method = self.random.choice(["get", "get", "put", "put", "list", "tell"])
        began = self.simulation.now
        told = None
        try:
            if method == "list":
                await self.read(fabric, value)
            elif method == "tell":
                await fabric.notify("users.tell", value, timeout=self.timeout)
            else:
                hedge = (0.02, "auto", None)[number % 3] if method == "get" else None
                reply = await fabric.request(f"users.{method}", value, timeout=self.timeout, hedge=hedge,
                                             idempotent=True if method == "get" else None)  # fmt: skip
                if reply != b"ok " + value:
                    self.seen.append(("wrong-reply", f"{reply!r} for {number}"))
            self.answered += 1
        except errors.ZFabricError as error:
            told = error
            self.errors[type(error).__name__] += 1
        took = self.simulation.now - began
        if took > self.timeout + 0.01:
            self.seen.append(("late", f"{method} {number} took {took}: {told!r}"))
        if method == "put" and isinstance(told, errors.CalleeLost) and took > 2.0:
            self.seen.append(("late-loss", f"{method} {number} took {took}"))
        if method in ("put", "tell") and self.executed[number] > 1:
            self.seen.append(("executed-twice", f"{method} {number}"))
        if isinstance(told, UNEXECUTED) and self.executed[number]:
            self.seen.append(("executed-though-refused", f"{method} {number}: {told!r}"))
        if told is not None and self.forbidden(method):
            self.seen.append(("failed", f"{method} {number}: {told!r}"))

    async def read(self, fabric, value):
        expected = 0
        async with fabric.stream("users.list", value, timeout=self.timeout, idempotent=True) as stream:
            async for chunk in stream:
                if chunk != b"%d %b" % (expected, value):
                    self.seen.append(("wrong-reply", f"{chunk!r} as chunk {expected} of {value!r}"))
                expected += 1
                if expected == CHUNKS - 1 and int(value) % 5 == 0:
                    return
        if expected != CHUNKS:
            self.seen.append(("wrong-reply", f"a stream of {expected} chunks that ended well"))

    def forbidden(self, method):
        """Tell whether a request may not fail so, with these faults."""
        faults = set(self.faults)
        return not faults - {"drain", "leader"} or (not faults - {"kill", "drain", "leader"} and method == "get")

    # Faults.

    async def disturb(self):
        while not self.over:
            await self.simulation.sleep(self.random.uniform(0.2, 1.5))
            if not self.over:
                await getattr(self, self.random.choice(self.faults))()

    async def kill(self):
        if len(self.living) > 1:
            fabric, _, _ = self.living.pop(self.random.randrange(len(self.living)))
            self.simulation.kill_client(fabric)
            await self.begin()

    async def drain(self):
        if len(self.living) > 1:
            await self.begin()
            _, service, _ = self.living.pop(0)
            await service.stop(drain=30.0)

    async def freeze(self):
        self.simulation.freeze_client(self.random.choice(self.living)[0], self.random.uniform(0.1, 3.0))

    async def cut(self):
        name = f"caller-{self.random.randrange(self.callers)}"
        self.simulation.network.partition(name, self.random.choice(self.living)[2])
        await self.simulation.sleep(self.random.uniform(0.1, 3.0))
        self.simulation.heal()

    async def breaks(self):
        self.simulation.network.break_some(0.3)

    async def leader(self):
        self.simulation.kill_leader(0)

    async def recover(self):
        """When the faults are over, everything works again."""
        await self.simulation.sleep(20.0)
        fabric = self.simulation.connect_async("late")
        for number in range(10):
            value = b"%d" % (1_000_000 + number)
            try:
                reply = await fabric.request("users.put", value, timeout=5.0)
            except errors.ZFabricError as error:
                self.seen.append(("failed", f"after the faults: {error!r}"))
            else:
                if reply != b"ok " + value:
                    self.seen.append(("wrong-reply", repr(reply)))
