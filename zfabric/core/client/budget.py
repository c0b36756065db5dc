"""How much may be repeated: a bucket that requests fill and repeats empty.

Without it, retries multiply the load of a service that is failing because of its load. Each request brings ``SHARE``
of a repeat, up to ``MOST`` saved ones, so that in the long run repeats add a fifth to the load at most; a caller that
asks rarely has the saved ones.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2
MOST: Final = 20.0


class Budget:
    """Of one service, at one caller."""

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = MOST

    def earn(self) -> None:
        """A request was made."""
        saved = self._saved + SHARE
        self._saved = min(MOST, saved)

    def spend(self) -> bool:
        """Take one repeat; tells whether there was one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
