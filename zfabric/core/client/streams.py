"""How many streams one caller has at an instance at once: some workers are left to others.

A request has a deadline, a stream need not have one, and lasts as long as its reader likes. So a caller has ``most``
streams under way, that is at workers or in the queue for them; further ones are *held* here, in order, and each begins
when one before it has ended. They may fill half of the queue.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.core.client.job import Job


class Streams:
    """Of one instance.

    Args:
        most: streams of one caller that are under way.

    Attributes:
        held: how many are. bytes: of their bodies.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        self.bytes = 0
        self._most = most
        self._under_way: dict[bytes, int] = {}
        self._held: dict[bytes, deque[Job]] = {}

    def holds(self, peer: bytes) -> bool:
        """Tell whether another stream of a caller would be held."""
        return self._under_way.get(peer, 0) >= self._most

    def enter(self, job: Job) -> bool:
        """A stream is asked for; tells whether it may begin, else it is held."""
        peer = job.peer
        if not self.holds(peer):
            self._under_way[peer] = self._under_way.get(peer, 0) + 1
            return True
        job.held = True
        self._held.setdefault(peer, deque()).append(job)
        self.held += 1
        self.bytes += len(job.body)
        return False

    def leave(self, job: Job) -> Job | None:
        """A stream that was under way is over; returns the one that may begin in its place, if any is held."""
        peer = job.peer
        line = self._held.get(peer)
        if line is not None:
            following = line[0]
            self._free(following)
            return following
        count = self._under_way[peer] - 1
        if count:
            self._under_way[peer] = count
        else:
            del self._under_way[peer]
        return None

    def withdraw(self, job: Job) -> None:
        """A stream that is held is not wanted any more."""
        self._free(job)

    def _free(self, job: Job) -> None:
        line = self._held[job.peer]
        line.remove(job)
        if not line:
            del self._held[job.peer]
        job.held = False
        self.held -= 1
        self.bytes -= len(job.body)
