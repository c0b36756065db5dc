"""A whole fabric in virtual time, for tests: real clients and leaders on a simulated network and disks.

One thread, no sockets, no files, no waiting: an hour passes in seconds, and a run is a function of its seed. The
machines are those of a real fabric; only what carries bytes is imitated, at its worst (``zfabric/sim``).

Write the test with the synchronous SDK, where every wait lets virtual time pass::

    with Simulation(seed=7) as simulation:
        fabric = simulation.connect()
        fabric.topics.create("orders")
        with fabric.producer() as producer:
            producer.send("orders", b"v")
            simulation.kill_leader(0)
            producer.flush()

or with coroutines on the asynchronous one, any number of them side by side::

    async def worker(simulation):
        async with simulation.connect_async("worker") as fabric:
            ...
            await simulation.sleep(3600)


    simulation.run(worker(simulation), worker(simulation))

``asyncio`` has no part in it: such a coroutine may await what zfabric offers and :meth:`Simulation.sleep`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from zfabric.aio.fabric import SOFTWARE
from zfabric.aio.fabric import Fabric as AsyncFabric
from zfabric.core.client.anchor import Observed
from zfabric.core.client.client import Client
from zfabric.settings import LeaderSettings, check_range
from zfabric.sim.hearsay import Hearsay
from zfabric.sim.network import Network, Weather
from zfabric.sim.process import MESH, Process
from zfabric.sim.pump import AsyncPump, SimPump, SyncPump
from zfabric.sim.world import MILLISECOND, SECOND, Task, World
from zfabric.sync.fabric import Fabric

if TYPE_CHECKING:
    from zfabric.aio.pump import Pump as AioPump
    from zfabric.sync.pump import Pump as ThreadPump

__all__ = ["Simulation", "Task", "Weather"]

START_PAUSE_NS = 50 * MILLISECOND
START_LONGEST_NS = 300 * MILLISECOND
LEADERS_MAX = 64
Role = Literal["peer", "client"]


class Simulation:
    """A fabric of ``leaders`` leader processes and any number of clients. A context manager.

    Args:
        seed: a run with the same seed and the same calls is the same run.
        leaders: 1 to 64. peers: 2 to 64: so many peers of one mesh instead, each with a leader of its own; they know of
            each other as gossip would tell them. weather: of the network; fair by default.
        embedded: clients start the leader, as in embedded mode; else a supervisor does.
        settings: of the leaders.
        beside: another simulation, whose time, dice and network this one shares: two fabrics in one world. Its seed and
            weather are those of the other, which is closed last.
        keep: patterns of the topics that a peer keeps, by its number.

    Attributes:
        world: virtual time and the dice. network: links and partitions. processes: the leaders.
        restart: a leader that died is started again by itself. site: begins the names of its machines.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        leaders: int = 1,
        peers: int = 0,
        weather: Weather | None = None,
        embedded: bool = False,
        settings: LeaderSettings | None = None,
        beside: Simulation | None = None,
        keep: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        check_range("leaders", leaders, 1, 1 if embedded else LEADERS_MAX)
        self.world: World = World(seed) if beside is None else beside.world
        self.network: Network = Network(self.world, weather) if beside is None else beside.network
        self.restart = True
        self._beside = beside
        self.site: str = "" if beside is None else f"{beside.site}beside-"
        settings = settings or LeaderSettings()
        if peers:
            check_range("peers", peers, 2, LEADERS_MAX)
            self.processes = [
                Process(
                    self.world,
                    self.network,
                    0,
                    1,
                    settings,
                    peer=f"{self.site}peer-{number}",
                    fabric=self._fabric(),
                    keep=(keep or {}).get(number, ()),
                )
                for number in range(peers)
            ]
            Hearsay(self.world, self.network, self.processes)
        else:
            self.processes = [
                Process(self.world, self.network, number, leaders, settings, self.site) for number in range(leaders)
            ]
        self._peers = peers
        self._embedded = embedded
        self._starting: set[str] = set()
        self._pumps: dict[int, SimPump] = {}
        self._clients = 0
        for process in self.processes:
            process.died = self._died
            if not embedded:
                process.start()

    # Clients.

    def connect(self, name: str | None = None, *, peer: int = 0, role: Role = "peer", timeout: float = 10.0) -> Fabric:
        """Return a fabric of the synchronous SDK; its waits let virtual time pass.

        Args:
            name: of the client's machine, for :meth:`partition`. peer: whose client it is.
            role: "client" for one of the mesh as ``zf+peer://MESH?role=client`` is, which only begins with that peer.
            timeout: virtual seconds that calls wait.
        """
        name, core = self._client(name, peer, role)
        pump = SyncPump(self.world, self.network, core, name, locate=self._locate)
        fabric = Fabric("zf://simulation", cast("ThreadPump", pump), core, timeout)
        self._pumps[id(fabric)] = pump
        return fabric

    def connect_async(
        self, name: str | None = None, *, peer: int = 0, role: Role = "peer", timeout: float = 10.0
    ) -> AsyncFabric:
        """Return a fabric of the asynchronous SDK, for coroutines of this simulation; see :meth:`connect`."""
        name, core = self._client(name, peer, role)
        pump = AsyncPump(self.world, self.network, core, name, locate=self._locate)
        fabric = AsyncFabric("zf://simulation", cast("AioPump", pump), core, timeout)
        self._pumps[id(fabric)] = pump
        return fabric

    def _client(self, name: str | None, peer: int, role: Role) -> tuple[str, Client]:
        self._clients += 1
        endpoint, observes = self.processes[peer].endpoint, role == "client"
        random = Random(self.world.random.getrandbits(64))
        core = Client(
            endpoint,
            "zf://simulation",
            "sim",
            random,
            software=SOFTWARE,
            locate=self._embedded,
            mesh=self._peers > 0 or observes,
            observed=Observed(MESH, [endpoint]) if observes else None,
        )
        return name or f"{self.site}client-{self._clients}", core

    def kill_client(self, fabric: Fabric | AsyncFabric) -> None:
        """End a client as SIGKILL does; kill its tasks as well."""
        self._pumps.pop(id(fabric)).kill()

    def freeze_client(self, fabric: Fabric | AsyncFabric, seconds: float) -> None:
        """Stop a client for a while, as SIGSTOP does; coroutines of yours that are its code go on."""
        self._pumps[id(fabric)].freeze(seconds)

    # Time.

    def start(self, body: Coroutine[Any, Any, Any], name: str = "task") -> Task:
        """Begin a coroutine; it goes on whenever virtual time passes. What it raises ends the run."""
        return self.world.start(body, name)

    def run(self, *bodies: Coroutine[Any, Any, Any], seconds: float = 86_400.0) -> list[Any]:
        """Run coroutines to their ends and return their results.

        Raises:
            TimeoutError: one has not ended after ``seconds`` of virtual time. What one of them raised.
        """
        tasks = [self.start(body) for body in bodies]
        if not self.world.run_until(lambda: all(task.done for task in tasks), seconds):
            raise TimeoutError(f"not done after {seconds} simulated seconds (seed {self.world.seed})")
        return [task.result for task in tasks]

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.world.run(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait, in a coroutine."""
        await self.world.sleep(seconds)

    @property
    def now(self) -> float:
        """Virtual seconds since the simulation's own beginning of time."""
        return self.world.now / SECOND

    # Faults.

    def kill_leader(self, number: int = 0) -> None:
        """Kill a leader process; it is started again after 50 to 300 ms, unless :attr:`restart` is off."""
        self.processes[number].kill()
        self._died(self.processes[number])

    def power_cut(self, number: int = 0) -> None:
        """Kill a leader and lose what its disk had not synced."""
        self.processes[number].power_cut()
        self._died(self.processes[number])

    def wipe_disk(self, number: int = 0) -> None:
        """Kill a leader and give it an empty disk: of a mesh, another origin from then on."""
        self.processes[number].kill()
        self.processes[number].wipe(self._fabric())
        self._died(self.processes[number])

    def _fabric(self) -> str:
        return f"{self.world.random.getrandbits(64):016x}"

    def start_leader(self, number: int = 0) -> None:
        """Start a leader that does not run."""
        self._starting.discard(self.processes[number].name)
        if not self.processes[number].alive:
            self.processes[number].start()

    def freeze_leader(self, number: int, seconds: float) -> None:
        """Stop a leader for a while, as SIGSTOP does."""
        self.processes[number].freeze(seconds)

    def partition(self, client: str, leader: int) -> None:
        """Let nothing pass between a client (by its name) and a leader, until :meth:`heal`."""
        self.network.partition(client, self.processes[leader].name)

    def heal(self) -> None:
        """End all partitions."""
        self.network.heal()

    def fill_disk(self, number: int = 0, *, full: bool = True) -> None:
        """Let a leader's disk reach its reserve, or (``full=False``) have room again."""
        self.processes[number].disk.disk_full = full

    def _died(self, process: Process) -> None:
        if self.restart and not self._embedded:
            self._start_later(process)

    def _start_later(self, process: Process) -> None:
        if process.name in self._starting or process.alive:
            return
        self._starting.add(process.name)
        pause = self.world.random.randrange(START_PAUSE_NS, START_LONGEST_NS)

        def due() -> None:
            if process.name in self._starting:
                self.start_leader(self.processes.index(process))

        self.world.after(pause, due)

    def _locate(self) -> None:
        self._start_later(self.processes[0])

    # The end.

    def close(self) -> None:
        """End the simulation: all that is still under way is dropped."""
        for pump in list(self._pumps.values()):
            pump.kill()
        self._pumps.clear()
        if self._beside is None:
            self.world.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"in a simulation of seed {self.world.seed}, after {self.world.steps:,} steps")
        self.close()
