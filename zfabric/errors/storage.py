"""Storage and start-up."""

from __future__ import annotations

from typing import ClassVar

from zfabric.errors.base import Value, ZFabricError


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
        "refusing to listen on {endpoint}: clients need no key, so anybody who reaches it could read and write; "
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
