"""Finding members of a mesh for somebody who only looks at it, without becoming one: by their beacons."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from zfabric import errors
from zfabric.net.beacon import BeaconSocket
from zfabric.store import keyfile
from zfabric.wire import beacon
from zfabric.wire.gossip import Codec

HEAR_S: Final = 5.0
"""All members of a mesh together send a beacon about once a second, at random: 1 % of such spans have none."""


class Ear:
    """Hears the beacons of one mesh.

    Args:
        mesh: its name. key: file with its key, or "".

    Raises:
        ConfigurationError, InvalidArgument: the key file, or the name. OSError: this machine has no multicast.
    """

    def __init__(self, mesh: str, key: str) -> None:
        self._codec = Codec(mesh, keyfile.read_key(key) if key else None)
        self._socket = BeaconSocket(local=True)

    def heard(self, seconds: float = 0.0) -> list[str]:
        """Return the endpoints of members that were heard since the last call; waits so long until there is one."""
        deadline = time.monotonic() + seconds
        found: dict[str, None] = {}
        while True:
            for data, _ in self._socket.receive():
                with suppress(errors.ProtocolViolation):  # Of another mesh, or garbage.
                    endpoint = beacon.read(self._codec, data).endpoint
                    if endpoint.startswith("tcp://"):
                        found[endpoint] = None
            if found or not self._socket.wait(deadline - time.monotonic()):
                return list(found)

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()


def hear(mesh: str, key: str, seconds: float = HEAR_S) -> str | None:
    """Return ``HOST:PORT`` of the first member whose beacon comes within so many seconds; None if none does.

    Args:
        mesh: its name. key: file with its key, or "".

    Raises:
        ConfigurationError, InvalidArgument: the key file, or the name.
    """
    try:
        ear = Ear(mesh, key)
    except OSError:
        return None  # Without multicast nobody can be heard.
    try:
        found = ear.heard(seconds)
    finally:
        ear.close()
    return found[0].removeprefix("tcp://") if found else None
