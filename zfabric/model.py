"""What users hold in their hands: records, topics and what is known about them.

A record is made per message, so it is a ``NamedTuple`` (built by ``tuple.__new__`` over whole columns); everything
else is made per call or per batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, NewType

import msgspec

Buffer = bytes | bytearray | memoryview
"""Bytes in any form; whoever keeps one beyond the call copies it."""

Offset = NewType("Offset", int)
Epoch = NewType("Epoch", int)

Durability = Literal["fsync", "os", "memory"]
Acks = Literal["none", "leader", "all"]
Cleanup = Literal["delete", "compact", "compact,delete"]
Codec = Literal["none", "lz4", "zstd"]


class Record(NamedTuple):
    """One committed record.

    Attributes:
        topic: name of its topic.
        partition: number of its partition within the topic, from 0.
        offset: its place in the partition, from 0, never reused.
        timestamp: wall clock milliseconds since 1970, given by the producer.
        key: bytes, or None where the record has no key.
        value: bytes, or None for a tombstone.
        headers: name to bytes; empty where there are none.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


class RecordMetadata(NamedTuple):
    """Where an acknowledged record went.

    Attributes:
        topic, partition: where it was appended.
        offset: its offset, or -1 with ``acks="none"``, or when it repeats one older than the leader remembers.
        timestamp: milliseconds since 1970, as stored with the record.
        durability: ``"fsync"``, ``"os"`` or ``"memory"``: what the acknowledgement means.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    durability: Durability


class TopicConfig(msgspec.Struct, frozen=True, array_like=True):
    """How a topic keeps its records; times in milliseconds, -1 where there is no bound.

    ``replicas`` is how many disks ``acks="all"`` waits for: the leader's own and those of ``replicas - 1`` keepers.
    """

    durability: Durability = "fsync"
    retention_ms: int = -1
    retention_bytes: int = -1
    cleanup: Cleanup = "delete"
    tombstone_ms: int = 86_400_000
    commit_interval_ms: int = 0
    record_bytes_max: int = 1 << 20
    replicas: int = 1


class PartitionInfo(msgspec.Struct, frozen=True):
    """One partition as its leader describes it.

    Attributes:
        partition: number within the topic. id: number within the fabric.
        leader: id of the leader process. epoch: its leader epoch.
        start_offset, end_offset: first kept offset, and the one that the next record gets.
        bytes: stored size of its batches. batches: their number.
        durability: what an acknowledgement means here.
        write_amplification: bytes written to the volume for each byte of batches since the leader started, the
            volume's other partitions included; 0.0 before the first append.
        origin: fabric id of the member of a mesh that leads it. online: that one, or a keeper that is read in its
            stead, has answered; if not, sizes and offsets are 0, because nobody could be asked.
        keepers: what each keeper that follows it has on its disk, as an end offset, by the keeper's fabric id; since
            the leader started.
    """

    partition: int
    id: int
    leader: int
    epoch: int
    start_offset: int
    end_offset: int
    bytes: int
    batches: int
    durability: Durability
    write_amplification: float
    origin: str = ""
    online: bool = True
    keepers: dict[str, int] = {}


class CopyInfo(msgspec.Struct, frozen=True):
    """A copy of a partition that another fabric leads, as its keeper describes it.

    Attributes:
        origin: the other fabric's id. partition: number within the topic there. id: number within this fabric.
        epoch: leader epoch of the last batch. start_offset, end_offset: first kept offset, and the next one.
        origin_end_offset, lag: where the origin's log ended when it was heard of last, and how many records of it are
            not here yet. heard_ms: when that was (ms since 1970, to an hour after a restart); 0 for never.
        bytes: stored size. problem: why the copy does not go on, or "".
    """

    origin: str
    partition: int
    id: int
    epoch: int
    start_offset: int
    end_offset: int
    origin_end_offset: int
    lag: int
    bytes: int
    heard_ms: int
    problem: str


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic with its configuration, its partitions in order of their number, and copies of other fabrics' ones.

    Attributes:
        others: in a mesh, the configuration of each member where it is another one than ``config``, by fabric id: that
            of the own part, or without one the one that most have, and of several that of the lowest fabric id.
    """

    name: str
    id: int
    config: TopicConfig
    partitions: list[PartitionInfo]
    copies: list[CopyInfo] = []
    others: dict[str, TopicConfig] = {}


class GroupOffset(msgspec.Struct, frozen=True):
    """What a consumer group has committed in one partition, and how far behind it is (records)."""

    group: str
    topic: str
    partition: int
    offset: int
    end_offset: int
    lag: int
    timestamp: int


