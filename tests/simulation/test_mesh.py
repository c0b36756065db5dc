"""Meshes in virtual time: the scenarios on several seeds, and bugs planted by hand that they find."""

import mesh_scenarios
import msgspec
import pytest

from zfabric.core.mesh import rules, suspicion, voice
from zfabric.core.mesh.antientropy import Exchanges
from zfabric.core.mesh.beliefs import Beliefs
from zfabric.core.mesh.membership import Mesh
from zfabric.core.mesh.rules import Verdict
from zfabric.core.mesh.table import Table
from zfabric.sim.mesh import MeshWorld
from zfabric.wire import gossip
from zfabric.wire.gossip import Codec, Status

SEEDS = 4
PLANTED = {}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", mesh_scenarios.SCENARIOS)
def test_a_mesh_keeps_its_promise(name, seed):
    assert mesh_scenarios.SCENARIOS[name](seed) == set()


def test_a_run_is_a_function_of_its_seed():
    def run():
        world = MeshWorld(5, loss=0.1)
        for _ in range(10):
            world.add(seeds=["sim://0"])
        world.run(20)
        return [(host.mesh.counters, host.mesh.live) for host in world.hosts], world.frames

    assert run() == run()


def test_a_member_alone_sends_nothing():
    world = MeshWorld(1)
    world.add()
    world.run(300)
    assert world.frames == 0


def test_an_idle_mesh_costs_the_same_whatever_its_size():
    """SWIM's promise: the load of a member does not depend on n. Two messages a second, and comparisons."""
    loads = {}
    for count in (10, 40, 160):
        world = MeshWorld(1)
        world.grow(count)
        world.run(10)
        before = world.frames
        world.run(30)
        loads[count] = (world.frames - before) / 30 / count
    assert all(2.0 <= load <= 2.2 for load in loads.values()), loads


def planted(scenario, *signs):
    def register(plant):
        PLANTED[plant.__name__] = (scenario, set(signs), plant)
        return plant

    return register


@planted("loss", "false_failure", "disagree")
def never_refute(patch):
    patch(rules, "refutation", lambda me, claim: 0)


@planted("loss", "false_failure", "disagree")
def give_no_time_to_refute(patch):
    patch(suspicion, "timeout", lambda *arguments: 1)


@planted("rejoin", "not_returned", "old_record")
def take_a_failure_for_final(patch):
    decide = rules.decide

    def final(known, claim, *, own=False):
        verdict = decide(known, claim, own=own)
        return Verdict.IGNORE if verdict == Verdict.RETURN else verdict

    patch(rules, "decide", final)


@planted("metadata", "stale_metadata", "wrong_version")
def let_the_last_heard_win(patch):
    """Whatever its incarnation."""
    decide = rules.decide

    def last(known, claim, *, own=False):
        newer = known is not None and claim.status == known.status == Status.ALIVE and claim != known
        return Verdict.UPDATE if newer else decide(known, claim, own=own)

    patch(rules, "decide", last)
    patch(rules, "stale", lambda known, claim: claim is known)


@planted("crash", "undetected")
def forget_suspicions(patch):
    patch(Beliefs, "_on_suspicion", lambda self, now, suspect: None)


@planted("cut_pair", "suspected", "false_failure")
def ask_nobody_for_help(patch):
    patch(Mesh, "_on_probe_timeout", lambda self, now, key: None)


@planted("slow_members", "false_failure")
def blame_others_for_the_own_pause(patch):
    """Plain SWIM, in short."""
    make = MeshWorld.__init__

    def plain(self, seed, **options):
        make(self, seed, **options)
        changes = {"awareness_max": 0, "suspicion_stretch": 1, "confirmations": 0, "pause_ns": 10**18}
        self.settings = msgspec.structs.replace(self.settings, **changes)

    patch(MeshWorld, "__init__", plain)


@planted("leave", "failed_on_leave", "no_left")
def leave_without_a_word(patch):
    patch(Mesh, "leave", lambda self, now: setattr(self._voice, "left", True))


@planted("metadata", "stale_metadata")
def say_everything_once(patch):
    patch(voice, "transmit_limit", lambda factor, members: 1)


@planted("repair", "stale_metadata")
def compare_nothing(patch):
    patch(Mesh, "_on_sync", lambda self, now, key: None)


@planted("partition", "not_healed")
def give_the_failed_up(patch):
    patch(Table, "failed", lambda self: [])


