"""Every exception that zfabric raises, one class for one way to go wrong.

A class states what happened, where, the allowed range and what to do next; its values are attributes, its text is
built here from them. ``code`` is stable on the wire: a leader answers a request with a code and the values, and the
client raises the same class with the same attributes. ``retriable`` says whether the same call may succeed later
without anybody changing it.

Two families matter to a reader of a stack trace: :class:`InvalidArgument` and its kin are the caller's mistake,
:class:`ProtocolViolation` is the peer's.
"""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

__all__ = [
    "AlreadyExists",
    "BadInput",
    "BufferFull",
    "CalleeLost",
    "Closed",
    "ConfigurationError",
    "CorruptBatch",
    "CorruptFrame",
    "CorruptRow",
    "DeadlineExceeded",
    "DeliveryError",
    "DeliveryTimeout",
    "DeserializerFailed",
    "DirectoryDamaged",
    "DirectoryFormat",
    "DirectoryLocked",
    "DirectoryUnusable",
    "Draining",
    "Forked",
    "InsecureListen",
    "InvalidArgument",
    "LeaderFailed",
    "LimitExceeded",
    "NotFound",
    "NotLeader",
    "NotSupported",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "Overloaded",
    "PortInUse",
    "ProducerFenced",
    "ProtocolViolation",
    "RecordTooLarge",
    "RemoteError",
    "RequestTimeout",
    "ServiceDraining",
    "ServiceUnavailable",
    "SourceRewound",
    "StorageFailed",
    "StorageFull",
    "UnknownMethod",
    "UnknownPartition",
    "UnknownProducer",
    "UnknownTopic",
    "Unreachable",
    "UnsupportedVersion",
    "UplinkFenced",
    "WrongInstance",
    "ZFabricError",
    "from_wire",
]

Value = str | int | float | None


class ZFabricError(Exception):
    """The root of all errors of this package.

    Attributes:
        code: stable number of the class on the wire.
        retriable: whether the same call may succeed later by itself.
        values: the attributes as one dict, for logs and for ``--json``.
    """

    code: ClassVar[int] = 1
    retriable: ClassVar[bool] = False
    template: ClassVar[str] = "{message}"
    defaults: ClassVar[dict[str, Value]] = {}

    def __init__(self, **values: Value) -> None:
        self.values: dict[str, Value] = {**self.defaults, **values}
        self.__dict__.update(self.values)
        super().__init__(self.template.format_map(self.values | {"counted": _counted(values.get("records"))}))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.values)


def _counted(records: Value) -> str:
    return "1 record" if records == 1 else f"{records:,} records" if isinstance(records, int) else ""


def _rebuild(kind: type[ZFabricError], values: dict[str, Value]) -> ZFabricError:
    return kind(**values)


# The caller's mistakes.


class InvalidArgument(ZFabricError, ValueError):
    """An argument has a wrong type or lies outside its range."""

    code = 2
    template = "{name}={value} is not allowed; allowed: {allowed}"
    name: str
    value: str
    allowed: str


class NotSupported(ZFabricError):
    """This mode or this kind of topic cannot keep what the call promises."""

    code = 3
    template = "{what} is not supported {where}; {instead}"
    what: str
    where: str
    instead: str


class ConfigurationError(ZFabricError):
    """A configuration file, environment variable or URL cannot be used."""

    code = 4
    template = "{source}: {problem}; {instead}"
    source: str
    problem: str
    instead: str


class RecordTooLarge(ZFabricError):
    """One record exceeds what its topic takes."""

    code = 5
    template = (
        "record of {size:,} bytes for topic {topic!r} exceeds record_bytes_max={limit:,} "
        "(allowed 1 to {ceiling:,}); raise it or split the value"
    )
    defaults: ClassVar[dict[str, Value]] = {"ceiling": 64 << 20}
    size: int
    topic: str
    limit: int


class UnknownTopic(ZFabricError):
    """No topic has that name."""

    code = 6
    template = "no topic {topic!r}; create it with fabric.topics.create({topic!r}) or 'zfabric topic create {topic}'"
    topic: str


class UnknownPartition(ZFabricError):
    """The topic has no such partition."""

    code = 7
    template = "topic {topic!r} has no partition {partition}; allowed: 0 to {last}"
    topic: str
    partition: int
    last: int


class AlreadyExists(ZFabricError):
    """Something of that name is there already."""

    code = 8
    template = "{kind} {name!r} exists already; choose another name or use the one that is there"
    kind: str
    name: str


class NotFound(ZFabricError):
    """A group or another named thing does not exist."""

    code = 9
    template = "no {kind} {name!r}"
    kind: str
    name: str


