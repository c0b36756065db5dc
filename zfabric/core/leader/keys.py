"""Keys of the one ordered map that a leader keeps: a table letter, then fixed big-endian fields.

Batches of a partition lie side by side in offset order; everything small about a partition lies near its siblings,
so that a lone append touches few pages. All partitions share one map: 24,000 transactions a second with 10 or 10,000
of them, where a named database for each fell to 8,900 at 10,000 (measured).

========  =========================================  =======================================================
letter    key                                        value
========  =========================================  =======================================================
``B``     partition u32, base offset u64             batch header and payload, as they were on the wire
``E``     partition u32, leader epoch u32            first offset u64 of that epoch
``G``     partition u32, group name                  committed offset of the group (msgpack)
``H``     partition u32                              when a copy's origin was heard of, ms u64, to an hour
``M``     partition u32                              the partition's state (``log.PartitionState``, msgpack)
``P``     partition u32, producer id u64             the producer's state (``producers.py``)
``R``     topic id u32                               what this leader was assigned of a topic (msgpack)
``T``     partition u32, timestamp u64               first offset u64 at which the log reaches that timestamp
``V``     name                                       facts about the volume
``X``     partition u32                              a deleted partition whose rows are still being removed
========  =========================================  =======================================================

The controller's tables (``core/cluster/placement.py``) use ``C``.
"""

from __future__ import annotations

import struct

from zfabric.model import Buffer

BATCH = b"B"
EPOCH = b"E"
GROUP = b"G"
HEARD = b"H"
STATE = b"M"
PRODUCER = b"P"
ASSIGNED = b"R"
TIME = b"T"
VOLUME = b"V"
DOOMED = b"X"

_TABLE_ID = struct.Struct(">cI")
_TABLE_ID_U64 = struct.Struct(">cIQ")
_TABLE_ID_U32 = struct.Struct(">cII")
U64 = struct.Struct(">Q")
AGING = struct.Struct(">Qq")

MAX_U64 = (1 << 64) - 1


def batch(partition: int, offset: int) -> bytes:
    """Key of the batch that begins at ``offset``."""
    return _TABLE_ID_U64.pack(BATCH, partition, offset)


def split_batch(key: Buffer) -> tuple[int, int]:
    """Return (partition, base offset) of a batch key."""
    _, partition, offset = _TABLE_ID_U64.unpack(key)
    return partition, offset


def epoch(partition: int, number: int) -> bytes:
    """Key of the first offset of a leader epoch."""
    return _TABLE_ID_U32.pack(EPOCH, partition, number)


def group(partition: int, name: str) -> bytes:
    """Key of what ``name`` committed."""
    return _TABLE_ID.pack(GROUP, partition) + name.encode()


def state(partition: int) -> bytes:
    """Key of a partition's state."""
    return _TABLE_ID.pack(STATE, partition)


def heard(partition: int) -> bytes:
    """Key of when a copy's origin was heard of."""
    return _TABLE_ID.pack(HEARD, partition)


def producer(partition: int, producer_id: int) -> bytes:
    """Key of a producer's state in a partition."""
    return _TABLE_ID_U64.pack(PRODUCER, partition, producer_id)


def assigned(topic: int) -> bytes:
    """Key of a topic's assignment to this leader."""
    return _TABLE_ID.pack(ASSIGNED, topic)


def time(partition: int, timestamp: int) -> bytes:
    """Key of the time index; timestamps before 1970 count as 1970."""
    return _TABLE_ID_U64.pack(TIME, partition, max(timestamp, 0))


def volume(name: str) -> bytes:
    """Key of a fact about the volume."""
    return VOLUME + name.encode()


def doomed(partition: int) -> bytes:
    """Key of a partition under removal."""
    return _TABLE_ID.pack(DOOMED, partition)


def prefix(table: bytes, partition: int) -> bytes:
    """What all keys of one table and partition begin with."""
    return _TABLE_ID.pack(table, partition)


def split_id(key: Buffer) -> tuple[int, bytes]:
    """Return (the u32 after the table letter, the rest) of any key here."""
    return int.from_bytes(key[1:5], "big"), bytes(key[5:])