class LeaderInfo(msgspec.Struct, frozen=True):
    """One leader process as ``zfabric status`` shows it.

    Attributes:
        id, pid: leader id and process id. endpoint, publish: where its ROUTER and its XPUB listen.
        partitions: how many it leads. clients: connections to its request port that there are now.
        rss_bytes, rss_anon_bytes: resident memory, and the part that is not file pages.
        uptime_s: seconds since it started. records_in, bytes_in, batches_in, commits, published, fetched_bytes,
        errors: totals since it started. subscriptions: live ones. map_bytes, used_bytes: of its volume.
        records_out, bytes_out: handed to consumers since it started: fetched, and published once for each subscriber;
            what a slow consumer loses of the latter and fetches again counts twice.
        damaged, mended: stretches of its logs that were found damaged since it started, by readers and, in copies, by a
            daily walk over them; and those of them that were replaced by what another holder of the same log has.
        mesh: name of the mesh that it is a member of, or "". mesh_members: alive or suspected there, itself included.
        mesh_health: how slow it finds itself, 0 is healthy. mesh_links: connections of gossip that it has made.
        mesh_sent, mesh_sent_bytes, mesh_received, mesh_received_bytes: frames of gossip since it started.
        mesh_refused: those that were garbage, of another mesh, or signed with another key; mesh_refused_meshes and
            mesh_refused_keys are the latter two. mesh_replayed: seen before.
        mesh_refused_members, mesh_refused_metadata: claims about members that were not believed, and what members
            tell of themselves that was not kept, for want of room or because of an impossible incarnation.
        mesh_seeds_unanswered: seeds behind which nobody of this mesh was found since the start.
        mesh_strangers: of those that are no members. mesh_put_off: comparisons, where too many were asked for.
        mesh_unsent: frames of gossip that found no connection in two seconds, or too many others waiting for it.
        mesh_news_dropped: news not passed on as often as others, since there were more than 4,096.
        mesh_relays_refused: probes that others asked for of somebody unknown here, or too many.
        mesh_pauses: how often it woke up half a second too late, or later.
        mesh_collisions: claims of an id that another process bears.
        mesh_refutations: claims about itself that it has refuted. mesh_beacons: of this mesh on the local network, its
            own included. mesh_beacons_refused: of other meshes, or garbage, or too many.
    """

    id: int
    pid: int
    endpoint: str
    publish: str
    partitions: int
    clients: int
    rss_bytes: int
    rss_anon_bytes: int
    uptime_s: float
    records_in: int
    bytes_in: int
    batches_in: int
    commits: int
    published: int
    fetched_bytes: int
    errors: int
    subscriptions: int
    map_bytes: int
    used_bytes: int
    records_out: int = 0
    bytes_out: int = 0
    damaged: int = 0
    mended: int = 0
    mesh: str = ""
    mesh_members: int = 0
    mesh_health: int = 0
    mesh_links: int = 0
    mesh_sent: int = 0
    mesh_sent_bytes: int = 0
    mesh_received: int = 0
    mesh_received_bytes: int = 0
    mesh_refused: int = 0
    mesh_replayed: int = 0
    mesh_strangers: int = 0
    mesh_collisions: int = 0
    mesh_refutations: int = 0
    mesh_beacons: int = 0
    mesh_beacons_refused: int = 0
    mesh_refused_meshes: int = 0
    mesh_refused_keys: int = 0
    mesh_refused_members: int = 0
    mesh_refused_metadata: int = 0
    mesh_seeds_unanswered: int = 0
    mesh_put_off: int = 0
    mesh_unsent: int = 0
    mesh_news_dropped: int = 0
    mesh_relays_refused: int = 0
    mesh_pauses: int = 0


MemberState = Literal["alive", "suspect", "failed", "left"]
MemberChangeKind = Literal["joined", "updated", "suspected", "recovered", "failed", "left", "returned", "forgotten"]


class MemberTopic(msgspec.Struct, frozen=True):
    """A topic that a member leads partitions of.

    Attributes:
        partitions: how many. end: sum of their end offsets, as of its last report.
        epoch: of that leader.
    """

    name: str
    partitions: int
    end: int
    epoch: int


class MemberService(msgspec.Struct, frozen=True):
    """An instance of a service that is offered at a member.

    Attributes:
        endpoint: where it takes requests. instance: number drawn at its start.
        weight: share of requests that it wants, in percent of a full instance's. draining: it wants no new ones.
    """

    name: str
    version: str
    endpoint: str
    instance: int
    weight: int
    draining: bool


class MemberInfo(msgspec.Struct, frozen=True):
    """One member of a mesh as the asked node or peer sees it. A fabric without a mesh has one member: itself.

    Attributes:
        id: 32 hex digits, the same as long as its data directory lives.
        state: ``"alive"``, ``"suspect"`` (it may have failed), ``"failed"`` or ``"left"``.
        incarnation: number of its last statement about itself. endpoint: where it takes requests.
        kind: ``"node"``, ``"peer"`` or ``"embedded"``. host: name of its machine. zone: as it was told, or "".
        fabric: id of the fabric that it holds. round_trip: seconds that a probe takes; None where not measured.
        load: percent of one core that its leader 0 uses, as of its last report.
        since: when the state began, or the member was started anew, milliseconds since 1970 by the asked one's clock.
        local: it is the asked one.
        topics, services: led and offered there; ``more``: some did not fit what it tells everybody.
        mesh: its name; "" where there is none.
        instance: 16 hex digits, of its leader process: others after each start; "" where it is not known.
    """

    id: str
    state: MemberState
    incarnation: int
    endpoint: str
    kind: str
    host: str
    zone: str
    fabric: str
    round_trip: float | None
    load: int
    since: int
    local: bool
    topics: list[MemberTopic]
    services: list[MemberService]
    more: bool = False
    mesh: str = ""
    instance: str = ""


class MemberChange(msgspec.Struct, frozen=True):
    """Something that became known about a member.

    Attributes:
        kind: ``"joined"``, ``"updated"`` (what it tells of itself), ``"suspected"``, ``"recovered"`` (it was
            suspected), ``"failed"``, ``"left"``, ``"returned"`` (it had failed or left, or was started anew before
            anybody missed it), or ``"forgotten"``.
        member: as it is known now; a forgotten one as it was known last.
    """

    kind: MemberChangeKind
    member: MemberInfo


class ServiceInstance(msgspec.Struct, frozen=True):
    """One instance of a service, as it announces itself.

    Attributes:
        service, version: its name, and "" where it gave no version. instance: its number, drawn at its start.
        endpoint: where it takes requests. host, zone: its machine and where that is, or "".
        weight: share of requests that it wants, in percent. draining: it takes nothing new.
    """

    service: str
    version: str
    instance: int
    endpoint: str
    host: str
    zone: str
    weight: int
    draining: bool
