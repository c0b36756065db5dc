"""What leaders answer to FOLLOW, verified and sorted into what the keeper's own leader is to do with it.

Each batch is verified (header, payload, place) under the ids of whoever was asked. Those of a partition that are whole
and follow each other are handed on; one that is damaged is dropped with all behind it, and asked for again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from zfabric import errors
from zfabric.core.leader.copies import Heard, Keep, KeptBatch
from zfabric.core.leader.sources import Kept, Source
from zfabric.wire import batch
from zfabric.wire.replication import Followed, FollowedPart

LEFT_OUT_NS: Final = 30_000_000_000


class Intake:
    """Answers on their way into one KEEP.

    Attributes:
        keep: what the next turn is to do. failures: parts that were errors, or could not be used.
    """

    def __init__(self, leader: Kept) -> None:
        self.keep = _empty()
        self.failures = 0
        self._leader = leader
        self._left_out: dict[int, int] = {}

    def take(self) -> Keep | None:
        """Return what is for the next turn, if there is anything."""
        keep, self.keep = self.keep, _empty()
        return keep if any(keep) else None

    def is_left_out(self, copy: int, now: int) -> bool:
        """Tell whether a copy has failed lately."""
        until = self._left_out.get(copy)
        if until is not None and until <= now:
            del self._left_out[copy]
        return until is not None and until > now

    def answered(self, source: Source, body: Followed, blob: memoryview, now: int, wall_ms: int) -> None:
        """Take an answer to the question that ``source`` remembers."""
        at = 0
        source.behind = False
        source.before = {}
        positions = self._leader.copies.positions
        ends = {copy: positions[copy].end for copy in source.asked.values() if copy in positions}
        for part in body.parts:
            copy = source.asked.get(part.partition)
            mine, at = blob[at : at + part.length], at + part.length
            if copy is None or copy not in ends:
                continue
            if part.failure is not None:
                del ends[copy]
                self._leave_out(source, copy, part.failure, now)
            else:
                self._leader.copies.parted.discard(copy)
                self._part(source, copy, part, mine, ends[copy])
                ends[copy] = part.end_offset
        source.order = [there for there in source.order if source.asked.get(there) not in source.before]
        source.order += [there for there, copy in source.asked.items() if copy in source.before]
        for copy, end in ends.items():
            place = self._leader.kept.get(copy)
            if place is not None and place.origin == source.fabric:
                self.keep.heard[copy] = Heard(wall_ms, end)
        for shared in body.commits:
            copy = source.asked.get(shared.partition)
            if copy is not None:
                self.keep.commits.append(msgspec.structs.replace(shared, partition=copy))

    def _part(self, source: Source, copy: int, part: FollowedPart, blob: memoryview, end: int) -> None:
        place = self._leader.kept.get(copy)
        if part.start_offset > end and place is not None and place.origin == source.fabric:
            # The origin alone says what is gone: what another keeper does not have, others may.
            self.keep.starts.append((copy, part.start_offset))
            source.behind = True
        elif blob:
            source.before[copy] = end
            end = self._verify(part.partition, copy, end, blob)
        source.behind |= part.end_offset > end

    def _verify(self, there: int, copy: int, end: int, blob: memoryview) -> int:
        """Hand on the batches that are whole and follow each other; returns the offset after the last."""
        problem = ""
        try:
            for header, raw, payload in batch.split(blob):
                problem = batch.damage(raw, payload, header, there, header.base_offset)
                if not problem and header.base_offset > end:
                    problem = f"a batch at offset {header.base_offset} where {end} is next"
                if problem:
                    break
                self.keep.batches.append(KeptBatch(copy, header, raw, payload))
                end = max(end, header.next_offset)
        except errors.ProtocolViolation as error:
            problem = str(error)
        if problem:
            self.failures += 1
            self._leader.copies.problems[copy] = problem
        return end

    def _leave_out(
        self, source: Source, copy: int, failure: tuple[int, dict[str, str | int | float | None]], now: int
    ) -> None:
        error = errors.from_wire(*failure)
        self.failures += 1
        self._leader.copies.problems[copy] = str(error)
        self._left_out[copy] = now + LEFT_OUT_NS
        if isinstance(error, errors.NotLeader):
            source.metadata_due = now
        place = self._leader.kept.get(copy)
        if isinstance(error, errors.LogsDiverged) and place is not None and place.origin == source.fabric:
            self._leader.copies.parted.add(copy)


def _empty() -> Keep:
    return Keep([], [], [], {}, [], [], [], [])
