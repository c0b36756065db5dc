"""URLs of peers: ``zf+peer://MESH?data=DIR&listen=HOST:PORT&seed=HOST:PORT&…``.

Each parameter is a keyword of ``connect`` as well, which goes before it; ``seed``, ``keep`` and ``keeper`` may be
repeated.

=============  =====================================================================================================
parameter      meaning
=============  =====================================================================================================
``data``       the peer's data directory; every process that uses it is a part of the same peer [``zfabric-data``]
``listen``     ``HOST`` or ``HOST:PORT`` where others reach it: two ports in a row, free ones that are kept over
               restarts unless it says which [``127.0.0.1``; ``0.0.0.0`` with ``insecure``]
``seed``       ``HOST:PORT`` of a member to join through, not needed where beacons reach, nor after the first time
``beacon``     1: find others on the local network by UDP, 0: do not [1]
``key``        file with the mesh's key: gossip is believed only from those that have it [none]
``zone``       where this machine is, told to the mesh [none]
``advertise``  host by which others reach it [that of ``listen``, or a found one]
``insecure``   1: listen beyond loopback, though whoever reaches the ports can read and write [0]
``keep``       pattern of topics, as ``sensor.*``, of which this peer keeps copies of what others originate [none]
``keeper``     ``HOST:PORT`` of a keeper that cannot reach this peer and is dialled [none]
``leader``     ``process``; or ``thread``: if this process has to start the peer's leader, as a part of itself
               (``inside.py``) [``process``]
``role``       ``peer``, or ``client``: no leader and no data of its own; what it reads and asks it finds through the
               first ``seed`` that answers, without seeds through a member whose beacon is heard [``peer``]
=============  =====================================================================================================
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypedDict
from urllib.parse import parse_qsl

from zfabric import errors
from zfabric.modes.url import Placement, placement
from zfabric.net.addresses import LOOPBACK, is_loopback
from zfabric.settings import check_name

SCHEME: Final = "zf+peer"
DEFAULT_DIRECTORY: Final = "zfabric-data"
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - only where it was asked for
SEEDS_MAX: Final = 32
_LISTS: Final = {"seed": "HOST:PORT", "keep": "a pattern", "keeper": "HOST:PORT"}
_FLAGS: Final = {"0": False, "1": True}


class PeerOptions(TypedDict, total=False):
    """Keywords of ``connect`` for peers; see :mod:`zfabric.modes.peerurl`."""

    data: str
    listen: str
    seed: str | list[str]
    beacon: bool
    key: str
    zone: str
    advertise: str
    insecure: bool
    keep: str | list[str]
    keeper: str | list[str]
    leader: str
    role: str


class PeerTarget(NamedTuple):
    """A parsed URL; ``listen`` has a port, 0 for a kept or free one."""

    url: str
    mesh: str
    data: str
    listen: str
    seeds: list[str]
    beacon: bool
    key: str
    zone: str
    advertise: str
    client: bool
    keep: list[str]
    keepers: list[str]
    leader: Placement = "process"


def parse(url: str, options: PeerOptions) -> PeerTarget:
    """Read a URL and the keywords beside it.

    Raises:
        ConfigurationError: it is no such URL. InvalidArgument: a parameter's name or value.
        InsecureListen: beyond loopback, and nobody said that this is meant.
    """
    place, _, query = url.partition(":")[2].removeprefix("//").partition("?")
    mesh = place.rstrip("/")
    if not mesh:
        raise errors.ConfigurationError(
            source=f"URL {url[:100]!r}", problem="it names no mesh", instead="write zf+peer://MESH"
        )
    check_name("mesh", mesh)
    given: dict[str, Any] = {name: [] for name in _LISTS}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _LISTS:
            given[name].append(value)
        else:
            given[name] = value
    given.update(options)
    unknown = sorted(given.keys() - PeerOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(sorted(PeerOptions.__annotations__))
        raise errors.InvalidArgument(
            name=unknown[0][:100], value=repr(given[unknown[0]])[:100], allowed=f"one of {known}"
        )
    insecure, role = _flag(given, "insecure", default=False), _text(given, "role", "peer")
    if role not in ("peer", "client"):
        raise errors.InvalidArgument(name="role", value=repr(role)[:100], allowed="'peer' or 'client'")
    listen = _text(given, "listen", EVERYWHERE if insecure else LOOPBACK)
    listen = listen if ":" in listen.rpartition("]")[2] else f"{listen}:0"
    if not (insecure or role == "client" or is_loopback(listen.rpartition(":")[0])):
        raise errors.InsecureListen(endpoint=listen)
    seeds = _several(given, "seed")
    beacon = _flag(given, "beacon", default=True)
    if role == "client" and not seeds and not beacon:
        allowed = "HOST:PORT of a member, with role='client' and beacon=0"
        raise errors.InvalidArgument(name="seed", value="none", allowed=allowed)
    return PeerTarget(
        url=url,
        mesh=mesh,
        data=_text(given, "data", DEFAULT_DIRECTORY),
        listen=listen,
        seeds=seeds,
        beacon=beacon,
        key=_key(given),
        zone=_text(given, "zone", ""),
        advertise=_text(given, "advertise", ""),
        client=role == "client",
        keep=_several(given, "keep"),
        keepers=_several(given, "keeper"),
        leader=placement(given.get("leader", "process")),
    )


def _several(given: dict[str, Any], name: str) -> list[str]:
    values = [given[name]] if isinstance(given[name], str) else given[name]
    several = isinstance(values, list | tuple) and len(values) <= SEEDS_MAX
    if not several or not all(isinstance(value, str) and value for value in values):
        raise errors.InvalidArgument(
            name=name, value=repr(values)[:100], allowed=f"{_LISTS[name]}, or a list of at most {SEEDS_MAX} of these"
        )
    return list(values)


def _text(given: dict[str, Any], name: str, default: str) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or "\0" in value or (default and not value):
        raise errors.InvalidArgument(name=name, value=repr(value)[:100], allowed="text")
    return value


def _key(given: dict[str, Any]) -> str:
    """Return the file with the key; "" only where none is meant: a variable that nobody has set is to fail."""
    if given.get("key", "none") == "":
        raise errors.InvalidArgument(name="key", value="''", allowed="a file; left out for a mesh without a key")
    return _text(given, "key", "")


def _flag(given: dict[str, Any], name: str, *, default: bool) -> bool:
    value = given.get(name, default)
    value = _FLAGS.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise errors.InvalidArgument(name=name, value=repr(value)[:100], allowed="True or False, in a URL 1 or 0")
    return value