class Closed(ZFabricError):
    """The object was closed before or during the call."""

    code = 10
    template = "{what} is closed; make a new one"
    what: str


class Forked(ZFabricError):
    """A fabric was used in a process that was forked after it was made."""

    code = 11
    template = (
        "{what} was made in process {owner} and is used in its forked child {child}; "
        "sockets cannot be shared: call zfabric.connect() in the child"
    )
    what: str
    owner: int
    child: int


class BufferFull(ZFabricError):
    """The producer's buffer is full and the caller asked not to wait, or its wait ended."""

    code = 12
    retriable = True
    template = (
        "the producer holds {used:,} bytes that are not acknowledged, buffer_bytes={limit:,}; "
        "wait, flush() or raise buffer_bytes"
    )
    used: int
    limit: int


# What time and the network do.


class Unreachable(ZFabricError):
    """No leader answered within the time given."""

    code = 20
    retriable = True
    template = "{url} did not answer within {seconds:g} s: {detail}"
    defaults: ClassVar[dict[str, Value]] = {"detail": "is it running? start one with 'zfabric serve'"}
    url: str
    seconds: float


class RequestTimeout(ZFabricError, TimeoutError):
    """The answer did not come in time; whether the request took effect is not known."""

    code = 21
    retriable = True
    template = "{what} had no answer within {seconds:g} s; its outcome is unknown"
    what: str
    seconds: float


class DeserializerFailed(ZFabricError):
    """The consumer's deserializer raised for a record, and that is the cause. Seek to ``next_offset`` to go on."""

    code = 27
    template = (
        "topic {topic!r} partition {partition} offset {offset}: the deserializer raised {problem}; "
        "seek to {next_offset} to go on"
    )
    topic: str
    partition: int
    offset: int
    next_offset: int
    problem: str


class DeliveryTimeout(ZFabricError, TimeoutError):
    """A record was not acknowledged within the producer's delivery timeout; its outcome is unknown.

    ``reason`` says why the leader refused it, if that is what it last answered.
    """

    code = 22
    retriable = True
    template = (
        "no acknowledgement for {counted} to topic {topic!r} partition {partition} within {seconds:g} s; {reason}"
    )
    defaults: ClassVar[dict[str, Value]] = {"reason": "they may or may not be stored"}
    records: int
    topic: str
    partition: int
    seconds: float


class DeliveryError(ZFabricError):
    """Records that could not be delivered, by topic and partition, with the first cause."""

    code = 23
    template = "not acknowledged: {counted}; {detail}"
    records: int
    detail: str


class NotLeader(ZFabricError):
    """The partition is led elsewhere; the client looks up where and repeats."""

    code = 24
    retriable = True
    template = "leader {leader} does not lead partition id {partition}; ask for metadata and repeat"
    leader: int
    partition: int


class Draining(ZFabricError):
    """The leader is shutting down and takes no new work."""

    code = 25
    retriable = True
    template = "leader {leader} is draining; repeat on its successor"
    leader: int


class LeaderFailed(ZFabricError):
    """A leader process could not be started or ended by itself."""

    code = 26
    retriable = True
    template = "the leader for {directory!r} ended with status {status}: {detail}"
    directory: str
    status: int
    detail: str


# What producers and consumers meet.


class OutOfOrderSequence(ZFabricError):
    """A batch does not follow the producer's last one; one before it is missing."""

    code = 30
    retriable = True
    template = (
        "partition id {partition}, producer {producer:#x} epoch {epoch}: got sequence {sequence}, expected {expected}"
    )
    partition: int
    producer: int
    epoch: int
    sequence: int
    expected: int


class UnknownProducer(ZFabricError):
    """The leader remembers nothing of this producer, whose sequence does not begin at zero."""

    code = 31
    template = "partition id {partition} knows no producer {producer:#x}; it must begin a new epoch"
    partition: int
    producer: int


class ProducerFenced(ZFabricError):
    """A newer instance of the same named producer is at work."""

    code = 32
    template = (
        "producer {producer:#x} epoch {epoch} is fenced: epoch {current} is at work on partition id {partition}; "
        "stop this instance"
    )
    partition: int
    producer: int
    epoch: int
    current: int


class OffsetOutOfRange(ZFabricError):
    """The asked offset is not, or no longer, in the log."""

    code = 33
    template = (
        "topic {topic!r} partition {partition}: offset {offset} is outside the log; allowed: {start} to {end}; "
        "seek to one of them"
    )
    topic: str
    partition: int
    offset: int
    start: int
    end: int


