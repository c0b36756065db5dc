"""Those of many cursors that something is true of, found without a look at all the others.

A cursor says that it has changed whenever that may have become true (:meth:`Candidates.note`); that it is true no more
is seen when it is asked for, and only then is it struck off. So each change costs one look, and the invariant is one
sided: *whoever it is true of is a candidate*.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.core.client.cursor import Cursor


class Candidates:
    """Cursors in order of their places.

    Args:
        true: tells whether it is true of a cursor. added: is called when one has become a candidate.

    Attributes:
        places: of the candidates. While there are none it is true of nobody.
    """

    def __init__(self, true: Callable[[Cursor], bool], added: Callable[[], None] | None = None) -> None:
        self._true = true
        self._added = added
        self.places: list[int] = []
        self._by_place: dict[int, Cursor] = {}

    def note(self, cursor: Cursor) -> None:
        """Look at a cursor that has changed."""
        if cursor.place not in self._by_place and self._true(cursor):
            self._by_place[cursor.place] = cursor
            insort(self.places, cursor.place)
            if self._added is not None:
                self._added()

    def forget(self, cursor: Cursor) -> None:
        """Strike a cursor off."""
        if self._by_place.pop(cursor.place, None) is not None:
            del self.places[bisect_left(self.places, cursor.place)]

    def clear(self) -> None:
        """Strike all of them off."""
        self.places.clear()
        self._by_place.clear()

    def first(self, behind: int = -1) -> Cursor | None:
        """Return the first of whom it is true, of those with a place behind this one if there are any."""
        if not self.places:
            return None
        at = bisect_right(self.places, behind)
        while self.places:
            at = at if at < len(self.places) else 0
            cursor = self._by_place[self.places[at]]
            if self._true(cursor):
                return cursor
            del self._by_place[self.places.pop(at)]
        return None

    def all(self) -> list[Cursor]:
        """Return all of whom it is true."""
        found = [cursor for place in self.places if self._true(cursor := self._by_place[place])]
        if len(found) < len(self.places):
            self._by_place = {cursor.place: cursor for cursor in found}
            self.places = list(self._by_place)
        return found
