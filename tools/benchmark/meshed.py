"""Leader processes on this machine that are members of one mesh, or dial its keepers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmark.running import PORT_FIRST, PORT_LAST, cpu_s, environment
from zfabric.modes.options import LeaderOptions, MeshOptions, encode


class Meshed:
    """One leader process.

    Args:
        port: where it listens; it publishes at the next one. seeds: of the mesh; the first member has none.
        keep: topics of which it keeps copies. offer_to: keepers that it dials; then it is no member of the mesh.
    """

    def __init__(
        self, directory: str, port: int, *, seeds: list[str], keep: tuple[str, ...] = (), offer_to: tuple[str, ...] = ()
    ) -> None:
        self.url = f"zf://127.0.0.1:{port}"
        self.endpoint, publish = (f"tcp://127.0.0.1:{number}" for number in (port, port + 1))
        mesh = MeshOptions(name="bench", endpoint=self.endpoint, publish=publish, seeds=seeds)
        options = LeaderOptions(
            data=f"{directory}/{port}", listen=self.endpoint, publish=publish, advertise=self.endpoint,
            advertise_publish=publish, supervised=True, mesh=None if offer_to else mesh, keep=keep, offer_to=offer_to,
        )  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zfabric.server", encode(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment(), cwd="/",
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line or not json.loads(line).get("ready"):
            sys.exit(f"a leader did not become ready: {line!r}")

    def end(self) -> None:
        """Kill it and close its pipes."""
        self.process.kill()
        self.process.communicate()


def idling(processes: Sequence[Meshed], seconds: float) -> list[float]:
    """Return what each takes of a core while nobody asks anything of it, in percent."""
    used = [cpu_s(one.process.pid) for one in processes]
    time.sleep(seconds)
    return [100 * (cpu_s(one.process.pid) - before) / seconds for one, before in zip(processes, used, strict=True)]


def until(reached: Callable[[], bool], patience_s: float, otherwise: str) -> None:
    """Wait until something is so, or end with what there is to say if it never is."""
    deadline = time.monotonic() + patience_s
    while not reached():
        if time.monotonic() > deadline:
            sys.exit(otherwise)
        time.sleep(0.05)


def free_ports(count: int) -> int:
    """Return the first of ``count`` neighbouring ports that are free now."""
    free = 0
    for port in range(PORT_FIRST + os.getpid() % 5_000, PORT_LAST):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                free += 1
            except OSError:
                free = 0
        if free == count:
            return port - count + 1
    sys.exit("found no free ports")
