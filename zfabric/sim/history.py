"""What clients did and saw, and the anomalies in it.

The checks follow Jepsen's for Kafka (``jepsen.tests.kafka``), with three of our own: offsets are dense, what was read
stays, and nobody who lives is deaf. All are passes over dicts. A value must be sent at most once by the application; an
outcome that is not known is ``info``, and a timeout is never a failure.

========================  ============================================================================================
inconsistent-offsets      an offset was seen with two values (by reads, by acknowledgements)
duplicate                 a value was seen at two offsets
aborted-read              a value was read whose send had failed for certain
phantom                   a value was read that nobody had sent there
lost-write                a value was acknowledged, later ones were read, and it never was
unseen                    a value was acknowledged, and the last reading from the start does not have it
poll-skip                 a consumer's next poll begins after an offset that it has not read
nonmonotonic-poll         a consumer's next poll begins at or before an offset that it has read
int-poll-skip             the same two within one poll
int-nonmonotonic-poll
nonmonotonic-send         a producer's later value of a partition got an earlier offset
vanished-read             a value was read, and the last reading does not have it
end-regress               a consumer was told an end offset, later a smaller one
offset-gap                the last reading is not dense
lost-commit               a group began before an offset that it had committed
deaf                      a consumer that lived to the end has not read to the end
========================  ============================================================================================
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Outcome = Literal["info", "ok", "fail"]


class Anomaly(NamedTuple):
    """A rule that was broken: its name in the table above, and where."""

    kind: str
    detail: str


@dataclass(eq=False)
class Send:
    """One record from the application's hand on; ``offset`` counts if the outcome is ``ok`` and it is not -1."""

    process: str
    partition: int
    value: bytes
    outcome: Outcome = "info"
    offset: int = -1


class Seen(NamedTuple):
    """One record as a consumer got it."""

    partition: int
    offset: int
    value: bytes


@dataclass(eq=False)
class Poll:
    """What one call returned. ``fresh``: the consumer's positions were set anew before it."""

    process: str
    records: list[Seen]
    fresh: bool = False


@dataclass
class History:
    """Everything about one topic.

    Attributes:
        sends, polls: in the order in which they began, and returned. ends: (process, partition, end offset) as told.
        final: the last reading, from the start of the log to its end, after all faults.
        commits: offsets that groups committed and that their new consumers began at, in this order.
        positions: where each consumer that lived to the end stood then, by process and partition.
        loses: the topic may lose acknowledged records, and what it knew of its producers: a memory topic whose
            leader died, an "os" one without power. A record that is sent again is then stored again.
        reuses: it may even give the lost offsets again ("os").
    """

    sends: list[Send] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    ends: list[tuple[str, int, int]] = field(default_factory=list)
    final: list[Seen] = field(default_factory=list)
    commits: list[tuple[str, int, int, Literal["committed", "begun"]]] = field(default_factory=list)
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    loses: bool = False
    reuses: bool = False

    def anomalies(self) -> list[Anomaly]:
        """Return every broken rule, at most some of each kind."""
        places = _Places(self)
        found = places.reads_of_failed_sends() + places.phantoms() + self._gaps() + self._deaf()
        order = self._polls_out_of_order(places)
        if not self.reuses:
            found += places.inconsistent_offsets()
            found += self._ends_that_regress()
            found += [anomaly for anomaly in order if not (self.loses and anomaly.kind.endswith("poll-skip"))]
        if not self.loses:
            found += self._sends_out_of_order(places)
            found += places.duplicates()
            found += places.lost_writes()
            found += places.vanished_reads()
            found += self._unseen()
            found += self._lost_commits()
        return found

    def _unseen(self) -> list[Anomaly]:
        final = {(seen.partition, seen.value) for seen in self.final}
        return [
            Anomaly("unseen", f"partition {send.partition} {send.value!r} acknowledged at {send.offset}")
            for send in self.sends
            if send.outcome == "ok" and (send.partition, send.value) not in final
        ]

    def _ends_that_regress(self) -> list[Anomaly]:
        found = []
        known: dict[tuple[str, int], int] = {}
        for process, partition, end in self.ends:
            before = known.get((process, partition), -1)
            if end < before:
                found.append(Anomaly("end-regress", f"{process} partition {partition}: {before}, then {end}"))
            known[process, partition] = end
        return found

    def _polls_out_of_order(self, places: _Places) -> list[Anomaly]:
        found = []
        last: dict[tuple[str, int], int] = {}
        for poll in self.polls:
            if poll.fresh:
                last = {known: rank for known, rank in last.items() if known[0] != poll.process}
            within: set[int] = set()
            for seen in poll.records:
                rank = places.rank(seen.partition, seen.offset)
                before = last.get((poll.process, seen.partition))
                if before is not None and rank - before != 1:
                    kind = "poll-skip" if rank > before else "nonmonotonic-poll"
                    prefix = "int-" if seen.partition in within else ""
                    detail = f"{poll.process} partition {seen.partition}: offset {seen.offset} {seen.value!r}"
                    found.append(Anomaly(prefix + kind, detail))
                last[poll.process, seen.partition] = rank
                within.add(seen.partition)
        return found

    def _sends_out_of_order(self, places: _Places) -> list[Anomaly]:
        found = []
        last: dict[tuple[str, int], int] = {}
        for send in self.sends:
            offset = places.first_offset(send)
            if offset < 0:
                continue
            before = last.get((send.process, send.partition), -1)
            if offset <= before:
                detail = f"{send.process} partition {send.partition}: {send.value!r} at {offset} after {before}"
                found.append(Anomaly("nonmonotonic-send", detail))
            last[send.process, send.partition] = offset
        return found

    def _gaps(self) -> list[Anomaly]:
        found = []
        last: dict[int, int] = {}
        for seen in self.final:
            before = last.get(seen.partition)
            if before is not None and seen.offset != before + 1:
                found.append(Anomaly("offset-gap", f"partition {seen.partition}: {seen.offset} follows {before}"))
            last[seen.partition] = seen.offset
        return found

    def _lost_commits(self) -> list[Anomaly]:
        found = []
        known: dict[tuple[str, int], int] = {}
        for group, partition, offset, what in self.commits:
            before = known.get((group, partition), -1)
            if what == "begun" and offset < before:
                found.append(Anomaly("lost-commit", f"{group} partition {partition}: began at {offset} of {before}"))
            elif what == "committed":
                known[group, partition] = max(before, offset)
        return found

    def _deaf(self) -> list[Anomaly]:
        ends: dict[int, int] = {}
        for seen in self.final:
            ends[seen.partition] = max(ends.get(seen.partition, 0), seen.offset + 1)
        return [
            Anomaly("deaf", f"{process} partition {partition}: at {position} of {ends[partition]}")
            for (process, partition), position in self.positions.items()
            if partition in ends and position < ends[partition]
        ]


