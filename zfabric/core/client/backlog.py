"""Requests that wait for a worker, in order; those of callers that read nothing wait aside, and hold nobody up."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zfabric.core.client.job import Job

WITHDRAWN_MAX: Final = 64


class Backlog:
    """Of one instance.

    Args:
        full: callers for which nothing is begun (:class:`zfabric.core.client.unread.Unread`).

    Attributes:
        jobs: in order, with those that are not wanted any more; always the same deque. bytes: of all bodies that wait.
    """

    def __init__(self, full: Container[bytes]) -> None:
        self.jobs: deque[Job] = deque()
        self.bytes = 0
        self._full = full
        self._withdrawn = 0
        self._aside: dict[bytes, deque[Job]] = {}

    def add(self, job: Job) -> None:
        """A request waits."""
        self.jobs.append(job)
        self.bytes += len(job.body)

    def take(self) -> Job | None:
        """Return the next one that is wanted and may be begun; None if there is none."""
        while self.jobs:
            job = self.jobs.popleft()
            if job.over:
                self._withdrawn -= 1
            elif job.peer in self._full:
                self._aside.setdefault(job.peer, deque()).append(job)
            else:
                self.bytes -= len(job.body)
                return job
        return None

    def free(self) -> None:
        """Some callers may be full no more: what waits aside for them goes on waiting in order."""
        for peer in [peer for peer in self._aside if peer not in self._full]:
            self.jobs.extend(self._aside.pop(peer))

    def withdraw(self, job: Job) -> None:
        """A waiting one is not wanted any more: its place and its memory are free at once."""
        self.bytes -= len(job.body)
        job.over = True
        job.body = job.headers = b""
        aside = self._aside.get(job.peer)
        if aside is not None and job in aside:
            aside.remove(job)
            if not aside:
                del self._aside[job.peer]
            return
        self._withdrawn += 1
        if self._withdrawn > max(WITHDRAWN_MAX, len(self.jobs) - self._withdrawn):  # Cheaper than to look for each.
            wanted = [waiting for waiting in self.jobs if not waiting.over]
            self.jobs.clear()
            self.jobs.extend(wanted)
            self._withdrawn = 0

    @property
    def any(self) -> bool:
        """Whether one waits that :meth:`take` may return."""
        return len(self.jobs) > self._withdrawn

    def __len__(self) -> int:
        return len(self.jobs) - self._withdrawn + sum(map(len, self._aside.values()))
