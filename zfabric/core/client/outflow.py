"""Streams at their instance, as far as they wait: each for its reader to take something, and only for so long.

A chunk may be sent while the reader has said to have room for one (its window), and while the chunks that it has not
said to have taken are less than ``STREAM_BYTES``. A stream that waits for CREDIT longer than the patience ends with
StreamStalled, whatever its deadline: else readers that have forgotten it, or mean it, would hold the workers for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.client.pending import Pending

if TYPE_CHECKING:
    from zfabric.core.client.job import Job


class Outflows:
    """Those of one instance.

    Args:
        service: its name. patience_ns: how long a stream waits for its reader.

    Attributes:
        patience_ns: as given. stalled: how many have ended because nothing was taken. waits: those that wait, the
            oldest first, and until when (monotonic ns).
    """

    def __init__(self, service: str, patience_ns: int) -> None:
        self.stalled = 0
        self._service = service
        self.patience_ns = patience_ns
        self.waits: dict[Job, int] = {}

    def sent(self, job: Job, size: int, now: int) -> Pending[None] | None:
        """A chunk was sent; returns what to wait for before the next one, or None."""
        if job.sent(size):
            return None
        job.credit = Pending()
        self.waits[job] = now + self.patience_ns
        return job.credit

    def credited(self, job: Job, chunks: int, now: int) -> None:
        """The reader has taken so many chunks."""
        job.taken(chunks)
        if job.able:
            self.go_on(job)
        elif chunks and self.waits.pop(job, None) is not None:
            self.waits[job] = now + self.patience_ns

    def go_on(self, job: Job) -> None:
        """A stream need not wait any more."""
        self.waits.pop(job, None)
        credit, job.credit = job.credit, None
        if credit is not None:
            credit.resolve(None)

    def next_deadline(self) -> int:
        """When :meth:`tick` is wanted next, if any waits."""
        return next(iter(self.waits.values()))

    def tick(self, now: int) -> None:
        """Give up those whose readers have taken nothing for too long."""
        for job in [job for job, until_ns in self.waits.items() if until_ns <= now]:
            del self.waits[job]
            if job.credit is not None and not job.over:
                self.stalled += 1
                what = f"stream '{self._service}.{job.method.name}'"
                error = errors.StreamStalled(what=what, seconds=self.patience_ns / 1e9, chunks=job.place)
                job.credit.fail(error)
