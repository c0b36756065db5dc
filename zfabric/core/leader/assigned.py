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
from zfabric.core.leader.log import MemoryLog
from zfabric.core.leader.partition import DURABILITY_CODE, Partition
from zfabric.core.transaction import Transaction
from zfabric.wire import messages

_encode = msgspec.msgpack.Encoder().encode
_decode_topic = msgspec.msgpack.Decoder(messages.AssignedTopic).decode


class Assigned:
    """The partitions of one leader.

    Args:
        leader: its number in the fabric, for errors.

    Attributes:
        fabric: id of the fabric (text), empty until the first assignment.
        epoch: leader epoch of everything appended since this start.
        version: of the last assignment.
        places: topic and number within it, by partition id.
        loaded: the partitions in use, by id.
    """

    def __init__(self, leader: int) -> None:
        self.fabric = ""
        self.epoch = 0
        self.version = 0
        self.places: dict[int, tuple[messages.AssignedTopic, int]] = {}
        self.loaded: dict[int, Partition] = {}
        self._leader = leader
        self._topics: dict[int, messages.AssignedTopic] = {}

    def begin(self, txn: Transaction) -> None:
        """Take the next leader epoch."""
        row = txn.get(keys.volume("epoch"))
        self.epoch = (keys.U64.unpack(row)[0] if row is not None else 0) + 1
        txn.put(keys.volume("epoch"), keys.U64.pack(self.epoch))

    def load(self, txn: Transaction) -> None:
        """Read the last assignment."""
        self._topics.clear()
        self.places.clear()
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
            partition = self.loaded[partition_id] = Partition(partition_id, topic.name, number, topic.config, txn)
        return partition

    def assign(self, body: messages.Assign, txn: Transaction) -> list[int] | None:
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
        for topic in body.topics:
            txn.put(keys.assigned(topic.id), _encode(topic))
            self._take(topic)
        dropped = [partition_id for topic_id in body.gone for partition_id in self._drop(topic_id, txn)]
        self.version = body.version
        txn.put(keys.volume("assignment"), keys.U64.pack(body.version))
        return dropped

    def _take(self, topic: messages.AssignedTopic) -> None:
        self._topics[topic.id] = topic
        for place in topic.partitions:
            self.places[place.id] = (topic, place.number)
            partition = self.loaded.get(place.id)
            if partition is not None:
                partition.config = topic.config
                partition.durability = DURABILITY_CODE[topic.config.durability]

    def _drop(self, topic_id: int, txn: Transaction) -> list[int]:
        topic = self._topics.pop(topic_id, None)
        if topic is None:
            return []
        txn.delete(keys.assigned(topic_id))
        for place in topic.partitions:
            txn.put(keys.doomed(place.id), b"")
            self.places.pop(place.id, None)
            self.loaded.pop(place.id, None)
        return [place.id for place in topic.partitions]

    def abandon(self) -> None:
        """The transaction was given up: partitions are loaded again when used; memory topics take back the turn."""
        for partition_id, held in list(self.loaded.items()):
            if isinstance(held.log, MemoryLog):
                held.log.abandon()
                held.producers.abandon()
                held.groups = -1
            else:
                del self.loaded[partition_id]
