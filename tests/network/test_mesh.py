"""Two nodes on a real wire: they find each other by beacon, lose each other with it, and meet again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import zfabric
from tests.network.namespaces import Machine, require
from tests.process.leaders import PATIENCE_S, free_port
from tests.process.test_sdk import until
from zfabric.store import keyfile

SERVE = [sys.executable, "-m", "zfabric", "serve", "--leaders", "1", "--insecure"]


@pytest.fixture
def machine():
    require()
    with Machine() as made:
        yield made


@pytest.fixture
def nodes(machine, tmp_path):
    """URLs of a node on our end of the wire and of one on the machine's, of one mesh, with a key and without seeds."""
    keyfile.create_key(str(tmp_path / "key"))
    mesh = ["--mesh", f"m-{os.urandom(6).hex()}", "--mesh-key", str(tmp_path / "key")]
    port = free_port()
    here = [*SERVE, "--data", str(tmp_path / "here"), *mesh, "--listen", f"{machine.here}:{port}"]
    there = [*SERVE, "--data", str(tmp_path / "there"), *mesh, "--listen", f"0.0.0.0:{port}"]
    commands = [here, machine.command(*there, "--advertise", machine.there)]
    running = []
    try:
        for command in commands:
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            assert running[-1].stdout.readline()
        yield [f"zf://{host}:{port}" for host in (machine.here, machine.there)]
    finally:
        for node in running:
            node.terminate()
        for node in running:
            node.wait(PATIENCE_S)
            node.stdout.close()


def states(fabric):
    return sorted(member.state for member in fabric.members())


def test_a_cut_is_a_failure_to_both_sides_and_heals_by_itself(machine, nodes):
    with zfabric.connect(nodes[0], timeout=PATIENCE_S) as fabric:
        assert until(lambda: states(fabric) == ["alive", "alive"], PATIENCE_S)
        assert {member.endpoint for member in fabric.members()} == {url.replace("zf://", "tcp://") for url in nodes}
        machine.cut("INPUT", "OUTPUT")
        assert until(lambda: states(fabric) == ["alive", "failed"], PATIENCE_S)
        machine.heal()
        assert until(lambda: states(fabric) == ["alive", "alive"], PATIENCE_S)
    with zfabric.connect(nodes[1], timeout=PATIENCE_S) as fabric:
        assert until(lambda: states(fabric) == ["alive", "alive"], PATIENCE_S)
