"""What a forked child does with its parent's sockets: it closes its copies of those that others reach the parent by.

A child can use none of them, since libzmq's threads are not there. But as long as it holds a copy, a port stays taken
after the parent was killed, connections to it seem to live, and nobody answers there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable


def close_copies(endpoints: Iterable[str]) -> int:
    """Close this process's descriptors of sockets at these endpoints, listening or connected; returns how many.

    Does nothing where ``/proc/self/fd`` does not exist.

    Args:
        endpoints: ``tcp://host:port``, of which the port counts, or ``ipc://path``.
    """
    places: set[int | str] = set()
    for endpoint in endpoints:
        kind, _, place = endpoint.partition("://")
        places.add(int(place.rpartition(":")[2]) if kind == "tcp" else place)
    closed = 0
    try:
        names = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return 0
    for name in names:
        try:
            found = socket.socket(fileno=int(name))
        except OSError:  # It is no socket, or was the descriptor of that list.
            continue
        where = found.getsockname() if found.type == socket.SOCK_STREAM else ""
        if (where[1] if isinstance(where, tuple) else where) in places:
            found.close()
            closed += 1
        else:
            found.detach()
    return closed
