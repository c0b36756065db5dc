"""A machine of its own on a wire: a network namespace, a veth pair to this one, and faults in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, free_port

RESET = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")


def require() -> None:
    """Skip a test that cannot have a namespace with netfilter here, saying why."""
    if os.geteuid():
        pytest.skip("network namespaces want root")
    for tool in ("ip", "iptables"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool!r}")
    name = f"zf-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespaces: {made.stderr.strip()}")
    works = subprocess.run(["ip", "netns", "exec", name, "iptables", "-L", "-n"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], check=True)
    if works.returncode:
        pytest.skip(f"no netfilter: {works.stderr.strip()}")


class Machine:
    """A namespace whose only link leads here.

    Args:
        number: 0 to 250, tells machines of one test apart.

    Attributes:
        here: our address on the wire. there: the machine's.
    """

    def __init__(self, number: int = 0) -> None:
        self._name = f"zf-{os.getpid()}-{number}"
        self._wire = f"zf{os.getpid() % 1_000_000}v{number}"
        subnet = f"10.213.{os.getpid() % 250}.{number * 4 % 252}"
        base, last = subnet.rsplit(".", 1)
        self.here, self.there = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"

    def __enter__(self) -> Self:
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", self._wire, "type", "veth", "peer", "name", "wire", "netns", self._name)
            _ip("addr", "add", f"{self.here}/30", "dev", self._wire)
            _ip("link", "set", self._wire, "up")
            _ip("-n", self._name, "addr", "add", f"{self.there}/30", "dev", "wire")
            _ip("-n", self._name, "link", "set", "lo", "up")
            _ip("-n", self._name, "link", "set", "wire", "up")
        except BaseException:
            _ip("netns", "del", self._name)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _ip("link", "del", self._wire)  # At once: the namespace may linger, with what still ends in it.
        _ip("netns", "del", self._name)

    def command(self, *command: str) -> list[str]:
        """Return a command that runs on the machine."""
        return ["ip", "netns", "exec", self._name, *command]

    def naming(self, hosts: str, *command: str) -> list[str]:
        """Return a command that runs on the machine, with a file of ours as its ``/etc/hosts``."""
        return self.command("sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts, *command)

    def rule(self, chain: str, *rule: str) -> None:
        """Add a netfilter rule: ``INPUT`` for what arrives at the machine, ``OUTPUT`` for what it sends."""
        subprocess.run(self.command("iptables", "-A", chain, *rule), check=True)

    def cut(self, *chains: str) -> None:
        """Let nothing pass, in these directions (``INPUT``, ``OUTPUT``)."""
        for chain in chains:
            self.rule(chain, "-o" if chain == "OUTPUT" else "-i", "wire", "-j", "DROP")

    def lose(self, share: float) -> None:
        """Lose a share of the packets, both ways."""
        for chain in ("INPUT", "OUTPUT"):
            self.rule(chain, "-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP")

    def slow(self, rate: str) -> None:
        """Bound the bandwidth, both ways: ``10mbit``. As long as there is the wire; skips the test where it cannot."""
        limit = ("root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
        for command in (["tc", "qdisc", "add", "dev", self._wire], self.command("tc", "qdisc", "add", "dev", "wire")):
            done = subprocess.run([*command, *limit], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no bound of bandwidth: {done.stderr.strip()}")

    def reset(self) -> None:
        """Answer every packet of a connection with a reset."""
        self.rule("OUTPUT", *RESET)
        self.rule("INPUT", *RESET)

    def unplug(self) -> None:
        """Take the link down."""
        _ip("-n", self._name, "link", "set", "wire", "down")

    def move(self) -> None:
        """Give the machine another address, and this end of the wire one that leads there."""
        octets = self.there.split(".")
        octets[1] = "214"
        for host, where in ((self.here, ("dev", self._wire)), (self.there, ("dev", "wire"))):
            inside = ("-n", self._name) if host == self.there else ()
            _ip(*inside, "addr", "del", f"{host}/30", *where)
            moved = ".".join([*octets[:3], host.rpartition(".")[2]])
            _ip(*inside, "addr", "add", f"{moved}/30", *where)
        self.here = ".".join([*octets[:3], self.here.rpartition(".")[2]])
        self.there = ".".join(octets)

    def heal(self) -> None:
        """End all faults."""
        subprocess.run(self.command("iptables", "-F"), check=True)
        _ip("-n", self._name, "link", "set", "wire", "up")


@contextmanager
def serving(machine: Machine, directory: str, *options: str, host: str = "") -> Iterator[zfabric.Fabric]:
    """Yield the fabric of a node on our end of the wire, or at another address of ours."""
    listen = f"{host or machine.here}:{free_port()}"
    arguments = ["serve", "--insecure", "--data", directory, "--listen", listen, *options]
    node = subprocess.Popen([sys.executable, "-m", "zfabric", *arguments], stdout=subprocess.PIPE)
    assert node.stdout is not None
    try:
        assert node.stdout.readline()
        with zfabric.connect(f"zf://{listen}", timeout=PATIENCE_S) as fabric:
            yield fabric
    finally:
        node.terminate()
        node.wait(PATIENCE_S)
        node.stdout.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
