"""Thousands of members of meshes in virtual time, in one thread, on a network of datagrams.

The fault model: each frame takes its own delay, so frames overtake each other; it is lost with a probability; it is
lost between the sides of a partition; a crashed member is silent; a paused one (a starved process, SIGSTOP) neither
receives nor ticks, and what arrives meanwhile waits in a bounded queue. When it wakes up its timers run *before* it
reads what waited: the order of a shell with threads of its own for timers, and the worse one for a failure detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from zfabric.core.mesh.events import MemberEvent
from zfabric.core.mesh.membership import Mesh
from zfabric.model import Buffer
from zfabric.settings import MeshSettings
from zfabric.sim.world import MILLISECOND, SECOND, World
from zfabric.wire.gossip import Body, Codec, Expects, Member, Message

INBOX_MAX = 1_000
MEMO_MAX = 1 << 20
WRITTEN_MAX = 1 << 16
Watch = Callable[["Host", MemberEvent, int], None]
Tap = Callable[["Host", str, bytes], None]


class SharedCodec(Codec):
    """The codec of all members of a mesh: each update is in memory once, and what it wrote itself it need not decode.

    Frames are real ones, with their MACs; those that it has not just written are read as everywhere.
    """

    def __init__(self, mesh: str, key: bytes | None) -> None:
        super().__init__(mesh, key, memo_max=MEMO_MAX)
        self._written: dict[bytes, Message] = {}
        self._said: tuple[Body | None, list[Member]] = None, []

    def write(self, kind: int, sender: bytes, instance: int, number: int, body: Body) -> bytes:
        """Encode a frame, and keep what it says until it is read."""
        frame = super().write(kind, sender, instance, number, body)
        if body is not self._said[0]:
            self._said = body, self.news(body)
        if len(self._written) >= WRITTEN_MAX:  # Of frames that nobody has read yet.
            self._written.clear()
        self._written[frame] = Message(kind, sender, instance, number, body, self._said[1])
        return frame

    def lose(self, frame: bytes) -> None:
        """Nobody will read a frame."""
        self._written.pop(frame, None)

    def read(self, frame: Buffer, expects: Expects | None = None) -> Message:
        """Decode a frame."""
        assert isinstance(frame, bytes)
        return self._written.pop(frame, None) or super().read(frame, expects)


@dataclass(eq=False)
class Host:
    """One member and the process that it lives in.

    Attributes:
        number: of the host, from 0. mesh: the machine. side: of the partition, if there is one.
        up: it has not crashed. paused: it stands still. inbox: what waits for it to go on.
    """

    number: int
    mesh: Mesh
    endpoint: str
    codec: SharedCodec
    side: int = 0
    up: bool = True
    paused: bool = False
    inbox: list[tuple[str, bytes]] = field(default_factory=list)
    due: int = 1 << 62

    @property
    def id(self) -> bytes:
        """The member's id."""
        return self.mesh.me.id


