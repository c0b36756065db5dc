"""What a leader process says of itself: the values of STATUS_IS."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zfabric.server import process

if TYPE_CHECKING:
    from zfabric.core.leader.leader import Leader
    from zfabric.modes.options import LeaderOptions
    from zfabric.store.volume import Volume

Values = dict[str, int | float | str]


def values(
    options: LeaderOptions,
    leader: Leader,
    volume: Volume,
    *,
    clients: int,
    subscriptions: int,
    refused: int,
    uptime_ns: int,
) -> Values:
    """Return them; ``clients`` are open connections, ``refused`` commands since the start."""
    stats = volume.stats()
    rss, anonymous = process.resident()
    return {
        "id": options.leader,
        "pid": os.getpid(),
        "endpoint": options.advertise,
        "publish": options.advertise_publish,
        "partitions": leader.led(),
        "clients": clients,
        "rss_bytes": rss,
        "rss_anon_bytes": anonymous,
        "uptime_s": uptime_ns / 1e9,
        **leader.counters.values(),
        "commits": stats.commits,
        "errors": refused,
        "subscriptions": subscriptions,
        "map_bytes": stats.map_bytes,
        "used_bytes": stats.used_bytes,
    }
