"""Members of a mesh as real leader processes on this machine: how soon they know each other, and what idling costs.

They are started two at a time with the first as their seed, as after a power cut: half of them, then all. Each time
one more is started when the others know each other, and the time counts from its readiness until all others show it to
clients, which are there before; that includes asking them, one after the other. Memory and processor time are those of
processes without clients.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmark.meshed import Meshed, free_ports, idling, until
from benchmark.report import AT_MOST, Row
from benchmark.running import home, memory_mb
from zfabric import connect

TELL = Callable[[str], None]
PATIENCE_S = 120.0


class _Member(Meshed):
    """A member of the mesh."""

    def living(self) -> int:
        """Return how many members it shows as alive."""
        with connect(self.url, timeout=PATIENCE_S) as fabric:
            return sum(member.state == "alive" for member in fabric.members())


def measure(count: int, seconds: float, tell: TELL) -> list[Row]:
    """Measure a mesh of ``count`` real members."""
    group = f"gossip, {count} processes on this machine"
    tell(f"gossip: {count} leader processes")
    members: list[_Member] = []
    with home() as directory:
        try:
            return _measure(group, members, directory, count, seconds)
        finally:
            for member in members:
                member.end()


def _measure(group: str, members: list[_Member], directory: str, count: int, seconds: float) -> list[Row]:
    ports = free_ports(2 * count)
    seeds = [f"tcp://127.0.0.1:{ports}"]

    def start(number: int) -> None:
        members.append(_Member(directory, ports + 2 * number, seeds=seeds if number else []))

    def fill(wanted: int) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(start, range(len(members), wanted - 1)))

    half = max(2, count // 2)
    start(0)
    fill(half)
    _until_all_know(members, half - 1)
    early = _join(members, lambda: start(half - 1))
    began = time.monotonic()
    fill(count)
    started = time.monotonic()
    _until_all_know(members, count - 1)
    agreed = time.monotonic()
    late = _join(members, lambda: start(count - 1))
    time.sleep(min(15.0, seconds))  # Until its news have been passed on, and the links of the clients are gone.
    spent = idling(members, seconds)
    held = [memory_mb(member.process.pid)[0] for member in members]
    return [
        Row(group, f"of {half}, the last is seen by all", early, "s", goal=(AT_MOST, 1.0)),
        Row(group, "start of the others, two at a time", started - began, "s"),
        Row(group, "then all know all", agreed - started, "s"),
        Row(group, "one more is seen by all", late, "s", goal=(AT_MOST, 3.0)),
        Row(group, "resident memory, largest", max(held), "MB", goal=(AT_MOST, 30.0)),
        Row(group, "idle: processor, mean", statistics.fmean(spent), "% of a core", goal=(AT_MOST, 1.0)),
        Row(group, "idle: processor, largest", max(spent), "% of a core"),
    ]


def _join(members: list[_Member], start: Callable[[], None]) -> float:
    """Start one more, and return after how many seconds all others show it."""
    with ExitStack() as stack:
        fabrics = [stack.enter_context(connect(member.url, timeout=PATIENCE_S)) for member in members]
        for fabric in fabrics:
            fabric.members()
        start()
        ready = time.monotonic()
        for fabric in fabrics:
            while sum(member.state == "alive" for member in fabric.members()) != len(members):
                if time.monotonic() > ready + PATIENCE_S:
                    sys.exit("one more is not seen by all")
                time.sleep(0.005)
        return time.monotonic() - ready


def _until_all_know(members: list[_Member], count: int) -> None:
    for member in members:
        until(lambda known=member.living: known() == count, PATIENCE_S, f"{member.url} does not know all {count}")
