"""What is due next of many things to do, found without a look at all of them.

Each *chore* knows itself when it is due. The agenda keeps the moments that the chores gave last, in order, and a chore
says whenever its own may have become earlier, or there is one now (:meth:`Agenda.note`); that it has become later, or
is none any more, is seen when it comes to the front. So the invariant is one sided: *no chore that is not noted is due
before the moment kept of it*; and what is told as the next deadline is exact, since the one in front is asked again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Callable


class Chore(ABC):
    """Something that has to be done at times.

    Attributes:
        planned_ns: when, as its agenda has it; None: not at all. noted: its agenda is going to ask it again.
        number: by which those that are due at the same time have an order; 0 until it was noted once.
    """

    planned_ns: int | None = None
    noted = False
    number = 0

    @abstractmethod
    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns), 0 for at once; changes nothing."""

    @abstractmethod
    def tick(self, now: int) -> None:
        """Do what is due; nothing if nothing is."""


class Alarm(Chore):
    """Something that is done once at a moment, each time that this is set.

    Args:
        ring: what is done, with the time.

    Attributes:
        at_ns: the moment; None: it is not set. Whoever sets it notes it.
    """

    def __init__(self, ring: Callable[[int], None]) -> None:
        self.at_ns: int | None = None
        self._ring = ring

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        return self.at_ns

    def tick(self, now: int) -> None:
        """Ring if it is time."""
        if self.at_ns is not None and self.at_ns <= now:
            self.at_ns = None
            self._ring(now)


class Agenda:
    """Chores in the order in which they are due."""

    def __init__(self) -> None:
        self._noted: list[Chore] = []
        self._entries: list[tuple[int, int, Chore]] = []
        self._numbers = 0

    def note(self, chore: Chore) -> None:
        """Ask a chore when it is due, before anybody asks for the next deadline."""
        if not chore.noted:
            chore.noted = True
            self._noted.append(chore)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns); None while there is nothing to do."""
        if self._noted:
            self._ask()
        entries = self._entries
        while entries:
            planned_ns, _, chore = entries[0]
            due_ns = chore.next_deadline()
            if due_ns == planned_ns:
                return due_ns
            self._plan(chore, due_ns)
        return None

    def tick(self, now: int) -> None:
        """Do what is due."""
        if self._noted:
            self._ask()
        entries = self._entries
        for _, _, chore in entries[: bisect_left(entries, (now + 1,))]:
            chore.tick(now)

    def _ask(self) -> None:
        noted, self._noted = self._noted, []
        for chore in noted:
            chore.noted = False
            if not chore.number:
                self._numbers = chore.number = self._numbers + 1
            self._plan(chore, chore.next_deadline())

    def _plan(self, chore: Chore, due_ns: int | None) -> None:
        if chore.planned_ns == due_ns:
            return
        entries = self._entries
        if chore.planned_ns is not None:
            del entries[bisect_left(entries, (chore.planned_ns, chore.number))]
        chore.planned_ns = due_ns
        if due_ns is not None:
            insort(entries, (due_ns, chore.number, chore))
