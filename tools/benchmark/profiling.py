"""Where the time goes: py-spy on the processes of a bulk run where it is installed, else cProfile.

py-spy samples producer, leader and consumer from outside, 200 times a second, and slows them little; its files open
in https://www.speedscope.app. cProfile slows what it measures, so it only tells functions apart.
"""

from __future__ import annotations

import json
import os
import pstats
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress

from benchmark import leader, load, running

TOP = 14
RATE = 200


def _py_spy() -> str | None:
    found = running.BIN / "py-spy"
    return str(found) if found.exists() else shutil.which("py-spy")


def profile(records: int, directory: str) -> None:
    """Profile ``send_many`` and ``send``, print the top of each process, leave the files in ``directory``."""
    os.makedirs(directory, exist_ok=True)
    spy = _py_spy()
    print(f"profiles by {'py-spy' if spy else 'cProfile (pip install py-spy for better ones)'} in {directory}")
    for mode in ("many", "one"):
        name = {"many": "send_many", "one": "send"}[mode]
        with load.fabric() as url:
            if spy is None:
                _by_cprofile(url, mode, name, records, directory)
            else:
                _by_py_spy(spy, url, mode, name, records, directory)


def _by_py_spy(spy: str, url: str, mode: str, name: str, records: int, directory: str) -> None:
    command = [sys.executable, "-m", "benchmark.ours", "bulk", url, mode, str(records), "--held"]
    recorders: dict[str, subprocess.Popen[bytes]] = {}
    run = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=running.environment(), cwd="/"
    )
    try:
        assert run.stdin is not None
        assert run.stdout is not None
        pids = json.loads(run.stdout.readline()) | {"producer": run.pid}
        for role, pid in pids.items():
            path = os.path.join(directory, f"{name}-{role}.speedscope.json")
            record = [spy, "record", "--pid", str(pid), "--rate", str(RATE), "--format", "speedscope", "--output", path]
            recorders[role] = subprocess.Popen(record, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said = recorders[role].stdout
            assert said is not None
            while line := said.readline():  # It samples once it has said so.
                if b"Sampling" in line:
                    break
        run.stdin.write("go\n")
        run.stdin.flush()
        result = json.loads(run.stdout.readlines()[-1])
    finally:
        if run.poll() is None:
            run.kill()
        run.wait()
        for recorder in recorders.values():
            with suppress(ProcessLookupError):
                recorder.send_signal(signal.SIGINT)
            recorder.communicate()
    print(f"\n{name}: {result['per_s']:,.0f} records/s while sampled")
    for role in recorders:
        _show_speedscope(os.path.join(directory, f"{name}-{role}.speedscope.json"), role)


def _show_speedscope(path: str, role: str) -> None:
    """Print the lines in which a process was found most often; waiting is left out by py-spy."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    frames = document["shared"]["frames"]
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0.0
    for thread in document["profiles"]:
        for stack, weight in zip(thread["samples"], thread["weights"], strict=True):
            if not stack:
                continue
            total += weight
            leaf = frames[stack[-1]]
            own[f"{leaf['name']}  {_short(leaf['file'])}:{leaf.get('line', 0)}"] += weight
            for name in {f"{frames[at]['name']}  {_short(frames[at]['file'])}" for at in stack}:
                within[name] += weight
    print(f"\n  {role}: busy in {total:.2f} s of samples")
    _show_top("lines", own, total)
    _show_top("functions with all that they call", within, total)


def _show_top(title: str, counted: Counter[str], total: float) -> None:
    print(f"    {title}")
    for name, weight in counted.most_common(TOP):
        print(f"    {100 * weight / max(total, 1e-9):5.1f} %  {name}")


def _short(path: str) -> str:
    at = max(path.rfind("/zfabric/"), path.rfind("/site-packages/"), path.rfind("/benchmark/"))
    return path[at + 1 :] if at >= 0 else os.path.basename(path)


def _by_cprofile(url: str, mode: str, name: str, records: int, directory: str) -> None:
    files = {role: os.path.join(directory, f"{name}-{role}.prof") for role in ("leader", "producer")}
    leader.start(url.removeprefix("zf+file:"), "--cprofile", os.path.abspath(files["leader"]))
    result = running.said("ours", "bulk", url, mode, records, "--cprofile", os.path.abspath(files["producer"]))
    print(f"\n{name}: {result['per_s']:,.0f} records/s while profiled")
    for role, path in files.items():
        _await_file(path)
        print(f"\n  {role}")
        pstats.Stats(path).sort_stats("tottime").print_stats(TOP)


def _await_file(path: str) -> None:
    """The leader writes its profile once it has ended, two seconds after its last client."""
    import time

    for _ in range(100):
        if os.path.exists(path) and os.path.getsize(path):
            return
        time.sleep(0.1)
    sys.exit(f"no profile in {path}")
