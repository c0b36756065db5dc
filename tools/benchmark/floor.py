"""The floor: a durable partition in bare pyzmq + lmdb + msgspec, with none of the features.

Arguments: home, batches, records a batch. A leader process group-commits with fsync, acknowledges and publishes; a
consumer process decodes every batch to named tuples. Prints acknowledged records a second.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from itertools import repeat

import lmdb
import msgspec
import zmq

from zfabric.model import Record
from zfabric.wire.crc import crc32c

encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
HEAD = struct.Struct("<II")
WINDOW = 16


def lead(home: str) -> None:
    """Commit what waits, in one transaction, then acknowledge and publish."""
    env = lmdb.open(home, map_size=16 << 30)
    ctx = zmq.Context()
    router, pub = ctx.socket(zmq.ROUTER), ctx.socket(zmq.PUB)
    router.set_hwm(0)
    pub.set_hwm(0)
    router.bind(f"ipc://{home}/r")
    pub.bind(f"ipc://{home}/p")
    offset = 0
    while True:
        router.poll()
        turn = []
        try:
            while len(turn) < 64:
                turn.append(router.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.Again:
            pass
        if len(turn[-1][1].buffer) == 1:
            pub.send_multipart([b"t", b"", b""])
            time.sleep(0.5)
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


def consume(home: str) -> None:
    """Decode all that is published."""
    sub = zmq.Context().socket(zmq.SUB)
    sub.set_hwm(0)
    sub.connect(f"ipc://{home}/p")
    sub.subscribe(b"")
    count = 0
    while True:
        _, base, payload = sub.recv_multipart()
        if not base:
            break
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
        count += len(list(map(tuple.__new__, repeat(Record), columns)))
    print(count)


def produce(home: str, batches: int, records: int) -> None:
    """Send all batches with a window, and print the rate."""
    here = [sys.executable, __file__]
    others = [
        subprocess.Popen([*here, "lead", home]),
        subprocess.Popen([*here, "consume", home], stdout=subprocess.PIPE, text=True),
    ]
    socket = zmq.Context().socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.connect(f"ipc://{home}/r")
    time.sleep(1.0)
    values = [bytes([i % 256]) * 100 for i in range(records)]
    under_way, began = 0, time.perf_counter()
    for _ in range(batches):
        column: list[bytes] = []
        append = column.append
        for value in values:
            append(value)
        payload = encode((0, None, column, None))
        socket.send_multipart([HEAD.pack(records, crc32c(payload)), payload], copy=False)
        under_way += 1
        while under_way >= WINDOW:
            socket.recv()
            under_way -= 1
    while under_way:
        socket.recv()
        under_way -= 1
    rate = batches * records / (time.perf_counter() - began)
    socket.send_multipart([b"Q"])
    seen = int(others[1].communicate(timeout=60)[0])
    others[0].wait(10)
    assert seen == batches * records, (seen, batches * records)
    print(rate)


if __name__ == "__main__":
    if sys.argv[1] == "lead":
        lead(sys.argv[2])
    elif sys.argv[1] == "consume":
        consume(sys.argv[2])
    else:
        produce(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
