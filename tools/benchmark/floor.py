"""The floor: a durable partition in bare pyzmq + lmdb + msgpack (msgspec's, the faster one), and none of our features.

A leader process group-commits with fsync, acknowledges and publishes; a consumer process decodes every batch to named
tuples; this process produces. Commands, each printing one JSON document:

- ``bulk HOME BATCHES RECORDS``: acknowledged records a second, with batches of RECORDS
- ``lone HOME SECONDS``: records a second, each acknowledged before the next
- ``paced HOME RATE COUNT waited|unwaited``: end-to-end latencies at a fixed rate
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

import lmdb
import msgspec
import zmq

from benchmark.pacing import age_ns, intended, percentiles
from zfabric.model import Record
from zfabric.wire.crc import crc32c

encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
HEAD = struct.Struct("<II")
WINDOW = 16
SETTLE_S = 0.3
"""A subscription needs a moment to reach the publisher, and nothing tells when it has."""


def lead(home: str) -> None:
    """Commit what waits, in one transaction, then acknowledge and publish."""
    env = lmdb.open(home, map_size=16 << 30)
    ctx = zmq.Context()
    router, pub = ctx.socket(zmq.ROUTER), ctx.socket(zmq.PUB)
    router.set_hwm(0)
    pub.set_hwm(0)
    router.bind(f"ipc://{home}/r")
    pub.bind(f"ipc://{home}/p")
    print("ready", flush=True)
    offset = 0
    while True:
        router.poll()
        turn: list[list[zmq.Frame]] = []
        try:
            while len(turn) < 64:
                turn.append(router.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.Again:
            pass
        if len(turn[-1][1].buffer) == 1:
            pub.send_multipart([b"t", b"", b""])
            router.close(linger=0)
            pub.close(linger=5_000)
            ctx.term()  # Returns once the subscriber has everything.
            return
        placed = []
        with env.begin(write=True, buffers=True) as txn:
            for who, header, payload in turn:
                count, crc = HEAD.unpack(header.buffer)
                assert crc32c(payload.buffer) == crc
                txn.put(struct.pack(">IQ", 7, offset), payload.buffer)
                placed.append((who, struct.pack("<Q", offset), payload))
                offset += count
        for who, base, payload in placed:
            router.send_multipart([who, base])
            pub.send_multipart([b"t", base, payload], copy=False)


def published(home: str) -> Iterator[list[Record]]:
    """Decode all that is published."""
    sub = zmq.Context().socket(zmq.SUB)
    sub.set_hwm(0)
    sub.connect(f"ipc://{home}/p")
    sub.subscribe(b"")
    print("ready", flush=True)
    while True:
        _, base, payload = sub.recv_multipart()
        if not base:
            return
        crc32c(payload)
        stamp, keys, values, headers = decode(payload)
        first = struct.unpack("<Q", base)[0]
        columns = zip(
            repeat("t"),
            repeat(0),
            range(first, first + len(values)),
            repeat(stamp),
            repeat(keys),
            values,
            repeat(headers),
        )
        yield list(map(tuple.__new__, repeat(Record), columns))


def consume(home: str) -> None:
    """Count what is published."""
    print(json.dumps(sum(map(len, published(home)))))


def follow(home: str) -> None:
    """Note how old each record is when it has arrived."""
    ages_ns = []
    for records in published(home):
        now_ns = time.monotonic_ns()
        ages_ns += [age_ns(record.value or b"", now_ns) for record in records]
    print(json.dumps(ages_ns))


class Floor:
    """The producer's socket, and what the consumer has to say in the end."""

    def __init__(self, home: str, consumer: subprocess.Popen[str]) -> None:
        self.socket = zmq.Context().socket(zmq.DEALER)
        self.socket.set_hwm(0)
        self.socket.connect(f"ipc://{home}/r")
        self._consumer = consumer

    def send(self, column: list[bytes]) -> None:
        """Send one batch."""
        payload = encode((0, None, column, None))
        self.socket.send_multipart([HEAD.pack(len(column), crc32c(payload)), payload], copy=False)

    def end(self) -> int | list[int]:
        """Let all end and return what the consumer printed."""
        self.socket.send_multipart([b"Q"])
        said: int | list[int] = json.loads(self._consumer.communicate(timeout=60)[0])
        return said


@contextmanager
def running(home: str, consumer: str) -> Iterator[Floor]:
    """Start a leader and a consumer (``consume`` or ``follow``), and end them in any case."""
    others = []
    try:
        for role in ("lead", consumer):
            command = [sys.executable, "-m", "benchmark.floor", role, home]
            others.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert others[-1].stdout is not None
            assert others[-1].stdout.readline() == "ready\n"
        time.sleep(SETTLE_S)
        yield Floor(home, others[1])
        others[0].wait(10)
    finally:
        for process in others:
            if process.poll() is None:
                process.kill()
                process.wait()


def bulk(home: str, batches: int, records: int) -> dict[str, float]:
    """Send all batches with a window."""
    with running(home, "consume") as floor:
        socket, send = floor.socket, floor.send
        values = [bytes([i % 256]) * 100 for i in range(records)]
        under_way, began = 0, time.perf_counter()
        for _ in range(batches):
            column: list[bytes] = []
            append = column.append
            for value in values:
                append(value)
            send(column)
            under_way += 1
            while under_way >= WINDOW:
                socket.recv()
                under_way -= 1
        while under_way:
            socket.recv()
            under_way -= 1
        seconds = time.perf_counter() - began
        consumed = floor.end()
    assert consumed == batches * records, (consumed, batches * records)
    return {"per_s": batches * records / seconds, "acked": batches * records, "consumed": consumed}


def lone(home: str, seconds: float) -> dict[str, float]:
    """Send one record at a time, each acknowledged before the next."""
    with running(home, "consume") as floor:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            floor.send([b"." * 100])
            floor.socket.recv()
            count += 1
        rate = count / (time.perf_counter() - began)
        consumed = floor.end()
    assert consumed == count, (consumed, count)
    return {"per_s": rate, "acked": count, "consumed": consumed}


def paced(home: str, rate: float, count: int, *, waited: bool) -> dict[str, float]:
    """Send at a fixed rate; wait for each acknowledgement, or take them while there is nothing to send."""
    acked = 0
    with running(home, "follow") as floor:
        socket = floor.socket

        def take_acks(due_ns: int) -> None:
            nonlocal acked
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                if left_ns < 1_000_000:
                    # zmq_poll counts in whole milliseconds.
                    time.sleep(left_ns / 1e9)
                elif socket.poll(left_ns // 1_000_000):
                    socket.recv()
                    acked += 1

        for value in intended(rate, count) if waited else intended(rate, count, take_acks):
            floor.send([value])
            if waited:
                socket.recv()
                acked += 1
        while acked < count:
            socket.recv()
            acked += 1
        ages_ns = floor.end()
    assert isinstance(ages_ns, list)
    assert len(ages_ns) == count, (len(ages_ns), count)
    return {"acked": acked, **percentiles(ages_ns)}


def main() -> None:
    """Do what the arguments say."""
    what, home, *rest = sys.argv[1:]
    match what:
        case "lead":
            lead(home)
        case "consume":
            consume(home)
        case "follow":
            follow(home)
        case "bulk":
            print(json.dumps(bulk(home, int(rest[0]), int(rest[1]))))
        case "lone":
            print(json.dumps(lone(home, float(rest[0]))))
        case "paced":
            print(json.dumps(paced(home, float(rest[0]), int(rest[1]), waited=rest[2] == "waited")))
        case _:
            sys.exit(f"no such command: {what}")


if __name__ == "__main__":
    main()
