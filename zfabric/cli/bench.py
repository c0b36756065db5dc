"""``zfabric bench``: what a user's own fabric does, through the public SDK, on a temporary topic.

Throughput: the same records by ``send_many`` and by ``send``, each until all are acknowledged; then all of them read
back as records and as columns. Latency: a producer here keeps a fixed rate and a consumer process (``bench_reader.py``)
reads live; each record carries the time at which it was due, so a producer that falls behind counts as slow instead of
hiding it. The producer waits for each acknowledgement, though not beyond the next record's time. Percentiles are exact.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any

import click

from zfabric import errors
from zfabric.cli.options import Number, connect, console, counted, fabric_options, json_option

if TYPE_CHECKING:
    from zfabric.model import Durability
    from zfabric.sync.fabric import Fabric

STAMP_BYTES = 8
ROOM_BYTES = 1 << 10
"""What a record may take beyond its value."""
READER_S = 60.0
"""Longest wait for the consumer process to be ready, or to end after the last record was acknowledged."""
QUANTILES = {"p50_us": 0.5, "p99_us": 0.99, "p99_9_us": 0.999, "max_us": 1.0}


@click.command()
@click.option(
    "--records",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    metavar="RECORDS",
    help="How many are sent by each path.",
)
@click.option(
    "--size",
    type=click.IntRange(min=STAMP_BYTES),
    default=100,
    show_default=True,
    metavar="BYTES",
    help="Size of a record's value.",
)
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    metavar="PARTITIONS",
    help="Partitions of the topic.",
)
@click.option(
    "--durability",
    type=click.Choice(["fsync", "os", "memory"]),
    default="fsync",
    show_default=True,
    help="What an acknowledgement means.",
)
@click.option(
    "--rate",
    type=Number(min=0, max=1e6),
    default=1000.0,
    show_default=True,
    metavar="RECORDS/S",
    help="Load at which latency is measured; 0 leaves it out.",
)
@click.option(
    "--duration",
    type=Number(min=0.01, max=86_400),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long latency is measured.",
)
@fabric_options
@json_option
def command(  # noqa: PLR0917 - one parameter an option
    records: int,
    size: int,
    partitions: int,
    durability: Durability,
    rate: float,
    duration: float,
    url: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Measure a fabric: throughput in records and bytes per second, end-to-end latency in microseconds.

    It makes a topic of its own and deletes it at the end, also after Ctrl-C. The disk space that it took stays with
    the fabric, free for other records. Latency is from the time at which a record was due at the given rate until
    another process has it.
    """
    with connect(url, timeout, create=True) as fabric:
        topic = f"bench-{os.getpid()}-{os.urandom(4).hex()}"
        largest = max(1 << 20, size + ROOM_BYTES)
        fabric.topics.create(topic, partitions=partitions, durability=durability, record_bytes_max=largest)
        try:
            document: dict[str, Any] = {
                "url": fabric.url,
                "records": records,
                "size_bytes": size,
                "partitions": partitions,
                "durability": durability,
                "send_many": _send(fabric, topic, records, size, many=True),
                "send": _send(fabric, topic, records, size, many=False),
                "read_records": _read(fabric, topic, size, columns=False),
                "read_columns": _read(fabric, topic, size, columns=True),
                "latency": _latency(fabric, topic, rate, duration, size) if rate else None,
            }
        finally:
            fabric.topics.delete(topic)
    if as_json:
        click.echo(json.dumps(document))
    else:
        _show(document)


def rate_of(records: int, size: int, seconds: float) -> dict[str, float]:
    """Return a throughput as it is reported."""
    seconds = max(seconds, 1e-9)
    return {
        "records": records,
        "seconds": round(seconds, 6),
        "records_per_s": round(records / seconds, 1),
        "bytes_per_s": round(records * size / seconds, 1),
    }


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the smallest entry of a sorted list that at least the share ``q`` of all entries does not exceed."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def _step(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)


def _send(fabric: Fabric, topic: str, records: int, size: int, *, many: bool) -> dict[str, float]:
    """Send and wait for all acknowledgements."""
    _step(f"{'send_many' if many else 'send'}, {counted(records, 'record')} of {counted(size, 'byte')}")
    value = os.urandom(size)
    with fabric.producer() as producer:
        began = time.perf_counter()
        if many:
            producer.send_many(topic, repeat(value, records))
        else:
            for _ in range(records):
                producer.send(topic, value)
        producer.flush()
        return rate_of(records, size, time.perf_counter() - began)


