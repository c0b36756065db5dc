"""zfabric without what its features cost, to know what they cost: for the bench alone, since none can be turned off.

Checksums become a constant, in every process that calls :func:`strip` before anything of ``zfabric.wire`` is loaded;
a producer without identity (number 0) is not idempotent. Counters are plain additions and stay.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.sync.producer import Producer


def strip() -> None:
    """Replace the checksum by nothing."""
    from zfabric.wire import crc

    assert "zfabric.wire.batch" not in sys.modules, "it has taken the real one already"
    crc.crc32c = _nothing


def _nothing(data: object, initial: int | None = None) -> int:
    """Take no checksum."""
    return 0


def forget_identity(producer: Producer) -> None:
    """Make a producer that is not idempotent."""
    producer._core.sender.identity = 0
