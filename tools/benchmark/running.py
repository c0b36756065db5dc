"""How the bench starts its processes, and ends them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parents[1]
BIN = TOOLS.parent / ".venv" / "bin"
PORT_FIRST, PORT_LAST = 21_000, 32_000


def environment() -> dict[str, str]:
    """Return the environment of the bench's processes: ours, with tools/ to import from and no fabric of the user's."""
    paths = [str(TOOLS), os.environ.get("PYTHONPATH", "")]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ZFABRIC_")}
    return ours | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def said(module: str, *arguments: object, timeout: float = 600.0) -> dict[str, float]:
    """Run ``benchmark.MODULE`` and return the JSON document that it prints."""
    command = [sys.executable, "-m", f"benchmark.{module}", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=environment(), cwd="/"
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[2:])} failed:\n{done.stderr}")
    document: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return document


@contextmanager
def home() -> Iterator[str]:
    """Yield a new directory, and remove it once nobody writes there any more."""
    path = tempfile.mkdtemp(prefix="bench-")
    try:
        yield path
    finally:
        for _ in range(50):
            shutil.rmtree(path, ignore_errors=True)
            if not os.path.exists(path):
                break
            time.sleep(0.1)


def free_port() -> int:
    """Return the first of three neighbouring ports that are free now, outside the ephemeral range."""
    import socket

    for port in range(PORT_FIRST + os.getpid() % 10_000, PORT_LAST):
        try:
            for number in range(port, port + 3):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port
    sys.exit("found no free port")


class Node:
    """A ``zfabric serve`` with one leader."""

    def __init__(self, directory: str, port: int) -> None:
        self.url = f"zf://127.0.0.1:{port}"
        began = time.perf_counter()
        command = [
            str(BIN / "zfabric"),
            "serve",
            "--data",
            directory,
            "--listen",
            f"127.0.0.1:{port}",
            "--leaders",
            "1",
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready_s = time.perf_counter() - began
        if "ready" not in line:
            sys.exit(f"zfabric serve did not become ready: {line!r}")
        self.leader = children(self.process.pid)[0]

    def kill(self) -> None:
        """Kill leader and supervisor, as a crash would."""
        self.process.kill()
        os.kill(self.leader, signal.SIGKILL)
        self._gone()

    def stop(self) -> None:
        """Stop it as an administrator would."""
        self.process.terminate()
        self._gone()

    def _gone(self) -> None:
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def node(directory: str) -> Iterator[Node]:
    """Run a node."""
    running = Node(directory, free_port())
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory_mb(pid: int) -> tuple[float, float]:
    """Return (RSS, its anonymous part) in MB of 2**20 bytes."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(rows["VmRSS"].split()[0]) / 1024, int(rows["RssAnon"].split()[0]) / 1024


def cpu_s(pid: int) -> float:
    """Return the seconds that all threads of a process have run, to the nanosecond."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def written_bytes(pid: int) -> int:
    """Return the bytes that a process sent to storage."""
    rows = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(rows["write_bytes"])


def evict(path: str) -> None:
    """Let the page cache forget a file (once it is on the disk), so that the next reader finds it cold."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def quick(call: list[Any], *, runs: int) -> list[float]:
    """Return how long a command took, in ms, each time."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL, env=environment(), cwd="/")
        times.append((time.perf_counter() - began) * 1e3)
    return times
