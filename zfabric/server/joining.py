"""What a node has to know before it can join a mesh: addresses that others can use, a key, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from zfabric import errors
from zfabric.modes.options import MeshOptions
from zfabric.net.addresses import LOOPBACK, NOWHERE, WILDCARDS, found_address, resolved
from zfabric.net.places import check_zone, host_of, place
from zfabric.server.config import MeshSection
from zfabric.settings import check_name
from zfabric.store import keyfile

OPTIONS: Final = {"seed": "--seed ", "advertise": "--advertise ", "listen": "--listen ", "key": "--mesh-key "}
"""What the options of ``zfabric serve`` are called, as errors name them."""
PARAMETERS: Final = {"seed": "seed=", "advertise": "advertise=", "listen": "listen=", "key": "key="}
"""The same in the URL of a peer."""
SEEDS_MAX = 32


def mesh_options(mesh: MeshSection, host: str, port: int, said: Mapping[str, str] = OPTIONS) -> MeshOptions:
    """Return what leader 0 is told about the mesh.

    Args:
        mesh: as configured, with a name. host, port: where leader 0 listens. said: what errors call options.

    Raises:
        ConfigurationError, InvalidArgument: the key file, a seed, or a host to be told to others.
    """
    check_name("mesh", mesh.name)
    if mesh.key:
        keyfile.read_key(mesh.key)
    if len(mesh.seeds) > SEEDS_MAX:
        raise errors.InvalidArgument(name="seeds", value=str(len(mesh.seeds)), allowed=f"at most {SEEDS_MAX}")
    check_zone(mesh.zone)
    seeds = [place(text, said["seed"]) for text in mesh.seeds]
    reached, way = _advertised(mesh, host, seeds, said)
    return MeshOptions(
        name=mesh.name,
        key_file=mesh.key,
        seeds=[f"tcp://{seed}:{at}" for seed, at in seeds],
        zone=mesh.zone,
        endpoint=f"tcp://{reached}:{port}",
        publish=f"tcp://{reached}:{port + 1}",
        way=way,
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


def _advertised(mesh: MeshSection, host: str, seeds: list[tuple[str, int]], said: Mapping[str, str]) -> tuple[str, str]:
    """Return the host by which others reach this node, and the way on which it was found, "" if it was told.

    Without a link it is this machine itself for now: whoever has to wait for a network cannot store and forward.
    """
    if mesh.advertise:
        return host_of(mesh.advertise, said["advertise"]), ""
    if host not in WILDCARDS:
        return host, ""
    way = (resolved(seeds[0][0]) if seeds else None) or NOWHERE[0]
    return found_address(way) or LOOPBACK, way
