"""What the controller has assigned to a leader: topics, and which of their partitions are led here.

The rows of the last assignment are kept in the volume, so a leader serves at once after a restart, before anybody has
told it anything. Partitions are loaded when they are first used. A partition that is taken away leaves a row DOOMED
behind in the same transaction; ``maintenance.py`` removes what it held, and that row last.
"""

from __future__ import annotations

import msgspec

from zfabric import errors
from zfabric.core import rows
from zfabric.core.leader import keys
from zfabric.core.leader.memory import MemoryLog
from zfabric.core.leader.partition import DURABILITY_CODE, Partition
from zfabric.core.transaction import Transaction
from zfabric.model import TopicConfig
from zfabric.wire.metadata import Assign, AssignedTopic
from zfabric.wire.replication import KeptPlace

_encode = msgspec.msgpack.Encoder().encode
_decode_topic = msgspec.msgpack.Decoder(AssignedTopic).decode


class Assigned:
    """The partitions of one leader.

    Args:
        leader: its number in the fabric, for errors.

    Attributes:
        fabric: id of the fabric (text), empty until the first assignment.
        epoch: leader epoch of everything appended since this start.
        version: of the last assignment.
        places: topic and number within it, by partition id, copies included.
        kept: which of these are copies of other fabrics' partitions.
        loaded: the partitions in use, by id.
        changes: grows whenever one of these may be another than before, or be what it was before a turn.
    """

    def __init__(self, leader: int) -> None:
        self.fabric = ""
        self.epoch = 0
        self.version = self.changes = 0
        self.places: dict[int, tuple[AssignedTopic, int]] = {}
        self.kept: dict[int, KeptPlace] = {}
        self.loaded: dict[int, Partition] = {}
        self._leader = leader
        self._topics: dict[int, AssignedTopic] = {}

    def begin(self, txn: Transaction) -> None:
        """Take the next leader epoch."""
        row = txn.get(keys.volume("epoch"))
        self.epoch = (keys.U64.unpack(row)[0] if row is not None else 0) + 1
        txn.put(keys.volume("epoch"), keys.U64.pack(self.epoch))

    def load(self, txn: Transaction) -> None:
        """Read the last assignment."""
        self.changes += 1
        self._topics.clear()
        self.places.clear()
        self.kept.clear()
        row = txn.get(keys.volume("fabric"))
        self.fabric = bytes(row).decode() if row is not None else ""
        row = txn.get(keys.volume("assignment"))
        self.version = keys.U64.unpack(row)[0] if row is not None else 0
        cursor = txn.cursor()
        found = cursor.set_range(keys.ASSIGNED)
        while found and bytes(cursor.key()[:1]) == keys.ASSIGNED:
            topic = f"topic id {keys.split_id(cursor.key())[0]}"
            self._take(rows.decode(_decode_topic, cursor.value(), topic))
            found = cursor.next()

    def partition(self, partition_id: int, txn: Transaction) -> Partition:
        """Return a partition, loaded if need be.

        Raises:
            NotLeader: it is not led here. CorruptRow: its state cannot be decoded.
        """
        partition = self.loaded.get(partition_id)
        if partition is None:
            place = self.places.get(partition_id)
            if place is None:
                raise errors.NotLeader(leader=self._leader, partition=partition_id)
            topic, number = place
            config = self.config(partition_id)
            partition = self.loaded[partition_id] = Partition(partition_id, topic.name, number, config, txn)
        return partition

    def config(self, partition_id: int) -> TopicConfig:
        """Return the settings of one that is led or kept here: a copy has those that its topic has at the origin."""
        kept = self.kept.get(partition_id)
        return self.places[partition_id][0].config if kept is None or kept.config is None else kept.config

    def led(self, partition_id: int, txn: Transaction) -> Partition:
        """Return a partition that is led here, and no copy of another fabric's.

        Raises:
            NotLeader, CorruptRow: as :meth:`partition`.
        """
        if partition_id in self.kept:
            raise errors.NotLeader(leader=self._leader, partition=partition_id)
        return self.partition(partition_id, txn)

    def assign(self, body: Assign, txn: Transaction) -> list[int] | None:
        """Take an assignment; returns the partitions that are no longer led here, or None if it changes nothing.

        Raises:
            ProtocolViolation: it is of another fabric.
        """
        if body.version <= self.version and self.fabric == body.fabric:
            return None
        if body.since > self.version:
            return None  # One before this was lost; the next ATTACH asks for all that came after ours.
        if self.fabric and self.fabric != body.fabric:
            raise errors.ProtocolViolation(problem=f"assignment of fabric {body.fabric!r}", allowed=repr(self.fabric))
        if not self.fabric:
            self.fabric = body.fabric
            txn.put(keys.volume("fabric"), body.fabric.encode())
        self.changes += 1
        dropped = []
        for topic in body.topics:
            before = self._topics.get(topic.id)
            txn.put(keys.assigned(topic.id), _encode(topic))
            self._take(topic)
            if before is not None:
                staying = {partition_id for partition_id, _ in topic.places()}
                dropped += self._doom([gone for gone, _ in before.places() if gone not in staying], txn)
        dropped += [partition_id for topic_id in body.gone for partition_id in self._drop(topic_id, txn)]
        self.version = body.version
        txn.put(keys.volume("assignment"), keys.U64.pack(body.version))
        return dropped

    def _take(self, topic: AssignedTopic) -> None:
        self._topics[topic.id] = topic
        self.kept.update((place.id, place) for place in topic.kept)
        for partition_id, number in topic.places():
            self.places[partition_id] = (topic, number)
            partition = self.loaded.get(partition_id)
            if partition is not None:
                partition.config = self.config(partition_id)
                partition.durability = DURABILITY_CODE[topic.config.durability]

    def _drop(self, topic_id: int, txn: Transaction) -> list[int]:
        topic = self._topics.pop(topic_id, None)
        if topic is None:
            return []
        txn.delete(keys.assigned(topic_id))
        return self._doom([partition_id for partition_id, _ in topic.places()], txn)

    def _doom(self, partitions: list[int], txn: Transaction) -> list[int]:
        for partition_id in partitions:
            txn.put(keys.doomed(partition_id), b"")
            self.places.pop(partition_id, None)
            self.kept.pop(partition_id, None)
            self.loaded.pop(partition_id, None)
        return partitions

    def abandon(self) -> None:
        """The transaction was given up: partitions are loaded again when used; memory topics take back the turn."""
        self.changes += 1
        for partition_id, held in list(self.loaded.items()):
            if isinstance(held.log, MemoryLog):
                if held.log.abandon():
                    held.producers.abandon()
                else:
                    held.producers.settled()
                held.groups = held.tombstones = -1
            else:
                del self.loaded[partition_id]
