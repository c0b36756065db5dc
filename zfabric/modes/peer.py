"""Peer mode: every peer leads what it originates, and finds the others by gossip; no broker at all.

A peer is a data directory with one leader process, as in embedded mode: any number of processes share it, whoever needs
the leader and finds none starts it, and it ends when the last of them has left. Beside the ipc sockets for these it
listens on TCP for the other peers, and is a member of the mesh, from the moment at which somebody connects. Clients
read the topics of all members (``core/client/origins.py``) and write to their own leader alone.

With ``role=client`` a process has no leader: it sees the mesh through another member (``core/client/anchor.py``), a
seed, or one whose beacon is heard.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from zfabric import errors
from zfabric.core.client.anchor import Observed
from zfabric.modes import holderurl
from zfabric.modes.embedded import Embedded
from zfabric.modes.hearing import HEAR_S, Ear
from zfabric.modes.node import Node
from zfabric.modes.options import LeaderOptions, PeerPlace
from zfabric.modes.peerurl import SCHEME, PeerTarget
from zfabric.modes.url import Target
from zfabric.net import places
from zfabric.net.addresses import LOOPBACK, NOWHERE, WILDCARDS, found_address
from zfabric.settings import LeaderSettings, check_pattern
from zfabric.store import keyfile, meshfile
from zfabric.store.directory import Holder

log = logging.getLogger("zfabric.peer")
_INSTEAD: Final = "give all processes of a peer the same; a leader ends two seconds after the last of them"


class Peer(Embedded):
    """This process's share in a peer.

    Attributes:
        publish: where the peer's leader publishes for processes of its own machine.
    """

    mesh = True

    def __init__(self, target: PeerTarget, settings: LeaderSettings | None = None, *, timeout: float = 10.0) -> None:
        _check(target)
        self._peer = PeerPlace(
            mesh=target.mesh,
            listen=target.listen,
            seeds=target.seeds,
            key=target.key,
            zone=target.zone,
            advertise=target.advertise,
            beacon=target.beacon,
        )
        self._key = keyfile.fingerprint(target.key)
        self._told = 0
        self._keep = tuple(check_pattern("keep", pattern) for pattern in target.keep)
        self._keepers = tuple(f"tcp://{_place(keeper, 'keeper')}" for keeper in target.keepers)
        place = Target(target.url, "embedded", target.data, "", 0)
        super().__init__(place, settings, timeout=timeout, leader=target.leader)
        self.publish = self._publish
        self._say_moved()
        try:
            with suppress(errors.ZFabricError):  # Told with the first question, which looks once more.
                self.locate()  # Others look for it, and a keeper has work to do, though nothing is asked of it here.
        except BaseException:
            self.close()
            raise

    def _check_holder(self, holder: Holder) -> None:
        url, running, key = holderurl.read(holder["listen"])
        if holder["mode"] == "peer" and url == f"{SCHEME}://{self._peer.mesh}":
            if self._key not in ("", key):
                raise errors.ConfigurationError(
                    source=f"key={self._peer.key!r}",
                    problem=f"the leader of {self._directory.path!r}, process {holder['pid']}, was started with "
                    f"{'another key' if key else 'none'}",
                    instead=_INSTEAD,
                )
            self._say_ignored(holder["pid"], running)
            return
        if not holder["mode"]:
            return  # It has not written down yet what it is.
        where = {"embedded": f"zf+file:{self._directory.path}", "peer": url}
        if holder["mode"] in where:
            raise errors.DirectoryLocked(directory=self._directory.path, pid=holder["pid"], where=where[holder["mode"]])
        super()._check_holder(holder)

    def _say_moved(self) -> None:
        """Say that the directory was in another mesh: it takes its topics along, and leaves that one without them.

        No error: a mesh may be given another name. Once this one's first member is known it is forgotten.
        """
        before = meshfile.mesh_of(self._directory.members_path)
        if before not in ("", self._peer.mesh):
            log.warning(
                "mesh_changed mesh=%r before=%r directory=%r hint=%s", self._peer.mesh, before, self._directory.path,
                "its topics go along; for a peer of both meshes give each a directory of its own (data=)",
            )  # fmt: skip

    def _say_ignored(self, pid: int, running: holderurl.Options) -> None:
        """Say once of each leader what was given here that it does not know of.

        No error: this process may have been here first, and the leader started anew by one that was given less.
        """
        if pid == self._told:
            return
        self._told = pid
        usual = holderurl.peer_options(LeaderOptions(data="", peer=PeerPlace(mesh="", listen=f"{LOOPBACK}:0")))
        for name, value, theirs in holderurl.ignored(holderurl.peer_options(self._options()), running, usual):
            log.warning(
                "option_ignored option=%s given=%r leader_has=%r leader_pid=%d directory=%r hint=%s",
                name, value, theirs, pid, self._directory.path, _INSTEAD,
            )  # fmt: skip

    def listen_endpoint(self) -> str:
        """Return a free port where other peers reach this one."""
        host = self._peer.listen.rpartition(":")[0]
        if host in WILDCARDS:
            host = found_address(NOWHERE[0]) or LOOPBACK
        return f"tcp://{host}:*"

    def _options(self) -> LeaderOptions:
        return LeaderOptions(
            data=self._directory.real_path,
            listen=self.endpoint,
            publish=self._publish,
            embedded=True,
            peer=self._peer,
            keep=self._keep,
            offer_to=self._keepers,
            settings=self._settings,
        )


def _check(target: PeerTarget) -> None:
    """Say what is wrong with what the leader would be told, whether or not this process has to start it.

    Raises:
        ConfigurationError: ``listen``, a seed, the host, or the file with the key. InvalidArgument: the zone.
    """
    _, port = places.split_place(target.listen, "listen=")
    if port == places.PORT_MAX:
        raise errors.ConfigurationError(
            source=f"listen={target.listen!r}", problem="a peer takes two ports in a row", instead="choose a lower port"
        )
    for seed in target.seeds:
        places.place(seed, "seed=")
    if target.advertise:
        places.host_of(target.advertise, "advertise=")
    places.check_zone(target.zone)
    if target.key:
        keyfile.read_key(target.key)


class Observer(Node):
    """A client of a mesh that is no member of it."""

    mesh = True

    def __init__(self, target: PeerTarget) -> None:
        places = [_split(seed, "seed") for seed in target.seeds]
        super().__init__(Target(target.url, "node", "", *(places[0] if places else ("", 0))))
        self.observed = Observed(target.mesh, [f"tcp://{host}:{port}" for host, port in places])
        if target.key:
            keyfile.read_key(target.key)
        self._target = target
        self._ear: Ear | None = None
        self._silent_from: float | None = None
        if not places:
            self.endpoint = self.observed.name
            self.locating = True

    def locate(self) -> Sequence[str]:
        """Return the members that were heard on the local network since the last call. Does not wait.

        Raises:
            NobodyHeard: none was, for five seconds. ConfigurationError: the key file.
        """
        now = time.monotonic()
        if self._silent_from is None:
            self._silent_from = now
        with suppress(OSError):  # Without multicast nobody is heard.
            self._ear = self._ear or Ear(self._target.mesh, self._target.key)
        heard = self._ear.heard() if self._ear is not None else []
        if heard:
            self._silent_from = math.inf  # They are known from now on, and tried again.
        elif now - self._silent_from >= HEAR_S:
            self._silent_from = None
            raise errors.NobodyHeard(url=self._target.url, seconds=HEAR_S, mesh=self._target.mesh)
        return heard

    def close(self) -> None:
        """Hear nothing more."""
        if self._ear is not None:
            self._ear.close()
            self._ear = None


def _place(text: str, name: str) -> str:
    host, port = _split(text, name)
    return f"{host}:{port}"


def _split(seed: str, name: str) -> tuple[str, int]:
    host, colon, digits = seed.rpartition(":")
    if not colon or not host or not digits.isascii() or not digits.isdigit() or not 1 <= int(digits[:6]) <= 65_535:
        raise errors.InvalidArgument(name=name, value=repr(seed)[:100], allowed="HOST:PORT")
    return host, int(digits)
