"""Polling of sockets that several threads use under one lock: descriptors are polled outside of it.

``zmq_poll`` looks into the sockets, which is an operation like any other, so it may not run beside one of another
thread. A raw descriptor may be polled at any time. It is edge-triggered (see ``ports.py``), hence EVENTS is read under
the lock before and after; whoever uses a socket meanwhile reads it after its last operation, and wakes the polling
thread if something is left.
"""

from __future__ import annotations

import select
import threading
from typing import Final, cast

import zmq

from zfabric.net import sockets

_EVENTS: Final = int(zmq.EVENTS)
_IN: Final = int(zmq.POLLIN)
Polled = int | sockets.Socket
"""A descriptor, or a socket."""


class SharedPoller:
    """The interface of ``zmq.Poller``, for a thread that holds ``lock`` all the time but while it polls."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._poll = select.poll()
        self._sockets: dict[sockets.Socket, int] = {}

    def register(self, what: Polled, flags: int = _IN) -> None:
        """Watch a descriptor or a socket for being readable."""
        if isinstance(what, int):
            fd = what
        else:
            fd = self._sockets[what] = cast("int", what.get(zmq.FD))
        self._poll.register(fd, select.POLLIN)

    def unregister(self, what: Polled) -> None:
        """Watch it no more; to be called before a socket is closed."""
        self._poll.unregister(what if isinstance(what, int) else self._sockets.pop(what))

    def poll(self, timeout_ms: int) -> list[tuple[Polled, int]]:
        """Return what is readable, at the latest after ``timeout_ms``; the lock is given up meanwhile."""
        ready = self._readable()
        self._lock.release()
        try:
            found = self._poll.poll(0 if ready else timeout_ms)
        finally:
            self._lock.acquire()
        if not ready:
            ready = self._readable()
        of_sockets = set(self._sockets.values())
        ready += [(fd, _IN) for fd, _ in found if fd not in of_sockets]
        return ready

    def _readable(self) -> list[tuple[Polled, int]]:
        return [(socket, _IN) for socket in self._sockets if cast("int", socket.get(_EVENTS)) & _IN]
