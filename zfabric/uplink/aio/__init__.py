"""The asynchronous uplink, for fabrics of ``zfabric.aio.connect()``; see :mod:`zfabric.uplink`."""

from __future__ import annotations

from zfabric.uplink.aio.uplink import Uplink

__all__ = ["Uplink"]
