"""Places that users write: ``HOST:PORT`` of others, and the host and zone that a member tells the mesh of itself."""

from __future__ import annotations

import socket
from typing import Final

from zfabric import errors
from zfabric.wire.gossip import ENDPOINT_BYTES_MAX

ZONE_MAX: Final = 100
PORT_MAX: Final = 65_535


def split_place(text: str, source: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT``; ``source`` is what it came from: ``"--seed "``, ``"seed="``.

    Raises:
        ConfigurationError: it is something else.
    """
    host, colon, digits = text.rpartition(":")
    if not colon or not host or not digits.isascii() or not digits.isdigit() or int(digits[:16]) > PORT_MAX:
        raise errors.ConfigurationError(
            source=f"{source}{text[:100]!r}", problem="wants HOST:PORT", instead="for example 127.0.0.1:7400"
        )
    return host, int(digits[:16])


def endpoints(places: list[str], source: str) -> tuple[str, ...]:
    """Return ZeroMQ endpoints of ``HOST:PORT`` each; ``source`` is what they came from.

    Raises:
        ConfigurationError: one is something else.
    """
    return tuple(f"tcp://{host}:{port}" for host, port in (place(text, source) for text in places))


def place(text: str, source: str) -> tuple[str, int]:
    """Return (host, port) of where somebody else listens; ``source`` is what it came from.

    Raises:
        ConfigurationError: it is something else, or has no port.
    """
    host, port = split_place(text, source)
    if port == 0 or not is_host(host):
        raise errors.ConfigurationError(
            source=f"{source}{text[:100]!r}", problem="wants HOST:PORT", instead="for example 10.0.0.1:7400"
        )
    return host, port


def is_host(host: str) -> bool:
    """Tell whether a text can be a host: a name, an IPv4 address, or an IPv6 address in brackets."""
    fits = host.isascii() and host.isprintable() and not set(host) & set(" /;*")
    return (
        fits and len(host) < ENDPOINT_BYTES_MAX - len("tcp://:65535") and (_is_ipv6(host) or not set(host) & set(":[]"))
    )


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host[1:-1].partition("%")[0])
    except OSError:
        return False
    return (host[0], host[-1]) == ("[", "]")


def _is_wildcard(host: str) -> bool:
    family, text = (socket.AF_INET6, host[1:-1]) if host.startswith("[") else (socket.AF_INET, host)
    try:
        return not any(socket.inet_pton(family, text.partition("%")[0]))
    except OSError:  # It is a name.
        return False


def host_of(text: str, source: str) -> str:
    """Return the host by which others reach a member; an IPv6 address gets its brackets. A wildcard leads nowhere.

    Raises:
        ConfigurationError: it is something else; ``source`` is what it came from.
    """
    host = f"[{text}]" if ":" in text and text[0] != "[" else text
    if not is_host(host) or _is_wildcard(host):
        raise errors.ConfigurationError(
            source=f"{source}{text[:100]!r}",
            problem="wants a host name or an address, without a port",
            instead=f"for example {source}10.0.0.1",
        )
    return host


def check_zone(zone: str) -> None:
    """Refuse what cannot be told to the mesh.

    Raises:
        InvalidArgument: it is too long, or not printable.
    """
    if len(zone) > ZONE_MAX or not zone.isprintable():
        allowed = f"at most {ZONE_MAX} printable characters"
        raise errors.InvalidArgument(name="zone", value=repr(zone)[:100], allowed=allowed)
