"""Connecting sockets of one context to endpoints that may have names.

libzmq looks a name up in the thread of all connections of a context, at each try, and waits: a client that was told of
two seeds, one of them with a name that nobody answers for, got nothing from the other one either. So a socket is
connected once :mod:`zfabric.net.names` has found its address; until then its messages wait as for any connection.
``localhost`` is left to libzmq: no server is asked for it.
"""

from __future__ import annotations

import logging
import time
from errno import EADDRNOTAVAIL
from typing import Final

import zmq

from zfabric.net import sockets
from zfabric.net.names import Names, host_of, is_address
from zfabric.net.session import Change

_log = logging.getLogger("zfabric.net.ports")
_WARN_S: Final = 10.0


class NoAddress(zmq.ZMQError):
    """An endpoint's name leads nowhere."""


class Connector:
    """Of one context.

    Args:
        names: to look up hosts with; None makes them with the first name.
    """

    def __init__(self, names: Names | None = None) -> None:
        self._names = names
        self._waiting: dict[sockets.Socket, str] = {}
        self._refused = 0
        self._warn_at = 0.0

    def fds(self) -> list[int]:
        """Return the descriptors to poll for reading; others after a :meth:`connect`."""
        return [] if self._names is None else [self._names.fd]

    @property
    def rung(self) -> bool:
        """Whether names were found: call :meth:`found`."""
        return self._names is not None and self._names.rung

    def connect(self, socket: sockets.Socket, endpoint: str) -> None:
        """Connect a socket, at once or as soon as the endpoint's name was found.

        Raises:
            NoAddress: its name leads nowhere.
            zmq.ZMQError: the endpoint cannot be one, or descriptors have run out.
        """
        host = host_of(endpoint)
        if not host or host == "localhost" or is_address(host):
            sockets.connect(socket, endpoint)
            return
        if self._names is None:
            self._names = Names()
        address = self._names.address(host, time.monotonic_ns())
        if address is None:
            self._waiting[socket] = endpoint
        elif address:
            sockets.connect(socket, f"tcp://{address}:{endpoint.rpartition(':')[2]}")
        else:
            raise NoAddress(EADDRNOTAVAIL, f"no address of {host[:100]!r} was found")

    def found(self) -> dict[sockets.Socket, zmq.ZMQError | None]:
        """Connect those whose names were found; return them, with the problem of each that cannot be."""
        if self._names is not None:
            self._names.found(time.monotonic_ns())
        waiting, self._waiting = self._waiting, {}
        done: dict[sockets.Socket, zmq.ZMQError | None] = {}
        for socket, endpoint in waiting.items():
            try:
                self.connect(socket, endpoint)
            except zmq.ZMQError as problem:
                done[socket] = problem
            else:
                if socket not in self._waiting:
                    done[socket] = None
        return done

    def forget(self, socket: sockets.Socket, endpoint: str) -> None:
        """It is closed: the next one to this endpoint goes where it was, and the name is looked up anew meanwhile."""
        self._waiting.pop(socket, None)
        if self._names is not None:
            self._names.doubt(host_of(endpoint))

    def refused(self, endpoint: str, problem: Exception) -> Change:
        """Return what becomes of a session that cannot be.

        It is logged once in a while: who has run out of descriptors is refused a session again and again.
        """
        self._refused += 1
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_S
            _log.warning("session_refused endpoint=%s problem=%s times=%d", endpoint, problem, self._refused)
            self._refused = 0
        return Change.NOWHERE if isinstance(problem, NoAddress) else Change.LOST

    def close(self) -> None:
        """Connect nothing more. A second call does nothing."""
        self._waiting.clear()
        names, self._names = self._names, None
        if names is not None:
            names.close()
