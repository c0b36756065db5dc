"""Requests that wait for a worker: those of one caller in order, callers in turns.

So a caller with a thousand requests that wait holds up another one by one of them, not by a thousand. When there is no
room, it is the caller with the most that gives way: the newest of its requests is refused, which nobody has begun,
rather than the one that comes from a caller with fewer. Requests of callers that read nothing wait aside, and take no
turns. Nor do streams while too many are under way (:mod:`zfabric.core.client.streams`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric.core.client.streams import Streams

if TYPE_CHECKING:
    from zfabric.core.client.job import Job

WITHDRAWN_MAX: Final = 64
CALLERS_COMPARED: Final = 100
"""Of those that wait, the next ones: the caller with the most is looked for among these."""


class _Line(msgspec.Struct, eq=False):
    """Of one caller: its requests, with those that are not wanted any more; how many are wanted, and their bytes."""

    jobs: deque[Job]
    wanted: int = 0
    bytes: int = 0


class Backlog:
    """Of one service.

    Args:
        full: callers for which nothing is begun (:class:`zfabric.core.client.unread.Unread`). streams: of one caller
            that are under way at once. workers: that there are.

    Attributes:
        waiting: how many wait that may be begun. bytes: of all bodies that wait, but for those of streams that are held
            in ``streams``.
    """

    def __init__(self, full: Container[bytes], streams: int, workers: int) -> None:
        self.waiting = 0
        self.bytes = 0
        self.streams = Streams(streams, max(workers - 1, streams))
        self._full = full
        # The only one that waits, as nearly all do; there is no line then.
        self._lone: Job | None = None
        self._lines: OrderedDict[bytes, _Line] = OrderedDict()
        self._aside: dict[bytes, _Line] = {}

    def add(self, job: Job) -> None:
        """A request waits."""
        if not job.streaming or self.streams.enter(job):
            self._enter(job)

    def left(self, job: Job) -> None:
        """A stream that :meth:`take` gave is over: another one may begin."""
        following = self.streams.leave(job)
        if following is not None:
            self._enter(following)

    def _enter(self, job: Job) -> None:
        if not (self.waiting or self._aside):
            self._lone = job
            self.waiting = 1
            self.bytes = len(job.body)
            return
        self._line_up()
        self._append(job)

    def _line_up(self) -> None:
        job, self._lone = self._lone, None
        if job is not None:
            self.waiting = self.bytes = 0
            self._append(job)

    def _append(self, job: Job) -> None:
        line = self._aside.get(job.peer)
        if line is None:
            line = self._lines.get(job.peer)
            if line is None:
                line = self._lines[job.peer] = _Line(deque())
            self.waiting += 1
        size = len(job.body)
        line.jobs.append(job)
        line.wanted += 1
        line.bytes += size
        self.bytes += size

    def take(self) -> Job | None:
        """Return the next one that is wanted and may be begun; None if there is none."""
        lone = self._lone
        if lone is not None and lone.peer not in self._full:
            self._lone = None
            self.waiting = self.bytes = 0
            return lone
        self._line_up()
        while self._lines:
            peer, line = self._lines.popitem(last=False)
            if peer in self._full:
                self._aside[peer] = line
                self.waiting -= line.wanted
                continue
            job = line.jobs.popleft()
            while job.over:
                job = line.jobs.popleft()
            self._less(line, len(job.body))
            self.waiting -= 1
            if line.wanted:
                self._lines[peer] = line
            return job
        return None

    def _less(self, line: _Line, size: int) -> None:
        line.wanted -= 1
        line.bytes -= size
        self.bytes -= size

    def free(self) -> None:
        """Some callers may be full no more: what waits aside for them takes turns again."""
        self._line_up()
        for peer in [peer for peer in self._aside if peer not in self._full]:
            line = self._lines[peer] = self._aside.pop(peer)
            self.waiting += line.wanted

    def withdraw(self, job: Job) -> None:
        """A waiting one is not wanted any more: its place and its memory are free at once."""
        if job.held:
            self.streams.withdraw(job)
        else:
            self._withdraw(job)
            if job.streaming:
                self.left(job)
        job.over = True
        job.body = job.headers = b""

    def _withdraw(self, job: Job) -> None:
        self._line_up()
        peer = job.peer
        lines = self._aside if peer in self._aside else self._lines
        line = lines[peer]
        self._less(line, len(job.body))
        if lines is self._lines:
            self.waiting -= 1
        job.over = True  # For whoever looks through the line.
        if not line.wanted:
            del lines[peer]
        elif len(line.jobs) - line.wanted > max(WITHDRAWN_MAX, line.wanted):  # Cheaper than to look for each.
            line.jobs = deque(waiting for waiting in line.jobs if not waiting.over)

    def yielding(self, peer: bytes, size: int, *, for_bytes: bool) -> Job | None:
        """Return the request that gives way to one of a caller with fewer; None if there is none with more.

        Args:
            size: of the body that comes. for_bytes: it is bytes for which there is no room, rather than requests.
        """
        self._line_up()
        own = self._lines.get(peer) or self._aside.get(peer)
        among = islice(reversed(self._lines.values()), CALLERS_COMPARED)
        if for_bytes:
            most = max(among, key=lambda line: line.bytes, default=None)
            less = most is not None and (0 if own is None else own.bytes) + size < most.bytes
        else:
            most = max(among, key=lambda line: line.wanted, default=None)
            less = most is not None and (0 if own is None else own.wanted) + 1 < most.wanted
        if most is None or not less:
            return None
        return next(job for job in reversed(most.jobs) if not job.over)

    def __len__(self) -> int:
        return self.waiting + self.streams.held + sum(line.wanted for line in self._aside.values())