class CorruptBatch(ZFabricError):
    """A stored or received batch does not match its checksum or cannot be decoded."""

    code = 34
    template = (
        "topic {topic!r} partition {partition} offset {offset}: {problem}; "
        "later offsets stay readable from {next_offset}; run 'zfabric doctor'"
    )
    topic: str
    partition: int
    offset: int
    next_offset: int
    problem: str


class CorruptRow(ZFabricError):
    """A small row of a leader (the state of a partition, a producer, a group, a topic) cannot be decoded."""

    code = 36
    template = "{what} cannot be read: {problem}; others are not concerned; run 'zfabric doctor'"
    what: str
    problem: str


class LimitExceeded(ZFabricError):
    """A bound of the fabric is reached."""

    code = 35
    template = "{what}: {value:,} exceeds the limit of {limit:,}; {instead}"
    defaults: ClassVar[dict[str, Value]] = {"instead": "use fewer or raise the limit"}
    what: str
    value: int
    limit: int


# What an uplink meets.


class UplinkFenced(ZFabricError):
    """Another uplink of the same source topic into the same place has begun."""

    code = 37
    template = "another uplink ships topic {topic!r} of {source} to {target} now; this one ends: run one of them"
    topic: str
    source: str
    target: str


class SourceRewound(ZFabricError):
    """The source lost records that the hub has, so its next ones would be taken for those."""

    code = 38
    template = (
        "topic {topic!r} partition {partition} ends at offset {end}, but the hub has its record {stored}: the source "
        "was set back (a backup?), and its new records would be taken for old ones; restore a newer state, or delete "
        "the topic at the source and make it anew, which gives it another identity"
    )
    topic: str
    partition: int
    end: int
    stored: int


# The peer's mistakes.


class ProtocolViolation(ZFabricError):
    """The peer sent something that the protocol does not allow."""

    code = 40
    template = "protocol violation: {problem}; allowed: {allowed}"
    problem: str
    allowed: str


class UnsupportedVersion(ZFabricError):
    """The two sides share no protocol version."""

    code = 41
    template = "protocol version {version} is not spoken here; allowed: {lowest} to {highest}; upgrade the older side"
    version: int
    lowest: int
    highest: int


class CorruptFrame(ZFabricError):
    """A batch failed its checksum before it was stored: damaged on its way, or by its sender."""

    code = 42
    template = "batch for partition id {partition}: {problem}"
    partition: int
    problem: str


# Storage and start-up.


class StorageFull(ZFabricError):
    """The disk reserve is reached; reads and retention go on, appends are refused."""

    code = 50
    retriable = True
    template = (
        "{directory!r} has {free:,} bytes free, below the reserve of {reserve:,}; "
        "free some space or lower retention; reads go on"
    )
    directory: str
    free: int
    reserve: int


class StorageFailed(ZFabricError):
    """A commit failed; the leader stops rather than acknowledge what it cannot keep."""

    code = 51
    retriable = True
    template = "{directory!r}: commit failed: {problem}; the leader stops, nothing unacknowledged is claimed stored"
    directory: str
    problem: str


class DirectoryLocked(ZFabricError):
    """Another process leads the directory."""

    code = 52
    template = "{directory!r} is led by process {pid}; connect to {where} or stop that process"
    defaults: ClassVar[dict[str, Value]] = {"where": "it"}
    directory: str
    pid: int


class DirectoryFormat(ZFabricError):
    """The directory was written by another version, or holds something else."""

    code = 53
    template = "{directory!r}: {problem}; {instead}"
    directory: str
    problem: str
    instead: str


class DirectoryDamaged(ZFabricError):
    """The directory cannot be opened safely."""

    code = 54
    template = "{directory!r}: {problem}; nothing was changed; run 'zfabric doctor {directory}'"
    directory: str
    problem: str


class PortInUse(ZFabricError):
    """Another process listens there."""

    code = 55
    template = "cannot listen on {endpoint}: {problem}; choose another host or port, or stop what listens there"
    endpoint: str
    problem: str


class InsecureListen(ZFabricError):
    """Listening beyond loopback without keys was not asked for in so many words."""

    code = 56
    template = (
        "refusing to listen on {endpoint} without keys: anybody who reaches it could read and write; "
        "listen on 127.0.0.1 or say --insecure (peers: insecure=1)"
    )
    endpoint: str


class DirectoryUnusable(ZFabricError):
    """The directory cannot be made, entered or written to."""

    code = 57
    template = "{directory!r}: {problem}; {instead}"
    directory: str
    problem: str
    instead: str


# Copies at keepers.


