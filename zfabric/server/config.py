"""Settings of a node: option, then ``ZFABRIC_*`` variable, then the TOML file, then the default.

The file has three tables, all optional. ``[node]`` has what the options of ``zfabric serve`` say: ``data``,
``listen``, ``leaders``, ``insecure``, ``keep``, ``follow`` and ``keepers`` (``keeper`` as option and variable).
``[mesh]`` has what those about the mesh say; as options and variables ``name``, ``seeds`` and ``key`` are ``mesh``,
``seed`` and ``mesh_key``. ``[leader]`` has fields of :class:`~zfabric.settings.LeaderSettings`, each of which is a
variable too.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any, Final, NamedTuple

import msgspec

from zfabric import errors
from zfabric.settings import LeaderSettings


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is run.

    Attributes:
        data: the data directory. listen: ``HOST:PORT``; port 0 takes a free one.
        leaders: processes; None: one per core. insecure: listen beyond loopback though there are no keys.
        keep: patterns of topics that are kept for other fabrics. follow: ``HOST:PORT`` of such fabrics, beside those
            that the mesh tells. keepers: ``HOST:PORT`` of keepers that are dialled, since they cannot reach this node.
    """

    data: str = "zfabric-data"
    listen: str = "127.0.0.1:7400"
    leaders: int | None = None
    insecure: bool = False
    keep: list[str] = []
    follow: list[str] = []
    keepers: list[str] = []


class MeshSection(msgspec.Struct, frozen=True, kw_only=True):
    """The mesh that a node is a member of.

    Attributes:
        name: of the mesh; "" for none. seeds: ``HOST:PORT`` of members to join through.
        key: path of the file with its key; "" where the network is trusted. zone: where this machine is.
        advertise: host by which others reach this node; "" for the one that it listens on, or a found one.
        beacon: find others on the local network by UDP multicast, and be found.
    """

    name: str = ""
    seeds: list[str] = []
    key: str = ""
    zone: str = ""
    advertise: str = ""
    beacon: bool = True


_Kind = type[NodeSettings | LeaderSettings | MeshSection]
_TABLES: Final[dict[str, _Kind]] = {"node": NodeSettings, "leader": LeaderSettings, "mesh": MeshSection}
_GIVEN_AS: Final = {
    ("mesh", "name"): "mesh",
    ("mesh", "seeds"): "seed",
    ("mesh", "key"): "mesh_key",
    ("node", "keepers"): "keeper",
}
"""What options and variables are called, where that is not the key."""
_LISTS: Final = {"seeds", "keep", "follow", "keepers"}
"""Keys that hold several values: in a variable with blanks between them."""


class Settings(NamedTuple):
    """All tables."""

    node: NodeSettings
    leader: LeaderSettings
    mesh: MeshSection


class _Value(NamedTuple):
    value: object
    source: str
    strict: bool


def load(path: str | None, options: dict[str, Any]) -> Settings:
    """Return the settings of a node, of its leaders and of its part in a mesh.

    Args:
        path: a TOML file, or None.
        options: values given on the command line, by the name of the field; None where not given.

    Raises:
        ConfigurationError: the file cannot be read, or a name or value is wrong; says which, and where it came from.
    """
    tables = {} if path is None else _read(path)
    found: dict[str, Any] = {}
    for table, kind in _TABLES.items():
        given: dict[str, _Value] = {}
        for name, value in tables.get(table, {}).items():
            if name not in kind.__struct_fields__:
                known = ", ".join(kind.__struct_fields__)
                raise _wrong(str(path), f"unknown setting {name!r} in [{table}]", f"known: {known}")
            given[name] = _Value(value, f"{path}, [{table}] {name}", strict=True)
        for name in kind.__struct_fields__:
            outside = _GIVEN_AS.get((table, name), name)
            variable = f"ZFABRIC_{outside.upper()}"
            if variable in os.environ:
                value = os.environ[variable]
                given[name] = _Value(value.split() if name in _LISTS else value, variable, strict=False)
            if options.get(outside) is not None:
                given[name] = _Value(options[outside], f"--{outside.replace('_', '-')}", strict=False)
        for name, value in given.items():
            if (table, name) == ("mesh", "key") and value.value == "" and not value.strict:
                # From a variable that nobody has set, most likely: it must not open the mesh to everybody.
                raise _wrong(value.source, "it is empty", "name a file, or leave it out for a mesh without a key")
        found[table] = kind(**{name: _checked(kind, name, value) for name, value in given.items()})
    return Settings(found["node"], found["leader"], found["mesh"])


def _read(path: str) -> dict[str, dict[str, object]]:
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        problem = error.strerror if isinstance(error, OSError) else None
        raise _wrong(path, problem or str(error), "mend or leave out --config") from error
    for name, table in tables.items():
        if name not in _TABLES or not isinstance(table, dict):
            raise _wrong(path, f"unknown setting {name!r}", f"known tables: {', '.join(f'[{t}]' for t in _TABLES)}")
    return tables


def _checked(kind: _Kind, name: str, given: _Value) -> Any:
    """Return one value with the type of its field; what depends on it alone is checked, so that its source is known."""
    try:
        return getattr(msgspec.convert({name: given.value}, kind, strict=given.strict), name)
    except (msgspec.ValidationError, errors.InvalidArgument) as error:
        problem = str(error).removesuffix(f" - at `$.{name}`")
        problem = problem if problem.startswith(name) else f"{name}: {problem}"
        raise _wrong(given.source, problem, "see 'zfabric serve --help'") from error


def _wrong(source: str, problem: str, instead: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(source=source, problem=problem, instead=instead)
