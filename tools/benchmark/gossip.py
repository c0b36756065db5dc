"""Gossip in virtual time: how soon a mesh knows, what that costs each member, and how often it is wrong.

The machines are the real ones, the network and the clock are the simulator's (zfabric/sim/mesh.py): frames take 0.2 to
2 ms. So the figures do not depend on the machine, and are the same in every run. In the column of the floor stands:

* for times, the theory. A victim is first probed after -ln(1 - q) intervals (q: the percentile; SWIM, section 3.1), the
  probe has failed one interval later, the shortest suspicion time follows (others confirm meanwhile). A change
  infects f + 1 times as many in each round until half have it, and leaves e**-f of the rest in each round after
  (Demers and others, 1987).
* for loads, two messages an interval: a PING and an ACK.
* for false failures, plain SWIM on the same seed: no awareness, one suspicion time for all, no notice of own pauses.

A false failure is one declaration about a member that is up; with paused members, about one that never paused. Each is
counted once, however many believe it. Where frames are lost each member has news all the time: the simulator carries 30
frames a second of each, and at 20 % of loss in a mesh of 5,000 a million changes of belief in each virtual second. So
mistakes are counted in meshes of up to 100 members, of all sizes with ``--big``; of 5,000 for little more than the
shortest time (14.8 s) in which a suspect can be taken for failed. ``--big`` lets 5,000 heal a partition, too.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence

from benchmark.report import AT_MOST, Row
from zfabric.core.mesh import suspicion
from zfabric.core.mesh.events import MemberEvent
from zfabric.settings import MeshSettings
from zfabric.sim.mesh import Host, MeshWorld, pause_some, percentile
from zfabric.sim.world import SECOND

TELL = Callable[[str], None]
SIZES = (10, 100, 1_000, 5_000)
PLAIN = MeshSettings(awareness_max=0, suspicion_stretch=1, confirmations=0, pause_ns=10**18)
PAUSES, AWAKE = (2.0, 16.0), (0.001, 0.004)
SETTLE_S = 2.0
PARTITION_S, LARGE_PARTITION_S = 60.0, 25.0
"""Long enough that the larger side takes the smaller one for failed."""


def measure(*, smoke: bool, big: bool, members: Sequence[int], tell: TELL) -> list[Row]:
    """Measure meshes of all sizes, or of ``members``."""
    sizes = members or ((10, 30) if smoke else SIZES)
    rows: list[Row] = []

    def add(*measured: Row) -> None:
        for row in measured:
            beside = "" if row.floor is None else f" (floor: {row.floor:.4g})"
            tell(f"{row.group}: {row.name}: {row.value:.4g} {row.unit}{beside}")
        rows.extend(measured)

    gc.disable()  # Events make no cycles, and looking for some takes a tenth of the time.
    if not smoke and not members:
        add(_join("gossip, 50 members", 50))
    for size in sizes:
        group = f"gossip, {size:,} members (floor: theory)"
        add(_join(group, size))
        add(*_load(group, size, 10 if smoke else 30))
        add(*_changes(group, size))
        add(*_failures(group, size))
        if big or size <= 1_000:
            add(_partition(group, size))
        if size <= (10 if smoke else 100) or (big and not smoke):
            _mistakes(size, 20 if smoke else _seconds(size), add)
    gc.enable()
    return rows


def _world(seed: int, settings: MeshSettings | None = None, loss: float = 0.0) -> MeshWorld:
    """Make a world when the one before is out of memory: it is full of cycles, and has a gigabyte of big meshes."""
    gc.collect()
    return MeshWorld(seed, settings=settings, loss=loss)


def _seconds(members: int) -> int:
    """Return how long to count mistakes; more than the shortest suspicion time, and what a run may take."""
    return 600 if members <= 10 else 300 if members <= 100 else 30 if members <= 1_000 else 18


def _load(group: str, members: int, seconds: int) -> list[Row]:
    """Measure what each member of an idle mesh sends; the goal is that of a mesh of ten, and a quarter more."""
    world = _world(1)
    hosts = world.grow(members)
    world.run(15.0)  # Until each has told its own record often enough.
    before = [(host.mesh.counters.sent, host.mesh.counters.sent_bytes) for host in hosts]
    world.run(seconds)
    frames = sum(host.mesh.counters.sent - sent for host, (sent, _) in zip(hosts, before, strict=True))
    size = sum(host.mesh.counters.sent_bytes - sent for host, (_, sent) in zip(hosts, before, strict=True))
    theory = 2.0 / (MeshSettings().probe_interval_ns / SECOND)
    load = frames / members / seconds
    return [
        Row(group, "messages sent, a member", load, "/s", theory, load / theory, goal=(AT_MOST, 1.25 * theory)),
        Row(group, "bytes sent, a member", size / members / seconds, "B/s"),
    ]


def _changes(group: str, members: int) -> list[Row]:
    """Measure from a change of metadata until each member knows it; ten at once, three times."""
    world = _world(2)
    hosts = world.grow(members)
    world.run(SETTLE_S)
    times: list[float] = []
    for repeat in range(3 if members <= 1_000 else 1):
        changed = hosts[repeat * 3 : repeat * 3 + min(10, members)]
        ids = {host.id for host in changed}
        began, before = world.now, len(times)

        def watch(host: Host, event: MemberEvent, now: int, ids: set[bytes] = ids, began: int = began) -> None:
            if event.kind == "updated" and event.member.id in ids:
                times.append((now - began) / SECOND)

        world.watch = watch
        for host in changed:
            world.update(host, b"change %d" % repeat)
        expected = before + len(changed) * (members - 1)
        if not world.until(lambda expected=expected: len(times) >= expected, 300):
            raise RuntimeError(f"{expected - len(times)} changes were not heard of")
        world.run(SETTLE_S)
    times.sort()
    fanout = min(MeshSettings().gossip_fanout, members - 1)
    interval = MeshSettings().gossip_interval_ns / SECOND
    half = max(0.0, math.log(members / 2) / math.log(fanout + 1)) * interval
    tail = half + math.log(50) / fanout * interval
    return [
        _timed(group, "a change is known, p50", percentile(times, 0.5), half),
        _timed(group, "a change is known, p99", percentile(times, 0.99), tail),
        Row(group, "a change is known by the last", times[-1], "s", goal=(AT_MOST, 3.0) if members <= 1_000 else None),
    ]


def _join(group: str, members: int) -> Row:
    """Measure from the start of a newcomer until all others know it."""
    world = _world(6)
    world.grow(members - 1)
    world.run(SETTLE_S)
    known: set[int] = set()

    def watch(host: Host, event: MemberEvent, now: int) -> None:
        if event.kind == "joined" and event.member.id == newcomer.id:
            known.add(host.number)

    began = world.now
    newcomer = world.add(seeds=[world.hosts[0].endpoint])
    world.watch = watch
    if not world.until(lambda: len(known) == members - 1 == newcomer.mesh.live, 300, 0.01):
        raise RuntimeError("a newcomer is not known to all")
    goal = (AT_MOST, 1.0 if members <= 50 else 3.0)
    return Row(group, "a join is seen by all", (world.now - began) / SECOND, "s", goal=goal)


def _timed(group: str, name: str, value: float, theory: float) -> Row:
    return Row(group, name, value, "s", theory, value / theory)


def _failures(group: str, members: int) -> list[Row]:
    """Measure from a crash until somebody, and until everybody, knows it as failed; victims one after the other."""
    world = _world(3)
    hosts = world.grow(members)
    world.run(SETTLE_S)
    first: list[float] = []
    all_times: list[float] = []
    together = min(10, max(1, members // 100))  # At the same time, but few enough that they do not change the mesh.
    for repeat in range({10: 5, 30: 1, 100: 8, 1_000: 1}.get(members, 1)):
        victims = hosts[repeat * together : (repeat + 1) * together] if members > 10 else hosts[repeat : repeat + 1]
        heard: dict[bytes, list[int]] = {victim.id: [] for victim in victims}
        began = world.now

        def watch(host: Host, event: MemberEvent, now: int, heard: dict[bytes, list[int]] = heard) -> None:
            if event.kind == "failed" and event.member.id in heard:
                heard[event.member.id].append(now)

        world.watch = watch
        for victim in victims:
            world.crash(victim)
        alive = len(world.live())
        if not world.until(lambda heard=heard, alive=alive: all(len(t) >= alive for t in heard.values()), 300):
            raise RuntimeError("a failure was not noticed by all")
        first += [(min(times) - began) / SECOND for times in heard.values()]
        all_times += [(when - began) / SECOND for times in heard.values() for when in times]
        if members == 10:
            world = _world(30 + repeat)  # Of ten, the loss of one more would be another mesh.
            hosts = world.grow(members)
            world.run(SETTLE_S)
    first.sort()
    all_times.sort()
    low = suspicion.bounds(members, MeshSettings())[0] / SECOND
    interval = MeshSettings().probe_interval_ns / SECOND
    half, most = ((-math.log(1 - share) + 1) * interval + low for share in (0.5, 0.99))
    return [
        _timed(group, "a failure is detected, p50", percentile(first, 0.5), half),
        _timed(group, "a failure is detected, p99", percentile(first, 0.99), most),
        _timed(group, "a failure is known by a member, p50", percentile(all_times, 0.5), half),
        _timed(group, "a failure is known by a member, p99", percentile(all_times, 0.99), most),
    ]


def _partition(group: str, members: int) -> Row:
    """Measure from the end of a partition, of half the mesh or 50 members, until all agree again."""
    world = _world(4)
    hosts = world.grow(members)
    world.run(SETTLE_S)
    world.partition(hosts[: min(members // 2, 50)])
    seconds = PARTITION_S if members <= 100 else LARGE_PARTITION_S
    world.run(seconds)
    world.heal()
    began = world.now
    if not world.until(world.agree, 600, 0.5):
        raise RuntimeError("the mesh does not agree after a partition")
    return Row(group, f"all agree after {seconds:.0f} s of partition", (world.now - began) / SECOND, "s")


def _mistakes(members: int, seconds: int, add: Callable[..., None]) -> None:
    group = f"gossip, {members:,} members, {seconds} s (floor: plain SWIM)"
    for loss in (0.0, 0.05):
        _lossy(group, members, seconds, loss, add)
    paused = [_wrong(members, settings, seconds, 0.0, share=0.05) for settings in (MeshSettings(), PLAIN)]
    for name, at in (("false failures of others, 5 % pause", 0), ("failures of those that pause", 1)):
        add(Row(group, name, paused[0][at], "", paused[1][at]))
    _lossy(group, members, seconds, 0.2, add)


def _lossy(group: str, members: int, seconds: int, loss: float, add: Callable[..., None]) -> None:
    ours, plain = (_wrong(members, settings, seconds, loss)[0] for settings in (MeshSettings(), PLAIN))
    add(Row(group, f"false failures, {loss * 100:.0f} % loss", ours, "", plain))


def _wrong(members: int, settings: MeshSettings, seconds: int, loss: float, share: float = 0.0) -> tuple[float, float]:
    """Count declarations that a member which is up has failed: of those that never pause, and of those that do."""
    world = _world(5, settings=settings, loss=loss)
    hosts = world.grow(members)
    slow = hosts[: math.ceil(members * share)]
    ids = {host.id for host in slow}
    seen: tuple[set[tuple[bytes, int]], set[tuple[bytes, int]]] = (set(), set())

    def watch(host: Host, event: MemberEvent, now: int) -> None:
        if event.kind == "failed":
            seen[event.member.id in ids].add((event.member.id, event.member.incarnation))

    world.watch = watch
    world.run(SETTLE_S)
    pause_some(world, slow, PAUSES, AWAKE, seconds)
    world.run(seconds)
    return float(len(seen[0])), float(len(seen[1]))
