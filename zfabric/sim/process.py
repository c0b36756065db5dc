"""A leader process in virtual time: the real machines and the real turn, on a simulated disk and network.

What it adds is what ``server/loop.py`` does with sockets and clocks, and ways to die:

* :meth:`Process.kill` between two turns, or between a commit and its effects (:attr:`Process.commit_seconds` lie in
  between); what had arrived and was not handled is gone;
* :meth:`Process.power_cut`, which takes from the disk what was not synced as well;
* a commit that fails, which ends the process by itself;
* :meth:`Process.freeze`: it does nothing for a while, then goes on with what has arrived, as after SIGSTOP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from random import Random

from zfabric import errors
from zfabric.core.cluster.placement import Placement
from zfabric.core.cluster.roster import Roster
from zfabric.core.effects import LeaderEffect, Reply
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Incoming, Turn
from zfabric.core.transaction import Transaction
from zfabric.settings import LeaderSettings
from zfabric.sim.disk import SimDisk
from zfabric.sim.links import Links
from zfabric.sim.network import Frames, Network
from zfabric.sim.world import MILLISECOND, SECOND, World
from zfabric.wire import messages
from zfabric.wire.card import Card, Kind
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Attach, LeaderAddress

ATTACH_NS = 500 * MILLISECOND
TURN_MESSAGES = 256
TURN_NS = 20_000
SECRET = b"of all leaders here"
MESH = "simulated"


class Process:
    """One leader process and its disk. It has to be started. ``site`` begins its name and that of its fabric.

    Args:
        number: of the leader within its fabric. count: leaders of that. peer: its name, if it is a peer of a mesh.
        fabric: id that is given to a new disk.
        keep, follow, offer_to: as in :class:`~zfabric.modes.options.LeaderOptions`.

    Attributes:
        disk: what outlives the process. alive: it runs. died: called when it ended by itself.
        roster: of leader 0, what it knows of its mesh.
        commit_seconds: the mean time between a commit and its effects. leader: the machine, while it runs.
        starts, deaths: how often it was started, and died.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        number: int,
        count: int,
        settings: LeaderSettings,
        site: str = "",
        *,
        peer: str = "",
        fabric: str = "",
        keep: Sequence[str] = (),
        follow: Sequence[str] = (),
        offer_to: Sequence[str] = (),
    ) -> None:
        self.name = peer or f"{site}leader-{number}"
        self.number = number
        self.fabric = fabric or f"{site}simulated"
        self.roster: Roster | None = None
        self._mesh = MESH if peer else ""
        self.disk = SimDisk(self.name)
        self.alive = False
        self.commit_seconds = 0.0005
        self.died: Callable[[Process], None] = lambda _: None
        self.starts = self.deaths = 0
        self.endpoint = f"sim://{self.name}"
        self.publish = f"sim://{self.name}/publish"
        self.leader: Leader
        self._site = site
        self._world = world
        self._network = network
        self._count = count
        self._settings = settings
        self._turn: Turn
        self._inbox: deque[tuple[bytes, Frames]] = deque()
        self._carried: deque[Incoming] = deque()
        self._subscribers: dict[bytes, dict[bytes, None]] = {}
        self._topics: dict[bytes, set[bytes]] = {}
        self._scheduled: int | None = None
        self._busy_until = 0
        self._frozen_until = 0
        self._controller_session = 0
        self._peers: dict[bytes, None] = {}
        self._keep, self._follow, self._offer_to = tuple(keep), tuple(follow), tuple(offer_to)
        self._links: Links | None = None

    # Life.

    def start(self) -> None:
        """Start the process on what its disk holds, and serve."""
        assert not self.alive
        self.leader = Leader(self.number, self._settings)
        placement = None
        if self.number == 0:
            kind: Kind = "node" if not self._mesh else "peer"
            card = Card(kind=kind, host=self.name, publish=self.publish, software="simulated")
            run = Random(f"{self._world.seed} {self.starts}").getrandbits(62) + 1
            self.roster = Roster(run, self.endpoint, card, mesh=self._mesh)
            placement = Placement(self.roster, SECRET)

        def start(txn: Transaction) -> None:
            self.leader.start(txn)
            if placement is not None:
                placement.start(self.fabric, self._count, self._settings.record_bytes_max, txn)
                placement.listen(LeaderAddress(0, self.endpoint, self.publish))

        self._turn = Turn(self.disk, self.leader, placement)
        try:
            self._turn.begin(start)
        except (errors.StorageFailed, errors.StorageFull):
            self.disk.kill(self._world.random)
            self.died(self)
            return
        self.alive = True
        self.starts += 1
        self._busy_until = self._frozen_until = 0
        self._network.bind(self.endpoint, self.name, self)
        self._network.bind(self.publish, self.name, self)
        self._world.note(f"{self.name} serves, epoch {self.leader.epoch}")
        if self.number:
            self._attach_again()
        if self._keep or self._offer_to:
            self._reach_out()
        self._schedule(self._world.now)

    def _reach_out(self) -> None:
        self._links = Links(
            self._world,
            self._network,
            self.name,
            self.leader,
            lambda: self._schedule(self._world.now + TURN_NS),
            keep=self._keep,
            follow=self._follow,
            offer_to=self._offer_to,
            roster=self.roster,
        )

    def wipe(self, fabric: str) -> None:
        """Put an empty disk in: what is started on it is another fabric. It may not run."""
        assert not self.alive
        self._world.note(f"{self.name} has a new disk")
        self.disk = SimDisk(self.name)
        self.fabric = fabric

    @property
    def awake(self) -> bool:
        """Whether it runs and is not frozen."""
        return self.alive and self._frozen_until <= self._world.now

    def kill(self) -> None:
        """End it as SIGKILL does."""
        if self.alive:
            self._world.note(f"{self.name} is killed")
            self._end()
            self.disk.kill(self._world.random)

    def power_cut(self) -> None:
        """End it, and lose what the disk had not synced."""
        if self.alive:
            self._world.note(f"{self.name} loses power")
            self._end()
            self.disk.crash(self._world.random)

    def stop(self) -> None:
        """End it in order: answer what is there, say goodbye."""
        if not self.alive:
            return
        while self._inbox or self._carried:
            for effects in self._pass():
                self._perform(effects)
        self._perform(self._turn.close(self._world.now, self._world.wall_ms()))
        goodbye = messages.command(Type.GOODBYE, 0, messages.Empty())
        self._perform([Reply(peer, (goodbye,)) for peer in self._peers])
        self._end()
        self.disk.kill(self._world.random)

    def freeze(self, seconds: float) -> None:
        """Do nothing for a while; after 3 s its connections break, as heartbeats have no answer."""
        self._frozen_until = max(self._frozen_until, self._world.now + int(seconds * SECOND))
        self._world.note(f"{self.name} is frozen for {seconds:.3f} s")

    def _fail(self) -> None:
        """Storage failed: the process ends by itself."""
        self.kill()
        self.died(self)

    def _end(self) -> None:
        self.alive = False
        self.deaths += 1
        self._network.unbind(self)
        self._network.leave(self)
        if self._links is not None:
            self._network.leave(self._links)
            self._links = None
        self._inbox.clear()
        self._carried.clear()
        self._subscribers.clear()
        self._topics.clear()
        self._peers.clear()
        self._scheduled = None

    # For the network, as a server.

    def take(self, peer: bytes, frames: Frames) -> None:
        """A message has arrived."""
        if self._links is not None and self._links.takes(peer, frames):
            self._schedule(self._world.now + TURN_NS)
            return
        self._peers[peer] = None
        self._inbox.append((peer, frames))
        self._schedule(self._world.now + TURN_NS)

    def subscribe(self, peer: bytes, topic: bytes, *, on: bool) -> None:
        """A subscription has arrived."""
        if on:
            self._topics.setdefault(topic, set()).add(peer)
            self._subscribers.setdefault(peer, {})[topic] = None
        else:
            self._topics.get(topic, set()).discard(peer)
            self._subscribers.get(peer, {}).pop(topic, None)

    def left(self, peer: bytes) -> None:
        """A connection has ended; what it sent is handled all the same."""
        for topic in self._subscribers.pop(peer, {}):
            self._topics[topic].discard(peer)
        self._peers.pop(peer, None)
        if self._links is not None:
            self._links.gone(peer)

    # For the network, as a client of leader 0.

    def _attach_again(self) -> None:
        starts = self.starts
        self._controller_session += 1
        self._network.open(self, self._controller_session, endpoint_of(0, self._site))

        def attach() -> None:
            if self.alive and self.starts == starts:
                version = self.leader.assignment_version
                ends = self._turn.attachment(self._world.now)
                body = Attach(self.number, self.endpoint, self.publish, version, ends, SECRET)
                frames = [messages.command(Type.ATTACH, 1, body)]
                self._network.send(self, self._controller_session, frames)
                self._world.after(ATTACH_NS, attach)

        attach()

    def connected(self, session: int) -> None:
        """The connection to leader 0 is there."""

    def receive(self, session: int, frames: Frames) -> None:
        """Leader 0 has answered."""
        if session == self._controller_session and self.alive:
            command = messages.read(frames)
            if command.type == Type.ASSIGN:
                self._carried.append((b"", command))
                self._schedule(self._world.now)

    def lost(self, session: int) -> None:
        """The connection to leader 0 has ended."""
        if session == self._controller_session and self.alive:
            self._controller_session += 1
            self._network.open(self, self._controller_session, endpoint_of(0, self._site))

    # Turns.

    def _schedule(self, when: int) -> None:
        when = max(when, self._busy_until, self._frozen_until, self._world.now)
        if self._scheduled is not None and self._scheduled <= when:
            return
        self._scheduled = when
        starts = self.starts

        def due() -> None:
            if not self.alive or self.starts != starts or self._scheduled != when:
                return
            self._scheduled = None
            if self._frozen_until > self._world.now:
                self._schedule(self._frozen_until)
            else:
                self._take_turn()

        self._world.at(when, due)

    def _take_turn(self) -> None:
        world = self._world
        passes = self._pass()
        try:
            changed = next(passes)
        except (errors.StorageFailed, errors.StorageFull):
            self._fail()
            return
        starts = self.starts
        self._busy_until = world.now + int(world.random.expovariate(1.0 / self.commit_seconds) * SECOND) + 1

        def committed() -> None:
            if not self.alive or self.starts != starts:
                return  # It died after the commit and before anybody was told.
            self._perform(changed)
            if self._links is not None:
                self._perform(self._links.settled())
            try:
                for answered in passes:
                    self._perform(answered)
            except errors.StorageFailed:
                self._fail()
                return
            if self._inbox or self._carried:
                self._schedule(world.now + TURN_NS)
            wanted = self._turn.next_deadline()
            if wanted is not None:
                self._schedule(wanted)
            linked = None if self._links is None else self._links.next_deadline()
            if linked is not None:
                self._schedule(linked)

        world.at(self._busy_until, committed)

    def _pass(self) -> Iterator[list[LeaderEffect]]:
        """Handle what has arrived: yields the effects of the changes, and later the answers of the rest."""
        world, turn = self._world, self._turn
        self.leader.storage_full = None
        try:
            self.disk.check_room()
        except errors.StorageFull as error:
            self.leader.storage_full = error
        refused: list[LeaderEffect] = []
        writes: list[Incoming] = []
        reads: deque[Incoming] = deque()
        incoming, self._carried = self._carried, deque()
        if self._links is None and self._mesh and self.number == 0 and self.leader.damage.stretches:
            self._reach_out()
        if self._links is not None:
            incoming.extend(self._links.collect())
        for _ in range(min(TURN_MESSAGES, len(self._inbox))):
            peer, frames = self._inbox.popleft()
            try:
                command = messages.read(frames)
                waits = incoming or refused
                if waits or not turn.at_once(peer, command, world.now, world.wall_ms(), self._perform):
                    incoming.append((peer, command))
            except (errors.ProtocolViolation, errors.UnsupportedVersion) as error:
                refused.append(Reply(peer, (messages.failure(messages.request_id(frames[0]), error),)))
        for peer, command in incoming:
            if command.type == Type.STATUS:
                refused.append(self._status(peer, command))
            elif command.type == Type.OFFER and self._links is not None:
                refused.append(self._links.offered(peer, command))
            else:
                (writes if command.type in turn.writes else reads).append((peer, command))
        effects = turn.change(writes, world.now, world.wall_ms())
        turn.report(0)
        yield refused + effects
        reads.extend(turn.woken())
        if reads:
            yield turn.answer(reads, self._settings.turn_bytes)
            self._carried.extend(reads)

    def _status(self, peer: bytes, command: Command) -> Reply:
        counters = self.leader.counters
        values: dict[str, int | float | str] = {
            "id": self.number,
            "pid": self.number + 1,
            "endpoint": self.endpoint,
            "publish": self.publish,
            "partitions": self.leader.led(),
            "clients": len(self._peers),
            "rss_bytes": 0,
            "rss_anon_bytes": 0,
            "uptime_s": 0.0,
            **counters.values(),
            "commits": self.disk.commits,
            "errors": counters.errors,
            "subscriptions": sum(map(len, self._subscribers.values())),
            "map_bytes": 0,
            "used_bytes": sum(len(key) + len(value) for key, value in self.disk.items()),
        }
        return Reply(peer, (messages.command(Type.STATUS_IS, command.request, messages.StatusIs(values)),))

    def _perform(self, effects: Sequence[LeaderEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Reply):
                if effect.peer and not (self._links is not None and self._links.reply(effect)):
                    self._network.reply(effect.peer, effect.frames)
            else:
                for peer in sorted(self._topics.get(bytes(effect.frames[0]), ())):
                    self._network.reply(peer, effect.frames, publication=True)


def endpoint_of(number: int, site: str = "") -> str:
    """Return where a leader takes requests; ``site`` tells fabrics of one world apart."""
    return f"sim://{site}leader-{number}"
