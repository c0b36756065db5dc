"""Members in an order that is random in each round: SWIM, section 4.3.

Each is met once in a round, so the time until a given one is met is bounded by two rounds. The shuffle is done one step
at a time; a newcomer gets a random place in what is left of the round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Ring:
    """Ids of members.

    Attributes:
        order: all of them; to read.
    """

    def __init__(self, random: Random, members: list[bytes] | None = None) -> None:
        self.order = members or []
        self._random = random
        self._next = 0

    def __len__(self) -> int:
        return len(self.order)

    def add(self, member: bytes) -> None:
        """Take one that is not in it."""
        self.order.append(member)

    def remove(self, member: bytes) -> None:
        """Forget one that is in it."""
        place = self.order.index(member)
        del self.order[place]
        self._next -= place < self._next

    def step(self) -> bytes:
        """Return the next one; there must be some."""
        order = self.order
        if self._next >= len(order):
            self._next = 0
        other = self._random.randrange(self._next, len(order))
        order[self._next], order[other] = order[other], order[self._next]
        self._next += 1
        return order[self._next - 1]
