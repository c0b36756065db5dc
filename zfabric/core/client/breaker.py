"""When an instance is left alone for a while: outlier ejection, and the circuit that closes again.

An instance is ejected when ``CONSECUTIVE`` requests in a row failed by its own fault (lost, timed out), or when its
share of failures, handlers' exceptions included, exceeds ``SHARE`` over at least ``SAMPLES`` requests while the best
other instance of the service fails less than half as often: a request that is bad everywhere ejects nobody. It stays
away 1 s, doubled with each ejection in a row up to 30 s. Then it gets one request at a time until one succeeds, which
closes the circuit; a failure ejects it again. Who picks instances goes on with ejected ones when all are.
"""

from __future__ import annotations

from typing import Final

CONSECUTIVE: Final = 5
SAMPLES: Final = 20
SHARE: Final = 0.5
FIRST_NS: Final = 1_000_000_000
LONGEST_NS: Final = 30_000_000_000
_WEIGHT: Final = 0.1
_FORGOTTEN: Final = 0.001


class Breaker:
    """Of one instance, as one caller sees it.

    Attributes:
        until_ns: ejected until then (monotonic); 0: it is not. trial: one request at a time, after an ejection.
        share: of failures among the latest requests, 0.0 to 1.0. samples: how many that share is made of.
        wary: a success changes more than ``samples``.
    """

    __slots__ = ("_ejections", "_row", "samples", "share", "trial", "until_ns", "wary")

    def __init__(self) -> None:
        self.until_ns = 0
        self.trial = self.wary = False
        self.share = 0.0
        self.samples = 0
        self._row = 0
        self._ejections = 0

    def success(self) -> None:
        """A request was answered."""
        self.samples += 1
        self._row = 0
        self.share -= self.share * _WEIGHT
        if self.trial:
            self.trial = False
            self._ejections = 0
        if self.share < _FORGOTTEN:
            self.share = 0.0
            self.wary = False

    def failure(self, now: int, best_share: float, *, own: bool) -> bool:
        """A request failed; tells whether the instance is ejected for it.

        Args:
            best_share: the least share of failures among the service's other instances; 1.0 if there is none.
            own: by the instance's fault for certain, rather than by an exception of a handler.
        """
        self.wary = True
        self.samples += 1
        self.share += (1.0 - self.share) * _WEIGHT
        self._row = self._row + 1 if own else self._row
        outlier = self.samples >= SAMPLES and self.share > SHARE and best_share < self.share / 2
        if self.until_ns or not (self.trial or outlier or self._row >= CONSECUTIVE):
            return False
        self.until_ns = now + min(FIRST_NS << self._ejections, LONGEST_NS)
        self._ejections = min(self._ejections + 1, 10)
        self.trial = False
        self._row = self.samples = 0
        self.share = 0.0
        return True

    def readmit(self, now: int) -> bool:
        """Tell whether the ejection ends now."""
        if not self.until_ns or now < self.until_ns:
            return False
        self.until_ns = 0
        self.trial = self.wary = True
        return True
