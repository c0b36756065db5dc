"""How long a suspected member has to refute: Lifeguard's dynamic suspicion timeout (section III.B of the paper).

SWIM gives every suspect the same time. A slow accuser then declares healthy members failed, since their refutations
reach it too late. Lifeguard begins with a long time and shortens it for each further member that suspects the same
one independently: of a real failure many hear soon, a slow accuser stays alone.

    low  = alpha * max(1, log10 n) * probe interval
    high = beta * low
    time = max(low, high - (high - low) * log(C + 1) / log(K + 1))

C counts accusers besides the first one, K is how many are expected. n below K + 2 has not so many: K is 0 then, and
the time is ``low``.
"""

from __future__ import annotations

import math

from zfabric.settings import MeshSettings


def bounds(members: int, settings: MeshSettings) -> tuple[int, int, int]:
    """Return (low ns, high ns, K) for a mesh of so many members, this one included."""
    low = int(settings.suspicion_factor * max(1.0, math.log10(max(1, members))) * settings.probe_interval_ns)
    expected = settings.confirmations if members >= settings.confirmations + 2 else 0
    return low, low * (settings.suspicion_stretch if expected else 1), expected


def timeout(confirmed: int, expected: int, low: int, high: int) -> int:
    """Return how long (ns) a member stays suspected that ``confirmed`` others suspect besides the first accuser."""
    if expected < 1:
        return low
    share = math.log(confirmed + 1) / math.log(expected + 1)
    return max(low, int(high - (high - low) * share))


class Suspicion:
    """One suspected member.

    Attributes:
        deadline: monotonic ns at which it counts as failed. low: the shortest time (ns) that it has to refute.
    """

    __slots__ = ("_accusers", "_began", "_expected", "_high", "deadline", "low")

    def __init__(self, accuser: bytes, members: int, settings: MeshSettings, now: int) -> None:
        self.low, self._high, self._expected = bounds(members, settings)
        self._began = now
        self._accusers: tuple[bytes, ...] = (accuser,)  # Few: a set takes three times as much.
        self.deadline = now + self._high

    def wants(self, accuser: bytes) -> bool:
        """Tell whether this accuser is a new one, and more of them are expected."""
        return accuser not in self._accusers and len(self._accusers) <= self._expected

    def confirm(self, accuser: bytes) -> bool:
        """Count another accuser; tells whether it is new and wanted, so that others should hear of it."""
        if not self.wants(accuser):
            return False
        self._accusers += (accuser,)
        self.deadline = self._began + timeout(len(self._accusers) - 1, self._expected, self.low, self._high)
        return True

    def extend(self, span_ns: int) -> None:
        """Give it more time: this process stood still so long and could not have heard a refutation."""
        self._began += span_ns
        self.deadline += span_ns
