"""Who is asked for what is damaged here: the origin of a log and its keepers, in turns.

A stretch (``damage.py``) is asked for by FETCH at one holder of the log at a time: first its origin, then, in the order
of their ids, the keepers that have it. What comes is verified under the ids of whoever was asked and becomes a patch of
the next turn. As long as the stretch is damaged the next holder is asked, after a pause that doubles from 1 s to 10
minutes; at most four questions are under way. One that retention has passed meanwhile is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zfabric import errors
from zfabric.core.appetite import PART_BYTES
from zfabric.core.leader.damage import Patch, Piece
from zfabric.core.leader.intake import Intake
from zfabric.core.leader.sources import OFFERED, Answer, Caller, Kept, Source, Sources
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type

PAUSE_NS: Final = 1_000_000_000
PAUSE_MAX_NS: Final = 600_000_000_000
ASK_NS: Final = 30_000_000_000
BYTES: Final = 4 << 20
ASKING_MAX: Final = 4


@dataclass(slots=True)
class _Attempts:
    """How often a stretch was asked for, and when it is again (monotonic ns)."""

    count: int = 0
    due_ns: int = 0
    asking: bool = False


class Mender:
    """The questions of one keeper. Args: as for ``follower.py``, which drives it; ``intake`` takes the patches."""

    def __init__(self, caller: Caller, leader: Kept, sources: Sources, intake: Intake) -> None:
        self._caller = caller
        self._leader = leader
        self._sources = sources
        self._intake = intake
        self._attempts: dict[tuple[int, int], _Attempts] = {}

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        if not self._leader.damage.stretches:
            return None
        if sum(entry.asking for entry in self._attempts.values()) >= ASKING_MAX:
            return None
        known = (self._attempts.get(where, _Attempts()) for where in self._stretches())
        return min((entry.due_ns for entry in known if not entry.asking), default=None)

    def _stretches(self) -> list[tuple[int, int]]:
        stretches = self._leader.damage.stretches
        return [(partition, first) for partition, mine in stretches.items() for first in mine]

    def tick(self, now: int) -> None:
        """Ask for what is damaged and due."""
        if not self._leader.damage.stretches and not self._attempts:
            return
        wanted = []
        for where in self._stretches():
            if self._leader.damage.is_over(*where):
                self._leader.damage.forget(*where)
            else:
                wanted.append(where)
        attempts = self._attempts = {where: self._attempts.get(where, _Attempts()) for where in wanted}
        for where, entry in sorted(attempts.items(), key=lambda item: item[1].due_ns):
            if sum(entry.asking for entry in attempts.values()) >= ASKING_MAX:
                return
            if not entry.asking and entry.due_ns <= now:
                entry.due_ns = now + min(PAUSE_NS << min(entry.count, 20), PAUSE_MAX_NS)
                self._ask(where, entry, now)

    def _ask(self, where: tuple[int, int], entry: _Attempts, now: int) -> None:
        partition, first = where
        holders = self._holders(partition, now)
        number, entry.count = entry.count, entry.count + 1
        if not holders:
            return
        source, there = holders[number % len(holders)]
        body = messages.Fetch(BYTES, [messages.FetchPart(there, first)], PART_BYTES, True)
        entry.asking = True
        answer = self._caller.call(
            source.endpoint,
            Type.FETCH,
            body,
            now,
            now + ASK_NS,
            "fetch of what is damaged",
            ASK_NS / 1e9,
            held_ns=ASK_NS,
        )
        answer.on_done(lambda: self._answered(where, entry, source, there, answer))

    def _holders(self, partition: int, now: int) -> list[tuple[Source, int]]:
        """Return who has a log, and its id there."""
        place = self._leader.kept.get(partition)
        origin, number = (self._leader.fabric, partition) if place is None else (place.origin, place.source)
        found = []
        source = self._sources.of(origin)
        there = source is not None and (source.in_line or not self._sources.is_away(origin, now))
        if source is not None and there and number in source.led:
            found.append((source, number))
        return found + self._sources.keepers(origin, number, now)

    def _answered(self, where: tuple[int, int], entry: _Attempts, source: Source, there: int, answer: Answer) -> None:
        entry.asking = False
        if not (source.dialled or source.endpoint.startswith(OFFERED)):
            self._caller.leave(source.endpoint)  # One that stands in line was dialled for this alone.
        if answer.error is not None:
            return
        body: messages.Fetched = answer.result().body
        part = next((part for part in body.parts if part.partition == there), None)
        if part is None or part.failure is not None:
            return
        pieces = []
        try:
            for header, raw, payload in batch.split(memoryview(answer.result().rest[0])[: part.length]):
                if batch.damage(raw, payload, header, there, header.base_offset):
                    break
                pieces.append(Piece(header, raw, payload))
        except errors.ProtocolViolation:
            pass  # What came before it was verified; the next holder is asked for the rest.
        if pieces:
            self._intake.keep.mend.append(Patch(*where, pieces))
