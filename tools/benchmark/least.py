"""The least that a memory topic has to do for a record, in plain pyzmq: what of a hop's time no fabric could leave out.

The publisher encodes the record, seals it with a checksum, checks that its producer's sequence is the next one, keeps
the batch in a ring, stamps it with its offset and a checksum of the header, and sends id, header and payload. The
subscriber waits with a deadline, verifies both checksums and that nothing is missing, decodes the record, and hands it
over. There is nobody else, nothing is asked or acknowledged, nothing can be read again, and whoever fails has failed.

``Producer`` and ``Consumer`` are the least that stands between that and calls which any thread may make, with arguments
that are checked, and with an outcome: a delivery that is settled, a list of records, an empty one in time.
"""

from __future__ import annotations

import select
import threading
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
_EVENTS, _READABLE, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
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
    """Sends records to whoever subscribes to ``socket``, a PUB; ``end`` is the offset of the next one."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._send = socket.send
        self._ring: deque[tuple[int, bytes, bytes]] = deque(maxlen=RING)
        self._sequences = {PRODUCER: -1}
        self._next = self.end = 0

    def send(self, value: bytes) -> None:
        """Send one record."""
        sequence = self._next
        self._next += 1
        payload = _encode((0, None, [value], None))
        sealed = SEALED.pack(1, len(payload), time.time_ns() // 1_000_000, PRODUCER, sequence, crc32c(payload))
        assert sequence == self._sequences[PRODUCER] + 1
        self._sequences[PRODUCER] = sequence
        offset = self.end
        header = sealed + STAMPED.pack(7, offset, time.time_ns() // 1_000_000)
        header += CHECK.pack(crc32c(header))
        self._ring.append((offset, header, payload))
        self.end = offset + 1
        send, more = self._send, int(zmq.NOBLOCK | zmq.SNDMORE)
        send(PARTITION, more)
        send(header, more)
        send(payload, int(zmq.NOBLOCK))


class Delivery:
    """What became of a record."""

    __slots__ = ("done", "error", "offset")

    def __init__(self) -> None:
        self.done = False
        self.error: Exception | None = None
        self.offset = -1


class Producer:
    """The same behind a call as an application makes it: from any thread, with arguments that are checked."""

    def __init__(self, socket: zmq.Socket[bytes], topic: str) -> None:
        self._lock = threading.RLock()
        self._publishers = {topic: Publisher(socket)}
        self._unsettled: dict[Delivery, int] = {}
        self._record_max = 1 << 20

    def send(
        self, topic: str, value: object, *, key: bytes | None = None, headers: dict[str, bytes] | None = None,
        partition: int | None = None, timestamp: int | None = None,
    ) -> Delivery:  # fmt: skip
        """Send one record, which is settled when the call returns; more than a plain one would take more steps."""
        if type(topic) is not str or type(value) is not bytes or len(value) > self._record_max:
            raise TypeError
        if key is not None or headers is not None or partition is not None or timestamp is not None:
            raise TypeError("only plain records are measured")
        delivery = Delivery()
        with self._lock:
            self._unsettled[delivery] = len(value)
            self._publishers[topic].send(value)
            delivery.offset = self._publishers[topic].end - 1
            delivery.done = True
            del self._unsettled[delivery]
        return delivery


class Consumer:
    """The same behind a call as an application makes it: from any thread, for so long, with records as its result."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._lock = threading.RLock()
        self._get: Callable[[int], Any] = socket.get
        self._recv = socket.recv
        self._poller = select.poll()
        self._poller.register(socket.get(zmq.FD), select.POLLIN)
        self.position = -1

    def poll(self, timeout: float) -> list[Record]:
        """Return the record that comes next, none if none comes in time (s)."""
        if type(timeout) not in {float, int} or timeout < 0:
            raise TypeError
        deadline = time.monotonic_ns() + int(timeout * 1e9)
        with self._lock:
            while not self._get(_EVENTS) & _READABLE:
                left_ms = (deadline - time.monotonic_ns()) / 1e6
                if left_ms <= 0:
                    return []
                self._lock.release()
                try:
                    self._poller.poll(left_ms)
                finally:
                    self._lock.acquire()
            recv = self._recv
            record = verified(recv(_NOBLOCK), recv(_NOBLOCK), recv(_NOBLOCK), self.position)
            self.position = record.offset + 1
        return [record]


def verified(partition: bytes, header: bytes, payload: bytes, expected: int) -> Record:
    """Return the record of a batch that is whole, and the one that is expected, which -1 leaves open."""
    count, length, timestamp, _, _, check = SEALED.unpack_from(header)
    number, offset, _ = STAMPED.unpack_from(header, SEALED.size)
    assert crc32c(header[: -CHECK.size]) == CHECK.unpack_from(header, len(header) - CHECK.size)[0]
    assert (partition, number, count, length) == (PARTITION, 7, 1, len(payload))
    assert crc32c(payload) == check
    assert expected in {-1, offset}
    delta, key, values, _ = _decode(payload)
    assert len(values) == count
    return Record("t", number, offset, timestamp + delta, key, values[0], {})


def heard(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    """Yield the values of the records that a SUB receives, the first one that comes and all behind it."""
    poller = select.poll()
    poller.register(socket.get(zmq.FD), select.POLLIN)
    get: Callable[[int], Any] = socket.get
    expected = -1
    while True:
        deadline = time.monotonic_ns() + PATIENCE_NS
        while not get(_EVENTS) & _READABLE:
            poller.poll(max(0.0, (deadline - time.monotonic_ns()) / 1e6))
        record = verified(socket.recv(_NOBLOCK), socket.recv(_NOBLOCK), socket.recv(_NOBLOCK), expected)
        expected = record.offset + 1
        yield record.value
