"""The asynchronous SDK: the same names as :mod:`zfabric`, with ``await``."""

from __future__ import annotations

from zfabric.aio.calls import Stream
from zfabric.aio.consumer import Consumer
from zfabric.aio.fabric import Fabric, connect
from zfabric.aio.producer import Delivery, Producer
from zfabric.aio.service import Request, Service
from zfabric.aio.watch import MemberWatch

__all__ = ["Consumer", "Delivery", "Fabric", "MemberWatch", "Producer", "Request", "Service", "Stream", "connect"]
