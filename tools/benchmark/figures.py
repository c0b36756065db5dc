"""Figures that are not speed: memory, idle time, start-up, many topics, large logs, bytes written."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat

from benchmark import running
from benchmark.report import AT_MOST, Row

TELL = Callable[[str], None]


def start_up(runs: int, tell: TELL) -> list[Row]:
    """Measure how long it takes until something can be used."""
    tell("start-up")
    group = "start-up"
    rows = []
    _temporary()  # Whatever is not compiled yet is now.
    for name, code, goal in (
        ("import zfabric", "import zfabric", 80.0),
        ("import zfabric and use connect", "import zfabric; zfabric.connect", None),
    ):
        program = f"from time import perf_counter as t; a = t(); {code}; print((t() - a) * 1e3)"
        times = [_printed(program) for _ in range(runs)]
        rows.append(Row(group, name, statistics.median(times), "ms", goal=(AT_MOST, goal) if goal else None))
    times = running.quick([running.BIN / "zfabric", "--help"], runs=runs)
    rows.append(Row(group, "zfabric --help", statistics.median(times), "ms", goal=(AT_MOST, 150.0)))
    serving, acked, temporary = [], [], []
    for _ in range(runs):
        with running.home() as home, running.node(f"{home}/data") as node:
            serving.append(node.ready_s * 1e3)
        with running.home() as home:
            acked.append(_first_ack(f"zf+file:{home}/data"))
        temporary.append(_temporary())
    rows.append(Row(group, "zfabric serve ready", statistics.median(serving), "ms", goal=(AT_MOST, 400.0)))
    rows.append(Row(group, "embedded: connect to first ack", statistics.median(acked), "ms"))
    rows.append(Row(group, "temporary fabric ready", statistics.median(temporary), "ms", goal=(AT_MOST, 300.0)))
    return rows


def _printed(program: str) -> float:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=running.environment(), cwd="/"
    )
    return float(done.stdout)


def _first_ack(url: str) -> float:
    import zfabric

    began = time.perf_counter()
    with zfabric.connect(url) as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer:
            producer.send("t", b"first").result(10.0)
            return (time.perf_counter() - began) * 1e3


def _temporary() -> float:
    from zfabric.testing import temporary_fabric

    began = time.perf_counter()
    with temporary_fabric() as fabric:
        assert fabric.status()
        return (time.perf_counter() - began) * 1e3


def idle(seconds: float, tell: TELL) -> list[Row]:
    """Measure a leader that nobody uses, and one that has an idle consumer and an idle producer."""
    import zfabric

    tell("idle leader")
    group = "idle leader process"
    rows = []
    with running.home() as home, running.node(f"{home}/data") as node:
        time.sleep(min(1.0, seconds))
        rows.append(Row(group, "CPU, no client", _cpu_percent(node.leader, seconds), "%", goal=(AT_MOST, 0.5)))
        rss, anonymous = running.memory_mb(node.leader)
        rows.append(Row(group, "RSS", rss, "MB", goal=(AT_MOST, 28.0)))
        rows.append(Row(group, "RssAnon", anonymous, "MB"))
        with zfabric.connect(node.url) as fabric:
            fabric.topics.create("t")
            with fabric.producer() as producer, fabric.consumer("t") as consumer:
                producer.send("t", b"one").result(5.0)
                assert consumer.poll(timeout=5.0)
                time.sleep(min(1.0, seconds))
                percent = _cpu_percent(node.leader, seconds)
                rows.append(Row(group, "CPU, idle producer and consumer", percent, "%", goal=(AT_MOST, 0.5)))
        rows.append(Row(group, "supervisor RSS", running.memory_mb(node.process.pid)[0], "MB"))
    return rows


def _cpu_percent(pid: int, seconds: float) -> float:
    before, began = running.cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    return 100 * (running.cpu_s(pid) - before) / (time.perf_counter() - began)


def many_topics(topics: int, tell: TELL) -> list[Row]:
    """Create topics, produce to each, and start again after a crash."""
    import zfabric

    tell(f"{topics:,} topics")
    group = f"{topics:,} topics on one node"
    names = [f"topic-{number}" for number in range(topics)]
    with running.home() as home:
        with running.node(f"{home}/data") as node:
            with zfabric.connect(node.url) as fabric:
                began = time.perf_counter()
                for name in names:
                    fabric.topics.create(name)
                creating = time.perf_counter() - began
                with fabric.producer() as producer:
                    began = time.perf_counter()
                    for name in names:
                        producer.send(name, b"." * 100)
                    producer.flush(60.0)
                    producing = time.perf_counter() - began
                assert len(fabric.topics.list()) == topics
            rss, anonymous = running.memory_mb(node.leader)
            node.kill()
        with running.node(f"{home}/data") as node, zfabric.connect(node.url) as fabric:
            ready_s = node.ready_s
            ends = [fabric.topics.describe(name).partitions[0].end_offset for name in (names[0], names[-1])]
            assert ends == [1, 1], ends
    return [
        Row(group, "create one", creating / topics * 1e3, "ms"),
        Row(group, "produce one record to each", producing, "s"),
        Row(group, "RSS", rss, "MB"),
        Row(group, "RssAnon", anonymous, "MB"),
        Row(group, "ready again after kill -9", ready_s * 1e3, "ms", goal=(AT_MOST, 1000.0)),
    ]


def large_log(megabytes: int, tell: TELL) -> list[Row]:
    """Write a large log, crash, and start again with the file out of the page cache."""
    import zfabric

    tell(f"a log of {megabytes:,} MB")
    group = f"log of {megabytes:,} MB"
    records = megabytes * 1000
    value = os.urandom(1000)
    with running.home() as home:
        with running.node(f"{home}/data") as node:
            with zfabric.connect(node.url) as fabric:
                fabric.topics.create("t")
                with fabric.producer() as producer:
                    began = time.perf_counter()
                    assert producer.send_many("t", repeat(value, records)) == records
                    producer.flush()
                    writing = megabytes / (time.perf_counter() - began)
            node.kill()
        running.evict(f"{home}/data/leader-0/data.mdb")
        with running.node(f"{home}/data") as node, zfabric.connect(node.url) as fabric:
            ready_s = node.ready_s
            began = time.perf_counter()
            with fabric.consumer("t", start=records - 1) as consumer:
                last = consumer.poll(timeout=10.0)
            assert [record.offset for record in last] == [records - 1]
            reading = (time.perf_counter() - began) * 1e3
    return [
        Row(group, "written, records of 1,000 bytes", writing, "MB/s"),
        Row(group, "ready again after kill -9, cold", ready_s * 1e3, "ms", goal=(AT_MOST, 1000.0)),
        Row(group, "then the last record", reading, "ms"),
    ]


def wear(seconds: float, commit_interval: float, tell: TELL) -> list[Row]:
    """Measure the bytes written for each lone record of 200 bytes at 200 a second, with and without commit_interval."""
    import zfabric

    rows = []
    for interval in (0.0, commit_interval):
        tell(f"bytes written, commit_interval {interval:g} s")
        with running.home() as home, running.node(f"{home}/data") as node, zfabric.connect(node.url) as fabric:
            fabric.topics.create("t", commit_interval=interval)
            with fabric.producer() as producer:
                producer.send("t", b"." * 200).result(5.0)
                before, count = running.written_bytes(node.leader), int(seconds * 200)
                for _ in range(count):
                    producer.send("t", b"." * 200)
                    time.sleep(0.005)
                producer.flush(10.0)
                written = running.written_bytes(node.leader) - before
            assert fabric.topics.describe("t").partitions[0].end_offset == count + 1
        name = f"commit_interval {interval:g} s"
        rows.append(Row("bytes written for a record of 200 bytes, 200/s", name, written / count, "bytes"))
    return rows


def measure(*, smoke: bool, big: bool, runs: int, tell: TELL) -> list[Row]:
    """Measure all of them."""
    rows = start_up(1 if smoke else max(runs, 5), tell)
    rows += idle(0.5 if smoke else 10.0, tell)
    rows += wear(*((0.3, 0.2) if smoke else (5.0, 1.0)), tell)
    rows += many_topics(20 if smoke else 1_000, tell)
    rows += large_log(10 if smoke else 1_000, tell)
    if big:
        rows += large_log(10_000, tell)
    return rows
