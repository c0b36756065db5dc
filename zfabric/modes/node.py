"""Node mode: leaders are where the URL says, started by ``zfabric serve``; there is nothing to find."""

from __future__ import annotations

from zfabric.modes.url import Target


class Node:
    """A running node."""

    locating = False

    def __init__(self, target: Target) -> None:
        self.endpoint = f"tcp://{target.host}:{target.port}"
        self.host = target.host

    def locate(self) -> None:
        """Do nothing: the address is fixed, and the sockets try it again by themselves."""

    def close(self) -> None:
        """Do nothing: a node goes on without us."""
