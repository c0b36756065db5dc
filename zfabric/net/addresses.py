"""Addresses and ports that a process can listen on."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import random
import socket
import struct
import sys
from typing import Final

from zfabric import errors

ANY_PORT_MIN: Final = 10_000
PORTS_MAX: Final = 256
"""Room for a row of ports below the kernel's own."""
WILDCARDS: Final = ("0.0.0.0", "*", "[::]")  # noqa: S104 - nothing is bound here
NOWHERE: Final = ("192.0.2.1", 9)
"""An address of documentation (RFC 5737): the way to it is the way out. Nothing is sent."""
LOOPBACK: Final = "127.0.0.1"
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFADDR: Final = 0x8915
_RUNNING: Final = 0x40
_IFREQ: Final = struct.Struct("=16s24s")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _any_port() -> int:
    """Return where to look for a free port: below those that the kernel gives to outgoing connections.

    One of those could be taken while a leader restarts, by some connection or by that of a client to this very port.
    """
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", "rb") as file:
            low = int(file.read().split()[0])
    except OSError:
        low = 32_768
    return random.randrange(ANY_PORT_MIN, low - PORTS_MAX) if low > 2 * ANY_PORT_MIN else ANY_PORT_MIN


def bindable(host: str, port: int) -> OSError | None:
    """Return why ``port`` cannot be bound now; None if it can, or if that is found out only by binding it."""
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("" if name == "*" else name, port))
        except OSError as error:
            return error
    return None


def free_run(host: str, count: int) -> int:
    """Return the first of ``count`` ports in a row that can be bound now.

    Raises:
        PortInUse: there is no such row.
    """
    first = _any_port()
    free = 0
    for port in range(first, 65_536):
        problem = bindable(host, port)
        free = 0 if problem else free + 1
        if free == count:
            return port - count + 1
        if problem and problem.errno != errno.EADDRINUSE:
            raise errors.PortInUse(endpoint=host, problem=problem.strerror or str(problem))
    raise errors.PortInUse(endpoint=host, problem=f"no {count} free ports in a row from {first} on")


def own_address(host: str, port: int) -> str | None:
    """Return the address from which this machine would speak to ``host``; None if there is no way."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # Of a datagram socket: nothing is sent.
            found: str = probe.getsockname()[0]
    except OSError:
        return None
    if found in ("0.0.0.0", "::"):  # noqa: S104 - nothing is bound here
        return None
    return f"[{found}]" if ":" in found else found


def found_address(way: str) -> str | None:
    """Return an address by which others reach this machine; None while it has no link.

    Where no route leads ``way``, nor out, as in a network without a gateway, it is the first IPv4 address of an
    interface that is connected to something.

    Args:
        way: address of somebody on whose side others are; nothing is sent there.
    """
    return own_address(way, NOWHERE[1]) or own_address(*NOWHERE) or _address_of_an_interface()


def resolved(host: str) -> str | None:
    """Return an address of ``host``, which may be one; None if its name is not known now."""
    try:
        [(*_, address), *_] = socket.getaddrinfo(host.strip("[]"), NOWHERE[1], type=socket.SOCK_DGRAM)
    except OSError:
        return None
    return str(address[0])


def _address_of_an_interface() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            request = _IFREQ.pack(name.encode(), b"")
            try:
                flags = fcntl.ioctl(asked, _SIOCGIFFLAGS, request)
                address = fcntl.ioctl(asked, _SIOCGIFADDR, request)
            except OSError:
                continue  # It has no address, or is gone.
            host = socket.inet_ntoa(address[20:24])
            if int.from_bytes(flags[16:18], sys.byteorder) & _RUNNING and not is_loopback(host):
                return host
    return None
