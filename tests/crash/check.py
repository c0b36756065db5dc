"""Opens a crash state with the real volume and the real machines, and says what is wrong with it."""

from __future__ import annotations

from collections import deque

import msgspec

from tests.crash.workload import BURST, GROUP, TOPICS, History, value_of
from zfabric import errors
from zfabric.core.cluster.placement import Placement
from zfabric.core.leader import keys
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.producers import ProducerState
from zfabric.core.leader.turn import Turn
from zfabric.settings import FETCH_BYTES_MAX, MIB, LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.store.volume import Volume
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Metadata
from zfabric.wire.received import RecordBatch

RECORD_OVERHEAD = 40
SETTINGS = LeaderSettings(map_bytes=MIB, disk_reserve_bytes=0, maintenance_ms=20)


class Recovered:
    """A leader that was started on a crash state."""

    def __init__(self, data: str) -> None:
        directory = DataDirectory.create_or_check(data)
        self.volume = Volume.open(directory.volume_path(0), SETTINGS)
        self.leader, self.placement = Leader(0, SETTINGS), Placement()
        self._turn = Turn(self.volume, self.leader, self.placement)
        self._turn.begin(self._start)

    def _start(self, txn) -> None:
        self.leader.start(txn)
        self.placement.start("new", 1, SETTINGS.record_bytes_max, txn)

    def ask(self, kind, body):
        """Return the answer to a command that only reads."""
        (effect,) = self._turn.answer(deque([(b"peer", Command(kind, 0, 1, body, ()))]), 1 << 30)
        answer = messages.read(effect.frames)
        if answer.type == Type.ERROR:
            raise errors.from_wire(answer.body.code, answer.body.values)
        return answer

    def topics(self) -> dict[str, int]:
        """Return the partition id of each topic."""
        found = self.ask(Type.METADATA, Metadata()).body.topics
        return {topic.name: topic.partitions[0].id for topic in found}

    def read(self, partition: int, start: int, end: int):
        """Return (offset, value, stored size of its batch from its first record on) of all records."""
        found = []
        while start < end:
            answer = self.ask(Type.FETCH, messages.Fetch(FETCH_BYTES_MAX, [messages.FetchPart(partition, start)]))
            result = answer.body.parts[0]
            if result.failure is not None:
                raise errors.from_wire(result.failure.code, result.failure.values)
            for header, _, payload in batch.split(answer.rest[0]):
                decoded = RecordBatch("", 0, header, payload)
                sizes = [batch.HEADER_BYTES + header.payload_length, *[0] * (header.records - 1)]
                found += zip(decoded.offsets, decoded.values, sizes, strict=True)
                start = header.next_offset
        return found

    def producer_ends(self, partition: int) -> list[int]:
        """Return the last sequence of each producer of a partition."""
        ends, mine = [], keys.prefix(keys.PRODUCER, partition)
        with self.volume.read() as txn:
            cursor = txn.cursor()
            there = cursor.set_range(mine)
            while there and bytes(cursor.key()[:5]) == mine:
                ends.append(msgspec.msgpack.decode(cursor.value(), type=ProducerState).last)
                there = cursor.next()
        return ends


def problems(data: str, history: History, time_ns: int, *, power_cut: bool) -> list[str]:
    """Return what a state lacks, or has too much, that a crash at ``time_ns`` left."""
    recovered = Recovered(data)
    try:
        partitions = recovered.topics()
        found = [
            f"topic {name} is gone" for name, at in history.made.items() if at < time_ns and name not in partitions
        ]
        for name, partition in partitions.items():
            if name not in TOPICS:
                found.append(f"topic {name} was never made")
                continue
            found += _check_topic(recovered, name, partition, history, time_ns, power_cut=power_cut)
        if "sync" in partitions:
            body = messages.GetOffsets(GROUP, [partitions["sync"]])
            offset = recovered.ask(Type.GET_OFFSETS, body).body.parts[0].offset
            wanted = max((place for at, place in history.committed if at < time_ns), default=-1)
            if offset < wanted:
                found.append(f"group: {wanted} was committed, {offset} is there")
        return found
    finally:
        recovered.volume.close()


def _check_topic(recovered, name, partition, history, time_ns, *, power_cut) -> list[str]:
    described = recovered.ask(Type.DESCRIBE, messages.Describe([partition])).body.partitions[0]
    start, end = described.start_offset, described.end_offset
    acked = [place for place, at in history.acked.get(name, {}).items() if at < time_ns]
    told = max(acked, default=-1) + 1
    if name == "memory":
        return [f"memory: {told} offsets were told, the next would be {end}"] if end < told else []
    found = []
    if end < told and not (power_cut and name == "cached"):
        found.append(f"{name}: {told} were acknowledged, {end} are there")
    sent = len(history.sent.get(name, ()))
    if end > sent:
        found.append(f"{name}: {sent} were sent, {end} are there")
    records = recovered.read(partition, start, end)
    if [offset for offset, _, _ in records] != list(range(start, end)):
        found.append(f"{name}: offsets are not dense")
    found += [f"{name}: other bytes at {offset}" for offset, value, _ in records if value != value_of(name, offset)]
    left = sum(size for _, _, size in records)
    if start and left + _batch_bytes_most(name, start) <= TOPICS[name].get("retention_bytes", 1 << 40):
        found.append(f"{name}: begins at {start} with {left} bytes left")
    if end and recovered.producer_ends(partition) != [end - 1]:
        found.append(f"{name}: the producer is at {recovered.producer_ends(partition)}, the log at {end}")
    return found


def _batch_bytes_most(topic: str, end: int) -> int:
    """Return how large the batch can have been that ended before offset ``end``: retention removed it as a whole."""
    numbers = range(max(end - BURST, 0), end)
    return batch.HEADER_BYTES + sum(len(value_of(topic, number)) + RECORD_OVERHEAD for number in numbers)
