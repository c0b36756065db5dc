"""Damage at the source that keepers may mend: how long it is waited for before it is passed over. No I/O.

Whoever finds a record damaged makes its holder ask others for the same bytes (:mod:`zfabric.core.leader.mender`), which
takes seconds where one of them is there. So a partition whose next record is damaged, and of which others may have a
copy, rests for ``MEND_NS`` from then on, is looked at every ``LOOK_NS``, and goes on as soon as it can be read. What
is damaged behind that is waited for anew.
"""

from __future__ import annotations

import msgspec

MEND_NS = 30_000_000_000
LOOK_NS = 3_000_000_000
_NEVER = 1 << 63


class _Stretch(msgspec.Struct):
    """Of one partition: where it is damaged, until when that is waited for, and when it is looked at."""

    first: int
    until_ns: int
    look_ns: int


class Damage:
    """Of the partitions of one link."""

    def __init__(self) -> None:
        self._met: dict[int, _Stretch] = {}

    def found(self, number: int, first: int, now: int) -> bool | None:
        """Note that a partition cannot be read at ``first``.

        Returns:
            True: it is waited for from now on. None: it is still waited for. False: no longer.
        """
        met = self._met.get(number)
        if met is None or met.first != first:
            self._met[number] = _Stretch(first, now + MEND_NS, now + LOOK_NS)
            return True
        if now >= met.until_ns:
            del self._met[number]
            return False
        met.look_ns = max(met.look_ns, now + LOOK_NS)
        return None

    def reached(self, number: int, position: int) -> None:
        """A partition was read up to ``position``."""
        met = self._met.get(number)
        if met is not None and position > met.first:
            del self._met[number]

    def due(self, now: int) -> list[int]:
        """Return the partitions that are to be looked at now."""
        numbers = [number for number, met in self._met.items() if now >= met.look_ns]
        for number in numbers:
            self._met[number].look_ns = now + LOOK_NS
        return numbers

    @property
    def look_ns(self) -> int:
        """When the next partition is to be looked at."""
        return min((met.look_ns for met in self._met.values()), default=_NEVER)

    @property
    def text(self) -> str | None:
        """What there is to say of what is waited for; None if nothing is."""
        if not self._met:
            return None
        where = ", ".join(f"partition {number} offset {met.first:,}" for number, met in sorted(self._met.items())[:3])
        return f"damaged at the source: {where}; passed over unless keepers mend it within {MEND_NS // 10**9} s"
