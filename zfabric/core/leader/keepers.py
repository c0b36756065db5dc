"""What a leader knows of the keepers that follow it: questions that it holds, what they have, acks that wait for them.

A FOLLOW says two things. What it asks for is answered at once where there is something, else it is held until a turn
has brought some (:meth:`Keepers.woken`) or its time is over; so a keeper hears of a batch as soon as it is durable,
and an idle origin costs a question a minute. And an offset in it *confirms* that everything below is on the keeper's
disk, since a keeper asks on only after its commit.

Messages may be lost while their connection lives. So a keeper that wants it is told HELD once its question was held for
a second: one that hears nothing asks again soon, and an idle origin has said one thing more a minute. And an answer
that no further question has followed for 2 s is said once more, without what was in it, some times: a keeper that has
had it takes no notice, and one that has not asks at once.

``acks="all"`` of a topic with ``replicas`` = n waits until n - 1 keepers have confirmed the batch. The answer is not
refused while they are too few: it waits, and a producer that repeats the batch waits again, as the batch is stored
but not confirmed. What is confirmed lives in memory alone: after a restart the keepers ask again and so confirm again.

A confirmation counts only if the keeper's last batch is ours (its epoch and append time say so). A log that has more
than we have, or another batch, is not a copy: ours was rolled back (a restored backup), and nothing is mended by
truncation: LogsDiverged tells it, on both sides.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, NamedTuple

import msgspec

from zfabric import errors
from zfabric.core.leader import lineage
from zfabric.core.leader.assigned import Assigned
from zfabric.core.leader.commits import Commits
from zfabric.core.leader.counters import Counters
from zfabric.core.leader.cutting import announcement, in_parts
from zfabric.core.leader.damage import Damage
from zfabric.core.leader.log import StoredLog
from zfabric.core.leader.partition import Partition
from zfabric.core.transaction import Transaction
from zfabric.settings import FETCH_BYTES_MAX, FETCH_PART_BYTES_MIN, UNCONFIRMED_MAX, check_range
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.replication import Follow, Followed, FollowedPart, FollowPart, Held, SharedOffset

SHOWN_NS = 600_000_000_000
"""A keeper that has not asked for so long is not shown any more: it asks each minute, and may have another disk now."""
KEEPERS_MAX = 64
"""Keepers of one partition whose offsets are remembered; the one not heard of for longest is forgotten."""
HELD_MAX = 10_000
HEARD_MAX = 10_000
SIGN_NS = 1_000_000_000
REPEAT_NS = 2_000_000_000
REPEATS = 8


class _Held(NamedTuple):
    command: Command
    due_ns: int


class _Answered(NamedTuple):
    request: int
    due_ns: int
    repeats: int


class _Ack(NamedTuple):
    needed: int
    peer: bytes
    frame: bytes


class Keepers:
    """The keepers of one leader's partitions.

    Args:
        assigned: the leader's partitions. commits: committed offsets, in the order in which they changed.

    Attributes:
        now: of the turn (monotonic ns).
    """

    def __init__(self, assigned: Assigned, commits: Commits, counters: Counters, damage: Damage) -> None:
        self.now = 0
        self._assigned = assigned
        self._commits = commits
        self._counters = counters
        self._damage = damage
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._unsigned: deque[tuple[int, bytes, int]] = deque()
        self._answered: OrderedDict[bytes, _Answered] = OrderedDict()
        self._interest: dict[int, dict[bytes, None]] = {}
        self._ready: dict[bytes, None] = {}
        self._confirmed: dict[int, OrderedDict[str, int]] = {}
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._acks: dict[int, deque[_Ack]] = {}
        self._waiting = 0
        self._fresh: list[int] = []

    # Answers to producers.

    def confirmed(self, partition: int, replicas: int) -> int:
        """Return the offset below which ``replicas - 1`` keepers have everything."""
        offsets = sorted(self._confirmed.get(partition, {}).values(), reverse=True)
        return offsets[replicas - 2] if len(offsets) >= replicas - 1 else 0

    def known(self, partition: int) -> dict[str, int]:
        """Return what each keeper has confirmed, by its fabric id; of those that have asked within ten minutes."""
        since = self.now - SHOWN_NS
        confirmed: dict[str, int] = self._confirmed.get(partition, OrderedDict())
        return {keeper: offset for keeper, offset in confirmed.items() if self._heard.get(keeper, since) > since}

    def wait(self, partition: Partition, needed: int, peer: bytes, frame: bytes) -> bool:
        """Let an answer wait until all below ``needed`` is confirmed; False if it is already, and may go."""
        if self.confirmed(partition.id, partition.config.replicas) >= needed:
            return False
        self._acks.setdefault(partition.id, deque()).append(_Ack(needed, peer, frame))
        self._fresh.append(partition.id)
        self._waiting += 1
        if self._waiting > UNCONFIRMED_MAX:
            self._forget_oldest()
        return True

    def _forget_oldest(self) -> None:
        """Whoever it was for will ask again, as for an answer that was lost."""
        longest = max(self._acks, key=lambda partition_id: len(self._acks[partition_id]))
        self._acks[longest].popleft()
        self._waiting -= 1

    def settled(self) -> None:
        """The turn is durable."""
        self._fresh.clear()

    def abandon(self) -> None:
        """The turn is given up: its answers are made again when it is repeated."""
        for partition_id in reversed(self._fresh):
            if self._acks[partition_id]:
                self._acks[partition_id].pop()
                self._waiting -= 1
        self._fresh.clear()

    def drop(self, partition_id: int) -> None:
        """The partition is led here no more."""
        self._confirmed.pop(partition_id, None)
        self._waiting -= len(self._acks.pop(partition_id, ()))

    def _confirm(self, partition: Partition, keeper: str, offset: int) -> list[tuple[bytes, bytes]]:
        known = self._confirmed.setdefault(partition.id, OrderedDict())
        known[keeper] = offset
        known.move_to_end(keeper)
        if len(known) > KEEPERS_MAX:
            known.popitem(last=False)
        return self.release(partition)

    def release(self, partition: Partition) -> list[tuple[bytes, bytes]]:
        """Return the answers, (peer, frame) each, that need to wait no longer: keepers or ``replicas`` have changed."""
        acks = self._acks.get(partition.id)
        if not acks:
            return []
        replicas = partition.config.replicas
        reached = self.confirmed(partition.id, replicas) if replicas > 1 else 1 << 63
        going = [(ack.peer, ack.frame) for ack in acks if ack.needed <= reached]
        if going:
            self._acks[partition.id] = deque(ack for ack in acks if ack.needed > reached)
            self._waiting -= len(going)
        return going

    # Questions of keepers.

    def appended(self, partition_id: int) -> None:
        """A turn has brought something to a partition: whoever follows it gets an answer."""
        for peer in self._interest.get(partition_id, ()):
            self._ready[peer] = None

    def changed(self) -> None:
        """Topics have changed, or groups have committed: everybody gets an answer."""
        self._ready.update(dict.fromkeys(self._held))

    def next_deadline(self) -> int | None:
        """When the first held question has waited long enough (monotonic ns)."""
        if not (self._held or self._unsigned or self._answered):
            return None
        wanted = [held.due_ns for held in self._held.values()]
        while self._unsigned and not self._is_held(*self._unsigned[0][1:]):
            self._unsigned.popleft()
        if self._unsigned:
            wanted.append(self._unsigned[0][0])
        if self._answered:
            wanted.append(next(iter(self._answered.values())).due_ns)
        return min(wanted, default=None)

    def _is_held(self, peer: bytes, request: int) -> bool:
        held = self._held.get(peer)
        return held is not None and held.command.request == request

    def signs(self, now: int) -> list[tuple[bytes, tuple[Any, ...]]]:
        """Return what is to be said, (peer, frames) each, to those whose questions or answers may have been lost."""
        said: list[tuple[bytes, tuple[Any, ...]]] = []
        while self._unsigned and self._unsigned[0][0] <= now:
            _, peer, request = self._unsigned.popleft()
            if self._is_held(peer, request):
                said.append((peer, (messages.command(Type.HELD, request, Held(0)),)))
        while self._answered:
            peer, answered = next(iter(self._answered.items()))
            if answered.due_ns > now:
                break
            del self._answered[peer]
            said.append((peer, self._nothing(answered.request, self._assigned.epoch)))
            if answered.repeats:
                self._answered[peer] = _Answered(answered.request, now + REPEAT_NS, answered.repeats - 1)
        return said

    def woken(self, now: int) -> list[tuple[bytes, Command]]:
        """Return the questions, (peer, command) each, that are to be answered now."""
        due = [peer for peer, held in self._held.items() if held.due_ns <= now]
        self._ready.update(dict.fromkeys(due))
        woken = []
        for peer in list(self._ready):
            command = self._release(peer)
            if command is not None:
                woken.append((peer, command))
        self._ready.clear()
        return woken

    def _release(self, peer: bytes) -> Command | None:
        """Hold a question no longer; it is answered whatever there is."""
        held = self._held.pop(peer, None)
        if held is None:
            return None
        body: Follow = held.command.body
        for part in body.parts:
            waiting = self._interest.get(part.partition)
            if waiting is not None:
                waiting.pop(peer, None)
                if not waiting:
                    del self._interest[part.partition]
        return held.command._replace(body=msgspec.structs.replace(body, wait_ms=0))

    def follow(self, peer: bytes, command: Command, now: int, txn: Transaction) -> list[tuple[bytes, tuple[Any, ...]]]:
        """Take a question; returns answers, (peer, frames) each: to it, to one that it replaces, to producers.

        Raises:
            WrongFabric: another fabric is meant. InvalidArgument: more bytes are asked for than there may be, or in
                smaller parts.
        """
        body: Follow = command.body
        assigned = self._assigned
        if body.fabric != assigned.fabric:
            raise errors.WrongFabric(wanted=body.fabric, fabric=assigned.fabric)
        check_range("follow max_bytes", body.max_bytes, 1, FETCH_BYTES_MAX, "bytes")
        if body.part_bytes:
            check_range("follow part_bytes", body.part_bytes, FETCH_PART_BYTES_MIN, FETCH_BYTES_MAX, "bytes")
        self._answered.pop(peer, None)
        if body.parts:
            self._hear(body.keeper, now)
        answers: list[tuple[bytes, tuple[Any, ...]]] = []
        older = self._release(peer)
        if older is not None and older.request != command.request:
            answers.append((peer, self._nothing(older.request, 0)))
        self._commits.load({part.partition for part in body.parts if part.partition in assigned.places}, txn)
        parts: list[FollowedPart] = []
        blob: list[Any] = []
        budget = body.max_bytes
        for part in body.parts:
            found, size = self._read(part, body.keeper, budget, parts, answers, txn)
            blob += found
            budget -= size
        run = assigned.epoch
        since = body.since if body.run == run else 0
        commits, since = self._commits.after(since, {part.partition for part in body.parts})
        commits = [self._marked(shared, txn) for shared in commits]
        news = parts or commits or body.run != run or body.version != assigned.version
        if not news and body.wait_ms and len(self._held) < HELD_MAX:
            self._held[peer] = _Held(command, now + body.wait_ms * 1_000_000)
            for part in body.parts:
                self._interest.setdefault(part.partition, {})[peer] = None
            if body.held:
                self._unsigned.append((now + SIGN_NS, peer, command.request))
            return answers
        followed = Followed(assigned.fabric, run, since, assigned.version, parts, commits, True)
        return answers + self._answer(peer, command, followed, b"".join(blob), now)

    def _answer(
        self, peer: bytes, command: Command, followed: Followed, joined: bytes, now: int
    ) -> list[tuple[bytes, tuple[Any, ...]]]:
        body: Follow = command.body
        answers: list[tuple[bytes, tuple[Any, ...]]] = []
        self._counters.fetched_bytes += len(joined)
        announced = announcement(command, len(joined))
        if announced is not None:
            answers.append((peer, announced))
        if body.held and len(self._answered) < HELD_MAX:
            self._answered[peer] = _Answered(command.request, now + REPEAT_NS, REPEATS)
        head = messages.command(Type.FOLLOWED, command.request, followed)
        answers.append((peer, in_parts(head, joined, body.part_bytes)))
        return answers

    def _marked(self, shared: SharedOffset, txn: Transaction) -> SharedOffset:
        try:
            log = self._assigned.partition(shared.partition, txn).log
        except errors.ZFabricError:
            return shared  # Its part of the answer says what is wrong with it.
        return lineage.marked(shared, log, txn)

    def _hear(self, keeper: str, now: int) -> None:
        self._heard[keeper] = now
        self._heard.move_to_end(keeper)
        if len(self._heard) > HEARD_MAX:
            self._heard.popitem(last=False)

    def _nothing(self, request: int, run: int) -> tuple[Any, ...]:
        followed = Followed(self._assigned.fabric, run, 0, self._assigned.version, [], [], True)
        return (messages.command(Type.FOLLOWED, request, followed), b"")

    def _read(
        self,
        part: FollowPart,
        keeper: str,
        budget: int,
        parts: list[FollowedPart],
        answers: list[tuple[bytes, tuple[Any, ...]]],
        txn: Transaction,
    ) -> tuple[list[Any], int]:
        """Add what is new in one partition to ``parts``; returns its batches and their size."""
        try:
            partition = self._assigned.partition(part.partition, txn)
            state = partition.log.state
            self._compare(partition, part, txn)
            answers += [(peer, (frame,)) for peer, frame in self._confirm(partition, keeper, part.offset)]
            if part.offset < state.start:
                parts.append(FollowedPart(part.partition, state.start, state.end, 0))
                return [], 0
            if part.offset == state.end or budget <= 0:
                return [], 0
            found, size = partition.log.read(part.offset, budget, txn)
        except errors.ZFabricError as error:
            self._damage.see(part.partition, error)
            parts.append(FollowedPart(part.partition, 0, 0, 0, (error.code, error.values)))
            return [], 0
        parts.append(FollowedPart(part.partition, state.start, state.end, size))
        return found, size

    def _compare(self, partition: Partition, part: FollowPart, txn: Transaction) -> None:
        """Make sure that the keeper's last batch is the one that is here.

        Raises:
            LogsDiverged: it is not. NotSupported: a topic that is not on disk has no copies.
        """
        log = partition.log
        if not isinstance(log, StoredLog) or partition.durability:
            raise errors.NotSupported(
                what="a copy", where=f"of topic {partition.topic!r}", instead="it takes durability='fsync'"
            )
        if not part.offset:
            return
        problem = lineage.difference(log, part.offset, part.epoch, part.append_time, txn)
        if problem:
            raise errors.LogsDiverged(
                topic=partition.topic, partition=partition.number, offset=part.offset, problem=problem
            )
