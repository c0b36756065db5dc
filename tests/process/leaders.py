"""Leader processes under a test's own hand: on a fixed port, with a preloaded library, killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Self

import psutil

from zfabric.modes.options import LeaderOptions, encode
from zfabric.net import sockets
from zfabric.net.ports import Ports
from zfabric.settings import LeaderSettings

PATIENCE_S = 60.0

SERVE = """
import logging, sys
from zfabric.server.supervisor import Supervisor
logging.basicConfig(level="INFO")
sys.exit(Supervisor(sys.argv[1], sys.argv[2], leaders=2, announce=lambda *_: print("ready", flush=True)).run())
"""


STRIPE_PORTS = 500


@contextlib.contextmanager
def opened_ports(frame_max):
    """The sockets of a client, in a context of their own."""
    context = sockets.context()
    opened = Ports(context, frame_max)
    yield opened
    opened.close()
    context.destroy(linger=0)


def _stripe() -> tuple[socket.socket, int]:
    """Claim ports that no other process of tests on this machine is given, for as long as this one lives.

    Whether a port is free says nothing of whoever has found that at the same time and is to bind it in a moment.
    """
    stripes = list(range(12_000, 32_000, STRIPE_PORTS))
    random.shuffle(stripes)
    for first in stripes:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0zfabric-tests-{first}")
        except OSError:
            claim.close()
        else:
            return claim, first
    raise AssertionError("more than 40 processes of tests choose ports at once")


class _Ports:
    """The stripe of this process; each port is given once, until all have been."""

    claim: socket.socket | None = None
    first = 0
    given = 0


def free_ports(count: int) -> int:
    """Return the first of ``count`` ports in a row, below the ephemeral range, that can all be bound now."""
    if _Ports.claim is None:
        _Ports.claim, _Ports.first = _stripe()
    while True:
        begin = _Ports.given if _Ports.given + count <= STRIPE_PORTS else 0
        _Ports.given = begin + count
        first = _Ports.first + begin
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first


def free_port() -> int:
    """Return a port for a node: the seven after it can be bound as well."""
    return free_ports(8)


def compile_library(source: str, target: str) -> str:
    """Compile a C file to a library for ``LD_PRELOAD``; returns its path."""
    command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", target, source, "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    return target


class LeaderProcess:
    """The only leader of a node, without a supervisor.

    Args:
        data: the data directory. preload: libraries. environment: more variables.
        program: what to give to Python before the options; the leader itself by default.
        more: further options of the leader.

    Attributes:
        url: for clients; the same after a restart. endpoint: for other leaders.
    """

    def __init__(
        self,
        data: str,
        settings: LeaderSettings,
        *,
        preload: str = "",
        environment: dict[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "zfabric.server"),
        **more: object,
    ) -> None:
        port, publish = free_port(), free_port()
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.url = f"zf://127.0.0.1:{port}"
        self._options = LeaderOptions(
            data=data,
            listen=f"tcp://127.0.0.1:{port}",
            publish=f"tcp://127.0.0.1:{publish}",
            advertise=f"tcp://127.0.0.1:{port}",
            advertise_publish=f"tcp://127.0.0.1:{publish}",
            settings=settings,
            **more,
        )
        self._environment = {**os.environ, **(environment or {}), **({"LD_PRELOAD": preload} if preload else {})}
        self._program = program
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, *self._program, encode(self._options)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self._environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        process.stdout.close()
        assert line, f"the leader ended with status {process.wait()}"
        assert json.loads(line).get("ready"), line
        return process

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def again(self, **environment: str) -> None:
        """Start another on the same port, with these variables changed."""
        self._environment.update(environment)
        self.process = self._start()

    def stop(self) -> int:
        """Let it drain; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Node:
    """A supervisor with two leaders, on a port that it keeps.

    Args:
        data: the data directory. environment: more variables. log: where its log goes; nowhere by default.
    """

    def __init__(self, data: str, environment: dict[str, str] | None = None, log: str = os.devnull) -> None:
        self._command = [sys.executable, "-c", SERVE, data, f"127.0.0.1:{free_port()}"]
        self._environment = {**os.environ, **(environment or {})}
        self._log = log
        self.url = f"zf://{self._command[-1]}"
        self.start()

    def start(self) -> None:
        """Start it; what the one before left is still ending, so that may take several attempts."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with open(self._log, "ab") as log:
                self.supervisor = subprocess.Popen(
                    self._command, stdout=subprocess.PIPE, stderr=log, env=self._environment
                )
            assert self.supervisor.stdout is not None
            ready = self.supervisor.stdout.readline()
            self.supervisor.stdout.close()
            if ready:
                return
            self.supervisor.wait()
        raise AssertionError("no node came up")

    def leaders(self) -> list[psutil.Process]:
        """Return the leader processes that run now."""
        return psutil.Process(self.supervisor.pid).children()

    def kill(self, *, leaders: bool) -> None:
        """Kill the supervisor, and the leaders at once with it or not."""
        doomed = [self.supervisor.pid, *((child.pid for child in self.leaders()) if leaders else ())]
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        self.supervisor.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.send_signal(signal.SIGTERM)
        self.supervisor.wait()
