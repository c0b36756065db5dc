"""The least that a memory topic has to do for a record, in plain pyzmq: what of a hop's time no fabric could leave out.

The publisher encodes the record, seals it with a checksum, checks that its producer's sequence is the next one, keeps
the batch in a ring, stamps it with its offset and a checksum of the header, and sends id, header and payload. The
subscriber waits with a deadline, verifies both checksums and that nothing is missing, decodes the record, and hands it
over. There is nobody else, nothing is asked or acknowledged, nothing can be read again, and whoever fails has failed.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, NamedTuple

import msgspec
import zmq
from fastcrc.crc32 import iscsi as crc32c

PARTITION = (7).to_bytes(4, "big")
PRODUCER = 1
SEALED = Struct("<IIqQQI")
"""Records, payload bytes, time (ms since 1970), producer, its sequence, checksum of the payload."""
STAMPED = Struct("<IQq")
"""Partition, offset, time of the append (ms since 1970)."""
CHECK = Struct("<I")
RING = 10_000
PATIENCE_NS = 60_000_000_000
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, bytes | None, list[bytes], None]).decode


class Record(NamedTuple):
    """A record as it is handed over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]


class Publisher:
    """Sends records to whoever subscribes to ``socket``, a PUB."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._send = socket.send
        self._ring: deque[tuple[int, bytes, bytes]] = deque(maxlen=RING)
        self._sequences = {PRODUCER: -1}
        self._next = self._end = 0

    def send(self, value: bytes) -> None:
        """Send one record."""
        sequence = self._next
        self._next += 1
        payload = _encode((0, None, [value], None))
        sealed = SEALED.pack(1, len(payload), time.time_ns() // 1_000_000, PRODUCER, sequence, crc32c(payload))
        assert sequence == self._sequences[PRODUCER] + 1
        self._sequences[PRODUCER] = sequence
        offset = self._end
        header = sealed + STAMPED.pack(7, offset, time.time_ns() // 1_000_000)
        header += CHECK.pack(crc32c(header))
        self._ring.append((offset, header, payload))
        self._end = offset + 1
        send, more = self._send, int(zmq.NOBLOCK | zmq.SNDMORE)
        send(PARTITION, more)
        send(header, more)
        send(payload, int(zmq.NOBLOCK))


def heard(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    """Yield the values of the records that a SUB receives, the first one that comes and all behind it."""
    poller = select.poll()
    poller.register(socket.get(zmq.FD), select.POLLIN)
    events, readable, now = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
    get: Callable[[int], Any] = socket.get
    expected = -1
    while True:
        deadline = time.monotonic_ns() + PATIENCE_NS
        while not get(events) & readable:
            poller.poll(max(0.0, (deadline - time.monotonic_ns()) / 1e6))
        partition, header, payload = socket.recv(now), socket.recv(now), socket.recv(now)
        count, length, timestamp, _, _, check = SEALED.unpack_from(header)
        number, offset, _ = STAMPED.unpack_from(header, SEALED.size)
        assert crc32c(header[: -CHECK.size]) == CHECK.unpack_from(header, len(header) - CHECK.size)[0]
        assert (partition, number, count, length) == (PARTITION, 7, 1, len(payload))
        assert crc32c(payload) == check
        assert expected in {-1, offset}
        expected = offset + count
        delta, key, values, _ = _decode(payload)
        assert len(values) == count
        yield Record("t", number, offset, timestamp + delta, key, values[0], {}).value
