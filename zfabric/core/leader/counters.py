"""What a leader counts: plain numbers, exported by the shell."""

from __future__ import annotations

from typing import Final

_TOLD: Final = (
    "records_in", "bytes_in", "batches_in", "published", "fetched_bytes", "records_out", "bytes_out", "damaged",
    "mended",
)  # fmt: skip


class Counters:
    """What a leader has done since it started.

    Attributes:
        bytes_written: set by the shell: bytes that the volume wrote since the start.
        damaged, mended: stretches of stored logs that were found damaged, and those that were replaced by what another
            holder has.
    """

    __slots__ = (
        "_settled",
        "batches_in",
        "bytes_in",
        "bytes_out",
        "bytes_written",
        "damaged",
        "duplicates",
        "errors",
        "fetched_bytes",
        "mended",
        "published",
        "records_in",
        "records_out",
        "trimmed",
    )

    def __init__(self) -> None:
        self.batches_in = 0
        self.bytes_in = 0
        self.records_in = 0
        self.records_out = 0
        self.bytes_out = 0
        self.bytes_written = 0
        self.duplicates = 0
        self.published = 0
        self.fetched_bytes = 0
        self.trimmed = 0
        self.errors = 0
        self.damaged = 0
        self.mended = 0
        self._settled = (0, 0, 0, 0, 0)

    def settled(self) -> None:
        """What the turn did counts."""
        self._settled = self.batches_in, self.records_in, self.bytes_in, self.published, self.trimmed

    def abandon(self) -> None:
        """The turn was given up: what it did is done again, or not at all."""
        self.batches_in, self.records_in, self.bytes_in, self.published, self.trimmed = self._settled

    def values(self) -> dict[str, int | float | str]:
        """Return those that STATUS tells as they are."""
        return {name: getattr(self, name) for name in _TOLD}
