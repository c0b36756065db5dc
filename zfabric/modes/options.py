"""What a leader process is told at its start: one JSON document, its only command line argument.

The supervisor and the embedded mode write it, ``server/__main__.py`` reads it. It is checked by its types. One thing
stands in the environment, which other users of the machine do not see: the secret that the leaders of a node share.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from zfabric import errors
from zfabric.settings import LeaderSettings
from zfabric.wire.card import Kind


class MeshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How leader 0 takes part in a mesh.

    Attributes:
        name: of the mesh. key_file: path of its key; "" for a network that is trusted.
        endpoint, publish: where members and clients elsewhere reach this leader; names or addresses that they know.
        way: address toward which this machine's own was found, and is looked for again; "" where it was told.
        seeds: endpoints of members to join through. zone: where this machine is, or "".
        kind: what the card says. beacon: find others on the local network, and be found.
    """

    name: str
    endpoint: str
    publish: str
    way: str = ""
    key_file: str = ""
    seeds: list[str] = []
    zone: str = ""
    kind: Kind = "node"
    beacon: bool = False


class PeerPlace(msgspec.Struct, frozen=True, kw_only=True):
    """How the leader of a peer is reached, and which mesh it joins; the leader makes its :class:`MeshOptions` of it.

    Attributes:
        mesh: its name. listen: ``HOST:PORT``, port 0 for the one of the last run, or a free one.
        seeds: ``HOST:PORT`` each. key: path of a file, or "". zone, advertise: as in ``[mesh]`` of a node.
        beacon: find others on the local network.
    """

    mesh: str
    listen: str
    seeds: list[str] = []
    key: str = ""
    zone: str = ""
    advertise: str = ""
    beacon: bool = True


class LeaderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one leader process.

    Attributes:
        data: the data directory. leader: number of this leader. leaders: how many there are.
        listen: ZeroMQ endpoint of the ROUTER. publish: of the XPUB.
        advertise, advertise_publish: what clients are told; host ``*`` stands for the host by which they reached us.
        controller: endpoint of leader 0, for all others; empty for leader 0, which hosts the controller.
        embedded: take the directory's lock, end when the last client has left, detach from the starting process.
        supervised: end when standard input ends, since whoever started us has gone.
        beats: write a byte to standard output twice a second: a supervisor with a watchdog wants to know.
        mesh: of leader 0 alone: the mesh that it is a member of; None for none.
        keep: patterns of topic names: partitions of other fabrics that are kept here. Leader 0 alone keeps.
        follow: ROUTER endpoints of fabrics that may have some. offer_to: of keepers that cannot reach this process.
        peer: of a peer's leader: where it is reached by others, from which the next three and ``mesh`` follow.
        listen_too, publish_too: where ROUTER and XPUB listen as well; "" for nowhere.
        settings: bounds and times.
    """

    data: str
    leader: int = 0
    leaders: int = 1
    listen: str = ""
    publish: str = ""
    advertise: str = ""
    advertise_publish: str = ""
    controller: str = ""
    embedded: bool = False
    supervised: bool = False
    beats: bool = False
    mesh: MeshOptions | None = None
    keep: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    offer_to: tuple[str, ...] = ()
    peer: PeerPlace | None = None
    listen_too: str = ""
    publish_too: str = ""
    settings: LeaderSettings = LeaderSettings()


SECRET: Final = "ZFABRIC_LEADER_SECRET"  # noqa: S105 - its name, not its value
"""The environment variable with the node's secret, in hex; drawn by the supervisor when it starts."""


def secret() -> bytes:
    """Return the secret that this leader shares with the others of its node; b"" if it has none."""
    return bytes.fromhex(os.environ.get(SECRET, ""))


def environment() -> dict[str, str]:
    """Return the environment of a leader process: as here, but with the assertions that guard the log."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}


def encode(options: LeaderOptions) -> str:
    """Return the options as the argument of ``python -m zfabric.server``."""
    return msgspec.json.encode(options).decode()


def decode(text: str) -> LeaderOptions:
    """Read the argument back.

    Raises:
        ConfigurationError: it is no JSON, or a value has a wrong type or range.
    """
    try:
        return msgspec.json.decode(text, type=LeaderOptions)
    except (msgspec.MsgspecError, errors.InvalidArgument) as error:
        raise errors.ConfigurationError(
            source="leader options", problem=str(error), instead="start leaders with 'zfabric serve'"
        ) from error
