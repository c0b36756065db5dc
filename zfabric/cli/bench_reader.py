"""The consumer process of ``zfabric bench``: how old each record is when the application has it.

Arguments: URL, topic, count. Each value begins with its time, 8 bytes, big-endian; zero is not counted. It says
``ready`` once it reads live, and prints the ages in nanoseconds as one JSON list when it has ``count`` of them. Linux
gives all processes one monotonic clock. It ends early when standard input ends: whoever started it has gone.
"""

from __future__ import annotations

import json
import select
import sys
import time

from zfabric.sync.fabric import connect

STAMP_BYTES = 8


def main() -> None:
    """Read and measure."""
    url, topic, count = sys.argv[1:]
    ages: list[int] = []
    with connect(url, timeout=30.0) as fabric, fabric.consumer(topic, start="latest") as consumer:
        print("ready", flush=True)  # noqa: T201 - it is what the bench waits for
        while len(ages) < int(count):
            records = consumer.poll(timeout=0.5)
            now = time.monotonic_ns()
            stamps = [int.from_bytes((record.value or b"")[:STAMP_BYTES], "big") for record in records]
            ages += [now - stamp for stamp in stamps if stamp]
            if not records and select.select([0], [], [], 0)[0]:
                break
    print(json.dumps(ages))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
