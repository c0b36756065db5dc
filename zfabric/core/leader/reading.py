"""Commands that only read: what a leader answers after the commit, from what is durable.

Every answer is bounded: a FETCH by its ``max_bytes`` (and one batch beyond), the list of groups by a thousand entries
(it says whether there are more), all others by the number of partitions named in the command. So is the time that one
takes in a turn: a search by time may have to read a log, and goes on in the next turn with what is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from zfabric import errors
from zfabric.core.leader import groups, lineage
from zfabric.core.leader.assigned import Assigned
from zfabric.core.leader.copies import Copies
from zfabric.core.leader.counters import Counters
from zfabric.core.leader.cutting import in_parts
from zfabric.core.leader.damage import Damage
from zfabric.core.leader.keepers import Keepers
from zfabric.core.leader.log import SEARCH_BYTES, StoredLog
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer
from zfabric.settings import (
    FETCH_BYTES_MAX,
    FETCH_PART_BYTES_MIN,
    FETCH_PARTITIONS_MAX,
    GROUP_BYTES_MAX,
    LeaderSettings,
    check_name,
    check_range,
)
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type

_END, _START = -1, -2
"""Timestamps that stand for the log's end and its start."""
LISTED_MAX = 1_000
"""Entries in one answer to LIST_GROUPS: 240 KB of the longest names, far below what a frame may hold."""

Frames = tuple[Buffer, ...]


class _Search(NamedTuple):
    """A FIND_OFFSETS that goes on: what was found, and where the search in the next partition goes on."""

    parts: list[messages.FindOffset]
    found: list[messages.OffsetIs]
    since: int


