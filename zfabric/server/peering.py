"""Where the leader of a peer listens for others, and what it tells the mesh of itself.

A port that is not given is a free one, and stays the peer's: it is kept in the data directory and taken again, so that
others find the peer where it was, unless somebody else has it by then. It lies below the kernel's own range.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import msgspec

from zfabric.modes import holderurl
from zfabric.modes.options import LeaderOptions
from zfabric.net.addresses import bindable, free_run
from zfabric.net.places import split_place
from zfabric.server.config import MeshSection
from zfabric.server.joining import PARAMETERS, mesh_options
from zfabric.store import keyfile

PORTS = 2
PATIENCE_S = 1.0
PAUSE_S = 0.005


def holder_url(options: LeaderOptions) -> str:
    """Return what the directory's lock says of a peer's leader.

    Raises:
        ConfigurationError: its key cannot be read.
    """
    assert options.peer is not None
    return holderurl.write(options, keyfile.fingerprint(options.peer.key))


def settle(options: LeaderOptions, path: str) -> LeaderOptions:
    """Return the options of a peer's leader with its addresses and its mesh.

    Args:
        path: of the file that keeps its port. The directory's lock must be held.

    Raises:
        PortInUse: no port is free. ConfigurationError, InvalidArgument: what was configured for the mesh.
        OSError: the file cannot be written.
    """
    peer = options.peer
    assert peer is not None
    host, port = split_place(peer.listen, "listen=")
    if port:
        _free_soon(host, port)  # If not, binding it will say so.
    else:
        port = _kept(path)
        if not port or not _free_soon(host, port):
            port = free_run(host, PORTS)
            _keep(path, port)
    section = MeshSection(
        name=peer.mesh, seeds=list(peer.seeds), key=peer.key, zone=peer.zone, advertise=peer.advertise
    )
    mesh = msgspec.structs.replace(mesh_options(section, host, port, PARAMETERS), kind="peer", beacon=peer.beacon)
    return msgspec.structs.replace(
        options,
        mesh=mesh,
        advertise=f"tcp://*:{port}" if mesh.way else mesh.endpoint,  # An address that was found may change.
        advertise_publish=f"tcp://*:{port + 1}" if mesh.way else mesh.publish,
        listen_too=f"tcp://{host}:{port}",
        publish_too=f"tcp://{host}:{port + 1}",
    )


def _free_soon(host: str, port: int) -> bool:
    """Tell whether the ports can be bound: a killed leader gives up its directory a moment before its sockets."""
    deadline = time.monotonic() + PATIENCE_S
    while any(bindable(host, port + number) for number in range(PORTS)):
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True


def _kept(path: str) -> int:
    with suppress(OSError, ValueError), open(path, "rb") as file:
        port = int(file.read(16))
        return port if 0 < port < 65_535 else 0
    return 0


def _keep(path: str, port: int) -> None:
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.write(b"%d\n" % port)
    os.replace(new, path)
