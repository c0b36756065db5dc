"""The controller: which topics exist, which leader leads each partition. It hosts nothing and moves no record.

In embedded and node mode it runs in the process of leader 0, in the same transaction; its decisions are rows of that
volume. Other leaders attach, and are told what changed since the version that they have; the client asks for
metadata and then talks to the leaders directly.

Invariants:

- partition and topic ids are never given twice, deleted ones included;
- the version grows with every change, and each topic carries the version of its last one, so that "what changed
  since" is a filter; a deleted topic leaves a row with its id and version until every leader has heard of it;
- a leader takes an assignment only if it begins at or before the version that the leader has, so a lost one leaves no
  hole; it attaches again and again, and is then told all that it lacks;
- copies of other fabrics' partitions (ADOPT) get ids like partitions here, and leader 0 holds them. A copy is known by
  its origin's id and the partition's id there, neither of which is ever given twice: a topic that was deleted and made
  anew, or a disk that was replaced, is another origin and gets another copy;
- a decision is told only after its commit, and once more when its command is repeated: the last 64 tokens are kept.

========  ==================  ===========================================================
key       rest                value (msgpack)
========  ==================  ===========================================================
``CF``                        fabric id, next topic id, next partition id, version, tokens of the last changes
``CT``    topic name          the topic with its partitions, and the version of its last change
``CX``    topic id u32        version at which the topic was deleted
========  ==================  ===========================================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from zfabric import errors
from zfabric.core import rows
from zfabric.core.cluster.config import check_config
from zfabric.core.cluster.roster import Roster, topic_cards
from zfabric.core.effects import LeaderEffect, Reply
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer, TopicConfig
from zfabric.settings import (
    KEPT_PARTITIONS_MAX,
    ORIGINS_PER_TOPIC_MAX,
    PARTITIONS_MAX,
    RECORD_BYTES_CEILING,
    TOPIC_PARTITIONS_MAX,
    check_name,
    check_range,
)
from zfabric.wire import messages, metadata
from zfabric.wire.messages import Command, Type
from zfabric.wire.replication import Adopt, KeptPlace

_FACTS = b"CF"
_TOPIC = b"CT"
_GONE = b"CX"

ATTACHED_MAX = 1_000
ENDS_KEPT = 100_000
"""End offsets kept for the mesh: more than all leaders of a node tell."""
TOKENS_KEPT = 64
KEEPING_LEADER = 0
"""Holds all copies: it is the one with the controller, so adopting is one transaction."""


class _Facts(msgspec.Struct, array_like=True, frozen=True):
    fabric: str
    next_topic: int
    next_partition: int
    version: int
    done: list[int] = []


class _TopicRow(msgspec.Struct, array_like=True, frozen=True):
    meta: metadata.TopicMeta
    version: int


_encode = msgspec.msgpack.Encoder().encode
_decode_facts = msgspec.msgpack.Decoder(_Facts).decode
_decode_topic = msgspec.msgpack.Decoder(_TopicRow).decode


def row_problem(key: bytes, value: Buffer) -> str:
    """Tell what is wrong with a row of the controller's tables; "" if nothing."""
    try:
        if key == _FACTS:
            _decode_facts(value)
        elif key[:2] == _TOPIC:
            name = _decode_topic(value).meta.name
            return "" if key[2:] == name.encode() else f"the row is of topic {name!r}"
        elif key[:2] != _GONE or len(key) != 6 or len(value) != 8:
            return "the controller has no such row"
    except msgspec.MsgspecError as error:
        return f"it cannot be decoded: {error}"
    return ""


