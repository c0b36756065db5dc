"""Load at a fixed rate, and what became of it: an open-loop schedule and exact percentiles.

Latency counts from the moment at which a record was *meant* to be sent. A producer that falls behind sends at once,
and what it was late by is part of the latency: nothing is left out because something was slow before (coordinated
omission). Producer and consumer are two processes of one machine, so CLOCK_MONOTONIC serves both.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable, Iterator

STAMP = struct.Struct("<q")
VALUE_BYTES = 100
FILL = b"." * (VALUE_BYTES - STAMP.size)
WARM_UP = 50
"""Records at the front whose latencies are not counted."""
_PR_SET_TIMERSLACK = 29


def exact_timers() -> None:
    """Let this thread's sleeps end when they are over: Linux would add up to 50 us to save wake-ups."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def sleep_until(due_ns: int) -> None:
    """Sleep until ``due_ns`` (monotonic), or not at all."""
    left_ns = due_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)


def intended(rate: float, count: int, rest: Callable[[int], None] = sleep_until) -> Iterator[bytes]:
    """Yield ``count`` values at ``rate`` a second, each carrying the time at which it was meant to be sent."""
    exact_timers()
    interval_ns = int(1e9 / rate)
    due_ns = time.monotonic_ns() + interval_ns
    for _ in range(count):
        rest(due_ns)
        yield STAMP.pack(due_ns) + FILL
        due_ns += interval_ns


def age_ns(value: bytes, now_ns: int) -> int:
    """Return how long ago ``value`` was meant to be sent."""
    return now_ns - int(STAMP.unpack_from(value)[0])


def percentiles(ages_ns: list[int]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the largest in us, and how many were counted; exact, by sorting."""
    counted = sorted(ages_ns[WARM_UP:] or ages_ns)
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    found = {name: counted[min(int(len(counted) * share), len(counted) - 1)] / 1e3 for name, share in at.items()}
    return {"count": len(ages_ns), **found, "max": counted[-1] / 1e3}
