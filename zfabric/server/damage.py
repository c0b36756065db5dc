"""What the log says of damage: each stretch that was found, was mended, or could not be with what somebody had."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from zfabric.core.leader.damage import News

log = logging.getLogger("zfabric.damage")

_FOUND = "damage_found topic=%s partition=%d offset=%d next_offset=%d problem=%s"
_MENDED = "damage_mended topic=%s partition=%d offset=%d next_offset=%d problem=%s"
_REFUSED = "damage_not_mended topic=%s partition=%d offset=%d next_offset=%d problem=%s"
_LINES = {"found": (logging.WARNING, _FOUND), "mended": (logging.INFO, _MENDED), "refused": (logging.WARNING, _REFUSED)}


def tell(news: Iterable[News]) -> None:
    """Write them down; what was mended is for information, the rest is for somebody to look at."""
    for kind, *values in news:
        log.log(*_LINES[kind], *values)
