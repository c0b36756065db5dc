"""A messaging fabric on ZeroMQ and LMDB: durable topics, published live.

``zfabric.connect()`` is where to begin; ``zfabric.aio.connect()`` is its asynchronous twin. Public names are loaded
when they are first used, so ``import zfabric`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.errors import (
        AlreadyExists,
        BufferFull,
        CalleeLost,
        Closed,
        ConfigurationError,
        CorruptBatch,
        DeliveryError,
        DeliveryTimeout,
        DeserializerFailed,
        DirectoryDamaged,
        DirectoryFormat,
        DirectoryLocked,
        DirectoryUnusable,
        Forked,
        InsecureListen,
        InvalidArgument,
        LeaderFailed,
        LimitExceeded,
        LogRewound,
        NobodyHeard,
        NotFound,
        NotSupported,
        OffsetOutOfRange,
        OriginAway,
        OutOfOrderSequence,
        Overloaded,
        ProducerFenced,
        ProtocolViolation,
        RecordTooLarge,
        RemoteError,
        RequestTimeout,
        ServiceUnavailable,
        SourceRewound,
        StorageFailed,
        StorageFull,
        StreamStalled,
        UnknownMethod,
        UnknownPartition,
        UnknownTopic,
        Unreachable,
        UplinkFenced,
        WouldDeadlock,
        WrongMesh,
        ZFabricError,
    )
    from zfabric.model import (
        CopyInfo,
        GroupOffset,
        LeaderInfo,
        MemberChange,
        MemberInfo,
        MemberService,
        MemberTopic,
        PartitionInfo,
        Record,
        RecordMetadata,
        ServiceInstance,
        TopicConfig,
        TopicInfo,
    )
    from zfabric.settings import LeaderSettings
    from zfabric.sync.calls import Stream
    from zfabric.sync.consumer import Consumer
    from zfabric.sync.fabric import Fabric, connect
    from zfabric.sync.producer import Delivery, Producer
    from zfabric.sync.service import Request, Service
    from zfabric.sync.watch import MemberWatch
    from zfabric.wire.received import RecordBatch

__all__ = [
    "AlreadyExists",
    "BufferFull",
    "CalleeLost",
    "Closed",
    "ConfigurationError",
    "Consumer",
    "CopyInfo",
    "CorruptBatch",
    "Delivery",
    "DeliveryError",
    "DeliveryTimeout",
    "DeserializerFailed",
    "DirectoryDamaged",
    "DirectoryFormat",
    "DirectoryLocked",
    "DirectoryUnusable",
    "Fabric",
    "Forked",
    "GroupOffset",
    "InsecureListen",
    "InvalidArgument",
    "LeaderFailed",
    "LeaderInfo",
    "LeaderSettings",
    "LimitExceeded",
    "LogRewound",
    "MemberChange",
    "MemberInfo",
    "MemberService",
    "MemberTopic",
    "MemberWatch",
    "NobodyHeard",
    "NotFound",
    "NotSupported",
    "OffsetOutOfRange",
    "OriginAway",
    "OutOfOrderSequence",
    "Overloaded",
    "PartitionInfo",
    "Producer",
    "ProducerFenced",
    "ProtocolViolation",
    "Record",
    "RecordBatch",
    "RecordMetadata",
    "RecordTooLarge",
    "RemoteError",
    "Request",
    "RequestTimeout",
    "Service",
    "ServiceInstance",
    "ServiceUnavailable",
    "SourceRewound",
    "StorageFailed",
    "StorageFull",
    "Stream",
    "StreamStalled",
    "TopicConfig",
    "TopicInfo",
    "UnknownMethod",
    "UnknownPartition",
    "UnknownTopic",
    "Unreachable",
    "UplinkFenced",
    "WouldDeadlock",
    "WrongMesh",
    "ZFabricError",
    "__version__",
    "connect",
]

_WHERE = {
    "AlreadyExists": "errors",
    "BufferFull": "errors",
    "CalleeLost": "errors",
    "Closed": "errors",
    "ConfigurationError": "errors",
    "Consumer": "sync.consumer",
    "CopyInfo": "model",
    "CorruptBatch": "errors",
    "Delivery": "sync.producer",
    "DeliveryError": "errors",
    "DeliveryTimeout": "errors",
    "DeserializerFailed": "errors",
    "DirectoryDamaged": "errors",
    "DirectoryFormat": "errors",
    "DirectoryLocked": "errors",
    "DirectoryUnusable": "errors",
    "Fabric": "sync.fabric",
    "Forked": "errors",
    "GroupOffset": "model",
    "InsecureListen": "errors",
    "InvalidArgument": "errors",
    "LeaderFailed": "errors",
    "LeaderInfo": "model",
    "LeaderSettings": "settings",
    "LimitExceeded": "errors",
    "LogRewound": "errors",
    "MemberChange": "model",
    "MemberInfo": "model",
    "MemberService": "model",
    "MemberTopic": "model",
    "MemberWatch": "sync.watch",
    "NobodyHeard": "errors",
    "NotFound": "errors",
    "NotSupported": "errors",
    "OffsetOutOfRange": "errors",
    "OriginAway": "errors",
    "OutOfOrderSequence": "errors",
    "Overloaded": "errors",
    "PartitionInfo": "model",
    "Producer": "sync.producer",
    "ProducerFenced": "errors",
    "ProtocolViolation": "errors",
    "Record": "model",
    "RecordBatch": "wire.received",
    "RecordMetadata": "model",
    "RecordTooLarge": "errors",
    "RemoteError": "errors",
    "Request": "sync.service",
    "RequestTimeout": "errors",
    "Service": "sync.service",
    "ServiceInstance": "model",
    "ServiceUnavailable": "errors",
    "SourceRewound": "errors",
    "StorageFailed": "errors",
    "StorageFull": "errors",
    "Stream": "sync.calls",
    "StreamStalled": "errors",
    "TopicConfig": "model",
    "TopicInfo": "model",
    "UnknownMethod": "errors",
    "UnknownPartition": "errors",
    "UnknownTopic": "errors",
    "Unreachable": "errors",
    "UplinkFenced": "errors",
    "WouldDeadlock": "errors",
    "WrongMesh": "errors",
    "ZFabricError": "errors",
    "connect": "sync.fabric",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for."""
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("zfabric")
    if name in _WHERE:
        value: object = getattr(import_module(f"zfabric.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    if name in ("aio", "errors"):
        return import_module(f"zfabric.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__, "aio", "errors"})