class _Places:
    """Which values were seen at which offsets, by whomever."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._values: dict[tuple[int, int], set[bytes]] = defaultdict(set)
        self._offsets: dict[tuple[int, bytes], set[int]] = defaultdict(set)
        self._read: dict[tuple[int, bytes], int] = {}
        for seen in [*history.final, *(seen for poll in history.polls for seen in poll.records)]:
            self._see(seen.partition, seen.offset, seen.value)
            self._read.setdefault((seen.partition, seen.value), seen.offset)
        for send in history.sends:
            if send.outcome == "ok" and send.offset >= 0:
                self._see(send.partition, send.offset, send.value)
        observed: dict[int, set[int]] = defaultdict(set)
        for partition, offset in self._values:
            observed[partition].add(offset)
        self._ranks = {
            (partition, offset): rank
            for partition, offsets in observed.items()
            for rank, offset in enumerate(sorted(offsets))
        }

    def _see(self, partition: int, offset: int, value: bytes) -> None:
        self._values[partition, offset].add(value)
        self._offsets[partition, value].add(offset)

    def rank(self, partition: int, offset: int) -> int:
        """Return the place of an offset among all that were seen in its partition."""
        return self._ranks[partition, offset]

    def first_offset(self, send: Send) -> int:
        """Return where a send went, as far as that was seen; else -1."""
        return min(self._offsets.get((send.partition, send.value), {-1}))

    def inconsistent_offsets(self) -> list[Anomaly]:
        return [
            Anomaly("inconsistent-offsets", f"partition {partition} offset {offset}: {sorted(values)}")
            for (partition, offset), values in self._values.items()
            if len(values) > 1
        ]

    def duplicates(self) -> list[Anomaly]:
        return [
            Anomaly("duplicate", f"partition {partition} {value!r} at {sorted(offsets)}")
            for (partition, value), offsets in self._offsets.items()
            if len(offsets) > 1
        ]

    def reads_of_failed_sends(self) -> list[Anomaly]:
        return [
            Anomaly("aborted-read", f"partition {send.partition} {send.value!r} of {send.process}")
            for send in self._history.sends
            if send.outcome == "fail" and (send.partition, send.value) in self._read
        ]

    def phantoms(self) -> list[Anomaly]:
        sent = {(send.partition, send.value) for send in self._history.sends}
        return [
            Anomaly("phantom", f"partition {partition} offset {offset}: {value!r}")
            for (partition, value), offset in self._read.items()
            if (partition, value) not in sent
        ]

    def lost_writes(self) -> list[Anomaly]:
        polled = {(seen.partition, seen.value) for poll in self._history.polls for seen in poll.records}
        furthest: dict[int, int] = {}
        for partition, value in polled:
            rank = self.rank(partition, min(self._offsets[partition, value]))
            furthest[partition] = max(furthest.get(partition, -1), rank)
        found = []
        for send in self._history.sends:
            where = (send.partition, send.value)
            if send.outcome != "ok" or send.offset < 0 or where in self._read:
                continue
            if self.rank(send.partition, max(self._offsets[where])) <= furthest.get(send.partition, -1):
                found.append(Anomaly("lost-write", f"partition {send.partition} {send.value!r} at {send.offset}"))
        return found

    def vanished_reads(self) -> list[Anomaly]:
        final = {(seen.partition, seen.offset, seen.value) for seen in self._history.final}
        return [
            Anomaly("vanished-read", f"{poll.process} partition {seen.partition} offset {seen.offset}: {seen.value!r}")
            for poll in self._history.polls
            for seen in poll.records
            if seen not in final
        ]
