"""Request/reply between two processes: ours against a bare DEALER and ROUTER in the same run, and against peers.

"Bare, with a header and a deadline" is what nobody can do without who has more than one request under way.

Peers are measured where they are installed (nats-py with a nats-server on the path, eclipse-zenoh); one that is not is
said to be missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from benchmark.report import AT_MOST, Row, compared
from benchmark.running import environment, free_port, home, said

GROUP = "request/reply, 100 bytes, two processes"


@contextmanager
def answering(kind: str, address: str) -> Iterator[None]:
    """Run the answering side."""
    command = [sys.executable, "-m", "benchmark.answering", kind, address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd="/")
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            sys.exit(f"{kind} does not answer")
        yield
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


@contextmanager
def address_of(kind: str, directory: str) -> Iterator[str]:
    """Yield where the two sides of a kind meet; what stands between them runs meanwhile."""
    if kind in ("sync", "aio"):
        yield f"zf+file:{directory}/{kind}"
    elif kind in ("bare", "least"):
        yield f"ipc://{directory}/{kind}"
    elif kind == "zenoh":
        yield f"tcp/127.0.0.1:{free_port()}"
    else:
        port = free_port()
        server = subprocess.Popen(
            ["nats-server", "-a", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(0.5)
        try:
            yield f"nats://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def peers(tell: Callable[[str], None]) -> list[str]:
    """Return the peers that are installed, and tell which are not."""
    there = {
        "nats": find_spec("nats") is not None and shutil.which("nats-server") is not None,
        "zenoh": find_spec("zenoh") is not None,
    }
    for name, found in there.items():
        if not found:
            tell(f"services: {name} is not installed, so it is missing below")
    return [name for name, found in there.items() if found]


def measure(count: int, runs: int, tell: Callable[[str], None]) -> list[Row]:
    """Measure ``count`` requests of each kind in each run, the kinds one after the other."""
    others = peers(tell)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in ("bare", "least", "sync", "aio", *others)}
    for number in range(runs):
        tell(f"services, run {number + 1} of {runs}")
        with home() as directory:
            for kind, results in found.items():
                with address_of(kind, directory) as address, answering(kind, address):
                    results.append(said("asking", kind, address, count))

    def column(kind: str, name: str) -> list[float]:
        return [result[name] for result in found[kind]]

    rows = []
    for kind, name in (("sync", "zfabric"), ("aio", "zfabric.aio"), ("least", "bare, with a header and a deadline")):
        for quantile in ("p50_us", "p99_us"):
            goal = (AT_MOST, 1.3) if (kind, quantile) == ("sync", "p50_us") else None
            ours, floor = column(kind, quantile), column("bare", quantile)
            rows.append(compared(GROUP, f"{name}: {quantile[:3]}", ours, floor, "us", goal))
    ours, floor = column("aio", "rate"), column("bare", "rate")
    rows.append(compared(GROUP, "zfabric.aio: 64 at once", ours, floor, "requests/s", None))
    for kind in others:
        for name, unit in (("p50_us", "us"), ("p99_us", "us"), ("rate", "requests/s")):
            if name in found[kind][0]:
                text = "64 at once" if name == "rate" else name[:3]
                rows.append(compared(GROUP, f"{kind}: {text}", column(kind, name), column("bare", name), unit, None))
    return rows
