# Generated from zfabric/uplink/aio/__init__.py by tools/unasync; edit that file.
"""The synchronous uplink, for fabrics of ``zfabric.sync.connect()``; see :mod:`zfabric.uplink`."""

from __future__ import annotations

from zfabric.uplink.sync.uplink import Uplink

__all__ = ["Uplink"]
