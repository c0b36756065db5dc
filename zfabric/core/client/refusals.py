"""What instances of one service have refused lately, lest the next requests be refused there as well.

An instance that refuses answers at once and has little under way: by latency and load it is the best of all, and would
draw request after request while others have room. So whoever was Overloaded is left *aside* for ``FIRST_NS``, twice as
long with each refusal in a row, up to ``LONGEST_NS``; an answer to a request that was sent after the refusal ends that.
Who has not got a method is left aside by requests of that one for ``LACKS_NS``: it may be offered later. If all are
aside, none is.

A refused request goes to an instance that is not aside for nothing: such a one has not refused anything since, so
repeats do not pile up on those that are overloaded, and each instance refuses so for a caller a few times a second.
"""

from __future__ import annotations

from typing import Final

import msgspec

from zfabric import errors

FIRST_NS: Final = 10_000_000
LONGEST_NS: Final = 320_000_000
LACKS_NS: Final = 10_000_000_000
LACKS_MAX: Final = 1_000


class _Mark(msgspec.Struct, eq=False):
    noted_ns: int
    until_ns: int
    pause_ns: int


class Refusals:
    """Of the instances of one service, by their numbers, at one caller.

    Attributes:
        any: whether anything is remembered.
    """

    __slots__ = ("_busy", "_lacks", "any")

    def __init__(self) -> None:
        self.any = False
        self._busy: dict[int, _Mark] = {}
        self._lacks: dict[str, dict[int, int]] = {}

    def note(self, instance: int, method: str, error: errors.ZFabricError, now: int) -> None:
        """An instance has refused a request."""
        if isinstance(error, errors.UnknownMethod):
            if method not in self._lacks and len(self._lacks) >= LACKS_MAX:
                del self._lacks[next(iter(self._lacks))]
            self._lacks.setdefault(method, {})[instance] = now + LACKS_NS
        elif isinstance(error, errors.Overloaded):
            mark = self._busy.get(instance)
            if mark is None:
                self._busy[instance] = _Mark(now, now + FIRST_NS, FIRST_NS)
            elif mark.until_ns <= now:  # Else it was sent before the last refusal was known.
                mark.pause_ns = min(mark.pause_ns * 2, LONGEST_NS)
                mark.noted_ns, mark.until_ns = now, now + mark.pause_ns
        self.any = bool(self._busy or self._lacks)

    def answered(self, instance: int, sent_ns: int) -> bool:
        """An instance has answered what was sent then; tells whether it is known to have been overloaded since."""
        mark = self._busy.get(instance)
        if mark is None:
            return False
        if sent_ns < mark.noted_ns:
            return True
        del self._busy[instance]
        self.any = bool(self._busy or self._lacks)
        return False

    def aside(self, method: str, now: int) -> tuple[int, ...]:
        """Return the instances that a request of a method should not go to."""
        for instance in [known for known, mark in self._busy.items() if mark.until_ns + LONGEST_NS <= now]:
            del self._busy[instance]
        lacks = self._lacks.get(method)
        if lacks is not None:
            for instance in [known for known, until_ns in lacks.items() if until_ns <= now]:
                del lacks[instance]
            if not lacks:
                del self._lacks[method]
        self.any = bool(self._busy or self._lacks)
        busy = [instance for instance, mark in self._busy.items() if mark.until_ns > now]
        return tuple(sorted({*busy, *(lacks or ())}))
