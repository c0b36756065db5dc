"""A leader that hangs before it serves is killed by its supervisor, and another one started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, free_port
from tests.process.test_sdk import until

SERVE = """
import sys
from zfabric.server import supervisor

def announce(*_):
    supervisor.START_S = 5.0  # From now on: nobody starts the first one again.
    print("ready", flush=True)

sys.exit(supervisor.Supervisor(sys.argv[1], sys.argv[2], leaders=1, announce=announce).run())
"""
HANGING = """
import os, signal

here = os.path.dirname(__file__)
try:
    os.rename(f"{here}/hang", f"{here}/taken")
except FileNotFoundError:
    pass
else:
    with open(f"{here}/new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{here}/new", f"{here}/hangs")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
"""What Python does before all else: the first process that finds a file ``hang`` stands still, and says who it is."""


@pytest.mark.timeout(120)
def test_a_leader_that_hangs_at_its_start_is_replaced(tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    node = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path / "data"), listen],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    try:
        assert node.stdout.readline() == b"ready\n"
        with zfabric.connect(f"zf://{listen}", timeout=PATIENCE_S) as fabric:
            fabric.topics.create("t")
            first = fabric.status()[0].pid
            (tmp_path / "hang").touch()
            os.kill(first, signal.SIGKILL)
            assert until((tmp_path / "hangs").exists, PATIENCE_S)
            second = int((tmp_path / "hangs").read_text())
            with fabric.producer() as producer:
                assert producer.send("t", b"v").result(timeout=PATIENCE_S).offset == 0
            assert fabric.status()[0].pid not in (first, second)
    finally:
        node.terminate()
        assert node.wait(PATIENCE_S) == 0
        node.stdout.close()
