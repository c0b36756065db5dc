"""Gossip of one process: the shell of ``core/mesh``, within leader 0's loop. It decides nothing about members.

Frames come over the leader's own ROUTER (they begin with ``zg`` where commands begin with ``zf``) and over the links
that this process has made; each is answered the way that it came. What the mesh tells goes into the roster, where
clients read it; what the roster says of this member goes into the mesh as its metadata.

An endpoint that begins with ``@`` is no address but a connection that others have made to the ROUTER.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

from zfabric import errors
from zfabric.core.cluster.roster import Roster
from zfabric.core.mesh.events import MemberEvent
from zfabric.core.mesh.introductions import Introductions
from zfabric.core.mesh.membership import Mesh
from zfabric.core.mesh.rules import first_incarnation
from zfabric.model import Buffer
from zfabric.modes.options import MeshOptions
from zfabric.net.addresses import found_address
from zfabric.net.links import Links
from zfabric.server.remarks import Refused, Remarks
from zfabric.settings import MeshSettings
from zfabric.store import keyfile, meshfile
from zfabric.wire import beacon as beacons
from zfabric.wire import gossip
from zfabric.wire.beacon import Beacon
from zfabric.wire.gossip import Codec, Member, Status

if TYPE_CHECKING:
    from zfabric.net.beacon import BeaconSocket

log = logging.getLogger("zfabric.mesh")

Send = Callable[[bytes, bytes], None]
"""Sends a frame to a peer of the ROUTER: routing id, frame."""

_TOLD: Final = {
    kind: f"member_{kind} member=%s endpoint=%s" for kind in ("joined", "returned", "failed", "left")
}  # fmt: skip
"""What is logged of the mesh's events."""
SIGNATURE: Final = gossip.SIGNATURE
UPKEEP_NS: Final = 1_000_000_000
STORE_NS: Final = 60_000_000_000
MEASURE_NS: Final = 1_000_000_000
MEASURE_MEMBER_NS: Final = 10_000_000
"""Round trips are told every second, and every ten in a mesh of a thousand."""
STORED_SEEDS: Final = 8
"""Of the last run's members: tried for ever like seeds, since all of them may have been away for long."""
MEMO_MAX: Final = 256
"""Updates kept decoded: more are rarely on their way at once, and each is about a kilobyte."""
BEACONS_NS: Final = 100_000_000
"""Beacons are read at most this often."""
COLLISION_NS: Final = 60_000_000_000


