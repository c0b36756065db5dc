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
    """Of one service, at one caller.

    Attributes:
        earned: requests that were made, to be counted up by whoever makes one; what they bring is added when needed.
    """

    __slots__ = ("_saved", "earned")

    def __init__(self) -> None:
        self._saved = MOST
        self.earned = 0

    def spend(self) -> bool:
        """Take one repeat; tells whether there was one."""
        self._saved = min(MOST, self._saved + SHARE * self.earned)
        self.earned = 0
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
