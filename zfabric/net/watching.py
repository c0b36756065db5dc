"""Whether a caller sleeps until its reply has come, or watches for it; found out by trying.

A processor with nothing to do sleeps too. Where a machine has little to do, each of the six hops of a request and its
reply wakes one up, which takes longer than the hop. A caller that watches keeps its own awake, so that all the others
share another one, which none of them leaves idle. On a busy machine it only takes time from those that it waits for.

So one request in ``TRIES`` (of the first hundred one in ``FIRST_TRIES``) is waited for in the other way, and the better
way is taken for the rest: to watch, if half of the replies come a fifth sooner so, and within ``LONGEST_NS``. Replies
that take longer are not worth a processor. Each way's time is a running median, which takes a step towards each sample:
a mean would follow the few that waited for a processor.
"""

from __future__ import annotations

from typing import Final

LONGEST_NS: Final = 200_000
TRIES: Final = 32
FIRST: Final = 100
FIRST_TRIES: Final = 4
GAIN: Final = 0.8
_UP: Final = 17 / 16
_DOWN: Final = 16 / 17


class Watching:
    """The choice of one pump.

    Attributes:
        limit_ns: how long to watch for the next reply before sleeping; 0: not at all.
    """

    __slots__ = ("_asleep_ns", "_awake_ns", "_count", "limit_ns")

    def __init__(self) -> None:
        self.limit_ns = 0
        self._asleep_ns = self._awake_ns = float(LONGEST_NS)
        self._count = 0

    def took(self, waited_ns: int) -> None:
        """A reply came ``waited_ns`` after its caller began to wait, in the way that was said: choose for the next."""
        if self.limit_ns:
            self._awake_ns = min(_towards(waited_ns, self._awake_ns), LONGEST_NS)
        else:
            self._asleep_ns = _towards(waited_ns, self._asleep_ns)
        self._count += 1
        watch = self._awake_ns < min(GAIN * self._asleep_ns, LONGEST_NS)
        tries = TRIES if self._count > FIRST else FIRST_TRIES
        if self._count % tries == 0 and self._asleep_ns < 2 * LONGEST_NS:
            watch = not watch
        self.limit_ns = LONGEST_NS if watch else 0


def _towards(sample_ns: int, median_ns: float) -> float:
    return median_ns * (_UP if sample_ns > median_ns else _DOWN)
