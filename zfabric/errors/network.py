"""What time, the network and the other side of a connection do."""

from __future__ import annotations

from typing import ClassVar

from zfabric.errors.base import Value, ZFabricError


class Unreachable(ZFabricError):
    """No leader answered within the time given."""

    code = 20
    retriable = True
    template = "{url} did not answer within {seconds:g} s: {detail}"
    defaults: ClassVar[dict[str, Value]] = {"detail": "is it running? start one with 'zfabric serve'"}
    url: str
    seconds: float


class NobodyHeard(ZFabricError):
    """A client that was given no seed has heard no member on the local network."""

    code = 71
    template = (
        "no member of mesh {mesh!r} was heard on the local network within {seconds:g} s; name one: seed=HOST:PORT "
        "(and key=FILE, where the mesh has a key)"
    )
    url: str
    seconds: float
    mesh: str


class WrongMesh(ZFabricError):
    """A member that was to show its mesh to a client belongs to another one; nobody else was found."""

    code = 70
    template = "mesh {mesh!r} was asked for, and {endpoint} is in mesh {found!r}: name a member of {mesh!r} as seed"
    mesh: str
    found: str
    endpoint: str


class RequestTimeout(ZFabricError, TimeoutError):
    """The answer did not come in time; whether the request took effect is not known."""

    code = 21
    retriable = True
    template = "{what} had no answer within {seconds:g} s; its outcome is unknown"
    what: str
    seconds: float


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
