"""A messaging fabric on ZeroMQ and LMDB: durable topics, published live.

``zfabric.connect()`` is where to begin; ``zfabric.aio.connect()`` is its asynchronous twin. Public names are loaded
when they are first used, so ``import zfabric`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.errors import ZFabricError
    from zfabric.model import Record, RecordMetadata, TopicInfo
    from zfabric.sync.consumer import Consumer
    from zfabric.sync.fabric import Fabric, connect
    from zfabric.sync.producer import Delivery, Producer
    from zfabric.wire.batch import RecordBatch

__all__ = [
    "Consumer",
    "Delivery",
    "Fabric",
    "Producer",
    "Record",
    "RecordBatch",
    "RecordMetadata",
    "TopicInfo",
    "ZFabricError",
    "__version__",
    "connect",
]

_WHERE = {
    "Consumer": "sync.consumer",
    "Delivery": "sync.producer",
    "Fabric": "sync.fabric",
    "Producer": "sync.producer",
    "Record": "model",
    "RecordBatch": "wire.batch",
    "RecordMetadata": "model",
    "TopicInfo": "model",
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
