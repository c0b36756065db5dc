"""Throughput and latency: zfabric and the floor in turn, in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmark import leader, running
from benchmark.report import AT_LEAST, AT_MOST, Row, compared

BATCH = 1000
RATE = 200.0
Samples = dict[str, list[float]]


@contextmanager
def fabric() -> Iterator[str]:
    """Yield the URL of a new embedded fabric."""
    with running.home() as home:
        yield f"zf+file:{home}/data"


def floor(*arguments: object) -> dict[str, float]:
    """Run the floor in a new directory."""
    what, *rest = arguments
    with running.home() as home:
        return running.said("floor", what, home, *rest)


def ours(*arguments: object) -> dict[str, float]:
    """Run our side on a new fabric."""
    what, *rest = arguments
    with fabric() as url:
        return running.said("ours", what, url, *rest)


def throughput(records: int, runs: int, tell: Callable[[str], None]) -> list[Row]:
    """Measure the bulk path, ``send``, and reading from disk."""
    found: Samples = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for run in range(runs):
        tell(f"throughput {run + 1}/{runs}")
        add("floor", floor("bulk", records // BATCH, BATCH)["per_s"])
        with fabric() as url:
            add("many", running.said("ours", "bulk", url, "many", records)["per_s"])
            reading = running.said("ours", "read", url, records)
        add("records", reading["records"])
        add("columns", reading["columns"])
        add("one", ours("bulk", "one", records)["per_s"])
    group, base = "throughput, 100 bytes, fsynced, one live consumer", found["floor"]
    return [
        compared(group, "send_many", found["many"], base, "records/s", (AT_LEAST, 0.6)),
        compared(group, "send, one call a record", found["one"], base, "records/s", (AT_LEAST, 0.2)),
        Row(group, "read from disk as records", statistics.median(found["records"]), "records/s"),
        Row(group, "read from disk as columns", statistics.median(found["columns"]), "records/s"),
    ]


def features(records: int, runs: int, tell: Callable[[str], None]) -> list[Row]:
    """Measure what checksums, idempotence and a group cost on the bulk path."""
    ratios, rates = [], []
    for run in range(runs):
        tell(f"cost of features {run + 1}/{runs}")
        with fabric() as url:
            leader.start(url.removeprefix("zf+file:"), "--plain")
            without = running.said("ours", "bulk", url, "many", records, "--plain")["per_s"]
        with fabric() as url:
            leader.start(url.removeprefix("zf+file:"))
            rates.append(running.said("ours", "bulk", url, "many", records)["per_s"])
        ratios.append(100 * (1 - rates[-1] / without))
    name = "CRC, idempotence and a group cost"
    return [Row("features", name, statistics.median(ratios), "%", goal=(AT_MOST, 10.0))]


def latency(rate: float, seconds: float, runs: int, tell: Callable[[str], None], *, smoke: bool) -> list[Row]:
    """Measure end-to-end latency of single records, at a fixed rate and at half of what one at a time reaches."""
    lone: dict[str, list[float]] = {"floor": [], "ours": []}
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in range(runs):
        tell(f"latency {run + 1}/{runs}")
        lone["floor"].append(floor("lone", seconds / 4)["per_s"])
        lone["ours"].append(ours("lone", seconds / 4)["per_s"])
        # Of the slower one, so that both have the same; of this run, since others use the machine as well.
        half = max(1.0, min(lone["floor"][-1], lone["ours"][-1]) / 2)
        loads = [(f"{rate:,.0f}/s", rate, "unwaited"), ("half load", half, "waited")]
        if not smoke:
            loads = [(name, per_s, how) for name, per_s, _ in loads for how in ("waited", "unwaited")]
        for name, per_s, how in loads:
            for who, measure in (("floor", floor), ("ours", ours)):
                values = measure("paced", per_s, max(1, int(per_s * seconds)), how)
                samples = found.setdefault((f"{name}, {how}", who), {})
                for quantile in ("p50", "p99", "p99.9"):
                    samples.setdefault(quantile, []).append(values[quantile])
    rows = [compared("one record at a time, fsynced", "closed loop", lone["ours"], lone["floor"], "records/s", None)]
    for name in dict.fromkeys(name for name, _ in found):
        mine, theirs = found[name, "ours"], found[name, "floor"]
        for quantile, measured in mine.items():
            goal = (AT_MOST, 1.25) if quantile == "p50" else None
            rows.append(compared(f"end to end, {name}", quantile, measured, theirs[quantile], "us", goal))
        if name.startswith("half") and not name.endswith("unwaited"):
            spread = statistics.median(b / a for a, b in zip(mine["p50"], mine["p99"], strict=True))
            spread_floor = statistics.median(b / a for a, b in zip(theirs["p50"], theirs["p99"], strict=True))
            rows.append(Row(f"end to end, {name}", "p99 / p50", spread, "", spread_floor, goal=(AT_MOST, 3.0)))
    return rows
