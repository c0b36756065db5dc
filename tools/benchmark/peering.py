"""From peer to peer: a record from one application to another one, each with its own leader, against one ZeroMQ hop.

The way is application, own leader (which commits), the other application; the leader of the one that hears has no part
in it. Leaders are processes of their own, or threads of the applications. The floor is a PUB in the one process and a
SUB in the other, over TCP; beside it stand one over ipc, and one with the least that a memory topic does for a record
(``least.py``), bare and behind such calls as applications make. As both applications are on this machine there is a
lane between them (``zfabric/net/lane.py``); without, it is as between machines, but for the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmark.pacing import FILL, STAMP, intended
from benchmark.report import AT_MOST, Row, compared
from benchmark.running import environment, free_port, home
from zfabric.settings import LeaderSettings

GROUP = "peer to peer, 100 bytes, two applications"
DURABILITIES = ("memory", "os", "fsync")
WARM_RATE = 2_000.0
NOTHING = b"." * (STAMP.size + len(FILL))
LANES = LeaderSettings().lanes_max
Kind = tuple[str, str, int]
"""Durability, where the leader is, and ``lanes_max``."""
GOAL = 1.3
GOAL_OF = ("memory", "thread", LANES, "p50")
"""To a leader in a process of its own it is another hop."""
PLAIN = {
    "ipc": "bare over ipc",
    "least": "bare, with the least of a memory topic",
    "called": "bare, with that, and the least of a producer and a consumer",
}


class Hearing:
    """The other process."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmark.hearing", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd="/")
        self.ready = threading.Event()
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.append(line)
            self.ready.set()
        self.ready.set()

    def result(self) -> dict[str, float]:
        """Wait until it has heard everything."""
        self.process.wait(120)
        self._reader.join()
        if self.process.returncode or len(self._said) != 2:
            sys.exit("peers: the hearing side failed")
        found: dict[str, float] = json.loads(self._said[1])
        return found


@contextmanager
def hearing(send: Callable[[bytes], object], *arguments: object) -> Iterator[Hearing]:
    """Run the other process, and send it values until it hears."""
    other = Hearing(*arguments)
    try:
        while not other.ready.wait(0.1):
            send(NOTHING)
        yield other
    finally:
        other.process.kill()
        other.process.wait(20)


def over_sockets(kind: str, count: int, rate: float) -> dict[str, float]:
    """Measure one hop: ``bare``, over ``ipc``, with the ``least`` of a memory topic, or behind calls: ``called``."""
    import zmq

    from benchmark.least import Producer, Publisher

    with home() as directory, zmq.Context() as context, context.socket(zmq.PUB) as socket:
        address = f"ipc://{directory}/pub" if kind == "ipc" else f"tcp://127.0.0.1:{free_port()}"
        socket.bind(address)
        send: Callable[[bytes], object] = socket.send
        if kind == "least":
            send = Publisher(socket).send
        elif kind == "called":
            send = partial(Producer(socket, "t").send, "t")
        with hearing(send, "bare" if kind == "ipc" else kind, address, "t", count) as other:
            for value in intended(rate, count):
                send(value)
            return other.result()


def over_peers(kind: Kind, count: int, rate: float) -> dict[str, float]:
    """Measure a topic of that durability, from one new peer to another one, with leaders of that kind."""
    import zfabric

    durability, leader, lanes = kind
    with home() as directory:
        mesh = f"zf+peer://bench-{os.getpid()}"
        settings = zfabric.LeaderSettings(lanes_max=lanes)
        with zfabric.connect(
            mesh, data=f"{directory}/a", beacon=False, leader=leader, timeout=60.0, settings=settings
        ) as fabric:
            fabric.topics.create("t", durability=durability)
            seed = fabric.members()[0].endpoint.removeprefix("tcp://")
            there = f"{mesh}?data={directory}/b&beacon=0&leader={leader}&seed={seed}"
            with fabric.producer() as producer:

                def send(value: bytes) -> None:
                    producer.send("t", value)

                with hearing(send, "peer", there, "t", count) as other:
                    time.sleep(1.0)  # The first records came by FETCH.
                    for value in intended(rate, count):
                        producer.send("t", value)
                    return other.result()


def measure(rate: float, seconds: float, runs: int, tell: Callable[[str], None]) -> list[Row]:
    """Measure ``seconds`` of ``rate`` records a second of each kind in each run, the kinds one after the other.

    And a fifth of that time at ``WARM_RATE``, topics in memory alone: seldom records find caches cold, which multiplies
    what all of them cost, the bare hop's own steps included.
    """
    return [
        *_measure(rate, seconds, runs, tell, DURABILITIES),
        *_measure(WARM_RATE, seconds / 5, runs, tell, ("memory",)),
    ]


def _measure(
    rate: float, seconds: float, runs: int, tell: Callable[[str], None], durabilities: Sequence[str]
) -> list[Row]:
    count = max(100, int(rate * seconds))
    kinds = [(durability, leader, LANES) for durability in durabilities for leader in ("process", "thread")]
    kinds += [("memory", leader, 0) for leader in ("process", "thread")]
    bare: list[dict[str, float]] = []
    plain: dict[str, list[dict[str, float]]] = {kind: [] for kind in PLAIN}
    found: dict[Kind, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(runs):
        tell(f"peers at {rate:,.0f} records a second, run {number + 1} of {runs}")
        bare.append(over_sockets("bare", count, rate))
        for name, results in plain.items():
            results.append(over_sockets(name, count, rate))
        for kind, results in found.items():
            results.append(over_peers(kind, count, rate))
    group = f"{GROUP}, {rate:,.0f} records a second"
    rows = []
    for (durability, leader, lanes), results in found.items():
        name = f"{durability} topic, leader a {leader}{'' if lanes else ', no lane'}"
        for quantile in ("p50", "p99"):
            goal = (AT_MOST, GOAL) if (durability, leader, lanes, quantile) == GOAL_OF else None
            ours, floor = ([result[quantile] for result in some] for some in (results, bare))
            rows.append(compared(group, f"{name}: {quantile}", ours, floor, "us", goal))
    for kind, name in PLAIN.items():
        for quantile in ("p50", "p99"):
            ours, floor = ([result[quantile] for result in some] for some in (plain[kind], bare))
            rows.append(compared(group, f"{name}: {quantile}", ours, floor, "us", None))
    return rows
