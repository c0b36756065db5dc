"""The floor's job with zfabric.

Commands, each printing one JSON document:

- ``bulk URL many|one RECORDS``: acknowledged records a second, by ``send_many`` or ``send``, with a live consumer
- ``read URL RECORDS``: records a second from disk, as records and as columns
- ``lone URL SECONDS``: records a second, each acknowledged before the next
- ``paced URL RATE COUNT waited|unwaited``: end-to-end latencies at a fixed rate

``--held`` makes ``bulk`` print the process ids and wait for a line before it begins, for whoever wants to attach.
``--plain`` leaves out what the floor leaves out as well or what costs the features: see ``benchmark.plain``.
``--cprofile FILE`` writes a profile of the producing loop.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from benchmark.pacing import age_ns, intended, percentiles

if TYPE_CHECKING:
    from zfabric import Fabric

TOPIC = "t"
COMMIT_S = 1.0
GRACE_MS = 200


def connect(url: str) -> Fabric:
    """Connect; a leader that is started for this soon ends after its last client."""
    import zfabric
    from zfabric.settings import LeaderSettings

    return zfabric.connect(url, settings=LeaderSettings(grace_ms=GRACE_MS))


def tail(url: str, records: int, *, plain: bool) -> None:
    """Consume live until all ``records`` are there, or (0) an empty one; with a group, commit once a second."""
    with connect(url) as fabric, fabric.consumer(TOPIC, group=None if plain else "bench") as consumer:
        print("ready", flush=True)
        seen, commit_at, ended = 0, time.monotonic() + COMMIT_S, False
        while not ended:
            taken = consumer.poll(100_000, timeout=5.0)
            seen += len(taken)
            ended = seen >= records if records else bool(taken) and not taken[-1].value
            if not plain and time.monotonic() >= commit_at:
                commit_at += COMMIT_S
                consumer.commit()
    print(json.dumps(seen))


def follow(url: str, records: int) -> None:
    """Note how old each record is when it has arrived; a live consumer."""
    ages_ns: list[int] = []
    with connect(url) as fabric, fabric.consumer(TOPIC) as consumer:
        print("ready", flush=True)
        while len(ages_ns) < records:
            taken = consumer.poll(500, timeout=5.0)
            now_ns = time.monotonic_ns()
            ages_ns += [age_ns(record.value or b"", now_ns) for record in taken]
    print(json.dumps(ages_ns))


@contextmanager
def consuming(role: str, url: str, records: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start a live consumer, and end it in any case."""
    command = [sys.executable, "-m", "benchmark.ours", role, url, str(records), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)  # It is live once its first fetch has reached the end.
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def bulk(url: str, mode: str, records: int, options: argparse.Namespace) -> dict[str, float]:
    """Send all records, with a live consumer."""
    from benchmark import plain

    extra = ["--plain"] if options.plain else []
    profile = cProfile.Profile() if options.cprofile else None
    with connect(url) as fabric:
        fabric.topics.create(TOPIC)
        with consuming("tail", url, records, *extra) as consumer, fabric.producer() as producer:
            if options.plain:
                plain.forget_identity(producer)
            if options.held:
                pids = {"producer": 0, "leader": fabric.status()[0].pid, "consumer": consumer.pid}
                print(json.dumps(pids), flush=True)
                sys.stdin.readline()
            values = [bytes([i % 256]) * 100 for i in range(1000)]
            with profile or nullcontext():
                began = time.perf_counter()
                if mode == "many":
                    producer.send_many(TOPIC, (value for _ in range(records // 1000) for value in values))
                else:
                    send = producer.send
                    for _ in range(records // 1000):
                        for value in values:
                            send(TOPIC, value)
                producer.flush()
                seconds = time.perf_counter() - began
            acked = fabric.topics.describe(TOPIC).partitions[0].end_offset
            consumed = json.loads(consumer.communicate(timeout=120)[0])
    if profile is not None:
        profile.dump_stats(options.cprofile)
    assert acked == records, (acked, records)
    assert consumed == records, (consumed, records)
    return {"per_s": records / seconds, "acked": acked, "consumed": consumed}


def read(url: str, records: int) -> dict[str, float]:
    """Read everything from disk, as records and as columns."""
    rates = {}
    with connect(url) as fabric:
        for name in ("records", "columns"):
            with fabric.consumer(TOPIC) as consumer:
                began, seen = time.perf_counter(), 0
                while seen < records:
                    if name == "columns":
                        seen += sum(len(batch.values) for batch in consumer.poll_batches(timeout=5.0))
                    else:
                        seen += len(consumer.poll(100_000, timeout=5.0))
                rates[name] = seen / (time.perf_counter() - began)
                assert seen == records, (seen, records)
    return rates


def lone(url: str, seconds: float) -> dict[str, float]:
    """Send one record at a time, each acknowledged before the next."""
    with connect(url) as fabric:
        fabric.topics.create(TOPIC)
        with consuming("tail", url, 0) as consumer, fabric.producer() as producer:
            producer.send(TOPIC, b".").result(5.0)
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                producer.send(TOPIC, b"." * 100).result()
                count += 1
            rate = count / (time.perf_counter() - began)
            producer.send(TOPIC, b"").result(5.0)
            acked = fabric.topics.describe(TOPIC).partitions[0].end_offset - 2
            consumed = json.loads(consumer.communicate(timeout=60)[0]) - 2
    assert acked == count, (acked, count)
    assert consumed == count, (consumed, count)
    return {"per_s": rate, "acked": acked, "consumed": consumed}


def paced(url: str, rate: float, count: int, *, waited: bool) -> dict[str, float]:
    """Send at a fixed rate; wait for each acknowledgement, or for all of them in the end."""
    with connect(url) as fabric:
        fabric.topics.create(TOPIC)
        with consuming("follow", url, count) as consumer, fabric.producer() as producer:
            for value in intended(rate, count):
                delivery = producer.send(TOPIC, value)
                if waited:
                    delivery.result()
            producer.flush()
            acked = fabric.topics.describe(TOPIC).partitions[0].end_offset
            ages_ns = json.loads(consumer.communicate(timeout=60)[0])
    assert acked == count, (acked, count)
    assert len(ages_ns) == count, (len(ages_ns), count)
    return {"acked": acked, **percentiles(ages_ns)}


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what")
    parser.add_argument("url")
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--held", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--cprofile", default="")
    options = parser.parse_args()
    url, rest = options.url, options.rest
    if options.plain:
        from benchmark import plain

        plain.strip()
    match options.what:
        case "tail":
            tail(url, int(rest[0]), plain=options.plain)
        case "follow":
            follow(url, int(rest[0]))
        case "bulk":
            print(json.dumps(bulk(url, rest[0], int(rest[1]), options)))
        case "read":
            print(json.dumps(read(url, int(rest[0]))))
        case "lone":
            print(json.dumps(lone(url, float(rest[0]))))
        case "paced":
            print(json.dumps(paced(url, float(rest[0]), int(rest[1]), waited=rest[2] == "waited")))
        case _:
            sys.exit(f"no such command: {options.what}")


if __name__ == "__main__":
    main()