class Reading:
    """The answers of one leader.

    Args:
        leader: its number in the fabric. software: name and version, told in WELCOME.

    Attributes:
        types: command types for :meth:`answer`.
    """

    def __init__(
        self,
        leader: int,
        assigned: Assigned,
        settings: LeaderSettings,
        counters: Counters,
        software: str,
        *,
        keepers: Keepers,
        copies: Copies,
        damage: Damage,
    ) -> None:
        self._leader = leader
        self._assigned = assigned
        self._settings = settings
        self._counters = counters
        self._software = software
        self._keepers = keepers
        self._copies = copies
        self._damage = damage
        self._answers: dict[int, Callable[[Command, Transaction], Frames | Command]] = {
            Type.HELLO: self._hello,
            Type.FETCH: self._fetch,
            Type.DESCRIBE: self._describe,
            Type.FIND_OFFSETS: self._find_offsets,
            Type.GET_OFFSETS: self._get_offsets,
            Type.LIST_GROUPS: self._list_groups,
        }
        self.types = frozenset(self._answers)

    def answer(self, command: Command, txn: Transaction) -> Frames | Command:
        """Return the frames that answer a command, or what to hand in instead of it in the next turn.

        Raises:
            ZFabricError: what the ERROR answer says instead.
        """
        return self._answers[command.type](command, txn)

    def _hello(self, command: Command, txn: Transaction) -> Frames:
        body: messages.Hello = command.body
        version = min(body.highest, messages.VERSION)
        if version < max(body.lowest, messages.LOWEST_VERSION):
            raise errors.UnsupportedVersion(
                version=body.highest, lowest=messages.LOWEST_VERSION, highest=messages.VERSION
            )
        frame_bytes = self._settings.frame_bytes_max
        welcome = messages.Welcome(version, self._assigned.fabric, self._leader, frame_bytes, self._software)
        return (messages.command(Type.WELCOME, command.request, welcome),)

    def _fetch(self, command: Command, txn: Transaction) -> Frames:
        body: messages.Fetch = command.body
        check_range("fetch partitions", len(body.parts), 1, FETCH_PARTITIONS_MAX)
        check_range("fetch max_bytes", body.max_bytes, 1, FETCH_BYTES_MAX, "bytes")
        if body.part_bytes:
            check_range("fetch part_bytes", body.part_bytes, FETCH_PART_BYTES_MIN, FETCH_BYTES_MAX, "bytes")
        assigned, counters = self._assigned, self._counters
        budget = body.max_bytes
        results: list[messages.FetchedPart] = []
        blob: list[Any] = []
        for part in body.parts:
            try:
                partition = assigned.partition(part.partition, txn)
                if part.seen:
                    lineage.check(partition, part, txn, kept=partition.id in assigned.kept)
                found, size = partition.log.read(part.offset, budget, txn) if budget > 0 else ([], 0)
            except errors.ZFabricError as error:
                self._damage.see(part.partition, error)
                held = assigned.loaded.get(part.partition)
                start, end = (held.log.state.start, held.log.state.end) if held else (0, 0)
                failed = messages.failure_body(error)
                results.append(messages.FetchedPart(part.partition, start, end, assigned.epoch, 0, failed))
                continue
            state = partition.log.state
            parted = part.partition in self._copies.parted
            results.append(
                messages.FetchedPart(part.partition, state.start, state.end, state.epoch, size, parted=parted)
            )
            blob += found
            counters.records_out += sum(map(batch.record_count, found[::2]))
            budget -= size
        joined = b"".join(blob)
        counters.fetched_bytes += len(joined)
        counters.bytes_out += len(joined)
        head = messages.command(Type.FETCHED, command.request, messages.Fetched(results))
        return in_parts(head, joined, body.part_bytes)

    def _describe(self, command: Command, txn: Transaction) -> Frames:
        body: messages.Describe = command.body
        counters = self._counters
        amplification = counters.bytes_written / counters.bytes_in if counters.bytes_in else 0.0
        described = []
        for partition_id in body.partitions:
            partition = self._assigned.partition(partition_id, txn)
            kept = partition_id in self._assigned.kept
            state = partition.log.state
            described.append(
                messages.PartitionIs(
                    partition_id,
                    state.epoch,
                    state.start,
                    state.end,
                    state.bytes,
                    state.batches,
                    partition.config.durability,
                    amplification if isinstance(partition.log, StoredLog) else 0.0,
                    sorted(self._keepers.known(partition_id).items()),
                    self._copies.last_heard(partition_id, txn) if kept else 0,
                    self._copies.heard[partition_id].end if partition_id in self._copies.heard else 0,
                    self._copies.problem(partition_id) if kept else self._damage.problem(partition_id),
                )
            )
        return (messages.command(Type.DESCRIBED, command.request, messages.Described(described)),)

    def _find_offsets(self, command: Command, txn: Transaction) -> Frames | Command:
        body = command.body
        parts, found, since = body if isinstance(body, _Search) else _Search(body.parts, [], 0)
        found = list(found)
        left = SEARCH_BYTES
        for part in parts[len(found) :]:
            log = self._assigned.partition(part.partition, txn).log
            state = log.state
            if part.timestamp == _END:
                heard = self._copies.heard.get(part.partition)  # A copy may be behind what its origin has told.
                offset = state.end if heard is None else max(state.end, heard.end)
            elif part.timestamp == _START:
                offset = state.start
            else:
                try:
                    offset, done, read = log.find_time(part.timestamp, txn, since, left)
                except errors.CorruptBatch as error:
                    self._damage.see(part.partition, error)
                    raise
                left -= read
                if not done:
                    return command._replace(body=_Search(parts, found, offset))
            found.append(messages.OffsetIs(part.partition, offset, state.start, state.end))
            since = 0
            if left <= 0 and len(found) < len(parts):
                return command._replace(body=_Search(parts, found, 0))
        return (messages.command(Type.OFFSETS_ARE, command.request, messages.OffsetsAre(found)),)

    def _get_offsets(self, command: Command, txn: Transaction) -> Frames:
        body: messages.GetOffsets = command.body
        check_name("group", body.group, GROUP_BYTES_MAX)
        parts = [self._committed(body.group, partition_id, txn) for partition_id in body.partitions]
        return (messages.command(Type.COMMITTED_ARE, command.request, messages.CommittedAre(parts)),)

    def _committed(self, group: str, partition_id: int, txn: Transaction) -> messages.Committed:
        row = groups.committed(partition_id, group, txn)
        log = self._assigned.partition(partition_id, txn).log
        if row is None:
            return messages.Committed(group, partition_id, -1, 0, log.state.end)
        epoch, append_time = lineage.mark(log, row.offset, txn)
        return messages.Committed(group, partition_id, row.offset, row.timestamp, log.state.end, epoch, append_time)

    def _list_groups(self, command: Command, txn: Transaction) -> Frames:
        body: messages.ListGroups = command.body
        for name, text in (("group", body.group), ("after", body.after)):
            if text:
                check_name(name, text, GROUP_BYTES_MAX)
        found = self._commits(body, txn)
        parts = [self._committed(group, partition_id, txn) for group, partition_id in islice(found, LISTED_MAX)]
        answer = messages.CommittedAre(parts, more=len(parts) == LISTED_MAX)
        return (messages.command(Type.COMMITTED_ARE, command.request, answer),)

    def _commits(self, asked: messages.ListGroups, txn: Transaction) -> Iterator[tuple[str, int]]:
        """Yield (group, partition) of what is asked for, in the order of partition and name."""
        for partition_id in sorted(self._assigned.places):
            after = asked.after if partition_id == asked.partition else ""
            if partition_id < asked.partition:
                continue
            if not asked.group:
                yield from ((name, partition_id) for name in groups.names(partition_id, txn, after))
            elif asked.group.encode() > after.encode() and groups.committed(partition_id, asked.group, txn) is not None:
                yield asked.group, partition_id
