"""The connections that a leader process opens itself: to the fabrics that it keeps, and to the keepers that it dials.

It decides nothing: ``core/leader/follower.py`` says what to ask, ``core/client/requests.py`` keeps connections,
``core/leader/offers.py`` knows the lines that run in reverse, ``core/cluster/hearsay.py`` what to ask about the mesh,
``net/ports.py`` and ``net/dialling.py`` hold the sockets.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import zmq

from zfabric import errors
from zfabric.core.client.requests import Requests
from zfabric.core.cluster.hearsay import PATIENCE_NS, Hearsay
from zfabric.core.cluster.roster import Roster
from zfabric.core.effects import ClientEffect, Reply
from zfabric.core.leader.follower import Follower
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.offers import Offering, Offers
from zfabric.core.leader.sightings import Sightings
from zfabric.core.leader.turn import Incoming
from zfabric.net import sockets
from zfabric.net.dialling import Dialler
from zfabric.net.ports import Ports
from zfabric.net.session import Change
from zfabric.wire import messages
from zfabric.wire.membership import Members
from zfabric.wire.messages import Command, Type
from zfabric.wire.replication import Offer

if TYPE_CHECKING:
    from zfabric.net.polling import SharedPoller

log = logging.getLogger("zfabric.links")

TICK_NS = 20_000_000
"""Connections are looked after this often at most: there may be thousands."""
LOOK_NS = 500_000_000
ASKED_MAX = 100
"""Questions of one keeper in a turn."""
FAR = 1 << 62


class Links:
    """The outgoing connections of one leader.

    Args:
        keep: patterns of topics that are kept. follow: endpoints of leaders to be followed, known from the start.
        offer_to: endpoints of keepers that are dialled.
        roster: the members of the mesh, of which those that lead what is kept are followed.
    """

    def __init__(
        self,
        leader: Leader,
        frame_max: int,
        *,
        keep: Sequence[str],
        follow: Sequence[str],
        offer_to: Sequence[str],
        roster: Roster,
    ) -> None:
        self._leader = leader
        self._context = context = sockets.context()
        self._requests = Requests("zfabric", Random(os.urandom(8)))
        self._ports = Ports(context, frame_max, patient=True)
        self._generation = -1
        self._fds: set[int] = set()
        self._ready: list[int] = []
        self._ticked = 0
        self._tick_due = 0
        self._replies: list[Reply] = []
        self.follower = Follower(keep, self._requests, leader)
        self._offers = Offers(self.follower)
        self._roster = roster
        self._sightings = Sightings(keep, self.follower, follow, offer_to)
        self._seen = Members()
        self._look_due = 0
        self._hearsay = Hearsay(roster, offer_to) if offer_to and roster.mesh else None
        for endpoint in follow:
            self.follower.learn(endpoint)
        self._dialled: dict[bytes, tuple[zmq.Socket[bytes], Offering]] = {}
        self._monitors: dict[zmq.Socket[bytes], tuple[zmq.Socket[bytes], Offering]] = {}
        self._dialler = Dialler()
        for endpoint in offer_to:
            socket = sockets.dealer(context, frame_max)
            sockets.patient(socket)
            monitor = sockets.monitor(context, socket)
            self._dialler.dial(monitor, socket, endpoint, time.monotonic_ns())
            self._dialled[b"offer:" + os.urandom(8)] = (socket, offering := Offering())
            self._monitors[monitor] = socket, offering

    # For the loop.

    def watch(self, poller: zmq.Poller | SharedPoller) -> None:
        """Let ``poller`` watch what there is now."""
        if self._generation < 0:
            for monitor, (socket, _) in self._monitors.items():
                poller.register(socket, zmq.POLLIN)
                poller.register(monitor, zmq.POLLIN)
            for fd in self._dialler.fds():
                poller.register(fd, zmq.POLLIN)
        if self._generation != self._ports.generation:
            self._generation = self._ports.generation
            wanted = set(self._ports.fds())
            for fd in self._fds - wanted:
                poller.unregister(fd)
            for fd in wanted - self._fds:
                poller.register(fd, zmq.POLLIN)
            self._fds = wanted

    def wake(self, ready: int | zmq.Socket[bytes]) -> None:
        """Something that is watched is readable."""
        if isinstance(ready, int):
            self._ready.append(ready)
        elif ready in self._monitors and self._dialler.noticed(ready, time.monotonic_ns()):
            self._monitors[ready][1].connected()

    def next_deadline(self) -> int:
        """When :meth:`collect` is wanted next (monotonic ns)."""
        wanted = self.follower.next_deadline()
        nearest = min(self._tick_due, self._look_due, FAR if wanted is None else wanted)
        for _, offering in self._dialled.values():
            nearest = min(nearest, offering.next_deadline())
        for machine in (self._hearsay, self._dialler):
            due = None if machine is None else machine.next_deadline()
            nearest = min(nearest, FAR if due is None else due)
        return 0 if self._ports.more else nearest

    def collect(self, now: int, wall_ms: int) -> Iterator[Incoming]:
        """Take what has come in, and yield what is for the turn."""
        self.follower.clock(now, wall_ms)
        self._dialler.tick(now)
        if now >= self._look_due:
            self._look(now)
        ready, self._ready = self._ready, []
        for session, change in self._ports.drain(ready=ready):
            if type(change) is list:
                self._requests.receive(session, change, now)
            elif change is not Change.CONNECTED:
                self._requests.lost(session, now, nowhere=change is Change.NOWHERE)
        if now >= self._tick_due:
            self._requests.tick(now)
            self._ticked = now
        self.follower.tick()
        if self._hearsay is not None:
            self._hear(self._hearsay, now)
        self._send(now)
        for command in self.follower.take_commands():
            yield b"", command
        for peer, (socket, offering) in self._dialled.items():
            said = offering.offer(self._leader.fabric, now)
            if said is not None:
                self._say(socket, [said])
            yield from self._asked(peer, socket, offering, now)

    def settled(self, now: int) -> list[Reply]:
        """The turn is durable: returns what goes out over connections of others."""
        self.follower.settled()
        self.follower.tick()
        self._send(now)
        replies, self._replies = self._replies, []
        return replies

    def offered(self, peer: bytes, command: Command, now: int) -> Reply:
        """Somebody has dialled us and says OFFER; returns the answer."""
        body: Offer = command.body
        for lost in self._offers.take(peer, body.fabric):
            self._requests.lost(lost, now)
        return Reply(peer, (messages.command(Type.DONE, command.request, messages.Empty()),))

    def takes(self, peer: bytes, frames: Sequence[Any], now: int) -> bool:
        """Tell whether a message on the ROUTER is the answer of somebody who has dialled us, and take it if so."""
        session = self._offers.session(peer)
        if session is None or frames[0][3:4] == bytes([Type.OFFER]):
            return False
        self._requests.receive(session, frames, now)
        return True

    def gone(self, peer: bytes, now: int) -> None:
        """A connection to the ROUTER has ended."""
        for lost in self._offers.gone(peer):
            self._requests.lost(lost, now)

    def reply(self, effect: Reply) -> bool:
        """Send an answer if it goes over a line that we have dialled; tells whether it does."""
        line = self._dialled.get(effect.peer)
        if line is not None:
            self._say(line[0], effect.frames)
        return line is not None

    def close(self) -> None:
        """Close all connections."""
        self._ports.close()
        self._dialler.close()
        for monitor, (socket, _) in self._monitors.items():
            sockets.close_monitored(socket, monitor)
        sockets.end(self._context)

    # Within.

    def _look(self, now: int) -> None:
        """See which members of the mesh have changed."""
        if self._sightings.look_for(self._leader.damage.own()):
            self._seen = Members()
        told = self._roster.answer(self._seen)
        self._sightings.take(told.members, told.me)
        self._seen = Members(told.run, told.version)
        self._look_due = now if told.more else now + LOOK_NS

    def _hear(self, hearsay: Hearsay, now: int) -> None:
        """Ask a keeper who is there, if it is time."""
        due = hearsay.next_deadline()
        if due is None or due > now:
            return
        answer = self._requests.call(
            hearsay.keeper, Type.MEMBERS, hearsay.ask(now), now, now + PATIENCE_NS, "members", PATIENCE_NS / 1e9
        )

        def answered() -> None:
            if answer.error is None:
                hearsay.heard(answer.result().body, time.monotonic_ns())
            else:
                hearsay.missed(time.monotonic_ns())

        answer.on_done(answered)

    def _send(self, now: int) -> None:
        effects: list[ClientEffect] = []
        for effect in self._requests.take_effects():
            if not self._offers.owns(effect):
                effects.append(effect)
                continue
            wanted = self._offers.perform(effect)
            if isinstance(wanted, Reply):
                self._replies.append(wanted)
            elif wanted is not None:
                self._requests.lost(wanted, now)
        if effects:
            self._ports.perform(effects)
            self._ready += [fd for fd in self._ports.fds() if fd not in self._fds]
        wanted_ns = self._requests.next_deadline()
        self._tick_due = max(FAR if wanted_ns is None else wanted_ns, self._ticked + TICK_NS)

    def _asked(self, peer: bytes, socket: zmq.Socket[bytes], offering: Offering, now: int) -> Iterator[Incoming]:
        for _ in range(ASKED_MAX):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                command = messages.read(frames)
            except (errors.ProtocolViolation, errors.UnsupportedVersion) as error:
                log.warning("keeper_misunderstood problem=%s", error)
                continue
            if offering.admits(command, now):
                yield peer, command

    def _say(self, socket: zmq.Socket[bytes], frames: Sequence[Any]) -> None:
        try:
            socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return  # Not connected: it will be said, or asked, again.
