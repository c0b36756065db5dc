"""A leader that hangs before it serves is killed by its supervisor, and another one started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, free_port

SERVE = """
import sys
from zfabric.server import supervisor
supervisor.START_S = 3.0
node = supervisor.Supervisor(sys.argv[1], sys.argv[2], leaders=1, announce=lambda *_: print("ready", flush=True))
sys.exit(node.run())
"""


def leaders_of(node, known):
    """Return the pids of leaders that were not known before; waits for one.

    A child that has not begun to be a leader is none: whoever stops it then stops the supervisor that waits for that.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        children = [child for child in psutil.Process(node.pid).children() if child.pid not in known]
        with contextlib.suppress(psutil.NoSuchProcess):
            found = [child.pid for child in children if "zfabric.server" in child.cmdline()]
            if found:
                return found
        time.sleep(0.001)
    return []


@pytest.mark.timeout(120)
def test_a_leader_that_hangs_at_its_start_is_replaced(tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    node = subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path / "data"), listen], stdout=subprocess.PIPE)
    try:
        assert node.stdout.readline() == b"ready\n"
        (first,) = leaders_of(node, set())
        with zfabric.connect(f"zf://{listen}", timeout=PATIENCE_S) as fabric:
            fabric.topics.create("t")
            os.kill(first, signal.SIGKILL)
            (second,) = leaders_of(node, {first})
            os.kill(second, signal.SIGSTOP)
            with fabric.producer() as producer:
                assert producer.send("t", b"v").result(timeout=PATIENCE_S).offset == 0
            assert fabric.status()[0].pid not in (first, second)
    finally:
        node.terminate()
        assert node.wait(30) == 0
        node.stdout.close()
