"""Limits and defaults, each with its unit and what moving it costs.

Everything that a stranger can make grow has a bound here. Settings are checked once, at the edge; the machines behind
it trust them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from zfabric import errors

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

DEFAULT_PORT: Final = 7400

# Bounds of the wire.
RECORD_BYTES_CEILING: Final = 64 * MIB
BATCH_RECORDS_MAX: Final = 1 << 20
BATCH_OVERHEAD_MAX: Final = 1 * MIB
"""A batch may exceed the largest record by this much: room for keys, headers and many small records."""
REQUEST_FRAMES_MAX: Final = 8
REQUEST_BYTES_MAX: Final = 512 * KIB
"""Largest command frame that a leader decodes: small structures take a hundred times their bytes once decoded."""
FETCH_PARTITIONS_MAX: Final = 10_000
FETCH_BYTES_MAX: Final = 16 * MIB
FETCH_PART_BYTES_MIN: Final = 16 * KIB
FETCHED_BYTES_MAX: Final = FETCH_BYTES_MAX + RECORD_BYTES_CEILING
"""Of all batches of one answer: there is at least one in it, however little was asked for."""
NAME_BYTES_MAX: Final = 249
GROUP_BYTES_MAX: Final = 200
KEY_BYTES_MAX: Final = 1 * MIB
HEADERS_MAX: Final = 128
TIMESTAMP_MAX: Final = 1 << 59
ERROR_TEXT_MAX: Final = 500

# Bounds of replication.
FOLLOW_WAIT_MS_MAX: Final = 60_000
"""Longest that a leader holds a keeper's FOLLOW while nothing happens."""
SHARED_OFFSETS_MAX: Final = 1_000
"""Committed offsets of groups in one message; the rest follows in the next ones."""
ORIGINS_PER_TOPIC_MAX: Final = 20_000
"""Origins of one topic that a keeper adopts."""
KEPT_PARTITIONS_MAX: Final = 50_000
"""Copies that a keeper holds in all."""
REPLICAS_MAX: Final = 16
UNCONFIRMED_MAX: Final = 100_000
"""Answers of one leader that wait for keepers; the oldest are forgotten beyond, and given when they are asked again."""

# Bounds of a mesh.
MESH_METADATA_BYTES_MAX: Final = 1_024
"""Metadata of one member: everybody keeps everybody's, and one update has to fit a packet of 1,400 bytes."""
MEMBERS_TOLD_MAX: Final = 500
"""Members in one answer to a client: about half a MiB."""
ENDS_MAX: Final = 1_000
"""Partitions of one leader whose end offsets are told to the mesh."""
SERVICES_MAX: Final = 1_000
"""Instances of services announced at one leader."""

# Bounds of services.
CALL_BYTES_MAX: Final = 16 * MIB
"""Largest body of a request, a reply or a chunk; a service's socket takes frames of this and 64 KiB more."""
CALL_HEADER_BYTES_MAX: Final = 64 * KIB
METHOD_BYTES_MAX: Final = 512
CALLS_PER_INSTANCE_MAX: Final = 1_000
"""Requests that one caller has under way at one instance; more wait at the caller. An instance refuses the rest."""
STREAM_WINDOW: Final = 8
"""Chunks that a stream may be ahead of its reader; an instance's queue to a caller has room for all of its streams."""
STREAM_BYTES: Final = 1 * MIB
"""Bytes of a stream at which its instance waits for its reader, though fewer chunks than the window are ahead."""

# Bounds of a leader.
PARTITIONS_MAX: Final = 100_000
TOPIC_PARTITIONS_MAX: Final = 10_000
GROUPS_PER_PARTITION_MAX: Final = 10_000
PRODUCERS_PER_PARTITION_MAX: Final = 100_000
PRODUCER_BATCHES_KEPT: Final = 8
"""Batches that a leader remembers for each producer; clients keep at most five in flight."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_PATTERN = re.compile(r"(?:[A-Za-z0-9._*?-]|\[!?[A-Za-z0-9._-]+\])+\Z")


def check_range(name: str, value: object, low: int | float, high: int | float, unit: str = "") -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a number within ``low`` to ``high``."""
    if type(value) is type(low) and low <= value <= high:
        return  # Nearly always, and in a third of the time.
    whole = isinstance(low, int) and isinstance(high, int)
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not low <= value <= high:  # type: ignore[operator]
        kind = "an integer" if whole else "a number"
        text = repr(value)[:100]
        ends = [f"{int(end) if end == int(end) else end:,}" for end in (low, high)]
        allowed = f"{kind} from {ends[0]} to {ends[1]}{' ' + unit if unit else ''}"
        raise errors.InvalidArgument(name=name, value=text, allowed=allowed)


