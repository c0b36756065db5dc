"""The socket of beacons: UDP multicast on the local network, and on this machine.

The group (``239.255.74.74``, of those that stay within a site) and the port (7474) are the same for all meshes; whose
beacon one is says its content. Datagrams leave on every interface with a TTL of 1, so no router passes them on, and
come back to this machine, so that two members on it find each other. Interfaces that come later are joined when the
next beacon is sent. A member that can only be reached on this machine sends on the loopback interface alone.

The socket is never waited for: it is read when the loop comes round anyway, a bounded number of datagrams at a time,
and the kernel drops what its small buffer does not hold. So a flood wakes nobody.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import Final

from zfabric.wire.beacon import BYTES_MAX

GROUP: Final = "239.255.74.74"
PORT: Final = 7474
READ_MAX: Final = 64
"""Datagrams of one :meth:`BeaconSocket.receive`."""
_BUFFER_BYTES: Final = 64 << 10
_MREQN: Final = struct.Struct("=4s4si")
_ANY: Final = bytes(4)


class BeaconSocket:
    """Sends beacons and hears those of others.

    Args:
        local: send on the loopback interface alone.

    Raises:
        OSError: this machine has no multicast.

    Attributes:
        local: as given; may be changed.
    """

    def __init__(self, *, local: bool) -> None:
        self.local = local
        self._joined: set[int] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            self._socket.bind((GROUP, PORT))
            self._interfaces()
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes) -> None:
        """Send one datagram on every interface that takes it."""
        for number in self._interfaces():
            with suppress(OSError):  # Without an address, or down: it may be back for the next one.
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN.pack(_ANY, _ANY, number))
                self._socket.sendto(data, (GROUP, PORT))

    def receive(self) -> list[tuple[bytes, str]]:
        """Return what came, and from which address, at most ``READ_MAX`` datagrams."""
        found: list[tuple[bytes, str]] = []
        with suppress(BlockingIOError):
            while len(found) < READ_MAX:
                data, (host, _) = self._socket.recvfrom(BYTES_MAX + 1)
                found.append((data, host))
        return found

    def wait(self, seconds: float) -> bool:
        """Wait until something comes; False if nothing does within so many seconds.

        For somebody who looks for a member; a leader never waits.
        """
        return seconds > 0 and bool(select.select([self._socket], [], [], seconds)[0])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _interfaces(self) -> list[int]:
        """Listen on the interfaces that there are; returns the numbers of those to send on."""
        found = socket.if_nameindex()
        for number, _ in found:
            if number not in self._joined:
                with suppress(OSError):  # It may have no multicast, or no address yet.
                    request = _MREQN.pack(socket.inet_aton(GROUP), _ANY, number)
                    self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
                    self._joined.add(number)
        self._joined &= {number for number, _ in found}
        return [number for number, name in found if name == "lo" or not self.local]
