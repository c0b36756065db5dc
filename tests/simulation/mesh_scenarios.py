"""Scenarios of a mesh: each is a function of a seed and returns the signs that something is wrong; none if all is well.

The times are virtual. Each bound is the theory's, with some room: a change is known after a few rounds of gossip, a
failure after two probe intervals, the longest suspicion time and a few rounds.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from random import Random

import msgspec

from zfabric.core.mesh import rules, suspicion
from zfabric.sim.mesh import MeshWorld, pause_some
from zfabric.sim.world import SECOND
from zfabric.wire import gossip
from zfabric.wire.gossip import Codec, Member, Status, Type

SPREAD_S = 3.0
SCENARIOS = {}


def scenario(run):
    SCENARIOS[run.__name__] = run
    return run


def suspicion_s(world, members):
    return suspicion.bounds(members, world.settings)[1] / SECOND


class Failures:
    """Which members were ever taken for failed, by whom."""

    def __init__(self, world):
        self.seen = {}
        self.kinds = set()
        world.watch = self.note

    def note(self, host, event, now):
        self.kinds.add(event.kind)
        if event.kind == "failed":
            self.seen.setdefault(event.member.id, set()).add(host.number)


def wrong(**signs):
    return {name for name, is_wrong in signs.items() if is_wrong}


@scenario
def join(seed):
    """Forty at once through one seed, then one more through another member."""
    world = MeshWorld(seed, loss=0.02)
    first = world.add()
    for _ in range(39):
        world.add(seeds=[first.endpoint])
    together = world.until(world.agree, 60)
    began = world.now
    world.add(seeds=[world.hosts[7].endpoint])
    alone = world.until(world.agree, SPREAD_S + 2)
    return wrong(not_joined=not together, late=not alone or world.now - began > (SPREAD_S + 2) * SECOND)


@scenario
def crash(seed):
    """One of thirty dies: all know in time, and nobody else is blamed."""
    world = MeshWorld(seed)
    world.grow(30)
    world.run(3)
    failures = Failures(world)
    victim = world.hosts[seed % 30]
    world.crash(victim)
    bound = 30 + suspicion_s(world, 30)
    known = world.until(lambda: len(failures.seen.get(victim.id, ())) == 29, bound)
    world.run(5)
    return wrong(undetected=not known, false_failure=set(failures.seen) - {victim.id}, disagree=not world.agree())


@scenario
def loss(seed):
    """With a quarter of all frames lost for two minutes, members are suspected, refute, and none fails."""
    world = MeshWorld(seed, loss=0.25)
    world.grow(20)
    failures = Failures(world)
    world.run(120)
    world.loss = 0.0
    settled = world.until(world.agree, 90)
    return wrong(never_suspected="suspected" not in failures.kinds, false_failure=failures.seen, disagree=not settled)


@scenario
def slow_members(seed):
    """Two of forty stand still for seconds, with moments between: nobody else is blamed (Lifeguard's experiment)."""
    world = MeshWorld(seed)
    hosts = world.grow(40)
    failures = Failures(world)
    slow = hosts[:2]
    pause_some(world, slow, (2.0, 16.0), (0.001, 0.004), 120)
    world.run(120)
    blamed = set(failures.seen) - {host.id for host in slow}
    settled = world.until(world.agree, 90)
    return wrong(false_failure=blamed, disagree=not settled)


@scenario
def cut_pair(seed):
    """Two that cannot reach each other, but everybody else: helpers probe for them."""
    world = MeshWorld(seed)
    world.grow(10)
    world.cuts = {(0, 1), (1, 0)}
    failures = Failures(world)
    world.run(60)
    return wrong(suspected="suspected" in failures.kinds, false_failure=failures.seen)


@scenario
def leave(seed):
    """Leaving is not failing."""
    world = MeshWorld(seed, loss=0.05)
    world.grow(20)
    world.run(2)
    failures = Failures(world)
    goer = world.hosts[4]
    world.leave(goer)
    done = world.until(lambda: goer.mesh.left, 4)
    agreed = world.until(world.agree, SPREAD_S)
    world.run(30)
    return wrong(stayed=not done, late=not agreed, failed_on_leave=failures.seen, no_left="left" not in failures.kinds)


@scenario
def rejoin(seed):
    """One crashes, is known as failed, and comes back with its id: at another endpoint, knowing no incarnation."""
    world = MeshWorld(seed)
    world.grow(15)
    world.run(2)
    old = world.hosts[3]
    world.update(old, b"old")
    world.crash(old)
    failures = Failures(world)
    world.until(lambda: len(failures.seen.get(old.id, ())) == 14, 90)
    world.run(3)
    new = world.add(id=old.id, metadata=b"new", seeds=[world.hosts[9].endpoint])
    back = world.until(world.agree, SPREAD_S + 2)
    known = world.hosts[0].mesh.member(old.id)
    return wrong(not_returned=not back, old_record=known.metadata != b"new" or known.instance != new.mesh.me.instance)


@scenario
def restart(seed):
    """One dies and is back at the same endpoint before anybody has noticed."""
    world = MeshWorld(seed)
    world.grow(15)
    world.run(2)
    old = world.hosts[3]
    world.crash(old)
    failures = Failures(world)
    world.add(id=old.id, endpoint=old.endpoint, metadata=b"new", seeds=[world.hosts[9].endpoint])
    back = world.until(world.agree, SPREAD_S + 2)
    world.run(30)
    return wrong(not_returned=not back, false_failure=failures.seen)


@scenario
def collision(seed):
    """A copied directory: two live under one id. Both hear of it; the one that was there keeps it."""
    world = MeshWorld(seed)
    world.grow(10)
    world.run(2)
    first = world.hosts[2]
    seen = set()
    world.watch = lambda host, event, now: event.kind == "collided" and seen.add(host.number)
    second = world.add(id=first.id, seeds=[world.hosts[5].endpoint], incarnation=1_000)
    world.run(60)
    holders = {host.mesh.member(first.id).endpoint for host in world.hosts if host not in (first, second)}
    return wrong(stolen=holders != {first.endpoint}, untold=second.number not in seen or len(seen) < 2)


@scenario
def metadata(seed):
    """Changes are known everywhere soon, the last one wins, and each is told as one."""
    world = MeshWorld(seed, loss=0.1)
    world.grow(40)
    world.run(3)
    for number in range(5):
        world.update(world.hosts[number], b"first")
        world.run(0.02)
        world.update(world.hosts[number], b"last %d" % number)
    spread = world.until(world.agree, SPREAD_S)
    versions = {host.mesh.member(world.hosts[0].id).version for host in world.hosts[1:]}
    return wrong(stale_metadata=not spread, wrong_version=versions != {3})


@scenario
def repair(seed):
    """One that missed news while nothing reached it learns them by comparison."""
    world = MeshWorld(seed)
    world.grow(12)
    world.run(2)
    deaf = world.hosts[0]
    world.cuts = {(number, 0) for number in range(1, 12)}
    world.update(world.hosts[5], b"missed")
    world.run(0.9)
    world.cuts = set()
    repaired = world.until(world.agree, 40)
    known = deaf.mesh.member(world.hosts[5].id)
    return wrong(stale_metadata=not repaired or known.metadata != b"missed")


@scenario
def partition(seed):
    """Each side takes the other for failed; healed, they find each other and agree."""
    world = MeshWorld(seed)
    world.grow(30)
    world.run(2)
    world.partition(world.hosts[:10])
    split = world.until(lambda: [host.mesh.live for host in world.hosts] == [9] * 10 + [19] * 20, 300)
    world.update(world.hosts[0], b"one side")
    world.update(world.hosts[29], b"other side")
    world.run(5)
    world.heal()
    return wrong(undetected=not split, not_healed=not world.until(world.agree, 30))


@scenario
def short_partition(seed):
    """Healed before anybody was taken for failed: who is suspected on the other side hears of it and refutes soon."""
    world = MeshWorld(seed)
    world.grow(60)
    world.run(2)
    failures = Failures(world)
    world.partition(world.hosts[:6])
    world.run(6)
    world.heal()
    agreed = world.until(world.agree, 15)
    return wrong(not_suspected="suspected" not in failures.kinds, false_failure=failures.seen, not_healed=not agreed)


@scenario
def meshes(seed):
    """Two meshes and a third with a key, on one network with seeds of each other, never mix."""
    world = MeshWorld(seed)
    names = [("m", None), ("other", None), ("m", b"k" * 32)]
    for number in range(18):
        mesh, key = names[number % 3]
        seeds = [f"sim://{other}" for other in range(number)]
        world.add(mesh=mesh, key=key, seeds=seeds)
    world.run(30)
    groups = [[host for host in world.hosts if host.number % 3 == kind] for kind in range(3)]
    alone = all(world.agree(group) for group in groups)
    known = any(len(host.mesh.members()) > 5 for host in world.hosts)
    refused = all(host.mesh.counters.refused_mesh + host.mesh.counters.refused_mac for host in world.hosts[:-3])
    return wrong(mixed=known, not_joined=not alone, uncounted=not refused)


@scenario
def forgery(seed):
    """One without the key sends what would hurt: nothing is believed, all is counted."""
    world = MeshWorld(seed)
    world.grow(8, key=b"k" * 32)
    world.run(2)
    failures = Failures(world)
    victim, liar = world.hosts[0].mesh.me, Codec("m", b"x" * 32)
    sent = 0
    name = world.hosts[1].mesh.me
    claims = [
        Member(victim.id, victim.instance, 9, Status.FAILED, accuser=name.id),
        Member(victim.id, victim.instance, 9, Status.LEFT),
        Member(victim.id, 5, 1 << 41, Status.ALIVE, "sim://evil"),
        Member(b"f" * 16, 5, 1, Status.ALIVE, "sim://evil"),
    ]
    for number, claim in enumerate(claims, 1 << 40):
        body = gossip.Gossip([msgspec.Raw(gossip.encode(claim))])
        for host in world.hosts:
            world.inject(host, liar.write(Type.GOSSIP, name.id, name.instance, number, body))
            sent += 1
    world.run(5)
    refused = sum(host.mesh.counters.refused_mac for host in world.hosts)
    believed = failures.kinds - {"joined"} or not world.agree()
    return wrong(believed_forgery=believed, uncounted=refused != sent)


@scenario
def replay(seed):
    """All that members said is said again by one without the key, soon and much later: it moves nobody."""
    world = MeshWorld(seed)
    world.grow(6, key=b"k" * 32)
    recorded = []
    world.tap = lambda host, to, frame: recorded.append((host, to, frame))
    gone = world.add(key=b"k" * 32, seeds=["sim://0"])
    world.run(5)
    world.update(world.hosts[2], b"changed")
    world.run(5)
    world.leave(gone)
    world.run(5)
    world.crash(gone)
    world.run(world.settings.left_keep_ns / SECOND + 60)
    world.tap = None
    quiet = all(host.mesh.member(gone.id) is None for host in world.live())
    failures = Failures(world)
    before = world.frames
    answered = 0
    for source, to, frame in recorded:
        receiver = next(host for host in world.hosts if host.endpoint == to)
        sent = world.frames
        world.inject(receiver, frame, source.endpoint)
        answered += world.frames > sent and source is not gone
    world.run(30)
    assert before < world.frames
    return wrong(
        not_reaped=not quiet,
        revived=failures.kinds - {"collided"},
        answered_replay=answered,
        disagree=not world.agree(),
    )


@scenario
def insider(seed):
    """One with the key claims that others failed, left or moved, with huge incarnations: they refute and stay."""
    world = MeshWorld(seed)
    world.grow(10)
    world.run(2)
    random = Random(seed)
    codec, insider = world.codec(), world.hosts[9]
    world.crash(insider)
    number = 1 << 40
    for _ in range(40):
        victim = random.choice(world.hosts[:9]).mesh.me
        claims = [
            Member(victim.id, victim.instance, victim.incarnation + random.choice([0, 1, 1_000]), Status.FAILED),
            Member(victim.id, victim.instance, victim.incarnation + 5, Status.ALIVE, "sim://evil"),
            Member(victim.id, victim.instance, gossip.INCARNATION_MAX, Status.ALIVE, "sim://evil"),
            Member(victim.id, 77, victim.incarnation + 5, Status.ALIVE, "sim://evil"),
        ]
        number += 1
        body = gossip.Gossip([msgspec.Raw(gossip.encode(claim)) for claim in claims])
        receiver = random.choice(world.hosts[:9])
        world.inject(receiver, codec.write(Type.GOSSIP, insider.id, insider.mesh.me.instance, number, body))
        world.run(0.2)
    settled = world.until(lambda: world.agree(world.hosts[:9]), 90)
    refused = sum(host.mesh.counters.incarnations_refused for host in world.hosts)
    return wrong(hurt=not settled, uncounted=not refused)


@scenario
def flood(seed):
    """10**5 forged members by one with the key: memory stays bounded, the real ones stay, a newcomer comes in."""
    settings = msgspec.structs.replace(MeshWorld(0).settings, members_max=500)
    world = MeshWorld(seed, settings=settings)
    world.grow(10)
    world.run(2)
    codec, liar = world.codec(), world.hosts[9]
    world.crash(liar)
    target, number = world.hosts[0], 1 << 40
    random = Random(seed)
    forgeries = 0
    while forgeries < 100_000:
        number += 1
        updates = []
        room = 3_900
        while len(updates) < gossip.UPDATES_MAX and room > 80:
            forged = Member(random.randbytes(16), 1, 1, Status.ALIVE, "sim://x", 1, b"m" * random.randrange(20))
            updates.append(msgspec.Raw(gossip.encode(forged)))
            room -= len(bytes(updates[-1]))
            forgeries += 1
        frame = codec.write(Type.GOSSIP, liar.id, liar.mesh.me.instance, number, gossip.Gossip(updates))
        target.mesh.receive(liar.endpoint, frame, world.now)
    world.run(1)
    bounded = all(len(host.mesh.members()) <= 500 for host in world.hosts)
    counted = target.mesh.counters.members_refused > 10_000
    newcomer = world.add(seeds=["sim://0"])
    real = {host.id for host in world.hosts[:9]}

    def met():
        return target.mesh.member(newcomer.id) is not None and {m.id for m in newcomer.mesh.members()} & real

    came = world.until(met, 10)
    records = [target.mesh.member(host.id) for host in world.hosts[1:9]]
    kept = all(known is not None and known.status <= Status.SUSPECT for known in records)
    return wrong(unbounded=not bounded, uncounted=not counted, shut_out=not came, hurt=not kept)


def healthy(hosts, failures):
    """Which of these were taken for failed by others of them."""
    numbers = {host.number for host in hosts}
    return {host.id for host in hosts if failures.seen.get(host.id, set()) & numbers}


def half_cut(seed, cuts):
    """Let one of twenty, to whom only one direction is left, fail for the others, and come back."""
    world = MeshWorld(seed)
    hosts = world.grow(20)
    failures = Failures(world)
    world.cuts = cuts
    world.run(90)
    gone = all(host.mesh.member(hosts[0].id).status == Status.FAILED for host in hosts[1:])
    world.cuts = set()
    settled = world.until(world.agree, 30)
    return wrong(undetected=not gone, false_failure=healthy(hosts[1:], failures), disagree=not settled)


@scenario
def mute(seed):
    """One hears everybody and is heard by nobody: it has failed, and blames nobody that others believe it about."""
    return half_cut(seed, {(0, number) for number in range(1, 20)})


@scenario
def deaf(seed):
    """One is heard by everybody and hears nobody: it accuses all, again and again, and all refute."""
    return half_cut(seed, {(number, 0) for number in range(1, 20)})


@scenario
def one_way_links(seed):
    """A third of all links carry nothing in one direction: nobody fails to those that hear it."""
    world = MeshWorld(seed)
    hosts = world.grow(20)
    failures = Failures(world)
    random = Random(seed)
    world.cuts = {(one, other) for one in range(20) for other in range(20) if one != other and random.random() < 0.3}
    world.run(60)
    heard = {
        host.number for host in hosts for by in failures.seen.get(host.id, ()) if (host.number, by) not in world.cuts
    }
    world.cuts = set()
    settled = world.until(world.agree, 90)
    return wrong(never_suspected="suspected" not in failures.kinds, false_failure=heard, disagree=not settled)


@scenario
def doubled(seed):
    """Each frame arrives twice, the second up to eight seconds late: nothing is answered twice, nobody is blamed."""
    world = MeshWorld(seed, delay=(0.0002, 0.2))
    hosts = world.grow(15, key=b"k" * 32)
    random, at = Random(seed), {host.endpoint: host for host in hosts}
    answered = []

    def again(to, source, frame):
        before = world.frames
        world.inject(to, frame, source)
        answered.append(world.frames - before)

    def tap(host, to, frame):
        late = world.now + int((0.5 + 7.5 * random.random()) * SECOND)
        world.world.at(late, partial(again, at[to], host.endpoint, frame))

    world.tap = tap
    failures = Failures(world)
    for number in range(20):
        world.update(hosts[number % 15], b"%d" % number)
        world.run(1)
    world.tap = None
    settled = world.until(world.agree, 10)
    return wrong(answered_twice=sum(answered), false_failure=failures.seen, disagree=not settled)


@scenario
def churn(seed):
    """A third of all come and go within a minute, some at once at the same place: those that stay are not blamed."""
    world = MeshWorld(seed, loss=0.02)
    world.grow(40)
    world.run(2)
    failures = Failures(world)
    random, stayed, back = Random(seed), set(world.hosts[3:]), []
    seeds = [host.endpoint for host in world.hosts[:3]]
    for second in range(60):
        if random.random() < 0.2:
            goer = random.choice(sorted(stayed, key=lambda host: host.number))
            stayed.discard(goer)
            if random.random() < 0.5:
                world.crash(goer)
                back.append((second + random.randrange(20), goer))
            else:
                world.leave(goer)
                world.add(seeds=seeds, metadata=b"new")
        for when, goer in [entry for entry in back if entry[0] <= second]:
            back.remove((when, goer))
            world.add(id=goer.id, endpoint=goer.endpoint, metadata=b"again", seeds=seeds)
        world.run(1)
    settled = world.until(world.agree, 60)
    return wrong(false_failure=healthy(stayed, failures), disagree=not settled)


@scenario
def merge(seed):
    """Three meshes of one name become one through a seed of another one."""
    world = MeshWorld(seed)
    firsts = []
    for _ in range(3):
        firsts.append(world.add())
        for _ in range(11):
            world.add(seeds=[firsts[-1].endpoint])
    world.run(15)
    apart = [host.mesh.live for host in world.hosts] == [11] * 36
    for first, other in pairwise(firsts):
        first.mesh.join([other.endpoint], world.now)
        world.run(0)
    return wrong(not_joined=not apart, not_merged=not world.until(world.agree, 10))


@scenario
def leave_behind_a_cut(seed):
    """One leaves where others cannot hear it and have taken it for failed: in the end it has left, everywhere."""
    world = MeshWorld(seed)
    hosts = world.grow(15)
    failures = Failures(world)
    world.partition(hosts[:5])
    cut = world.until(lambda: len(failures.seen.get(hosts[0].id, ())) == 10, 90)
    world.leave(hosts[0])
    world.run(4)
    world.heal()

    def left():
        return all(host.mesh.member(hosts[0].id).status == Status.LEFT for host in hosts[1:])

    return wrong(undetected=not cut, failed_on_leave=not world.until(left, 60))


@scenario
def made_up(seed):
    """Incarnations, each within a step of the last, take one member's record of another where nobody else follows."""
    world = MeshWorld(seed)
    hosts = world.grow(10)
    world.run(2)
    codec, liar, victim, number = world.codec(), hosts[9].mesh.me, hosts[0], 1 << 40
    world.crash(hosts[9])
    for receiver, ending in zip(hosts[1:5], Status, strict=True):
        incarnation = victim.mesh.me.incarnation
        for _ in range(3):
            number += 1
            incarnation += rules.INCARNATION_STEP_MAX
            claim = Member(victim.id, victim.mesh.me.instance, incarnation, ending, "sim://evil", 1, b"a lie")
            body = gossip.Gossip([msgspec.Raw(gossip.encode(claim))])
            world.inject(receiver, codec.write(Type.GOSSIP, liar.id, liar.instance, number, body))
    world.update(victim, b"the truth")
    settled = world.until(lambda: world.agree(hosts[:9]), 90)
    return wrong(
        taken=any(host.mesh.member(victim.id).endpoint != victim.endpoint for host in hosts[1:9]), disagree=not settled
    )


@scenario
def hearsay(seed):
    """A hundred made-up members for each real one, without a key: real ones are probed, helped and told of others.

    Once some of those have failed, a newcomer and a failure are found again: it was never, within two minutes.
    """
    world = MeshWorld(seed)
    hosts = [world.add()]
    hosts += [world.add(seeds=["sim://0"]) for _ in range(9)]
    world.until(world.agree, 60)
    failures = Failures(world)
    for number in range(20):
        forged = [Member(world.world.random.randbytes(16), 1, 1, Status.ALIVE, "sim://nobody") for _ in range(50)]
        body = gossip.Gossip([msgspec.Raw(gossip.encode(member)) for member in forged])
        for teller, host in zip(hosts[1:] + hosts[:1], hosts, strict=True):
            me = teller.mesh.me
            frame = world.codec().write(Type.GOSSIP, me.id, me.instance, (1 << 40) + number, body)
            world.inject(host, frame, teller.endpoint)
    world.run(120)
    newcomer = world.add(seeds=["sim://1"])
    met = world.until(lambda: all(host.mesh.member(newcomer.id) is not None for host in hosts), 10)
    victim, *others = hosts
    world.crash(victim)
    found = world.until(lambda: all(host.mesh.member(victim.id).status == Status.FAILED for host in others), 80)
    return wrong(shut_out=not met, undetected=not found, hurt=healthy([*others, newcomer], failures))


@scenario
def forged_number(seed):
    """Without a key: a frame in another's name with a high number, at everybody. That one goes on being heard."""
    world = MeshWorld(seed)
    hosts = world.grow(10)
    world.run(2)
    failures = Failures(world)
    victim = hosts[0].mesh.me
    for host in hosts[1:]:
        forged = world.codec().write(Type.GOSSIP, victim.id, victim.instance, (1 << 64) - 1, gossip.Gossip([]))
        world.inject(host, forged)
    world.run(60)
    return wrong(silenced="suspected" in failures.kinds, disagree=not world.agree())
