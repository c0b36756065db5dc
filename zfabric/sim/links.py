"""The connections that a leader process opens itself, in virtual time: what ``server/links.py`` does with sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from zfabric import errors
from zfabric.core.client.requests import Requests
from zfabric.core.cluster.roster import Roster
from zfabric.core.effects import CloseSession, OpenSession, Reply, Send
from zfabric.core.leader.follower import Follower
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.offers import Offering, Offers
from zfabric.core.leader.sightings import Sightings
from zfabric.core.leader.turn import Incoming
from zfabric.sim.network import Frames, Network
from zfabric.sim.walk import check
from zfabric.sim.world import MILLISECOND, World
from zfabric.wire import messages
from zfabric.wire.membership import Members
from zfabric.wire.messages import Command, Type

LOOK_NS = 500 * MILLISECOND
LINES = 1 << 40
"""Numbers of the sessions to keepers that are dialled, beyond those to fabrics that are asked."""


class Links:
    """The outgoing connections of one simulated leader. A host of the network.

    Args:
        name: of its machine. wake: called when something has come in.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        name: str,
        leader: Leader,
        wake: Callable[[], None],
        *,
        keep: Sequence[str],
        follow: Sequence[str],
        offer_to: Sequence[str],
        roster: Roster | None,
    ) -> None:
        self.name = name
        self._world = world
        self._network = network
        self._leader = leader
        self._wake = wake
        self._requests = Requests("simulated", Random(world.random.getrandbits(64)))
        self._replies: list[Reply] = []
        self._asked: list[Incoming] = []
        self.follower = Follower(keep, self._requests, leader)
        self._offers = Offers(self.follower)
        self._roster = roster
        self._sightings = Sightings(keep, self.follower, follow, offer_to)
        self._seen = Members()
        self._look_due = 0
        for endpoint in follow:
            self.follower.learn(endpoint)
        self._lines: dict[int, tuple[str, Offering]] = {}
        self._sessions: dict[bytes, int] = {}
        for endpoint in offer_to:
            self._dial(endpoint, Offering())

    def _dial(self, endpoint: str, offering: Offering) -> None:
        session = LINES + self._world.random.getrandbits(40)
        self._lines[session] = (endpoint, offering)
        self._sessions[b"line %d" % session] = session
        self._network.open(self, session, endpoint)

    # For the network, as a client.

    def connected(self, session: int) -> None:
        """A connection is there."""
        if session in self._lines:
            self._lines[session][1].connected()
            self._wake()

    def receive(self, session: int, frames: Frames) -> None:
        """A message has come."""
        self.follower.clock(self._world.now, self._world.wall_ms())
        if session not in self._lines:
            self._requests.receive(session, frames, self._world.now)
        else:
            try:
                command = messages.read(frames)
            except (errors.ProtocolViolation, errors.UnsupportedVersion):
                return
            if self._lines[session][1].admits(command, self._world.now):
                self._asked.append((b"line %d" % session, command))
        self._wake()

    def lost(self, session: int) -> None:
        """A connection has ended."""
        line = self._lines.pop(session, None)
        if line is None:
            self._requests.lost(session, self._world.now)
        else:
            del self._sessions[b"line %d" % session]
            self._dial(line[0], line[1])
        self._wake()

    # For the process.

    def next_deadline(self) -> int | None:
        """When :meth:`collect` is wanted next (monotonic ns)."""
        deadlines = [self.follower.next_deadline(), self._requests.next_deadline()]
        check(self._requests)
        deadlines.append(None if self._roster is None else self._look_due)
        deadlines += [offering.next_deadline() for _, offering in self._lines.values()]
        return min((due for due in deadlines if due is not None), default=None)

    def collect(self) -> list[Incoming]:
        """Return what is for the turn."""
        now = self._world.now
        self.follower.clock(now, self._world.wall_ms())
        if self._sightings.look_for(self._leader.damage.own()):
            self._seen = Members()
        if self._roster is not None and now >= self._look_due:
            told = self._roster.answer(self._seen)
            self._sightings.take(told.members, told.me)
            self._seen = Members(told.run, told.version)
            self._look_due = now if told.more else now + LOOK_NS
        self._requests.tick(now)
        self.follower.tick()
        self._send()
        incoming: list[Incoming] = [(b"", command) for command in self.follower.take_commands()]
        for session, (_, offering) in list(self._lines.items()):
            said = offering.offer(self._leader.fabric, now)
            if said is not None:
                self._network.send(self, session, [said])
        asked, self._asked = self._asked, []
        return incoming + asked

    def settled(self) -> list[Reply]:
        """The turn is durable: returns what goes out over connections of others."""
        self.follower.clock(self._world.now, self._world.wall_ms())
        self.follower.settled()
        self.follower.tick()
        self._send()
        replies, self._replies = self._replies, []
        return replies

    def offered(self, peer: bytes, command: Command) -> Reply:
        """Somebody has dialled us; returns the answer."""
        for lost in self._offers.take(peer, command.body.fabric):
            self._requests.lost(lost, self._world.now)
        return Reply(peer, (messages.command(Type.DONE, command.request, messages.Empty()),))

    def takes(self, peer: bytes, frames: Frames) -> bool:
        """Tell whether a message is the answer of somebody who has dialled us, and take it if so."""
        session = self._offers.session(peer)
        if session is None or frames[0][3] == Type.OFFER:
            return False
        self._requests.receive(session, frames, self._world.now)
        return True

    def gone(self, peer: bytes) -> None:
        """A connection of somebody else has ended."""
        for lost in self._offers.gone(peer):
            self._requests.lost(lost, self._world.now)

    def reply(self, effect: Reply) -> bool:
        """Send an answer if it goes over a line that we have dialled; tells whether it does."""
        if not effect.peer.startswith(b"line "):
            return False
        session = self._sessions.get(effect.peer)
        if session is not None:
            self._network.send(self, session, effect.frames)
        return True

    def _send(self) -> None:
        for effect in self._requests.take_effects():
            if self._offers.owns(effect):
                wanted = self._offers.perform(effect)
                if isinstance(wanted, Reply):
                    self._replies.append(wanted)
                elif wanted is not None:
                    self._requests.lost(wanted, self._world.now)
            elif isinstance(effect, OpenSession):
                self._network.open(self, effect.session, effect.endpoint)
            elif isinstance(effect, CloseSession):
                self._network.close(self, effect.session)
            elif isinstance(effect, Send):
                self._network.send(self, effect.session, effect.frames)
