"""Which partition a record goes to.

With a key: ``xxh3_64(key) % partitions``, so the same key stays in one partition, in every version and language, for
as long as the number of partitions stays the same. Without a key: the partition that is being filled now, and the
next one when its batch is closed.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest as key_hash

__all__ = ["key_hash", "partition_of"]


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition, 0 to partitions - 1, of a key."""
    return key_hash(key) % partitions
