"""How old what a copy holds is: when its origin was heard of, and how far the origin's clock is behind the keeper's.

Age counts from the append, by the clock of the origin, which may be wrong: a device without a battery begins in 1970.
Its records would be older than any retention when they arrive, and the keeper, whose acknowledgement was waited for,
would drop them at once. What an origin sends is what its own retention keeps. So a record that arrives too old tells
that the origin's clock is behind, and counts as new when it arrives, and those before it as that much older than it;
one that arrives from the future counts as new as well. A record that arrives younger than that, as they do from an
origin whose clock is right, ends it. So each stays for the retention after its arrival, at the longest.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zfabric.core.leader import keys
from zfabric.core.transaction import Transaction
from zfabric.model import TopicConfig

AHEAD_MS: Final = 60_000
"""How far ahead clocks may be that count as right."""
STEP_MS: Final = 60_000
"""How far what is stored may be off."""


class Aging(NamedTuple):
    """Of one copy, stored in a row: when the origin was heard of (ms since 1970, 0: never), and what to add to ages."""

    heard_ms: int = 0
    behind_ms: int = 0


def load(partition_id: int, txn: Transaction) -> Aging:
    """Return what is known of a copy; nothing of a partition that is none. Rows of one number are older ones."""
    row = txn.get(keys.heard(partition_id))
    if row is None or len(row) not in {keys.U64.size, keys.AGING.size}:
        return Aging()
    return Aging(*(keys.U64 if len(row) == keys.U64.size else keys.AGING).unpack(row))


def store(partition_id: int, aging: Aging, txn: Transaction) -> None:
    """Store what is known of a copy."""
    txn.put(keys.heard(partition_id), keys.AGING.pack(*aging))


def behind(append_time: int, wall_ms: int, config: TopicConfig) -> int:
    """Return by how much an origin's clock is behind, as what arrives now tells; negative where it is ahead (ms)."""
    age_ms = wall_ms - append_time
    limit_ms = config.retention_ms if "delete" in config.cleanup and config.retention_ms >= 0 else config.tombstone_ms
    return age_ms if age_ms > limit_ms or age_ms < -AHEAD_MS else 0
