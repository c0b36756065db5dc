"""The same job with zfabric: arguments home, mode (many or one), records. Prints acknowledged records a second.

``tail`` as mode is the live consumer that it starts; ``read`` prints records a second from disk, as records and as
columns.
"""

from __future__ import annotations

import subprocess
import sys
import time

import zfabric

TOPIC = "t"


def tail(url: str, records: int) -> None:
    """Consume live until everything is there."""
    with zfabric.connect(url) as fabric, fabric.consumer(TOPIC) as consumer:
        print("ready", flush=True)
        seen = 0
        while seen < records:
            seen += len(consumer.poll(100_000, timeout=5.0))
    print(seen)


def produce(url: str, mode: str, records: int) -> None:
    """Send all records, with a live consumer, and print the rate."""
    with zfabric.connect(url) as fabric:
        fabric.topics.create(TOPIC)
        command = [sys.executable, __file__, url, "tail", str(records)]
        consumer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert consumer.stdout is not None
        consumer.stdout.readline()
        values = [bytes([i % 256]) * 100 for i in range(1000)]
        with fabric.producer() as producer:
            began = time.perf_counter()
            if mode == "many":
                producer.send_many(TOPIC, (value for _ in range(records // 1000) for value in values))
            else:
                send = producer.send
                for _ in range(records // 1000):
                    for value in values:
                        send(TOPIC, value)
            producer.flush()
            rate = records / (time.perf_counter() - began)
        assert int(consumer.communicate(timeout=120)[0]) == records
    print(rate)


def read(url: str, records: int) -> None:
    """Read everything from disk, as records and as columns."""
    rates = []
    with zfabric.connect(url) as fabric:
        for columns in (False, True):
            with fabric.consumer(TOPIC) as consumer:
                began, seen = time.perf_counter(), 0
                while seen < records:
                    if columns:
                        seen += sum(len(batch.values) for batch in consumer.poll_batches(timeout=5.0))
                    else:
                        seen += len(consumer.poll(100_000, timeout=5.0))
                rates.append(seen / (time.perf_counter() - began))
    print(*rates)


if __name__ == "__main__":
    url, mode, records = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if mode == "tail":
        tail(url, records)
    elif mode == "read":
        read(url, records)
    else:
        produce(url, mode, records)
