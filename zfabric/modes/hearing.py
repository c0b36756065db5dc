"""Finding a member of a mesh for somebody who only looks at it, without becoming one: by its beacon."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from zfabric import errors
from zfabric.net.beacon import BeaconSocket
from zfabric.store import keyfile
from zfabric.wire import beacon
from zfabric.wire.gossip import Codec

HEAR_S: Final = 3.0
"""All members of a mesh together send a beacon about once a second."""


def hear(mesh: str, key: str, seconds: float = HEAR_S) -> str | None:
    """Return ``HOST:PORT`` of the first member whose beacon comes within so many seconds; None if none does.

    Args:
        mesh: its name. key: file with its key, or "".

    Raises:
        ConfigurationError, InvalidArgument: the key file, or the name.
    """
    codec = Codec(mesh, keyfile.read_key(key) if key else None)
    deadline = time.monotonic() + seconds
    try:
        socket = BeaconSocket(local=True)
    except OSError:
        return None  # Without multicast nobody can be heard.
    try:
        while socket.wait(deadline - time.monotonic()):
            for data in socket.receive():
                with suppress(errors.ProtocolViolation):  # Of another mesh, or garbage.
                    place = beacon.read(codec, data).endpoint
                    if place.startswith("tcp://"):
                        return place.removeprefix("tcp://")
    finally:
        socket.close()
    return None
