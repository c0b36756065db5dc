"""Commands of topics with a ``commit_interval``: they wait here, in order, for the commit that they will share.

A turn may be given up and repeated with the same commands (the map was full). So what a turn has put in or taken out
is noted until the turn is settled, and :meth:`Staging.abandon` takes it back.
"""

from __future__ import annotations

from zfabric.wire.messages import Command

OVERHEAD_BYTES = 1_024
"""What a waiting command holds beside its payload, which may be empty."""

Waiting = list[tuple[bytes, Command]]


def _size(command: Command) -> int:
    return OVERHEAD_BYTES + len(command.body.payload)


class Staging:
    """What waits, by partition id.

    Args:
        bytes_max: bytes held at which everything becomes due at once.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._waiting: dict[int, Waiting] = {}
        self._due: dict[int, int] = {}
        self._added: list[int] = []
        self._taken: dict[int, Waiting] = {}

    def add(self, partition_id: int, peer: bytes, command: Command, now: int, due_ns: int) -> None:
        """Let a command wait until ``due_ns``, or until the first one waiting for this partition is due."""
        self._waiting.setdefault(partition_id, []).append((peer, command))
        self._added.append(partition_id)
        self._bytes += _size(command)
        self._due.setdefault(partition_id, due_ns)
        if self._bytes > self._bytes_max:
            self.hasten(now)

    def next_deadline(self) -> int | None:
        """When the first partition is due (monotonic ns)."""
        return min(self._due.values()) if self._due else None

    def due(self, now: int) -> list[int]:
        """Return the partitions whose commands are due."""
        return [partition_id for partition_id, due_ns in self._due.items() if due_ns <= now]

    def take(self, partition_id: int) -> Waiting:
        """Return what waits for a partition, and keep it no longer."""
        self._due.pop(partition_id, None)
        waiting = self._waiting.pop(partition_id, [])
        fresh = self._added.count(partition_id)  # Of this very turn: they come again if it is repeated.
        self._added = [known for known in self._added if known != partition_id]
        if fresh < len(waiting):
            self._taken[partition_id] = waiting[: len(waiting) - fresh]
        self._bytes -= sum(_size(command) for _, command in waiting)
        return waiting

    def hasten(self, now: int) -> None:
        """Let everything be due now."""
        self._due = dict.fromkeys(self._due, now)

    def postpone(self, due_ns: int) -> None:
        """Let nothing be due before ``due_ns``."""
        self._due = {partition_id: max(known, due_ns) for partition_id, known in self._due.items()}

    def settled(self) -> None:
        """The turn is durable."""
        self._added.clear()
        self._taken.clear()

    def abandon(self, now: int) -> None:
        """The turn is given up and will be repeated."""
        for partition_id in self._added:
            self._waiting[partition_id].pop()
        self._added.clear()
        for partition_id, waiting in self._taken.items():
            self._waiting[partition_id] = waiting
            self._due[partition_id] = now
        self._taken.clear()
        self._waiting = {partition_id: waiting for partition_id, waiting in self._waiting.items() if waiting}
        self._due = {
            partition_id: due_ns for partition_id, due_ns in self._due.items() if partition_id in self._waiting
        }
        self._bytes = sum(_size(command) for some in self._waiting.values() for _, command in some)