@planted("short_partition", "not_healed")
def ask_no_suspect_again(patch):
    patch(Beliefs, "_on_doubt", lambda self, now, suspect: None)


@planted("meshes", "mixed")
def hear_every_mesh(patch):
    make = Codec.__init__

    def deaf(self, mesh, key=None, **options):
        make(self, "m", key, **options)

    patch(Codec, "__init__", deaf)


@planted("forgery", "believed_forgery", "uncounted")
def check_no_mac(patch):
    patch(gossip, "compare_digest", lambda one, other: True)


@planted("replay", "revived", "answered_replay")
def believe_strangers(patch):
    patch(Exchanges, "answered", lambda self, sequence, now: "sim://0")


@planted("replay", "answered_replay")
def take_frames_twice(patch):
    patch(Table, "fresh", lambda self, member, number: True)


@planted("insider", "hurt", "uncounted")
def believe_any_incarnation(patch):
    patch(rules, "INCARNATION_STEP_MAX", 1 << 63)


@planted("made_up", "taken", "disagree")
def believe_no_member_about_itself(patch):
    """What is far above is refused, whoever says it."""
    decide = rules.decide

    def unmoved(known, claim, *, own=False):
        return decide(known, claim, own=own and known is None)

    patch(rules, "decide", unmoved)


@planted("forged_number", "silenced")
def take_numbers_for_proof_without_a_key(patch):
    make = Table.__init__

    def strict(self, settings, random, *, keyed):
        make(self, settings, random, keyed=True)

    patch(Table, "__init__", strict)


@planted("leave_behind_a_cut", "failed_on_leave")
def forget_a_word_that_came_late(patch):
    decide = rules.decide

    def final(known, claim, *, own=False):
        late = known is not None and known.status == Status.FAILED and claim.status == Status.LEFT
        return Verdict.IGNORE if late else decide(known, claim, own=own)

    patch(rules, "decide", final)


@planted("doubled", "answered_twice")
def take_what_came_late_for_new(patch):
    patch(Table, "fresh", lambda self, member, number: True)


@planted("collision", "stolen")
def give_the_id_to_whoever_claims_it(patch):
    decide = rules.decide

    def generous(known, claim, *, own=False):
        verdict = decide(known, claim, own=own)
        return Verdict.RETURN if verdict == Verdict.COLLIDE else verdict

    patch(rules, "decide", generous)


@planted("flood", "unbounded", "uncounted")
def admit_everybody(patch):
    add = Table.add

    def generous(self, member, *, proven):
        limits = msgspec.structs.replace(self._settings, members_max=100_000)
        self._settings = limits
        return add(self, member, proven=proven)

    patch(Table, "add", generous)


@planted("flood", "shut_out")
def keep_no_room_for_those_that_come_in_person(patch):
    add = Table.add
    patch(Table, "add", lambda self, member, *, proven: add(self, member, proven=False))


@planted("hearsay", "undetected", "shut_out")
def take_hearsay_for_as_good_as_what_was_heard(patch):
    patch(Table, "_doubts", property(lambda self: False))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name, monkeypatch):
    scenario, signs, plant = PLANTED[name]
    plant(monkeypatch.setattr)
    for seed in range(SEEDS):
        found = mesh_scenarios.SCENARIOS[scenario](seed)
        if found & signs:
            break
    print(f"{name}: seed {seed} of {scenario} shows {', '.join(sorted(found)) or 'nothing'}")
    assert found & signs


def test_members_are_probed_in_a_random_order():
    """Two members of one mesh do not probe in the same order, or all would probe the same one."""
    world = MeshWorld(3)
    hosts = world.grow(20)
    orders = [[host.mesh._table.next_target().id for _ in range(19)] for host in hosts[:2]]
    assert orders[0] != orders[1]


def test_the_simulator_remembers_no_frame_that_nobody_will_read():
    """A mesh of thousands that loses a fifth of its frames would else hold half a gigabyte of them."""
    world = MeshWorld(3, loss=1.0)
    world.grow(5)
    world.run(5.0)
    assert world.frames > 20
    assert not world.codec()._written
    world = MeshWorld(3)
    hosts = world.grow(5)
    world.partition(hosts[:2])
    world.crash(hosts[4])
    world.run(60.0)
    assert len(world.codec()._written) <= 5, "only what is under way"