class Gossip:
    """This process's part in a mesh.

    Args:
        send: answers a peer of the ROUTER. path: of the file that keeps the members of the last run.
        deserted: tells, when this process ends, whether that is because its node has crashed: no good-bye is said then.

    Raises:
        ConfigurationError: the key file. InvalidArgument: a name, endpoint or seed that cannot be one.

    Attributes:
        links: connections that this process has made.
    """

    def __init__(
        self, options: MeshOptions, roster: Roster, path: str, send: Send, *, deserted: Callable[[], bool] | None = None
    ) -> None:
        key = keyfile.read_key(options.key_file) if options.key_file else None
        now = time.monotonic_ns()
        self._options = options
        self._roster = roster
        self._path = path
        self._send = send
        self._deserted = deserted
        self._silent = False
        self._random = Random(int.from_bytes(os.urandom(16), "big"))
        self._codec = Codec(options.name, key, memo_max=MEMO_MAX)
        self._mesh = Mesh(
            self._codec, id=roster.me, instance=roster.instance, endpoint=options.endpoint,
            random=self._random, now=now, metadata=roster.metadata,
            incarnation=first_incarnation(time.time_ns() // 1_000_000), settings=MeshSettings(),
        )  # fmt: skip
        known = meshfile.load(path, options.name)
        self._mesh.restore(known)
        for member in self._mesh.members():
            roster.note(member)
        self._stored = _places(known)
        self._mesh.join([*options.seeds, *(member.endpoint for member in known[:STORED_SEEDS])], now)
        self.links = Links(gossip.STATE_BYTES_MAX)
        self._introductions = Introductions(self._mesh, self._random, now)
        self._beacon = self._open_beacon() if options.beacon else None
        self._beacons_due = now
        self._beacons_refused = 0
        self._beacons_keys = 0
        self._upkeep_due = 0
        self._measure_due = 0
        self._store_due = now + UPKEEP_NS
        self._collision_due = 0
        self._remarks = Remarks(now)
        self._refused_from = ""
        self._leaving = False
        self._roster.incarnate(self._mesh.me.incarnation)
        if options.way and _is_local(options.endpoint):
            log.warning("address_unknown told=%s hint=%s", options.endpoint, "it is told when there is a link")

    # What the loop drives.

    @property
    def left(self) -> bool:
        """Whether good-bye was said, or none is to be said."""
        return self._silent or self._mesh.left

    def receive(self, peer: bytes, frame: Buffer, whence: Callable[[], str], now: int) -> None:
        """Take a frame that a peer of the ROUTER has sent; ``whence`` tells its address, or ""."""
        before = self._mesh.counters.refused
        self._mesh.receive(f"@{peer.hex()}", bytes(frame[: gossip.STATE_BYTES_MAX + 1]), now)
        if self._mesh.counters.refused != before:
            self._refused_from = whence()

    def step(self, now: int) -> None:
        """Take what came over the links, do what is due, tell the roster, and send."""
        mesh = self._mesh
        for endpoint, frame in self.links.receive():
            mesh.receive(endpoint, frame, now)
        if self._beacon is not None and now >= self._beacons_due:
            self._introduce(self._beacon, now)
        deadline = mesh.next_deadline()
        if deadline is not None and deadline <= now:
            mesh.tick(now)
        if self._roster.metadata != mesh.me.metadata:
            mesh.update(self._roster.metadata, now)
        for event in mesh.take_events():
            self._tell(event, now)
        self._roster.incarnate(mesh.me.incarnation)
        for effect in mesh.take_effects():
            if effect.endpoint.startswith("@"):
                self._send(bytes.fromhex(effect.endpoint[1:]), effect.frame)
            else:
                self.links.send(effect.endpoint, effect.frame, now)
        if now >= self._upkeep_due:
            self._upkeep(now)

    def next_deadline(self) -> int | None:
        """When :meth:`step` is wanted next (monotonic ns), if nothing comes."""
        return 0 if self.links.pending else self._mesh.next_deadline()

    def leave(self, now: int) -> None:
        """Say good-bye; :attr:`left` tells when that is done."""
        self._store(now)
        self._leaving = True
        self._silent = self._deserted is not None and self._deserted()
        if not self._silent:
            self._mesh.leave(now)

    def close(self) -> None:
        """Close the links and the beacon."""
        self.links.close()
        if self._beacon is not None:
            self._beacon.close()

    def values(self) -> dict[str, int | float | str]:
        """Return counters for STATUS_IS."""
        counters, refused = self._mesh.counters, self._refused()
        return {
            "mesh": self._options.name,
            "mesh_members": self._mesh.live + 1,
            "mesh_health": self._mesh.health,
            "mesh_links": len(self.links),
            "mesh_sent": counters.sent,
            "mesh_sent_bytes": counters.sent_bytes,
            "mesh_received": counters.received,
            "mesh_received_bytes": counters.received_bytes,
            "mesh_refused": sum(refused) - refused.beacons,
            "mesh_refused_meshes": refused.meshes,
            "mesh_refused_keys": refused.keys,
            "mesh_refused_members": counters.members_refused + counters.incarnations_refused,
            "mesh_refused_metadata": counters.metadata_refused,
            "mesh_seeds_unanswered": len(self._mesh.unanswered),
            "mesh_replayed": counters.replayed,
            "mesh_strangers": counters.strangers,
            "mesh_put_off": counters.put_off,
            "mesh_unsent": self.links.dropped,
            "mesh_news_dropped": counters.news_dropped,
            "mesh_relays_refused": counters.relays_refused,
            "mesh_pauses": counters.pauses,
            "mesh_collisions": counters.collisions,
            "mesh_refutations": counters.refutations,
            "mesh_beacons": self._introductions.heard,
            "mesh_beacons_refused": self._beacons_refused + self._introductions.refused,
        }  # fmt: skip

    def _refused(self) -> Refused:
        counters = self._mesh.counters
        return Refused(
            counters.refused_mesh,
            counters.refused_mac,
            counters.refused_version,
            counters.refused_size + counters.refused_format + self.links.misshapen,
            self._beacons_keys,
        )

    def _remark(self, now: int) -> None:
        """Say what somebody should look at."""
        unanswered = self._mesh.unanswered
        if self._remarks.alone(self._mesh.live, len(unanswered), now):
            log.warning(
                "mesh_alone mesh=%s seeds=%s endpoint=%s hint=%s", self._options.name, ",".join(unanswered),
                self._mesh.me.endpoint, "none answers: not there, of another mesh or key (its log tells), "
                "not the first port of a node, or this endpoint does not lead here from there",
            )  # fmt: skip
        left_out = self._remarks.left_out()
        if left_out:
            log.info("members_changed more=%d members=%d", left_out, self._mesh.live + 1)
        refused = self._remarks.refused(self._refused(), now)
        if refused is not None:
            log.warning(
                "gossip_refused mesh=%s other_meshes=%d other_keys=%d other_versions=%d garbage=%d "
                "beacons_of_other_keys=%d last_from=%s", self._options.name, *refused, self._refused_from,
            )  # fmt: skip

    def _tell(self, event: MemberEvent, now: int) -> None:
        kind, member = event.kind, event.member
        inform(self._roster, self._mesh, event)
        if kind == "collided":
            self._collided(member, now)
        if kind in _TOLD and self._remarks.member(now):
            log.info(_TOLD[kind], member.id.hex(), member.endpoint)

    def _collided(self, claim: Member, now: int) -> None:
        if now >= self._collision_due:
            self._collision_due = now + COLLISION_NS
            log.warning(
                "member_collided member=%s endpoint=%s hint=%s",
                claim.id.hex(), claim.endpoint,
                "two processes run on copies of one data directory; zfabric doctor DIR --new-identity parts them",
            )  # fmt: skip

    # Beacons.

    def _open_beacon(self) -> BeaconSocket | None:
        from zfabric.net.beacon import BeaconSocket

        try:
            return BeaconSocket(local=_is_local(self._options.endpoint))
        except OSError as error:
            log.warning("beacon_unavailable problem=%s hint=%s", error, "others are found by seeds alone")
            return None

    def _introduce(self, beacon: BeaconSocket, now: int) -> None:
        self._beacons_due = now + BEACONS_NS
        for data, host in beacon.receive():
            try:
                self._introductions.hear(beacons.read(self._codec, data), now)
            except errors.ProtocolViolation as error:
                self._beacons_refused += 1
                if error.values.get("refusal") == "mac":
                    self._beacons_keys += 1
                    self._refused_from = host
        if self._introductions.tick(now) and not self._leaving:
            me = self._mesh.me
            beacon.send(beacons.write(self._codec, Beacon(me.id, me.endpoint)))

    # Upkeep.

    def _upkeep(self, now: int) -> None:
        self._upkeep_due = now + UPKEEP_NS
        self.links.tick(now)
        if self._options.way and not self._leaving:
            self._look_where_we_are(now)
        self._remark(now)
        if now >= self._measure_due:
            members = self._roster.ids()
            self._measure_due = now + max(MEASURE_NS, MEASURE_MEMBER_NS * len(members))
            for member in members:
                took = self._mesh.round_trip_ns(member)
                if took is not None:
                    self._roster.measured(member, max(1, took // 1_000))
        if now >= self._store_due:
            self._store(now)

    def _look_where_we_are(self, now: int) -> None:
        """Tell others where this process is reached, if the machine has another address now than before."""
        found = found_address(self._options.way)
        before = self._mesh.me.endpoint
        endpoint = f"tcp://{found}:{before.rpartition(':')[2]}"
        if found is None or endpoint == before:  # Without a link the last one is as good as any.
            return
        log.info("address_changed from=%s to=%s", before, endpoint)
        self._roster.move(endpoint, f"tcp://{found}:{self._options.publish.rpartition(':')[2]}")
        self._mesh.update(self._roster.metadata, now, endpoint)
        self._roster.incarnate(self._mesh.me.incarnation)
        if self._beacon is not None:
            self._beacon.local = _is_local(endpoint)

    def _store(self, now: int) -> None:
        """Keep some members for the next run, if they are not those that are kept already."""
        self._store_due = now + STORE_NS
        living = [member for member in self._mesh.members() if member.status == Status.ALIVE]
        living.sort(key=lambda member: (member.id, member.endpoint) not in self._stored)
        living.sort(key=lambda member: not self._mesh.heard(member.id))  # Others may be made up.
        chosen = living[: meshfile.MEMBERS_MAX]
        if not living or _places(chosen) == self._stored:
            return
        try:
            meshfile.store(self._path, self._options.name, chosen)
        except OSError as error:
            log.warning("members_not_stored problem=%s", error)
            return
        self._stored = _places(chosen)


def inform(roster: Roster, mesh: Mesh, event: MemberEvent) -> None:
    """Tell the table that clients read what a mesh has found out."""
    if event.kind == "reaped":
        roster.forget(event.member.id)
    elif event.kind == "lost":
        known = {other.id: other for other in mesh.members()}
        for gone in [gone for gone in roster.ids() if gone not in known]:
            roster.forget(gone)
        for other in known.values():
            roster.note(other)
    elif event.kind != "collided":
        roster.note(event.member)


def _is_local(endpoint: str) -> bool:
    return endpoint.startswith(("tcp://127.", "tcp://localhost:", "tcp://[::1]"))


def _places(members: list[Member]) -> set[tuple[bytes, str]]:
    return {(member.id, member.endpoint) for member in members}