class WrongFabric(ZFabricError):
    """Another fabric listens there than the one that was meant: its disk was replaced, or its address given away."""

    code = 85
    template = "fabric {wanted!r} was asked for and {fabric!r} answers; what was kept of the first one stays as it is"
    wanted: str
    fabric: str


class OriginAway(ZFabricError):
    """An origin of a mesh is away, and no keeper in reach has of it what is wanted. It may come back."""

    code = 87
    retriable = True
    template = "origin {origin} of topic {topic!r} is away, and no keeper in reach has what is wanted of it"
    topic: str
    origin: str


class LogsDiverged(ZFabricError):
    """A copy holds what its origin does not: the origin's data was rolled back. Neither side is changed."""

    code = 86
    template = (
        "topic {topic!r} partition {partition}: the copy that ends at {offset:,} is none of this log: {problem}; "
        "its origin was rolled back, say to a backup; move that data to a new directory or drop the copy"
    )
    topic: str
    partition: int
    offset: int
    problem: str


# What the command line reads.


class BadInput(ZFabricError):
    """A line of a file or of standard input is not what its command takes."""

    code = 60
    template = "{source} line {line:,}: {problem}"
    source: str
    line: int
    problem: str


# What callers of services meet.


class ServiceUnavailable(ZFabricError):
    """No instance of the service could be asked in time; the request was not executed anywhere."""

    code = 90
    retriable = True
    template = "no instance of service {service!r}{wanted} took the request within {seconds:g} s: {detail}"
    defaults: ClassVar[dict[str, Value]] = {"wanted": "", "detail": "none is known; is one running?"}
    service: str
    seconds: float


class UnknownMethod(ZFabricError):
    """The service has no such method, or it answers in another way: as a stream, or not as one."""

    code = 91
    template = "service {service!r} has no method {method!r} {kind}; it has: {known}"
    defaults: ClassVar[dict[str, Value]] = {"kind": "for requests"}
    service: str
    method: str
    known: str


class Overloaded(ZFabricError):
    """The instance has as many requests as it takes, and refused this one; another instance may have room."""

    code = 92
    retriable = True
    template = (
        "service {service!r} refused a request: {running} run (concurrency={concurrency}), {queued} wait "
        "(queue={limit}); try again later, or start more instances"
    )
    service: str
    running: int
    concurrency: int
    queued: int
    limit: int


class ServiceDraining(ZFabricError):
    """The instance is ending and takes nothing new; the request was not executed."""

    code = 93
    retriable = True
    template = "an instance of service {service!r} is draining; repeat at another"
    service: str


class DeadlineExceeded(ZFabricError, TimeoutError):
    """The request's time was over before the instance began, or had finished with a stream; it stopped there."""

    code = 94
    template = "{what}: its time was over {state}; give it a longer timeout"
    what: str
    state: str


class CalleeLost(ZFabricError):
    """The connection to the instance broke while it had the request; whether that was executed is not known."""

    code = 95
    retriable = True
    template = "{what}: the instance at {endpoint} was lost; it may or may not have been executed"
    what: str
    endpoint: str


class RemoteError(ZFabricError):
    """The handler raised something that is no ZFabricError: the exception's type and text, as it has them."""

    code = 96
    template = "{method!r} raised {kind}: {text}"
    defaults: ClassVar[dict[str, Value]] = {"traceback": ""}
    method: str
    kind: str
    text: str


class WrongInstance(ZFabricError):
    """Another instance listens where the asked one did; the request was not executed."""

    code = 97
    retriable = True
    template = "instance {instance:#x} does not listen here any more"
    instance: int


def _walk(kind: type[ZFabricError]) -> list[type[ZFabricError]]:
    return [kind, *(sub for child in kind.__subclasses__() for sub in _walk(child))]


_KINDS: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "float": (int, float)}
_UNKNOWN_TEXT_MAX = 1_000
_BY_CODE: dict[int, type[ZFabricError]] = {kind.code: kind for kind in _walk(ZFabricError)}


def from_wire(code: int, values: dict[str, Value]) -> ZFabricError:
    """Rebuild the error that a peer answered with.

    An unknown code or missing values come from a newer or broken peer; they still make a readable error.
    """
    kind = _BY_CODE.get(code, ZFabricError)
    if kind is not ZFabricError:
        wanted = {name: _KINDS[declared] for name, declared in kind.__annotations__.items() if declared in _KINDS}
        given = {name: values[name] for name in (*wanted, *kind.defaults) if name in values}
        with suppress(KeyError, ValueError, TypeError):
            if all(isinstance(given[name], fits) for name, fits in wanted.items()):
                return kind(**given)
    return ZFabricError(message=f"error {code}: {values}"[:_UNKNOWN_TEXT_MAX])
