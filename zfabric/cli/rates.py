"""Rates from counters: what ``zfabric top`` and ``zfabric status`` compute, without asking anybody.

A counter only grows while whatever counts lives. So a counter that went back, another origin, or a clock that went
back all mean the same: it began again at zero in between, and what it shows now was counted since then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LEADER_COUNTERS = (
    "records_in",
    "bytes_in",
    "records_out",
    "bytes_out",
    "commits",
    "errors",
)
"""Fields of LeaderInfo that have a rate."""


class Sample(NamedTuple):
    """Counters as they were read once.

    Attributes:
        origin: what counts: the process id of a leader, the id of a topic.
        at_s: its own clock in seconds: the uptime of a leader. A rate does not depend on when an answer arrived.
        counters: totals by name.
    """

    origin: int
    at_s: float
    counters: Mapping[str, int]


def rates(before: Sample | None, after: Sample) -> dict[str, float]:
    """Return each counter of ``after`` per second since ``before``, rounded to three digits.

    Without ``before``, or if the counters began again since, it is the average since they began. No time, no rate: two
    readings of the same instant give 0.
    """
    if before is None or _began_again(before, after):
        before = Sample(after.origin, 0.0, {})
    seconds = after.at_s - before.at_s
    if seconds <= 0:
        return dict.fromkeys(after.counters, 0.0)
    return {name: round((now - before.counters.get(name, 0)) / seconds, 3) for name, now in after.counters.items()}


def _began_again(before: Sample, after: Sample) -> bool:
    return (
        before.origin != after.origin
        or after.at_s < before.at_s
        or any(after.counters.get(name, total) < total for name, total in before.counters.items())
    )
