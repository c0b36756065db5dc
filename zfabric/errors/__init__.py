"""Every exception that zfabric raises, one class for one way to go wrong.

A class states what happened, where, the allowed range and what to do next; its values are attributes, its text is
built in the class from them. ``code`` is stable on the wire: a leader answers a request with a code and the values,
and the client raises the same class with the same attributes. ``retriable`` says whether the same call may succeed
later without anybody changing it. Each file here lists those of one area; all are imported from ``zfabric.errors``.

Two families matter to a reader of a stack trace: :class:`InvalidArgument` and its kin are the caller's mistake,
:class:`ProtocolViolation` is the peer's.
"""

from __future__ import annotations

from contextlib import suppress

from zfabric.errors.base import OWN, Value, ZFabricError
from zfabric.errors.calls import (
    AlreadyExists,
    BadInput,
    BufferFull,
    Closed,
    ConfigurationError,
    Forked,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    NotSupported,
    RecordTooLarge,
    UnknownPartition,
    UnknownTopic,
)
from zfabric.errors.copies import (
    LogsDiverged,
    OriginAway,
    SourceRewound,
    UplinkFenced,
    WrongFabric,
)
from zfabric.errors.logs import (
    CorruptBatch,
    CorruptRow,
    DeserializerFailed,
    LogRewound,
    OffsetOutOfRange,
    OutOfOrderSequence,
    ProducerFenced,
    UnknownProducer,
)
from zfabric.errors.network import (
    CorruptFrame,
    DeliveryError,
    DeliveryTimeout,
    Draining,
    LeaderFailed,
    NobodyHeard,
    NotLeader,
    ProtocolViolation,
    RequestTimeout,
    Unreachable,
    UnsupportedVersion,
    WrongMesh,
)
from zfabric.errors.services import (
    CalleeLost,
    DeadlineExceeded,
    Overloaded,
    RemoteError,
    ServiceDraining,
    ServiceUnavailable,
    StreamStalled,
    UnknownMethod,
    WouldDeadlock,
    WrongInstance,
)
from zfabric.errors.storage import (
    DirectoryDamaged,
    DirectoryFormat,
    DirectoryLocked,
    DirectoryUnusable,
    InsecureListen,
    PortInUse,
    StorageFailed,
    StorageFull,
)

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
    "LogRewound",
    "LogsDiverged",
    "NobodyHeard",
    "NotFound",
    "NotLeader",
    "NotSupported",
    "OffsetOutOfRange",
    "OriginAway",
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
    "StreamStalled",
    "UnknownMethod",
    "UnknownPartition",
    "UnknownProducer",
    "UnknownTopic",
    "Unreachable",
    "UnsupportedVersion",
    "UplinkFenced",
    "WouldDeadlock",
    "WrongFabric",
    "WrongInstance",
    "WrongMesh",
    "ZFabricError",
    "from_wire",
]

_KINDS: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "float": (int, float)}
_UNKNOWN_TEXT_MAX = 1_000


def _walk(kind: type[ZFabricError]) -> list[type[ZFabricError]]:
    return [kind, *(sub for child in kind.__subclasses__() for sub in _walk(child))]


_BY_CODE: dict[int, type[ZFabricError]] = {kind.code: kind for kind in _walk(ZFabricError)}
for _kind in _BY_CODE.values():
    _kind.__module__ = __name__  # What a traceback shows is what can be imported, and pickles do not know our files.


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
                error = kind(**given)
                return _applications(error) if kind is RemoteError else error
    elif isinstance(message := values.get("message"), str) and len(values) == 1:
        return ZFabricError(message=message[:_UNKNOWN_TEXT_MAX])
    return ZFabricError(message=f"error {code}: {values}"[:_UNKNOWN_TEXT_MAX])


def _applications(remote: ZFabricError) -> ZFabricError:
    """Return an application's own error, where it is known here and takes these values; else what tells of it."""
    code, details, trace = (remote.values[name] for name in ("error", "details", "traceback"))
    kind = OWN.get(code) if isinstance(code, int) else None
    if kind is None or not isinstance(details, str):
        return remote
    import json

    try:
        own = kind(**json.loads(details))
    except Exception:  # noqa: BLE001 - a class of the application's, and values that another process gave
        return remote
    if trace:
        own.add_note(str(trace))
    return own
