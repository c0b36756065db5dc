"""``zfabric demo``: the main job on real files, with a crash in the middle and a proof at the end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zfabric.cli.options import console, counted, json_option

TOPIC = "lines"
PARTITIONS = 4
WORKERS = 2
WORDS_SHOWN = 10


def files_of(paths: tuple[str, ...]) -> list[Path]:
    """Return the files below ``paths``; of the standard library if there are none."""
    if not paths:
        root = Path(sysconfig.get_paths()["stdlib"])
        return sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return found


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, without their ends."""
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\r\n")


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True))
@click.option("--no-kill", is_flag=True, help="Leave the leader process alive.")
@json_option
def command(paths: tuple[str, ...], no_kill: bool, as_json: bool) -> None:
    """Stream every line of PATHS (default: Python's standard library) through a topic, and verify.

    Two consumer processes count words live; half-way the leader is killed with -9. Ends with status 1 if a line is
    missing, repeated or out of order, or if there is none.
    """
    files = files_of(paths)
    total = sum(1 for path in files for _ in lines_of(path))
    click.echo(f"{counted(total, 'line')} of {counted(len(files), 'file')}", err=True)
    if not total:
        click.echo("error: there is nothing to stream and to verify; name files that have lines", err=True)
        raise click.exceptions.Exit(1)
    with tempfile.TemporaryDirectory(prefix="zfabric-demo-", ignore_cleanup_errors=True) as directory:
        found = _run(files, total, f"zf+file:{directory}/data", Path(directory), kill=not no_kill)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)
    if not found["verified"]:
        raise click.exceptions.Exit(1)


def _run(files: list[Path], total: int, url: str, directory: Path, *, kill: bool) -> dict[str, Any]:
    """Stream, count and verify; returns what ``--json`` prints."""
    from zfabric.settings import LeaderSettings
    from zfabric.sync.fabric import connect

    with connect(url, timeout=30.0, settings=LeaderSettings(grace_ms=200)) as fabric:
        fabric.topics.create(TOPIC, partitions=PARTITIONS)
        results = [directory / f"worker-{number}.json" for number in range(WORKERS)]
        workers = []
        for number, result in enumerate(results):
            mine = [str(p) for p in range(PARTITIONS) if p % WORKERS == number]
            command = [sys.executable, "-m", "zfabric.cli.demo_worker", url, TOPIC, str(result), *mine]
            # A session of its own: Ctrl-C comes to us alone, and we end it.
            workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
        try:
            found = _stream(fabric, files, total, kill=kill)
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.close()
            statuses = [worker.wait(timeout=300) for worker in workers]
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()
    if any(statuses):
        click.echo(f"consumers ended with {statuses}", err=True)
        return {**found, "words": {}, "wrong_files": [], "verified": False}
    return {**found, **_verify(files, [json.loads(path.read_text()) for path in results])}


def _stream(fabric: object, files: list[Path], total: int, *, kill: bool) -> dict[str, Any]:
    """Send all lines, keyed by their file; kill the leader half-way. Returns counts, rate and latency."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from zfabric.sync.fabric import Fabric

    assert isinstance(fabric, Fabric)
    sent, began, latencies = 0, time.perf_counter(), []
    killed: int | None = None
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, console=console(stderr=True)) as progress, fabric.producer() as producer:
        task = progress.add_task("lines", total=total, rate="")
        for path in files:
            key = str(path).encode()
            delivery = None
            for line in lines_of(path):
                delivery = producer.send(TOPIC, line, key=key)
                sent += 1
                if kill and sent > total // 2:
                    kill = False
                    killed = fabric.status()[0].pid
                    os.kill(killed, signal.SIGKILL)
                    progress.console.print(f"killed leader process {killed} with -9 after {sent:,} lines")
            if delivery is not None and sent % 50 == 0:
                asked = time.perf_counter()
                delivery.result(timeout=60)
                latencies.append(time.perf_counter() - asked)
            progress.update(task, completed=sent, rate=f"{sent / (time.perf_counter() - began):,.0f} lines/s")
        producer.flush(timeout=120)
    seconds = time.perf_counter() - began
    click.echo(f"{counted(sent, 'line')} acknowledged in {seconds:.1f} s: {sent / seconds:,.0f} lines/s", err=True)
    found: dict[str, Any] = {
        "files": len(files),
        "lines": sent,
        "seconds": round(seconds, 3),
        "lines_per_s": round(sent / seconds, 1),
        "killed_pid": killed,
    }
    if latencies:
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
        click.echo(f"wait for an acknowledgement: p50 {p50:.1f} ms, p99 {p99:.1f} ms", err=True)
        found.update(ack_p50_ms=round(p50, 3), ack_p99_ms=round(p99, 3))
    return found


def _verify(files: list[Path], results: list[dict[str, dict[str, object]]]) -> dict[str, Any]:
    """Compare what the consumers saw with the files themselves."""
    words: Counter[str] = Counter()
    seen: dict[str, object] = {}
    for result in results:
        words.update(result["words"])
        seen.update(result["files"])
    wrong = []
    for path in files:
        digest, count = hashlib.blake2b(), 0
        for line in lines_of(path):
            digest.update(line + b"\n")
            count += 1
        if count and seen.get(str(path)) != [count, digest.hexdigest()]:
            wrong.append(str(path))
    return {"words": dict(words.most_common(WORDS_SHOWN)), "wrong_files": wrong, "verified": not wrong}


def _show(found: dict[str, Any]) -> None:
    for word, count in found["words"].items():
        click.echo(f"{count:>9,}  {word}")
    if found["verified"]:
        lines = "the only line" if found["lines"] == 1 else f"every one of {found['lines']:,} lines"
        click.echo(f"verified: {lines} exactly once, in order per file")
    elif found["wrong_files"]:
        click.echo(
            f"WRONG: {counted(len(found['wrong_files']), 'file')} not as read, the first is {found['wrong_files'][0]}"
        )
