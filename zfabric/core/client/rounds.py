"""When an instance looks after its requests and its callers, lest it works for nobody.

Usually a caller says CANCEL when the time of its request is over. One that has died, or was cut off, says nothing: so
every second (``LOOK_NS``) requests whose time is over are found, and the callers of those that last longer than that
are sent something, by which it is noticed whether they are there. All callers are sent something every ten seconds
(``PROBE_NS``), and five times a second while the instance drains: it waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zfabric.core.client.job import Job

LOOK_NS: Final = 1_000_000_000
PROBE_NS: Final = 10_000_000_000
DRAIN_PROBE_NS: Final = 200_000_000


class Rounds:
    """Of one instance.

    Attributes:
        due_ns: when the next one is to be made.
    """

    def __init__(self) -> None:
        self.due_ns = 0
        self._look_ns = 0
        self._probe_ns = 0
        self._pause_ns = PROBE_NS

    def begin(self, now: int) -> None:
        """It can be asked from now on."""
        self._look_ns, self._probe_ns = now + LOOK_NS, now + PROBE_NS
        self.due_ns = self._look_ns

    def hurry(self, now: int) -> None:
        """It drains."""
        self._pause_ns = DRAIN_PROBE_NS
        self._probe_ns = now + DRAIN_PROBE_NS
        self.due_ns = min(self._look_ns, self._probe_ns)

    def make(self, jobs: Iterable[Job], now: int) -> tuple[list[Job], set[bytes], bool]:
        """Make one; returns the requests whose time is over, the callers to be sent something, and whether all are."""
        late: list[Job] = []
        callers: set[bytes] = set()
        if self._look_ns <= now:
            self._look_ns = now + LOOK_NS
            for job in jobs:
                if job.cancelled:  # Once: who cleans up after a cancellation is not disturbed by another.
                    continue
                if job.deadline_ns is not None and job.deadline_ns <= now:
                    late.append(job)
                elif job.seen:
                    callers.add(job.peer)
                job.seen = True
        everybody = self._probe_ns <= now
        if everybody:
            self._probe_ns = now + self._pause_ns
        self.due_ns = min(self._look_ns, self._probe_ns)
        return late, callers, everybody
