"""The asynchronous SDK: the same names as :mod:`zfabric`, with ``await``."""

from __future__ import annotations

from zfabric.aio.consumer import Consumer
from zfabric.aio.fabric import Fabric, connect
from zfabric.aio.producer import Delivery, Producer
from zfabric.aio.watch import MemberWatch

__all__ = ["Consumer", "Delivery", "Fabric", "MemberWatch", "Producer", "connect"]