def _read(fabric: Fabric, topic: str, size: int, *, columns: bool) -> dict[str, float]:
    """Read from the beginning to the end that the topic has now."""
    _step(f"read as {'columns' if columns else 'records'}")
    ends = {part.partition: part.end_offset for part in fabric.topics.describe(topic).partitions}
    count = 0
    began = time.perf_counter()
    with fabric.consumer(topic, start="earliest") as consumer:
        while any(position < ends[number] for number, position in consumer.position.items()):
            if columns:
                count += sum(len(batch.values) for batch in consumer.poll_batches(timeout=1.0))
            else:
                count += len(consumer.poll(10_000, timeout=1.0))
        return rate_of(count, size, time.perf_counter() - began)


def _latency(fabric: Fabric, topic: str, rate: float, duration: float, size: int) -> dict[str, Any]:
    """Send at a fixed rate, and return what the consumer process saw."""
    count = max(1, int(rate * duration))
    _step(f"latency, {counted(count, 'record')} at {rate:,.0f} a second")
    arguments = [fabric.url, topic, str(count)]
    # A session of its own: Ctrl-C comes to us alone, and we end it.
    with subprocess.Popen(
        [sys.executable, "-m", "zfabric.cli.bench_reader", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as reader:
        try:
            assert reader.stdout is not None
            if reader.stdout.readline() != b"ready\n":
                raise errors.Unreachable(url=fabric.url, seconds=READER_S, detail="the consumer process did not start")
            achieved = _pace(fabric, topic, rate, count, size)
            said, _ = reader.communicate(timeout=READER_S)
        except subprocess.TimeoutExpired as error:
            raise errors.RequestTimeout(what="the consumer process", seconds=READER_S) from error
        finally:
            if reader.poll() is None:
                reader.kill()
    delays = sorted(json.loads(said or b"[]"))
    if not delays:
        raise errors.Unreachable(url=fabric.url, seconds=READER_S, detail="the consumer process read nothing")
    found = {name: round(quantile(delays, q) / 1e3, 1) for name, q in QUANTILES.items()}
    return {"rate_per_s": rate, "achieved_per_s": achieved, "records": len(delays), **found}


def _pace(fabric: Fabric, topic: str, rate: float, count: int, size: int) -> float:
    """Send each record when it is due, or as soon after as possible; returns records per second."""
    filling = os.urandom(size - STAMP_BYTES)
    period_ns = 1e9 / rate
    with fabric.producer() as producer:
        producer.send(topic, bytes(STAMP_BYTES)).result()  # Connects; a stamp of zero is not counted.
        began = due_ns = time.monotonic_ns()
        for number in range(1, count + 1):
            left_ns = due_ns - time.monotonic_ns()
            if left_ns > 0:
                time.sleep(left_ns / 1e9)
            delivery = producer.send(topic, due_ns.to_bytes(STAMP_BYTES, "big") + filling)
            due_ns = began + int(number * period_ns)
            with suppress(errors.RequestTimeout):
                delivery.result(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        seconds = (time.monotonic_ns() - began) / 1e9
        producer.flush()
    return round(count / max(seconds, count / rate), 1)


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    out = console()
    out.print(
        f"{document['url']}: records of {counted(document['size_bytes'], 'byte')}, "
        f"{counted(document['partitions'], 'partition')}, durability {document['durability']}\n"
    )
    names = {
        "send_many": "send_many",
        "send": "send",
        "read_records": "read as records",
        "read_columns": "read as columns",
    }
    throughput = Table("", box=None, header_style="bold", pad_edge=False)
    for title in ("records/s", "MB/s"):
        throughput.add_column(title, justify="right", no_wrap=True)
    for name, title in names.items():
        entry = document[name]
        throughput.add_row(title, f"{entry['records_per_s']:,.0f}", f"{entry['bytes_per_s'] / 1e6:,.1f}")
    out.print(throughput)
    latency = document["latency"]
    if latency is None:
        return
    delays = Table("\nend to end", box=None, header_style="bold", pad_edge=False)
    for title in ("p50", "p99", "p99.9", "max"):
        delays.add_column(f"\n{title} µs", justify="right", no_wrap=True)
    delays.add_row(f"at {latency['achieved_per_s']:,.0f} records/s", *(f"{latency[name]:,.0f}" for name in QUANTILES))
    out.print(delays)
