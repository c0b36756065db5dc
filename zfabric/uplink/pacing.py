"""How fast, and when again: decisions about time. No clock: it is handed in, in monotonic ns.

:class:`Bucket` is a token bucket that may run into debt. What goes over the link is known only once it is compressed
and sent, repeats included; so the debt is noted then, and nothing more is read until it is paid. Over any time the
bytes stay below rate x time + what two seconds allow (saved up, and given to the producer but not sent yet) + a quarter
of a second's, or a record if that is more.

:class:`Backoff` doubles the pause between attempts, up to a bound that depends on whether waiting alone can help.
"""

from __future__ import annotations

from zfabric import errors

SECOND = 1_000_000_000
PAUSE_NS = SECOND // 10
PAUSE_MAX_NS = 5 * SECOND
STUCK_PAUSE_MAX_NS = 60 * SECOND
BURST_SECONDS = 1.0
PIECE_SECONDS = 0.25
PIECE_MIN = 4_096
_PASSING = (
    errors.OutOfOrderSequence,
    errors.DeliveryError,
    errors.UnknownTopic,
    errors.UnknownPartition,
    errors.OffsetOutOfRange,
    errors.CorruptFrame,
)
"""What goes by when one asks the hub again and begins there, beside the retriable errors."""


class Bucket:
    """Allows ``rate`` bytes a second (None: any number), and a burst of one second's worth."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._tokens = 0.0 if rate is None else rate * BURST_SECONDS
        self._at_ns: int | None = None

    def spend(self, size: int) -> None:
        """Note that ``size`` bytes were sent."""
        self._tokens -= size

    def wait_ns(self, now: int) -> int:
        """Return how long to send nothing, in ns; 0 if something may be sent now."""
        if self._rate is None:
            return 0
        if self._at_ns is not None:
            earned = (now - self._at_ns) * self._rate / SECOND
            self._tokens = min(self._tokens + earned, self._rate * BURST_SECONDS)
        self._at_ns = now
        return 0 if self._tokens > 0 else int(-self._tokens / self._rate * SECOND) + 1

    def window(self, most: int) -> int:
        """Return how many bytes may be under way: ``most``, or what the rate allows in a second if that is less."""
        return most if self._rate is None else min(most, max(1, int(self._rate * BURST_SECONDS)))

    def room(self, most: int) -> int:
        """Return how many bytes may be sent now: ``most``, or what the rate has left over if that is less."""
        return most if self._rate is None else min(most, max(1, int(self._tokens)))

    def piece(self) -> int | None:
        """Return how many bytes to send at a time: what the rate allows in a quarter of a second; None: any number."""
        return None if self._rate is None else max(PIECE_MIN, int(self._rate * PIECE_SECONDS))


def passes(error: errors.ZFabricError) -> bool:
    """Tell whether trying again may help though nobody changes anything."""
    return error.retriable or isinstance(error, _PASSING)


class Backoff:
    """When to try again."""

    def __init__(self) -> None:
        self.at_ns = 0
        self._pause_ns = 0

    def failed(self, error: errors.ZFabricError, now: int) -> None:
        """Note a failed attempt."""
        longest = PAUSE_MAX_NS if passes(error) else STUCK_PAUSE_MAX_NS
        self._pause_ns = min(max(2 * self._pause_ns, PAUSE_NS), longest)
        self.at_ns = now + self._pause_ns

    def succeeded(self) -> None:
        """Note that something got through."""
        self._pause_ns = self.at_ns = 0