class MeshWorld:
    """All hosts, their network, and time.

    Args:
        seed: of all chance. settings: of all members. delay: shortest and longest of a frame, in seconds.
        loss: probability that a frame is lost; may be changed at any time.

    Attributes:
        world: the clock. hosts: all that ever were. watch: called with each event: host, event, when (monotonic ns).
        frames: how many were sent. cuts: pairs of host numbers, from and to, between which all is lost.
        tap: called with each frame that is sent: from, to, frame.
    """

    def __init__(
        self, seed: int, *, settings: MeshSettings | None = None, loss: float = 0.0,
        delay: Sequence[float] = (0.0002, 0.002),
    ) -> None:  # fmt: skip
        self.world = World(seed)
        self.settings = settings or MeshSettings()
        self.loss = loss
        self.hosts: list[Host] = []
        self.watch: Watch | None = None
        self.frames = 0
        self.cuts: set[tuple[int, int]] = set()
        self.tap: Tap | None = None
        self._delay = int(delay[0] * SECOND), int((delay[1] - delay[0]) * SECOND)
        self._at: dict[str, Host] = {}
        self._odd: list[Host] = []
        self._codecs: dict[tuple[str, bytes | None], SharedCodec] = {}

    @property
    def now(self) -> int:
        """Monotonic ns."""
        return self.world.now

    # Members.

    def codec(self, mesh: str = "m", key: bytes | None = None) -> SharedCodec:
        """Return the codec that all members of a mesh share."""
        found = self._codecs.get((mesh, key))
        if found is None:
            found = self._codecs[mesh, key] = SharedCodec(mesh, key)
        return found

    def add(
        self, *, mesh: str = "m", key: bytes | None = None, id: bytes | None = None, endpoint: str = "",
        metadata: bytes = b"", incarnation: int = 1, seeds: Sequence[str] = (),
    ) -> Host:  # fmt: skip
        """Start a member, which joins through ``seeds``."""
        number = len(self.hosts)
        codec = self.codec(mesh, key)
        machine = Mesh(
            codec, id=id or self.world.random.randbytes(16), instance=self.world.random.getrandbits(63),
            endpoint=endpoint or f"sim://{number}", random=Random(f"{self.world.seed} {number}"), now=self.now,
            metadata=metadata, incarnation=incarnation, settings=self.settings,
        )  # fmt: skip
        host = Host(number, machine, machine.me.endpoint, codec)
        self.hosts.append(host)
        self._at[host.endpoint] = host
        machine.join(seeds, self.now)
        self._after(host)
        return host

    def grow(self, count: int, *, mesh: str = "m", key: bytes | None = None) -> list[Host]:
        """Start members that know each other already, as after a restart of all."""
        hosts = [self.add(mesh=mesh, key=key, metadata=b"x" * 64) for _ in range(count)]
        members = [host.mesh.me for host in hosts]
        for host in hosts:
            host.mesh.restore(members)
        return hosts

    def live(self) -> list[Host]:
        """Return the hosts that are up and have not left."""
        return [host for host in self.hosts if host.up and not host.mesh.left]

    # Faults.

    def crash(self, host: Host) -> None:
        """End a process, silently."""
        host.up = False
        host.inbox.clear()

    def pause(self, host: Host, seconds: float) -> None:
        """Let a process stand still for a while."""
        if host.up and not host.paused:
            host.paused = True
            self.world.after(int(seconds * SECOND), partial(self._resume, host))

    def partition(self, hosts: Iterable[Host], side: int = 1) -> None:
        """Cut these hosts off from those of other sides."""
        for host in hosts:
            host.side = side

    def heal(self) -> None:
        """End the partition."""
        self.partition(self.hosts, 0)

    def update(self, host: Host, metadata: bytes) -> None:
        """Let a member change its metadata."""
        host.mesh.update(metadata, self.now)
        self._after(host)

    def leave(self, host: Host) -> None:
        """Let a member leave."""
        host.mesh.leave(self.now)
        self._after(host)

    def inject(self, host: Host, frame: bytes, source: str = "sim://stranger") -> None:
        """Let a frame arrive at a host that no member has sent."""
        self._arrive(host, source, frame)

    # Driving.

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run(seconds)

    def until(self, reached: Callable[[], bool], seconds: float, step: float = 0.1) -> bool:
        """Let time pass until ``reached()``, looked at every ``step`` seconds, for at most ``seconds``."""
        end = self.now + int(seconds * SECOND)
        while not reached():
            if self.now >= end:
                return False
            self.world.run(step)
        return True

    def agree(self, hosts: Sequence[Host] | None = None) -> bool:
        """Tell whether each of these hosts knows exactly the others for alive, in their present form."""
        hosts = self.live() if hosts is None else hosts
        records = {host.id: host.mesh.me for host in hosts}
        if any(host.mesh.live != len(hosts) - 1 for host in hosts):
            return False
        same = {id(record): record for record in records.values()}  # Most records are one object, which all share.

        def right(host: Host) -> bool:
            for member in host.mesh.members():
                if member.status <= 1 and id(member) not in same:
                    if records.get(member.id) != member:
                        return False
                    same[id(member)] = member
            return True

        # Who was wrong when this was asked last may be still.
        wrong = next((host for host in [*(odd for odd in self._odd if odd in hosts), *hosts] if not right(host)), None)
        self._odd = [host for host in [wrong] if host is not None]
        return wrong is None

    def _resume(self, host: Host) -> None:
        host.paused = False
        if host.up:
            host.mesh.tick(self.now)
            self._after(host)
            waiting, host.inbox = host.inbox, []
            for source, frame in waiting:
                self._arrive(host, source, frame)

    def _arrive(self, host: Host, source: str, frame: bytes) -> None:
        if not host.up:
            host.codec.lose(frame)
            return
        if host.paused:
            if len(host.inbox) < INBOX_MAX:
                host.inbox.append((source, frame))
            else:
                host.codec.lose(frame)
            return
        host.mesh.receive(source, frame, self.now)
        self._after(host)

    def _tick(self, host: Host) -> None:
        if self.now >= host.due:
            host.due = 1 << 62
            if host.up and not host.paused:
                host.mesh.tick(self.now)
                self._after(host)

    def _after(self, host: Host) -> None:
        machine, world = host.mesh, self.world
        shortest, spread = self._delay
        for effect in machine.take_effects():
            self.frames += 1
            if self.tap is not None:
                self.tap(host, effect.endpoint, effect.frame)
            to = self._at.get(effect.endpoint)
            lost = to is None or to.side != host.side or (self.loss > 0 and world.random.random() < self.loss)
            if to is None or lost or (self.cuts and (host.number, to.number) in self.cuts):
                host.codec.lose(effect.frame)
                continue
            delay = shortest + int(world.random.random() * spread)
            world.at(world.now + delay, partial(self._arrive, to, host.endpoint, effect.frame))
        events = machine.take_events()
        if self.watch is not None:
            for event in events:
                self.watch(host, event, world.now)
        due = machine.next_deadline()
        if due is not None and due < host.due:
            host.due = due
            world.at(due, partial(self._tick, host))


def spread_of(times: Iterable[int], since: int) -> list[float]:
    """Return the seconds since ``since`` of monotonic times, in order."""
    return sorted((when - since) / SECOND for when in times)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of sorted values lies; NaN of none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def pause_some(
    meshes: MeshWorld, hosts: Sequence[Host], pauses: tuple[float, float], awake: tuple[float, float], seconds: float
) -> None:
    """Let each of these hosts stand still again and again, for random times (seconds), during the next ``seconds``."""
    end = meshes.now + int(seconds * SECOND)
    random = meshes.world.random

    def sleep(host: Host) -> None:
        if meshes.now < end:
            span = random.uniform(*pauses)
            meshes.pause(host, span)
            meshes.world.after(int((span + random.uniform(*awake)) * SECOND), partial(sleep, host))

    for host in hosts:
        meshes.world.after(random.randrange(1_000) * MILLISECOND, partial(sleep, host))
