# Generated from zfabric/aio/__init__.py by tools/unasync; edit that file.
"""The synchronous SDK: the same names as :mod:`zfabric`, with ``await``."""

from __future__ import annotations

from zfabric.sync.calls import Stream
from zfabric.sync.consumer import Consumer
from zfabric.sync.fabric import Fabric, connect
from zfabric.sync.producer import Delivery, Producer
from zfabric.sync.service import Request, Service
from zfabric.sync.watch import MemberWatch

__all__ = ["Consumer", "Delivery", "Fabric", "MemberWatch", "Producer", "Request", "Service", "Stream", "connect"]
