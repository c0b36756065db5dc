"""Handlers that ask their own service: when all workers of an instance wait for requests that wait for a worker.

Each request that a handler makes is remembered with its job until that is over, by its encoded headers: the span in
them is drawn for it alone. So an instance knows a request of its own handlers among those that come. One that would
have to wait is refused (WouldDeadlock) if every running job waits for such a request: otherwise all would wait until
their deadlines. A circle through another service is not seen; deadlines end it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.core.client.job import Job, Method


def closed(asked: bytes, methods: Iterable[Method], jobs: Collection[Job], running: int) -> bool:
    """Tell whether nobody would ever execute a request.

    Args:
        asked: its headers. methods: of the service. jobs: that run or wait; ``running`` of them run.
    """
    if not any(asked in method.asked for method in methods):
        return False
    waiting = {job.headers for job in jobs if not job.started_ns} | {asked}
    stuck = sum(bool(job.started_ns) and not waiting.isdisjoint(job.asking) for job in jobs)
    return stuck >= running
