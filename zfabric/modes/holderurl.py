"""What a directory's lock says of a peer's leader: ``zf+peer://MESH?listen=…&zone=…#KEY``, as short as it is.

The leader's options count from its start to its end, and whoever comes later with others should hear that they do not.
So they stand there as in a URL; those that are not given are left out, and lists that would be too long for the lock.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode

from zfabric.modes.options import LeaderOptions
from zfabric.modes.peerurl import SCHEME

BYTES_MAX: Final = 2_048
"""A lock holds 4 KiB, with the rest of what it says."""
Options = dict[str, tuple[str, ...]]
"""Values by names of parameters; only ``seed``, ``keep`` and ``keeper`` have several."""


def write(options: LeaderOptions, key: str) -> str:
    """Return what the lock of such a leader says; ``key`` is by what the mesh's key is known, or ""."""
    assert options.peer is not None
    name, told = f"{SCHEME}://{options.peer.mesh}", peer_options(options)
    ending = f"#{key}" if key else ""
    while len(url := f"{name}?{urlencode(told, doseq=True)}{ending}") > BYTES_MAX:
        longest = max(told, key=lambda option: len("".join(told[option])))
        del told[longest]
    return url


def read(text: str) -> tuple[str, Options, str]:
    """Return the mesh's URL, the options, and by what the key is known; no options of an older version's leader."""
    url, _, key = text.partition("#")
    mesh, _, query = url.partition("?")
    found: Options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found[name] = (*found.get(name, ()), value)
    return mesh, found, key


def peer_options(options: LeaderOptions) -> Options:
    """Return the options of a peer's leader that others can be without, as they stand in a URL."""
    peer = options.peer
    assert peer is not None
    return {
        "listen": (peer.listen,),
        "beacon": (str(int(peer.beacon)),),
        "zone": (peer.zone,),
        "advertise": (peer.advertise,),
        "seed": tuple(peer.seeds) or ("",),
        "keep": options.keep or ("",),
        "keeper": tuple(keeper.removeprefix("tcp://") for keeper in options.offer_to) or ("",),
    }


def ignored(given: Options, running: Options, usual: Options) -> list[tuple[str, str, str]]:
    """Return the options that were ``given`` to no effect: name, value, and that of the leader that is ``running``.

    One that is as ``usual`` was not given; one that is not told of the leader is not compared. Seeds may be some of the
    leader's, and a port that is to be any one is the leader's.
    """
    found = []
    for name, values in given.items():
        theirs = running.get(name)
        if theirs is None or values == usual[name] or set(values) <= set(theirs):
            continue
        if name == "listen" and values[0] == f"{theirs[0].rpartition(':')[0]}:0":
            continue
        found.append((name, ",".join(values), ",".join(theirs)))
    return found
