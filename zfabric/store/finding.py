"""What a scrub says: one finding for each thing that is not as it must be, and how much it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

What = Literal[
    "batch", "missing", "state", "time index", "producer", "group", "epoch", "journal", "page", "file", "format", "row"
]

MENDED: Final = frozenset({"state", "time index", "producer", "group"})
"""Kinds of findings that a repair may mend (``repair.py``)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be.

    Attributes:
        what: which kind of thing. problem: what is wrong with it.
        volume: number of the leader whose volume it is.
        topic, partition: whose it is; None where that is not known. id: number of the partition in the fabric.
        offset: the first offset concerned; next_offset: the next one that can be read. None where there is none.
        key: of the row in the volume, empty where it is not about one.
    """

    what: What
    problem: str
    volume: int
    topic: str | None = None
    partition: int | None = None
    id: int | None = None
    offset: int | None = None
    next_offset: int | None = None
    key: bytes = b""

    @property
    def mendable(self) -> bool:
        """Whether a repair looks at it."""
        return self.what in MENDED and self.id is not None


@dataclass(slots=True)
class Totals:
    """What was checked. bytes: of batches, headers included; journal_entries: that no commit covers yet."""

    volumes: int = 0
    partitions: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    rows: int = 0
    journal_entries: int = 0