def check_timeout(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a number of seconds; None means for ever."""
    if value is not None:
        check_range(name, value, 0.0, 1e9, "s")


def check_flag(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise errors.InvalidArgument(name=name, value=repr(value)[:100], allowed="True or False")


def check_callable(name: str, value: object, *, required: bool = False) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` can be called, or is None where it is not required."""
    if not callable(value) and (required or value is not None):
        allowed = "a callable" if required else "a callable or None"
        raise errors.InvalidArgument(name=name, value=repr(value)[:100], allowed=allowed)


def check_iterable(name: str, value: object, of: str) -> None:
    """Raise :class:`InvalidArgument` unless ``value`` can be iterated over."""
    if not isinstance(value, Iterable):
        raise errors.InvalidArgument(name=name, value=repr(value)[:100], allowed=f"an iterable of {of}")


def check_pattern(kind: str, value: object) -> str:
    """Return ``value`` if it can match the name of a topic, else raise :class:`InvalidArgument`."""
    if not isinstance(value, str) or len(value) > NAME_BYTES_MAX or not _PATTERN.match(value):
        allowed = f"1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -, and * ? [...]"
        raise errors.InvalidArgument(name=kind, value=repr(value)[:100], allowed=allowed)
    return value


def check_name(kind: str, value: object, longest: int = NAME_BYTES_MAX) -> str:
    """Return ``value`` if it can name a topic or a group, else raise :class:`InvalidArgument`.

    Names are ASCII, so that no two of them look alike and none can be a path.
    """
    if not isinstance(value, str) or len(value) > longest or not _NAME.match(value):
        allowed = f"1 to {longest} of the characters A-Z a-z 0-9 . _ -, not beginning with '.' or '-'"
        raise errors.InvalidArgument(name=kind, value=repr(value)[:100], allowed=allowed)
    return value


_TOPIC_RANGES: Final[dict[str, tuple[int | float, int | float, str, str]]] = {
    "retention": (0.0, 1e12, "s", "for ever"),
    "retention_bytes": (0, 1 << 60, "bytes", "without bound"),
    "tombstone_retention": (0.0, 1e12, "s", ""),
    "commit_interval": (0.0, 3_600.0, "s", ""),
    "record_bytes_max": (1, RECORD_BYTES_CEILING, "bytes", ""),
    "replicas": (1, REPLICAS_MAX, "copies", ""),
}
"""Least, most, unit, and what None means where it is allowed: the same for clients and leaders."""


def check_topic_option(name: str, value: object) -> None:
    """Raise :class:`InvalidArgument` unless a topic may have ``value`` for the numeric option ``name``, in its unit."""
    low, high, unit, unbounded = _TOPIC_RANGES[name]
    if value is not None or not unbounded:
        check_range(name, value, low, high, f"{unit}, or None: {unbounded}" if unbounded else unit)


class LeaderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a leader process may be told, in a TOML file, in the environment, or on the command line.

    Attributes:
        record_bytes_max: bytes, to 64 MiB; upper bound of a topic's own record_bytes_max. The socket refuses frames
            larger than this plus 1 MiB, so a higher value lets one stranger hold more memory.
        map_bytes: bytes of address space that the volume starts with; it doubles when 80 % are used.
        disk_reserve_bytes: appends are refused when less is free; -1 means 5 % of the disk, at most 1 GiB.
        turn_messages: most requests handled in one turn, that is in one commit. More raises throughput under
            many small writers and the latency of each.
        turn_bytes: most payload bytes in one turn.
        memory_max_bytes: anonymous memory at which a leader drops all connections to free what strangers filled.
        subscriptions_max: subscriptions at which a leader drops all subscribers; consumers come back by themselves.
            Those by lanes are counted for themselves, and whoever exceeds the number is dropped alone.
        head_ms: milliseconds of silence after data before a HEAD beacon is published.
        grace_ms: embedded mode: milliseconds between the last client's end and the leader's.
        maintenance_ms: milliseconds between two steps of retention, compaction and expiry.
        compact_after_ms: milliseconds that a record or an expired tombstone of a compacted topic waits for compaction
            at most, and a sixth of it more for each MiB that its partition holds. It begins at once when 1 MiB and
            half as much as was compacted before is new. Less frees space sooner and rewrites more.
        origin_expiry_days: days after which a keeper drops a copy whose origin was not heard of, if nobody has
            anything left to read in it.
        publish_queue: messages kept for each slow subscriber before it misses some and fetches them instead.
        lanes_max: subscribers on this machine that are published to without libzmq's threads, which is the sooner for
            them and takes the leader a call of the kernel for each; 0: none are.
        log_level: DEBUG, INFO, WARNING or ERROR. log_format: text or json.
    """

    record_bytes_max: int = 16 * MIB
    map_bytes: int = 16 * GIB
    disk_reserve_bytes: int = -1
    turn_messages: int = 256
    turn_bytes: int = 16 * MIB
    memory_max_bytes: int = 1 * GIB
    subscriptions_max: int = 1_000_000
    head_ms: int = 50
    grace_ms: int = 2_000
    maintenance_ms: int = 500
    compact_after_ms: int = 60_000
    origin_expiry_days: int = 30
    publish_queue: int = 256
    lanes_max: int = 16
    log_level: str = "INFO"
    log_format: str = "text"

    def __post_init__(self) -> None:
        check_range("record_bytes_max", self.record_bytes_max, 1, RECORD_BYTES_CEILING, "bytes")
        check_range("map_bytes", self.map_bytes, MIB, 1 << 46, "bytes")
        check_range("disk_reserve_bytes", self.disk_reserve_bytes, -1, 1 << 50, "bytes")
        check_range("turn_messages", self.turn_messages, 1, 100_000, "messages")
        check_range("turn_bytes", self.turn_bytes, KIB, GIB, "bytes")
        check_range("memory_max_bytes", self.memory_max_bytes, 64 * MIB, 1 << 46, "bytes")
        check_range("subscriptions_max", self.subscriptions_max, 1_000, 100_000_000, "subscriptions")
        check_range("head_ms", self.head_ms, 1, 60_000, "ms")
        check_range("grace_ms", self.grace_ms, 0, 3_600_000, "ms")
        check_range("maintenance_ms", self.maintenance_ms, 1, 3_600_000, "ms")
        check_range("compact_after_ms", self.compact_after_ms, 0, 86_400_000, "ms")
        check_range("origin_expiry_days", self.origin_expiry_days, 1, 36_500, "days")
        check_range("publish_queue", self.publish_queue, 1, 1_000_000, "messages")
        check_range("lanes_max", self.lanes_max, 0, 1_000, "lanes")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise errors.InvalidArgument(
                name="log_level", value=repr(self.log_level), allowed="DEBUG, INFO, WARNING, ERROR"
            )
        if self.log_format not in ("text", "json"):
            raise errors.InvalidArgument(name="log_format", value=repr(self.log_format), allowed="text, json")

    @property
    def frame_bytes_max(self) -> int:
        """Largest frame that a socket takes, in bytes."""
        return self.record_bytes_max + BATCH_OVERHEAD_MAX


class ProducerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a producer batches and how long it tries.

    Attributes:
        acks: ``"all"``, ``"leader"`` or ``"none"``.
        linger_ns: longest that a record waits for company; 0 sends at once when nothing is in flight.
        batch_bytes: size at which an open batch is closed.
        buffer_bytes: bytes of unacknowledged records at which ``send`` waits.
        in_flight_max: batches under way per partition, 1 to 5 (the leader remembers eight).
        delivery_timeout_ns: after this a record's delivery fails with its outcome unknown.
        codec: ``"none"``, ``"lz4"`` or ``"zstd"``.
    """

    acks: str = "all"
    linger_ns: int = 0
    batch_bytes: int = 512 * KIB
    buffer_bytes: int = 64 * MIB
    in_flight_max: int = 5
    delivery_timeout_ns: int = 120_000_000_000
    codec: str = "none"

    def __post_init__(self) -> None:
        if self.acks not in ("all", "leader", "none"):
            raise errors.InvalidArgument(name="acks", value=repr(self.acks), allowed="'all', 'leader', 'none'")
        if self.codec not in ("none", "lz4", "zstd"):
            raise errors.InvalidArgument(name="compression", value=repr(self.codec), allowed="'none', 'lz4', 'zstd'")
        check_range("linger", self.linger_ns / 1e9, 0.0, 60.0, "s")
        check_range("batch_bytes", self.batch_bytes, 1, RECORD_BYTES_CEILING, "bytes")
        check_range("buffer_bytes", self.buffer_bytes, 1, 1 << 40, "bytes")
        check_range("in_flight_max", self.in_flight_max, 1, 5, "batches")
        check_range("delivery_timeout", self.delivery_timeout_ns / 1e9, 0.001, 86_400.0, "s")


class MeshSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a member of a mesh gossips: SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2017).

    All members of a mesh should have the same. Formulas are in :mod:`zfabric.core.mesh`; ``n`` is the number of members
    that are not known to have failed or left. Defaults are those of a local network.

    Attributes:
        probe_interval_ns: each member probes one other in this time (1 s). Less finds failures sooner; cost in messages
            grows with its inverse, whatever n is: 2 messages a member in an interval.
        probe_timeout_ns: silence after which others are asked to probe (500 ms); above the 99th percentile of a round
            trip, or healthy members cost indirect probes, and well below the interval, or those have no time.
        indirect_probes: how many others are asked (3). With loss p of a message all of them fail with about
            (1 - (1 - p)**4)**k: more forgives more loss, and costs 4 messages each, but only after a failed probe.
        suspicion_factor: alpha (4): a suspected member has at least alpha * max(1, log10 n) intervals to refute. More
            tolerates slower members, and every failure is known that much later.
        suspicion_stretch: beta (6): the time is beta times that long while nobody else suspects it. More spares the
            victims of a slow accuser; a failure that only one member can see takes longer.
        confirmations: K (3): independent accusers that bring the time down to its minimum.
        awareness_max: S (8): intervals and timeouts of a member that finds itself slow grow up to S + 1 times. More
            silences a sick member better, and lets a healthy one be fooled longer by others' failures. 0: never.
        pause_ns: a wake-up that comes this much too late (500 ms) tells that this process stood still: what ran out
            meanwhile is not held against others.
        gossip_interval_ns, gossip_fanout: news go to 3 others every 100 ms. A change reaches n members in about
            log(n) / log(fanout + 1) intervals and as many again; the number of messages does not depend on it.
        retransmit_factor: lambda (3): each news is sent ceil(lambda * ln(n + 1)) times. The chance that a change misses
            somebody is about n**(1 - lambda * (1 - loss)); the cost of a change is proportional to lambda.
        sync_interval_ns: anti-entropy: hashes of the whole table go to one other (30 s; times ceil(log2(n / 32)) + 1
            above 32 members). Less repairs misses sooner; two messages when nothing differs.
        reconnect_interval_ns: one of the failed is tried again (10 s), which heals partitions.
        failed_keep_ns: a failed member is tried again and its record kept so long (1 h), unless room is needed.
        left_keep_ns: the record of one that left (10 min): longer than any rumour about it lives.
        members_max: bound of the table (10,000); the last tenth is for those that prove themselves to us in person.
        metadata_bytes_max: bound of all metadata kept (8 MiB); members beyond it are kept without theirs.
    """

    probe_interval_ns: int = 1_000_000_000
    probe_timeout_ns: int = 500_000_000
    indirect_probes: int = 3
    suspicion_factor: int = 4
    suspicion_stretch: int = 6
    confirmations: int = 3
    awareness_max: int = 8
    pause_ns: int = 500_000_000
    gossip_interval_ns: int = 100_000_000
    gossip_fanout: int = 3
    retransmit_factor: int = 3
    sync_interval_ns: int = 30_000_000_000
    reconnect_interval_ns: int = 10_000_000_000
    failed_keep_ns: int = 3_600_000_000_000
    left_keep_ns: int = 600_000_000_000
    members_max: int = 10_000
    metadata_bytes_max: int = 8 * MIB

    def __post_init__(self) -> None:
        check_range("probe_interval", self.probe_interval_ns / 1e9, 0.01, 600.0, "s")
        check_range("probe_timeout", self.probe_timeout_ns / 1e9, 0.001, self.probe_interval_ns / 1e9, "s")
        check_range("indirect_probes", self.indirect_probes, 0, 16, "members")
        check_range("suspicion_factor", self.suspicion_factor, 1, 100)
        check_range("suspicion_stretch", self.suspicion_stretch, 1, 100)
        check_range("confirmations", self.confirmations, 0, 16, "members")
        check_range("awareness_max", self.awareness_max, 0, 64)
        check_range("pause", self.pause_ns / 1e9, 0.001, 1e9, "s")
        check_range("gossip_interval", self.gossip_interval_ns / 1e9, 0.001, 60.0, "s")
        check_range("gossip_fanout", self.gossip_fanout, 1, 16, "members")
        check_range("retransmit_factor", self.retransmit_factor, 1, 16)
        check_range("sync_interval", self.sync_interval_ns / 1e9, 0.1, 86_400.0, "s")
        check_range("reconnect_interval", self.reconnect_interval_ns / 1e9, 0.1, 86_400.0, "s")
        check_range("failed_keep", self.failed_keep_ns / 1e9, 1.0, 1e9, "s")
        check_range("left_keep", self.left_keep_ns / 1e9, 1.0, 1e9, "s")
        check_range("members_max", self.members_max, 10, 100_000, "members")
        check_range("metadata_bytes_max", self.metadata_bytes_max, 0, GIB, "bytes")
