"""How many connections a bound socket has now, told by its monitor: they come with ACCEPTED and go with DISCONNECTED.

Both name the connection's descriptor, and one I/O thread tells them in order, so a descriptor that is given again is
never taken for the one that had it before. One that has not shaken hands counts as well.
"""

from __future__ import annotations

import struct
from typing import Final

import zmq

from zfabric.net import sockets

_EVENT: Final = struct.Struct("=HI")


class Connections:
    """Of one socket. Make it before the socket is bound, and :meth:`stop` it before a bound one is closed."""

    def __init__(self, ctx: sockets.Context, socket: sockets.Socket) -> None:
        self._socket = socket
        self._monitor = sockets.monitor(ctx, socket, zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED)
        self._open: set[int] = set()

    def count(self) -> int:
        """Return how many there are. To be called now and then: what the monitor tells is kept until it is read."""
        while True:
            try:
                told = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return len(self._open)
            event, descriptor = _EVENT.unpack(told[0])
            if event == zmq.Event.ACCEPTED:
                self._open.add(descriptor)
            else:
                self._open.discard(descriptor)

    def stop(self) -> None:
        """End the monitor; the socket stays."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._monitor.close(linger=0)
