"""Connections that a process opens for good, one socket each: to keepers that cannot reach it.

libzmq makes such a connection again and again by itself. It would look a host name up at each try, in the thread of all
connections (see :mod:`zfabric.net.names`), so it is given an address. As long as there is no connection the name is
looked up anew now and then, and the socket led to where it is by then.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import zmq

from zfabric.net import sockets
from zfabric.net.names import Names, host_of, is_address

LOOK_NS: Final = 1_000_000_000
"""A name is asked for so often while there is no connection and no address is known."""
DOUBT_NS: Final = 10_000_000_000
"""It is looked up anew when there was no connection for so long."""
_READY: Final = int(zmq.Event.HANDSHAKE_SUCCEEDED)
_LOST: Final = int(zmq.Event.DISCONNECTED)
_EVENT: Final = struct.Struct("=HI")


@dataclass(slots=True)
class _Line:
    socket: sockets.Socket
    endpoint: str
    place: str = ""
    up: bool = False
    doubted_ns: int = 0


class Dialler:
    """All such connections of one context.

    Args:
        names: to look up hosts with; None makes them with the first name.
    """

    def __init__(self, names: Names | None = None) -> None:
        self._names = names
        self._lines: dict[sockets.Socket, _Line] = {}
        self._due = 0

    def dial(self, monitor: sockets.Socket, socket: sockets.Socket, endpoint: str, now: int) -> None:
        """Connect a socket for good; ``monitor`` is its own, which is read by :meth:`noticed` alone.

        Raises:
            zmq.ZMQError: the endpoint cannot be one, or descriptors have run out.
        """
        host = host_of(endpoint)
        line = self._lines[monitor] = _Line(socket, endpoint, doubted_ns=now)
        if not host or host == "localhost" or is_address(host):
            line.place = endpoint
            sockets.connect(socket, endpoint)
            return
        if self._names is None:
            self._names = Names()
        self.tick(now)

    def fds(self) -> list[int]:
        """Return the descriptors to poll for reading besides the monitors; :meth:`tick` when one is."""
        return [] if self._names is None else [self._names.fd]

    def noticed(self, monitor: sockets.Socket, now: int) -> bool:
        """Take what a monitor tells; returns whether there is a new connection."""
        line = self._lines[monitor]
        event, _ = _EVENT.unpack(monitor.recv_multipart()[0])
        line.up = event == _READY
        if event == _LOST:
            line.doubted_ns = now
            self._due = now
        return line.up

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        waits = self._names is not None and any(not line.up for line in self._lines.values())
        return self._due if waits else None

    def tick(self, now: int) -> None:
        """Lead sockets without a connection to where their names are now."""
        names = self._names
        if names is None:
            return
        if names.rung:
            names.found(now)
        elif now < self._due:
            return
        self._due = now + LOOK_NS
        for line in self._lines.values():
            if not line.up:
                self._lead(names, line, now)

    def _lead(self, names: Names, line: _Line, now: int) -> None:
        host = host_of(line.endpoint)
        if line.place == line.endpoint:
            return
        if now - line.doubted_ns >= DOUBT_NS:
            line.doubted_ns = now
            names.doubt(host)
        address = names.address(host, now)
        place = f"tcp://{address}:{line.endpoint.rpartition(':')[2]}" if address else ""
        if place and place != line.place:
            before, line.place = line.place, ""
            with suppress(zmq.ZMQError):  # No descriptor is left, or it is there no more: tried again.
                if before:
                    line.socket.disconnect(before)
                sockets.connect(line.socket, place)
                line.place = place

    def close(self) -> None:
        """Look nothing up any more. A second call does nothing."""
        self._lines.clear()
        names, self._names = self._names, None
        if names is not None:
            names.close()
