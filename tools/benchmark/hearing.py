"""The hearing side of peer to peer: ``python -m benchmark.hearing KIND ADDRESS TOPIC COUNT``.

It prints "ready" when it hears, and then the percentiles of the ages of ``COUNT`` values, as JSON, in microseconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

from benchmark.pacing import age_ns, percentiles

PATIENCE_S = 60.0


def bare(address: str, topic: str, count: int) -> Iterator[bytes]:
    """Hear from a PUB, as plainly as pyzmq can."""
    import zmq

    socket = zmq.Context().socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(address)
    while True:
        yield socket.recv()


def least(address: str, topic: str, count: int) -> Iterator[bytes]:
    """Hear records with what a memory topic cannot do without."""
    import zmq

    from benchmark.least import heard

    socket = zmq.Context().socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(address)
    yield from heard(socket)


def called(address: str, topic: str, count: int) -> Iterator[bytes]:
    """The same behind the call of an application."""
    import zmq

    from benchmark.least import Consumer

    socket = zmq.Context().socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(address)
    consumer = Consumer(socket)
    while True:
        for record in consumer.poll(timeout=PATIENCE_S):
            yield record.value


def peer(address: str, topic: str, count: int) -> Iterator[bytes]:
    """Hear as a consumer at a peer of its own."""
    import zfabric

    with zfabric.connect(address, timeout=PATIENCE_S) as fabric:
        deadline = time.monotonic() + PATIENCE_S
        while topic not in fabric.topics.list() and time.monotonic() < deadline:
            time.sleep(0.1)
        with fabric.consumer(topic) as consumer:
            while True:
                for record in consumer.poll(timeout=PATIENCE_S):
                    yield record.value


def main() -> None:
    """Hear the first value, which only shows that there is a way, say so, then measure."""
    kind, address, topic, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    values = {"bare": bare, "least": least, "called": called, "peer": peer}[kind](address, topic, count)
    next(values)
    print("ready", flush=True)
    ages: list[int] = []
    for value in values:
        now_ns = time.monotonic_ns()
        if value.strip(b"."):  # Else another of those that looked for a way.
            ages.append(age_ns(value, now_ns))
            if len(ages) == count:
                break
    print(json.dumps(percentiles(ages)), flush=True)


if __name__ == "__main__":
    main()
