"""Fabrics that nobody closes: Python collects them some time, and the program goes on."""

import subprocess
import sys
import textwrap

import psutil
import pytest

from tests.process.test_sdk import until

PATIENCE_S = 60.0
USES = {
    "embedded": "fabric = connect('zf+file:d'); await_(fabric.topics.create('t', if_absent=True))",
    "leader=thread": "fabric = connect('zf+file:d?leader=thread'); await_(fabric.topics.create('t', if_absent=True))",
    "nobody there": """
        fabric = connect('zf://127.0.0.1:9', timeout=0.2)
        with contextlib.suppress(zfabric.Unreachable):
            await_(fabric.topics.list())
        """,
}
PROGRAM = """
import asyncio, contextlib, faulthandler, gc, inspect, os, sys, threading
import zfabric, zfabric.aio

faulthandler.dump_traceback_later(50.0, exit=True)
aio = sys.argv[1] == "aio"
connect = zfabric.aio.connect if aio else zfabric.connect
loop = asyncio.new_event_loop()


def await_(result):
    return loop.run_until_complete(result) if inspect.isawaitable(result) else result


def use():
    {use}
    return fabric.status() if {leader} and not aio else None


found = use()
loop.close()
del loop
gc.collect()
while any(thread.name.startswith("zfabric-abandoned") for thread in threading.enumerate()):
    pass
print("went on", found[0].pid if found else 0, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("side", ["sync", "aio"])
@pytest.mark.parametrize("kind", USES)
def test_a_program_that_drops_a_fabric_goes_on_and_so_its_leader_ends(tmp_path, side, kind):
    leader = kind == "embedded"
    use = textwrap.indent(textwrap.dedent(USES[kind]), "    ").strip()
    program = PROGRAM.format(use=use, leader=leader)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, side],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            words = process.stdout.readline().split()
            assert words[:2] == ["went", "on"], process.stderr.read()
            pid = int(words[2])
            if pid and pid != process.pid:
                assert until(lambda: not psutil.pid_exists(pid), PATIENCE_S), "it is still taken for a client"
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_it_is_told_as_files_are_that_nobody_closes(tmp_path):
    program = "import gc, zfabric\nzfabric.connect('zf+file:d').topics.list()\ngc.collect()"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert "ResourceWarning: a fabric was not closed" in done.stderr


def test_a_forked_child_closes_nothing_of_its_parent(tmp_path):
    program = """
import gc, os, zfabric
fabric = zfabric.connect("zf+file:d")
fabric.topics.create("t")
child = os.fork()
if not child:
    del fabric
    gc.collect()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(len(fabric.topics.list()))
fabric.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