class Placement:
    """The controller of one fabric. Driven like a leader: handle, commit, then the effects.

    Args:
        roster: who is in the mesh; it is told the topics and asked for members.
        secret: what the other leaders' ATTACH has to bear.

    Attributes:
        changed: a handled command changed rows; the turn needs a synced commit. roster: as given.
        version: of the newest decision. refused: commands that were answered with an error.
    """

    def __init__(self, roster: Roster | None = None, secret: bytes = b"") -> None:
        self.roster = roster or Roster()
        self.changed = False
        self.fabric = ""
        self.version = 0
        self.refused = 0
        self._next_topic = 1
        self._next_partition = 1
        self._topics: dict[str, _TopicRow] = {}
        self._gone: dict[int, int] = {}
        self._leaders: dict[int, metadata.LeaderAddress] = {}
        self._secret = secret
        self._attached: dict[int, bytes] = {}
        self._heard: dict[int, int] = {}
        self._done: deque[int] = deque(maxlen=TOKENS_KEPT)
        self._count = 1
        self._record_bytes_max = RECORD_BYTES_CEILING
        self._effects: list[LeaderEffect] = []
        self._told = -1
        self._epoch = 0
        self._ends: dict[int, int] = {}
        self._writers: dict[int, Callable[[bytes, Command, Transaction], None]] = {
            Type.CREATE_TOPIC: self._create,
            Type.DELETE_TOPIC: self._delete,
            Type.ALTER_TOPIC: self._alter,
            Type.ADOPT: self._adopt,
        }
        self._readers: dict[int, Callable[[bytes, Command], None]] = {
            Type.METADATA: self._metadata,
            Type.ATTACH: self._attach,
            Type.MEMBERS: self._members,
            Type.ANNOUNCE: self._announce,
        }

    @property
    def writes(self) -> frozenset[int]:
        """Command types for :meth:`handle`."""
        return frozenset(self._writers)

    @property
    def reads(self) -> frozenset[int]:
        """Command types for :meth:`answer`."""
        return frozenset(self._readers)

    def start(self, fabric: str, leaders: int, record_bytes_max: int, txn: Transaction) -> None:
        """Load the rows; on a new volume found the fabric under the id ``fabric``. Needs a synced commit.

        ``leaders`` is how many leader processes there are: partitions are spread over 0 to leaders - 1.
        """
        row = txn.get(_FACTS)
        if row is None:
            self.fabric = fabric
            self._write_facts(txn)
        else:
            facts = rows.decode(_decode_facts, row, "the controller's state")
            self.fabric, self.version = facts.fabric, facts.version
            self._next_topic, self._next_partition = facts.next_topic, facts.next_partition
            self._done = deque(facts.done, TOKENS_KEPT)
        cursor = txn.cursor()
        found = cursor.set_range(_TOPIC)
        while found and bytes(cursor.key()[:2]) == _TOPIC:
            topic = rows.decode(_decode_topic, cursor.value(), f"topic {bytes(cursor.key()[2:])!r}")
            self._topics[topic.meta.name] = topic
            found = cursor.next()
        found = cursor.set_range(_GONE)
        while found and bytes(cursor.key()[:2]) == _GONE:
            self._gone[int.from_bytes(cursor.key()[2:], "big")] = int.from_bytes(cursor.value(), "big")
            found = cursor.next()
        self._count = leaders
        self._record_bytes_max = record_bytes_max
        self.roster.begin(self.fabric)

    @property
    def wants_report(self) -> bool:
        """Whether it is time for :meth:`report`."""
        return self.roster.wants_report

    def clock(self, now: int, wall_ms: int, epoch: int) -> None:
        """Note the time at the beginning of a turn, and tell the mesh which topics there are.

        Args:
            now: monotonic ns. wall_ms: ms since 1970. epoch: of the leader in this process.
        """
        self.roster.clock(now, wall_ms)
        if self._told != self.version or self._epoch != epoch:
            self._told, self._epoch = self.version, epoch
            self._lead()

    def report(self, load: int, ends: Sequence[metadata.PartitionEnd]) -> None:
        """Tell the mesh how busy this process is (percent of a core), and how far the topics are.

        Args:
            ends: of this process's leader; those of others come with their ATTACH.
        """
        self._learn(ends)
        self.roster.report(load)
        self._lead()

    def _learn(self, ends: Sequence[metadata.PartitionEnd]) -> None:
        if len(self._ends) > ENDS_KEPT:
            self._ends.clear()  # Of deleted topics, or of none: whoever leads tells again.
        self._ends.update((told.partition, told.end) for told in ends)

    def _lead(self) -> None:
        self.roster.lead(topic_cards((row.meta for row in self._topics.values()), self._ends, self._epoch))

    def listen(self, address: metadata.LeaderAddress) -> None:
        """Note where the leader of this very process listens."""
        self._leaders[address.id] = address

    def abandon(self, txn: Transaction) -> None:
        """The transaction was given up: load everything again."""
        self._topics.clear()
        self._gone.clear()
        self._effects.clear()
        self.changed = False
        self.start(self.fabric, self._count, self._record_bytes_max, txn)

    def handle(self, peer: bytes, command: Command, txn: Transaction) -> None:
        """Take a command that changes something."""
        try:
            self._writers[command.type](peer, command, txn)
        except errors.ZFabricError as error:
            self._refuse(peer, command, error)

    def answer(self, peer: bytes, command: Command) -> None:
        """Take a command that only reads what is decided."""
        try:
            self._readers[command.type](peer, command)
        except errors.ZFabricError as error:
            self._refuse(peer, command, error)

    def _refuse(self, peer: bytes, command: Command, error: errors.ZFabricError) -> None:
        self.refused += 1
        self._say(peer, command.request, Type.ERROR, messages.failure_body(error))

    def _say(self, peer: bytes, request: int, kind: int, body: msgspec.Struct) -> None:
        self._effects.append(Reply(peer, (messages.command(kind, request, body),)))

    def take_effects(self) -> list[LeaderEffect]:
        """Return what is to be sent now that the decisions are durable."""
        effects, self._effects = self._effects, []
        self.changed = False
        return effects

    def assignment(self, leader: int, since: int) -> metadata.Assign | None:
        """Return what ``leader`` has to know beyond version ``since``; None if nothing."""
        if since >= self.version and since:
            return None
        topics = []
        for row in self._topics.values():
            mine = [place for place in row.meta.partitions if place.leader == leader]
            kept = [place for place in row.meta.kept if place.leader == leader]
            # All hear when the own part of a topic with copies has gone, and the one that holds copies of their end.
            if row.version > since and (mine or kept or row.meta.kept or leader == KEEPING_LEADER):
                topics.append(metadata.AssignedTopic(row.meta.id, row.meta.name, row.meta.config, mine, kept))
        gone = [topic for topic, version in self._gone.items() if version > since]
        return metadata.Assign(self.fabric, self.version, topics, gone, since)

    def topic_count(self) -> int:
        """Return how many topics exist."""
        return len(self._topics)

    # Commands.

    def _write_facts(self, txn: Transaction) -> None:
        facts = _Facts(self.fabric, self._next_topic, self._next_partition, self.version, list(self._done))
        txn.put(_FACTS, _encode(facts))
        self.changed = True

    def _write_topic(self, meta: metadata.TopicMeta, txn: Transaction) -> None:
        self.version += 1
        row = self._topics[meta.name] = _TopicRow(meta, self.version)
        txn.put(_TOPIC + meta.name.encode(), _encode(row))
        self._write_facts(txn)

    def _find(self, name: str) -> metadata.TopicMeta:
        check_name("topic", name)
        row = self._topics.get(name)
        if row is None:
            raise errors.UnknownTopic(topic=name)
        return row.meta

    def _places(self, count: int, first: int) -> list[metadata.PartitionPlace]:
        living = sum(len(row.meta.partitions) for row in self._topics.values()) + count
        if living > PARTITIONS_MAX:
            raise errors.LimitExceeded(what="partitions in this fabric", value=living, limit=PARTITIONS_MAX)
        places = []
        for number in range(first, first + count):
            places.append(metadata.PartitionPlace(self._next_partition, number, self._next_partition % self._count))
            self._next_partition += 1
        return places

    def _check_record_bytes(self, config: TopicConfig) -> None:
        check_config(config)
        if config.replicas > 1 and self._count > 1:
            raise errors.NotSupported(
                what=f"replicas={config.replicas}", where=f"in a fabric of {self._count} leader processes",
                instead="keepers copy from one: serve with --leaders 1",
            )  # fmt: skip
        if config.record_bytes_max > self._record_bytes_max:
            raise errors.InvalidArgument(
                name="record_bytes_max",
                value=f"{config.record_bytes_max:,}",
                allowed=f"an integer from 1 to {self._record_bytes_max:,} bytes here: the record_bytes_max of the "
                f"leader's settings, which can be raised to {RECORD_BYTES_CEILING:,}",
            )

    def _create(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: metadata.CreateTopic = command.body
        check_name("topic", body.name)
        check_range("partitions", body.partitions, 1, TOPIC_PARTITIONS_MAX)
        self._check_record_bytes(body.config)
        row = self._topics.get(body.name)
        if body.token in self._done:
            meta = self._again(body.name)
        elif row is not None and row.meta.partitions:
            if not body.if_absent:
                raise errors.AlreadyExists(kind="topic", name=body.name)
            meta = row.meta
        else:
            if row is not None and row.meta.kept and body.config.durability != "fsync":
                raise errors.InvalidArgument(
                    name="durability", value=repr(body.config.durability), allowed="'fsync' where copies of it are kept"
                )
            meta = self._new(body.name, body.config) if row is None else row.meta
            places = self._places(body.partitions, 0)
            meta = metadata.TopicMeta(meta.name, meta.id, body.config, places, _kept_as_before(meta, body.config))
            self._note(body.token)
            self._write_topic(meta, txn)
        self._tell(peer, command, meta)

    def _new(self, name: str, config: TopicConfig) -> metadata.TopicMeta:
        self._next_topic += 1
        return metadata.TopicMeta(name, self._next_topic - 1, config, [])

    def _adopt(self, peer: bytes, command: Command, txn: Transaction) -> None:
        """Keep what an origin leads; what was kept of a log that was made anew stays: it may be all there is of it."""
        body: Adopt = command.body
        if body.drop:
            self._let_go(set(body.drop), txn)
        room = KEPT_PARTITIONS_MAX - sum(len(row.meta.kept) for row in self._topics.values())
        for topic in body.topics:
            check_name("topic", topic.name)
            check_config(topic.config)
            row = self._topics.get(topic.name)
            meta = self._new(topic.name, topic.config) if row is None else row.meta
            if meta.config.durability != "fsync":  # A copy is on disk.
                self.refused += 1
                continue
            kept = {(place.origin, place.source): place for place in meta.kept}
            before, config = dict(kept), None if topic.config == meta.config else topic.config
            origins = {place.origin for place in meta.kept} | {body.origin}
            for number, source in topic.partitions:
                if (body.origin, source) in kept:
                    place = kept[body.origin, source]
                    kept[body.origin, source] = msgspec.structs.replace(place, config=config)
                    continue
                if room <= 0 or len(origins) > ORIGINS_PER_TOPIC_MAX:
                    self.refused += 1
                    break
                room -= 1
                kept[body.origin, source] = KeptPlace(
                    self._next_partition, body.origin, number, KEEPING_LEADER, source, config
                )
                self._next_partition += 1
            if kept != before:
                self._write_topic(msgspec.structs.replace(meta, kept=list(kept.values())), txn)

    def _let_go(self, copies: set[int], txn: Transaction) -> None:
        """Forget copies."""
        for row in list(self._topics.values()):
            staying = [place for place in row.meta.kept if place.id not in copies]
            if len(staying) < len(row.meta.kept):
                self._leave(msgspec.structs.replace(row.meta, kept=staying), txn)

    def _delete(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: metadata.DeleteTopic = command.body
        if body.token in self._done:
            self._tell(peer, command, self._again(body.name))
            return
        meta = self._find(body.name)
        self._note(body.token)
        # Copies are others' records, and may be all there is of them: they go only where nothing else is meant.
        kept = meta.kept if meta.partitions else []
        self._leave(msgspec.structs.replace(meta, partitions=[], kept=kept), txn)
        self._tell(peer, command, meta)

    def _leave(self, meta: metadata.TopicMeta, txn: Transaction) -> None:
        """Write what is left of a topic; one of which nothing is left is removed."""
        if meta.partitions or meta.kept:
            self._write_topic(meta, txn)
        else:
            self._remove(meta, txn)

    def _remove(self, meta: metadata.TopicMeta, txn: Transaction) -> None:
        self._forget_gone(txn)
        del self._topics[meta.name]
        txn.delete(_TOPIC + meta.name.encode())
        self.version += 1
        self._gone[meta.id] = self.version
        txn.put(_GONE + meta.id.to_bytes(4, "big"), self.version.to_bytes(8, "big"))
        self._write_facts(txn)

    def _again(self, name: str) -> metadata.TopicMeta:
        """Answer what was done before and is not done twice: the topic as it is now, empty if there is none."""
        row = self._topics.get(name)
        return metadata.TopicMeta(name, 0, TopicConfig(), []) if row is None else row.meta

    def _note(self, token: int) -> None:
        if token:
            self._done.append(token)

    def _forget_gone(self, txn: Transaction) -> None:
        """Remove what every leader has heard; this very process hears of a deletion in its own transaction."""
        heard = min((self._heard.get(leader, 0) for leader in range(1, self._count)), default=self.version)
        for topic in [topic for topic, version in self._gone.items() if version <= heard]:
            del self._gone[topic]
            txn.delete(_GONE + topic.to_bytes(4, "big"))

    def _alter(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: metadata.AlterTopic = command.body
        meta = self._find(body.name)
        self._check_record_bytes(body.config)
        if body.config.durability != meta.config.durability:
            raise errors.InvalidArgument(
                name="durability",
                value=repr(body.config.durability),
                allowed=f"{meta.config.durability!r} for ever: make a new topic",
            )
        have = len(meta.partitions)
        wanted = body.partitions or have
        check_range("partitions", wanted, have, TOPIC_PARTITIONS_MAX)
        places = [*meta.partitions, *self._places(wanted - have, have)]
        meta = metadata.TopicMeta(meta.name, meta.id, body.config, places, _kept_as_before(meta, body.config))
        self._write_topic(meta, txn)
        self._tell(peer, command, meta)

    def _tell(self, peer: bytes, command: Command, meta: metadata.TopicMeta) -> None:
        for leader, attached in self._attached.items():
            assign = self.assignment(leader, self.version - 1)
            if assign is not None:
                self._say(attached, 0, Type.ASSIGN, assign)
        self._say(peer, command.request, Type.TOPIC_IS, metadata.TopicIs(meta))

    def _metadata(self, peer: bytes, command: Command) -> None:
        asked: list[str] | None = command.body.topics
        names = self._topics if asked is None else dict.fromkeys(asked)
        known = [self._topics[name].meta for name in names if name in self._topics]
        unknown = [name for name in names if name not in self._topics]
        answer = metadata.MetadataIs(self.fabric, list(self._leaders.values()), known, unknown)
        self._say(peer, command.request, Type.METADATA_IS, answer)

    def _attach(self, peer: bytes, command: Command) -> None:
        body: metadata.Attach = command.body
        check_range("leader", body.leader, 1, min(self._count - 1, ATTACHED_MAX))
        if body.secret != self._secret:
            raise errors.ProtocolViolation(problem="ATTACH from a client", allowed="from the leaders of this fabric")
        self._leaders[body.leader] = metadata.LeaderAddress(body.leader, body.endpoint, body.publish)
        self._attached[body.leader] = peer
        self._heard[body.leader] = body.version
        self._learn(body.ends)
        assign = self.assignment(body.leader, body.version)
        kind, answer = (Type.DONE, messages.Empty()) if assign is None else (Type.ASSIGN, assign)
        self._say(peer, command.request, kind, answer)

    def _members(self, peer: bytes, command: Command) -> None:
        self._say(peer, command.request, Type.MEMBERS_ARE, self.roster.serve(command.body))

    def _announce(self, peer: bytes, command: Command) -> None:
        self.roster.announce(command.body, peer)
        self._say(peer, command.request, Type.DONE, messages.Empty())


def _kept_as_before(meta: metadata.TopicMeta, config: TopicConfig) -> list[KeptPlace]:
    """Return a topic's copies with the settings of their origins, where the topic itself gets others here."""
    told = [(place, place.config or meta.config) for place in meta.kept]
    return [msgspec.structs.replace(place, config=None if own == config else own) for place, own in told]
