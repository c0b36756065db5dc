"""Node mode: leaders are where the URL says, started by ``zfabric serve``; there is nothing to find."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.client.overdue import nowhere
from zfabric.modes.url import Target

if TYPE_CHECKING:
    from zfabric.core.client.anchor import Observed


class Node:
    """A running node."""

    locating = False
    inside = False
    mesh = False
    publish = ""
    observed: Observed | None = None

    def __init__(self, target: Target) -> None:
        self.endpoint = f"tcp://{target.host}:{target.port}"
        self.host = target.host
        self._port = target.port
        self._url = target.url

    def listen_endpoint(self) -> str:
        """Return a free port of the interface that the node is reached by.

        Raises:
            Unreachable: its host's name leads nowhere.
        """
        try:
            found = socket.getaddrinfo(self.host.strip("[]"), self._port, type=socket.SOCK_DGRAM)
        except socket.gaierror as problem:
            raise errors.Unreachable(url=self._url, seconds=0.0, detail=nowhere(self.host)) from problem
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # Of a datagram socket: nothing is sent.
            here = probe.getsockname()[0]
        return f"tcp://[{here}]:*" if family == socket.AF_INET6 else f"tcp://{here}:*"

    def locate(self) -> Sequence[str]:
        """Do nothing: the address is fixed, and the sockets try it again by themselves."""
        return ()

    def close(self) -> None:
        """Do nothing: a node goes on without us."""

    def ended(self) -> None:
        """Do nothing: nothing of it is in this process."""
