"""When a second instance is asked: after the time within which 95 of 100 requests of the method were answered.

"The Tail at Scale" (Dean and Barroso, Communications of the ACM 56(2), 2013) defers a hedged request until the first
one is outstanding for longer than the 95th percentile of its class: that adds about one request in twenty, and cuts the
tail to what two instances together make of it. Here the class is the method, at one caller; the percentile is that of
its latest ``WINDOW`` requests with ``hedge="auto"``, from the first sending to the answer, whoever gave it. A hedged
one lasted longer than the percentile in any case, so to be answered sooner for that does not pull it down. With fewer
than ``ENOUGH`` of them nothing is hedged, and what fails or is not answered does not count.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.errand import Errand

WINDOW: Final = 200
ENOUGH: Final = 20
METHODS_MAX: Final = 1_000
SHARE: Final = 0.95


class Latencies:
    """The latest of one method."""

    __slots__ = ("_latest", "_sorted")

    def __init__(self) -> None:
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, taken_ns: int) -> None:
        """A request was answered after so long."""
        if len(self._latest) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(taken_ns)
        insort(self._sorted, taken_ns)

    def percentile(self) -> int | None:
        """Return what 95 of 100 did not exceed (ns); None if there are too few to tell."""
        count = len(self._sorted)
        return self._sorted[int(count * SHARE)] if count >= ENOUGH else None


class Hedging:
    """Of all methods that one caller asks with ``hedge="auto"``; the one first asked is forgotten for one too many."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._methods: dict[str, Latencies] = {}

    def after(self, errand: Errand, now: int) -> int | None:
        """Return after how long an errand that is sent now is hedged (ns), None for not at all; and observe it too."""

        def answered() -> None:
            if errand.error is None:
                self.observe(errand.method, self._client.now - now)

        if not errand.losses and not errand.refusals:
            errand.on_done(answered)
        return self.delay(errand.method)

    def delay(self, method: str) -> int | None:
        """Return after how long a second instance is asked (ns); None: not at all."""
        known = self._methods.get(method)
        return None if known is None else known.percentile()

    def observe(self, method: str, taken_ns: int) -> None:
        """A request of a method was answered after so long."""
        known = self._methods.get(method)
        if known is None:
            if len(self._methods) >= METHODS_MAX:
                del self._methods[next(iter(self._methods))]
            known = self._methods[method] = Latencies()
        known.add(taken_ns)
