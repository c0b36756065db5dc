"""How many streams an instance has at once: some workers are left to other callers, and one to what is no stream.

A request has a deadline, a stream need not have one, and lasts as long as its reader likes. So a caller has ``most``
streams under way, that is at workers or in the queue for them, and all callers together ``total``; further ones are
*held* here, those of one caller in order, callers in turns, and each begins when one before it has ended. They may fill
half of the queue.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.core.client.job import Job


class Streams:
    """Of one instance.

    Args:
        most: streams of one caller that are under way. total: of all.

    Attributes:
        held: how many are. bytes: of their bodies.
    """

    def __init__(self, most: int, total: int) -> None:
        self.held = 0
        self.bytes = 0
        self._most = most
        self._total = total
        self._count = 0
        self._under_way: dict[bytes, int] = {}
        self._held: OrderedDict[bytes, deque[Job]] = OrderedDict()

    @property
    def full(self) -> bool:
        """Whether as many are under way as may be, whoever asks for another one."""
        return self._count >= self._total

    def holds(self, peer: bytes) -> bool:
        """Tell whether another stream of a caller would be held."""
        return self.full or self._has_most(peer)

    def _has_most(self, peer: bytes) -> bool:
        return self._under_way.get(peer, 0) >= self._most

    def enter(self, job: Job) -> bool:
        """A stream is asked for; tells whether it may begin, else it is held."""
        if not self.holds(job.peer):
            self._begin(job)
            return True
        job.held = True
        self._held.setdefault(job.peer, deque()).append(job)
        self.held += 1
        self.bytes += len(job.body)
        return False

    def _begin(self, job: Job) -> None:
        self._under_way[job.peer] = self._under_way.get(job.peer, 0) + 1
        self._count += 1

    def leave(self, job: Job) -> Job | None:
        """A stream that was under way is over; returns the one that may begin in its place, if any is held."""
        self._count -= 1
        self._under_way[job.peer] -= 1
        if not self._under_way[job.peer]:
            del self._under_way[job.peer]
        # Those who have the most are few: all that is under way is theirs.
        peer = next((peer for peer in self._held if not self._has_most(peer)), None)
        if peer is None:
            return None
        following = self._held[peer][0]
        self._held.move_to_end(peer)
        self.withdraw(following)
        self._begin(following)
        return following

    def withdraw(self, job: Job) -> None:
        """A stream that is held is not wanted any more, or is to begin."""
        line = self._held[job.peer]
        line.remove(job)
        if not line:
            del self._held[job.peer]
        job.held = False
        self.held -= 1
        self.bytes -= len(job.body)
