"""What a node has to know before it can join a mesh: addresses that others can use, a key, seeds."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from zfabric import errors
from zfabric.modes.options import MeshOptions
from zfabric.net.addresses import NOWHERE, WILDCARDS, own_address
from zfabric.server.config import MeshSection
from zfabric.settings import check_name
from zfabric.store import keyfile
from zfabric.wire.gossip import ENDPOINT_BYTES_MAX

OPTIONS: Final = {"seed": "--seed ", "advertise": "--advertise ", "listen": "--listen ", "key": "--mesh-key "}
"""What the options of ``zfabric serve`` are called, as errors name them."""
PARAMETERS: Final = {"seed": "seed=", "advertise": "advertise=", "listen": "listen=", "key": "key="}
"""The same in the URL of a peer."""
SEEDS_MAX = 32
ZONE_MAX = 100


def mesh_options(mesh: MeshSection, host: str, port: int, said: Mapping[str, str] = OPTIONS) -> MeshOptions:
    """Return what leader 0 is told about the mesh.

    Args:
        mesh: as configured, with a name. host, port: where leader 0 listens. said: what errors call options.

    Raises:
        ConfigurationError, InvalidArgument: the key file, a seed, or no address that others could use.
    """
    check_name("mesh", mesh.name)
    if mesh.key:
        keyfile.read_key(mesh.key)
    if len(mesh.seeds) > SEEDS_MAX:
        raise errors.InvalidArgument(name="seeds", value=str(len(mesh.seeds)), allowed=f"at most {SEEDS_MAX}")
    if len(mesh.zone) > ZONE_MAX or not mesh.zone.isprintable():
        allowed = f"at most {ZONE_MAX} printable characters"
        raise errors.InvalidArgument(name="zone", value=repr(mesh.zone)[:100], allowed=allowed)
    seeds = [_place(text, said["seed"]) for text in mesh.seeds]
    reached = _advertised(mesh, host, seeds, said)
    return MeshOptions(
        name=mesh.name,
        key_file=mesh.key,
        seeds=[f"tcp://{seed}:{at}" for seed, at in seeds],
        zone=mesh.zone,
        endpoint=f"tcp://{reached}:{port}",
        publish=f"tcp://{reached}:{port + 1}",
        beacon=mesh.beacon,
    )


def check_alone(mesh: MeshSection) -> None:
    """Refuse what only makes sense with a mesh: whoever gives a key should not run without one.

    Raises:
        ConfigurationError: the mesh without a name has seeds, a key, or a host to be told to others.
    """
    for name, value in (("seed", mesh.seeds), ("key", mesh.key), ("advertise", mesh.advertise)):
        if value:
            told = value if isinstance(value, str) else value[0]
            raise errors.ConfigurationError(
                source=f"{OPTIONS[name]}{told[:100]!r}",
                problem="there is no mesh for it",
                instead="say which: --mesh NAME",
            )


def split_place(text: str, source: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT``; ``source`` is what it came from: ``"--seed "``, ``"seed="``.

    Raises:
        ConfigurationError: it is something else.
    """
    host, colon, digits = text.rpartition(":")
    if not colon or not host or not digits.isascii() or not digits.isdigit() or int(digits[:6]) > 65_535:
        raise errors.ConfigurationError(
            source=f"{source}{text[:100]!r}", problem="wants HOST:PORT", instead="for example 127.0.0.1:7400"
        )
    return host, int(digits)


def endpoints(places: list[str], source: str) -> tuple[str, ...]:
    """Return ZeroMQ endpoints of ``HOST:PORT`` each; ``source`` is what they came from.

    Raises:
        ConfigurationError: one is something else.
    """
    return tuple(f"tcp://{host}:{port}" for host, port in (_place(text, source) for text in places))


def _place(text: str, source: str) -> tuple[str, int]:
    host, port = split_place(text, source)
    if port == 0 or not _is_host(host):
        raise errors.ConfigurationError(
            source=f"{source}{text[:100]!r}", problem="wants HOST:PORT", instead="for example 10.0.0.1:7400"
        )
    return host, port


def _is_host(host: str) -> bool:
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


def _advertised(mesh: MeshSection, host: str, seeds: list[tuple[str, int]], said: Mapping[str, str]) -> str:
    """Return the host by which others reach this node."""
    if mesh.advertise:
        reached = f"[{mesh.advertise}]" if ":" in mesh.advertise and mesh.advertise[0] != "[" else mesh.advertise
        if not _is_host(reached):
            raise errors.ConfigurationError(
                source=f"{said['advertise']}{mesh.advertise[:100]!r}",
                problem="wants a host name or an address, without a port",
                instead=f"for example {said['advertise']}10.0.0.1",
            )
        return reached
    if host not in WILDCARDS:
        return host
    for target in (*seeds[:1], NOWHERE):
        found = own_address(*target)
        if found is not None:
            return found
    raise errors.ConfigurationError(
        source=f"{said['listen']}{host}",
        problem="others in the mesh cannot reach a wildcard, and no address of this machine was found",
        instead=f"say by which host they reach it: {said['advertise']}HOST",
    )
