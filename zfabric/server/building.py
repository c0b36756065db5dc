"""A leader put together from its options: directory, volume, machines, sockets; the same wherever it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from zfabric.core.cluster.placement import Placement
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Turn
from zfabric.modes.options import secret
from zfabric.server import process
from zfabric.server.loop import Loop
from zfabric.store.volume import Volume
from zfabric.wire.metadata import LeaderAddress

if TYPE_CHECKING:
    from zfabric.core.cluster.roster import Roster
    from zfabric.core.transaction import Transaction
    from zfabric.modes.options import LeaderOptions
    from zfabric.server.links import Links
    from zfabric.store.directory import DataDirectory
    from zfabric.wire.card import Kind


def build(
    options: LeaderOptions, directory: DataDirectory, stack: ExitStack, inside: Callable[..., Loop] | None = None
) -> Loop:
    """Return the loop of a leader that holds its directory and listens; ``stack`` gets what ends it.

    Args:
        directory: as :func:`~zfabric.server.holding.hold` returned it.
        inside: makes the loop of one that is a part of an application; it does not end when no client is left.

    Raises:
        ZFabricError: the directory is damaged, or a port is taken. OSError: the system refuses the directory.
    """
    settings = options.settings
    if options.peer is not None:
        from zfabric.server.peering import settle

        options = settle(options, directory.port_path)
    directory.check_room(options.leader)
    volume = stack.enter_context(Volume.open(directory.volume_path(options.leader), settings))
    leader = Leader(options.leader, settings)
    placement = None
    if options.leader == 0:
        placement = Placement(_roster(options), secret())

    def start(txn: Transaction) -> None:
        leader.start(txn)
        if placement is not None:
            placement.start(os.urandom(8).hex(), options.leaders, settings.record_bytes_max, txn)
            placement.listen(LeaderAddress(0, options.advertise, options.advertise_publish))

    turn = Turn(volume, leader, placement)
    turn.begin(start)
    if inside is not None:
        loop = inside(options, volume, leader, turn)
    else:
        alone = directory.try_exclusive_clients if options.embedded else None
        loop = Loop(options, volume, leader, turn, alone=alone)
    stack.callback(loop.close)
    if options.mesh is not None and placement is not None:
        from zfabric.server.gossip import Gossip

        deserted = process.deserted if options.supervised else None
        loop.take_part(Gossip(options.mesh, placement.roster, directory.members_path, loop.reply, deserted=deserted))
    if placement is not None:
        roster = placement.roster

        def links() -> Links:
            from zfabric.server.links import Links

            return Links(
                leader, settings.frame_bytes_max, keep=options.keep, follow=options.follow, offer_to=options.offer_to,
                roster=roster,
            )  # fmt: skip

        if options.keep or options.offer_to or options.mesh is not None:
            loop.reach_out(links, at_once=bool(options.keep or options.offer_to))
    return loop


def _roster(options: LeaderOptions) -> Roster:
    """Return the table of members, with what this process says of itself."""
    from zfabric.core.cluster.roster import Roster
    from zfabric.wire.card import Card

    run = (int.from_bytes(os.urandom(8), "big") >> 1) | 1
    host, mesh = os.uname().nodename, options.mesh
    if mesh is None:
        kind: Kind = "embedded" if options.embedded else "node"
        card = Card(kind=kind, host=host, publish=options.advertise_publish, software="zfabric")
        return Roster(run, options.advertise, card)
    card = Card(kind=mesh.kind, host=host, zone=mesh.zone, publish=mesh.publish, software="zfabric")
    return Roster(run, mesh.endpoint, card, mesh=mesh.name)
