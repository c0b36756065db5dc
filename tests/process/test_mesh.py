"""Meshes of real leader processes: who joins, fails, leaves, comes back, and who is not heard."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import msgspec
import pytest
import zmq

from tests.process.leaders import free_ports
from tests.process.meshes import MemberProcess, agree
from tests.process.test_sdk import until
from zfabric import aio, errors
from zfabric.net.beacon import BeaconSocket
from zfabric.store import keyfile
from zfabric.wire import gossip
from zfabric.wire.card import ServiceCard
from zfabric.wire.gossip import Codec
from zfabric.wire.membership import Announce
from zfabric.wire.messages import Type

PATIENCE_S = 60.0


@pytest.fixture
def mesh(tmp_path):
    """Start a member; all are ended after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda data, **options: stack.enter_context(MemberProcess(str(tmp_path / data), **options))


def counter(member, name):
    return getattr(member.fabric.status()[0], f"mesh_{name}")


def test_members_fail_leave_stand_still_and_come_back(mesh):
    """Kill -9 is a failure, SIGTERM is none, SIGSTOP is one until SIGCONT; a restarted member is the same one."""
    first = mesh("0")
    killed, stopped, frozen = (mesh(str(number), seeds=[first]) for number in range(1, 4))
    assert agree([first, killed, stopped, frozen])
    before = {member.endpoint: member for member in first.fabric.members()}
    killed.kill()
    frozen.freeze()
    assert stopped.stop() == 0
    assert until(lambda: first.sees(stopped) == "left", PATIENCE_S)
    assert until(lambda: first.sees(frozen) in ("suspect", "failed"), PATIENCE_S)
    frozen.thaw()
    assert until(lambda: first.sees(frozen) == "alive", PATIENCE_S)
    assert until(lambda: first.sees(killed) == "failed", PATIENCE_S)
    assert until(lambda: first.sees(frozen) == "alive", PATIENCE_S)
    killed.again()
    stopped.again()
    assert agree([first, killed, stopped, frozen])
    after = {member.endpoint: member for member in first.fabric.members()}
    for member in (killed, stopped):
        assert after[member.endpoint].id == before[member.endpoint].id
        assert after[member.endpoint].incarnation > before[member.endpoint].incarnation
    assert counter(frozen, "refutations") >= 1


def test_a_member_finds_its_mesh_again_without_seeds(mesh):
    """It keeps some members in its data directory."""
    first = mesh("0")
    second = mesh("1", seeds=[first])
    assert agree([first, second])
    assert first.stop() == 0
    assert until(lambda: second.sees(first) == "left", PATIENCE_S)
    first.again()
    assert agree([first, second])


def test_topics_and_services_of_one_member_are_known_to_clients_of_another(mesh):
    first = mesh("0", zone="here")
    second = mesh("1", seeds=[first])
    first.fabric.topics.create("t", partitions=3)
    service = ServiceCard("greeter", "1", "tcp://127.0.0.1:9", 5)
    first.fabric.ask(Type.ANNOUNCE, Announce(service, 30_000), "announcement")

    def known():
        [member] = [m for m in second.fabric.members() if m.endpoint == first.endpoint] or [None]
        return member if member is not None and member.topics and member.services else None

    member = until(known, PATIENCE_S)
    assert ([(topic.name, topic.partitions) for topic in member.topics], member.services[0].name, member.zone) == (
        [("t", 3)], "greeter", "here",
    )  # fmt: skip
    assert not member.local
    assert until(lambda: known().round_trip, PATIENCE_S) < 10.0
    with pytest.raises(errors.UnknownTopic) as missing:
        second.fabric.topics.describe("t")
    with pytest.raises(errors.UnknownTopic) as unread:
        second.fabric.consumer("t")
    for error in (missing.value, unread.value):
        assert first.endpoint.removeprefix("tcp://") in error.elsewhere


def test_members_without_the_key_and_of_other_meshes_are_not_heard(mesh, tmp_path):
    """Two meshes on one machine never mix, though they know each other's addresses."""
    keys = [str(tmp_path / name) for name in ("right", "wrong")]
    for key in keys:
        keyfile.create_key(key)
    first = mesh("0", key_file=keys[0])
    second = mesh("1", key_file=keys[0], seeds=[first])
    strangers = [
        mesh("2", key_file=keys[1], seeds=[first]),
        mesh("3", seeds=[first]),
        mesh("4", name="other", key_file=keys[0], seeds=[first]),
    ]
    assert agree([first, second])
    assert until(lambda: counter(first, "refused_keys") >= 2, PATIENCE_S)
    assert until(lambda: counter(first, "refused_meshes") >= 1, PATIENCE_S)
    assert counter(first, "refused") >= 3
    assert until(lambda: [counter(stranger, "seeds_unanswered") for stranger in strangers] == [1, 1, 1], PATIENCE_S)
    assert until(lambda: counter(second, "seeds_unanswered") == 0, PATIENCE_S)
    assert agree([first, second])
    assert all(stranger.states() == {stranger.endpoint: "alive"} for stranger in strangers)


def test_a_copied_directory_does_not_take_the_place_of_the_first(mesh, tmp_path):
    first = mesh("0")
    second = mesh("1", seeds=[first])
    assert agree([first, second])
    second.fabric.topics.create("t")
    shutil.copytree(tmp_path / "1" / "leader-0", tmp_path / "2" / "leader-0")
    shutil.copy(tmp_path / "1" / "FORMAT", tmp_path / "2" / "FORMAT")
    copy = mesh("2", seeds=[first])
    assert until(lambda: counter(first, "collisions") > 0, PATIENCE_S)
    both = {first.endpoint: "alive", second.endpoint: "alive"}
    assert until(lambda: first.states() == both, PATIENCE_S)
    assert first.sees(copy) is None


@pytest.mark.parametrize("keyed", [False, True])
def test_garbage_forged_replayed_and_oversized_frames_are_counted_and_hurt_nobody(mesh, tmp_path, keyed):
    """On the ROUTER that serves clients as well, whether the mesh has a key or not."""
    key = str(tmp_path / "key") if keyed else ""
    if keyed:
        keyfile.create_key(key)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as listener, context.socket(zmq.DEALER) as attacker:
        port = free_ports(1)
        listener.bind(f"tcp://127.0.0.1:{port}")
        victim = mesh("0", key_file=key)
        other = mesh("1", key_file=key, seeds=[victim, f"tcp://127.0.0.1:{port}"])
        assert agree([victim, other])
        assert listener.poll(60_000), "a seed is spoken to"
        _, captured = listener.recv_multipart()
        attacker.connect(victim.endpoint)
        refused, wrong = counter(victim, "refused"), victim.fabric.status()[0].errors
        forged = Codec("m", b"not the key, not the key").write(gossip.Type.GOSSIP, b"\7" * 16, 1, 1, gossip.Gossip([]))
        bad = [b"zg", b"zg" + os.urandom(200), b"zg" + bytes(gossip.STATE_BYTES_MAX), b"zg" * 300_000, forged]
        for frame in bad:
            attacker.send(frame)
        attacker.send_multipart([b"zg", b"of two frames"])
        assert until(lambda: counter(victim, "refused") >= refused + len(bad), PATIENCE_S)
        assert until(lambda: victim.fabric.status()[0].errors == wrong + 1, PATIENCE_S)
        attacker.send(captured)
        attacker.send(captured)
        assert until(lambda: counter(victim, "replayed") >= 1 + keyed, PATIENCE_S)
        both = {victim.endpoint: "alive", other.endpoint: "alive"}
        assert until(lambda: victim.states() == both, PATIENCE_S)
        attacker.close(linger=0)


def test_a_flood_of_gossip_does_not_starve_clients(mesh):
    """A turn takes a bounded number of messages, whatever they are."""
    victim = mesh("0")
    with zmq.Context() as context, context.socket(zmq.DEALER) as attacker:
        attacker.connect(victim.endpoint)
        attacker.set(zmq.SNDTIMEO, 20_000)
        before = counter(victim, "refused")
        for _ in range(20):
            for _ in range(500):
                attacker.send(b"zg" + bytes(100))
            assert len(victim.fabric.members()) == 1
        assert until(lambda: counter(victim, "refused") >= before + 10_000, PATIENCE_S)
        attacker.close(linger=0)


@pytest.mark.parametrize(("large", "most"), [(True, 50), (False, 150)])
def test_frames_of_a_stranger_are_taken_a_few_at_a_time_between_those_of_clients(mesh, large, most):
    """A large one costs what a hundred small ones do: when all that fit a turn were taken, a call took over a second.

    A small one may cost 0.3 ms where there are many members: when 256 were taken, a call took 0.1 s.
    """
    victim = mesh("0")
    me = gossip.Member(b"\7" * 16, 5, 1, gossip.Status.ALIVE, "tcp://127.0.0.1:9")
    others = [msgspec.structs.replace(me, id=number.to_bytes(16, "big")) for number in range(1, 1_001)]
    body = gossip.State(0, me, 1, [], False, [msgspec.Raw(gossip.encode(other)) for other in others])
    frame = Codec("m").write(gossip.Type.STATE, me.id, 5, 1, body)
    if not large:
        frame = Codec("m").write(gossip.Type.PING, me.id, 5, 1, gossip.Ping(5, b"\1" * 16, []))
    stopped = threading.Event()

    def flood():
        with zmq.Context() as context, context.socket(zmq.DEALER) as attacker:
            attacker.connect(victim.endpoint)
            while not stopped.is_set():
                if attacker.poll(100, zmq.POLLOUT):
                    attacker.send(frame)
            attacker.close(linger=0)

    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood)
        try:
            assert until(lambda: counter(victim, "strangers") > 1_000, PATIENCE_S)

            def few():
                """How many there are between two calls, where nothing but they keep the client waiting."""
                counts = [counter(victim, "strangers") for _ in range(30)]
                return min(later - earlier for earlier, later in pairwise(counts)) < most

            assert until(few, PATIENCE_S)
        finally:
            stopped.set()
        flooding.result()
    assert victim.states() == {victim.endpoint: "alive"}


@pytest.mark.usefixtures("unmeasured")
def test_one_that_has_come_in_and_makes_up_members_hurts_nobody(mesh):
    """Twenty thousand with a kilobyte each, and claims about others: bounded, counted, and refuted."""
    victim = mesh("0")
    other = mesh("1", seeds=[victim])
    assert agree([victim, other])
    other.fabric.topics.create("t")
    assert until(lambda: any(member.topics for member in victim.fabric.members() if not member.local), PATIENCE_S)
    before = victim.rss()
    [real] = [member for member in victim.fabric.members() if not member.local]
    with zmq.Context() as context, context.socket(zmq.ROUTER) as listener, context.socket(zmq.DEALER) as attacker:
        listener.linger = attacker.linger = 0
        port = free_ports(1)
        listener.bind(f"tcp://127.0.0.1:{port}")
        attacker.connect(victim.endpoint)
        codec, me = Codec("m"), gossip.Member(b"\7" * 16, 5, 1, gossip.Status.ALIVE, f"tcp://127.0.0.1:{port}")
        numbers = itertools.count(1)

        def send(kind, body):
            attacker.send(codec.write(kind, me.id, me.instance, next(numbers), body))

        send(gossip.Type.PUSH_PULL, gossip.PushPull(7, 0, me, 1, bytes(8)))
        assert listener.poll(60_000)
        answer = codec.read(listener.recv_multipart()[1])
        send(gossip.Type.STATE, gossip.State(answer.body.sequence, me, 1, [], False, []))
        assert until(lambda: len(victim.states()) == 3, PATIENCE_S)
        for batch in range(400):
            made_up = [
                gossip.Member(
                    (batch * 50 + n + 1).to_bytes(16, "big"), 1, 1, 0, "tcp://127.0.0.1:9", 1, os.urandom(1_000)
                )
                for n in range(50)
            ]
            news = [msgspec.Raw(gossip.encode(member)) for member in made_up]
            send(gossip.Type.STATE, gossip.State(0, me, 1, [], False, news))
        claims = [
            gossip.Member(
                bytes.fromhex(real.id), 77, real.incarnation + 5, 0, "tcp://127.0.0.1:9", 9, b"another's card"
            ),
            gossip.Member(bytes.fromhex(real.id), 77, (1 << 63) - 1, 0, "tcp://127.0.0.1:9"),
        ]
        send(gossip.Type.GOSSIP, gossip.Gossip([msgspec.Raw(gossip.encode(claim)) for claim in claims]))
        assert until(lambda: counter(victim, "collisions") >= 1, PATIENCE_S)
        assert counter(victim, "refused_members") >= 10_000
        assert counter(victim, "refused_metadata") >= 500
        assert counter(victim, "members") <= 10_000
        assert victim.rss() < before + 80_000_000
        [still] = [member for member in victim.fabric.members() if member.id == real.id]
        assert (still.endpoint, [topic.name for topic in still.topics]) == (other.endpoint, ["t"])
        victim.fabric.topics.create("u")  # And it serves its clients.


@pytest.mark.usefixtures("unmeasured")
def test_twenty_members_find_each_other_through_one(mesh):
    first = mesh("0")
    with ThreadPoolExecutor(2) as pool:
        others = list(pool.map(lambda number: mesh(str(number), seeds=[first]), range(1, 20)))
    assert agree([first, *others])
    assert max(member.rss() for member in (first, *others)) < 30_000_000


CLOCK = """
import runpy, sys, time
wall = time.time_ns

def shifted():
    with open(FILE) as text:
        return wall() + int(text.read() or 0) * 10**9

time.time_ns = shifted
time.time = lambda: shifted() / 1e9
runpy.run_module("zfabric.server", run_name="__main__", alter_sys=True)
"""


def test_members_whose_wall_clocks_jump_by_years_stay_members(mesh, tmp_path):
    """Ahead of the others, back in one step while it runs, and started again twenty years before its last start."""
    year = 365 * 86_400
    shift = tmp_path / "shift"
    shift.write_text(f"{10 * year}")
    first = mesh("0")
    jumping = mesh("1", seeds=[first], program=("-c", CLOCK.replace("FILE", repr(str(shift)))))
    assert agree([first, jumping])
    incarnation = {member.endpoint: member.incarnation for member in first.fabric.members()}
    assert incarnation[jumping.endpoint] > incarnation[first.endpoint] + 9 * year * 1_000

    def shown():
        return {topic.name for member in first.fabric.members() if not member.local for topic in member.topics}

    for number, years in enumerate((-10, 40, 0, -10)):
        replaced = tmp_path / "new"
        replaced.write_text(f"{years * year}")
        replaced.rename(shift)
        jumping.fabric.topics.create(f"t{number}")
        assert until(lambda number=number: f"t{number}" in shown(), PATIENCE_S)
        assert until(lambda: first.sees(jumping) == "alive", PATIENCE_S)
    jumping.kill()
    jumping.again()
    assert agree([first, jumping])
    after = {member.endpoint: member.incarnation for member in first.fabric.members()}
    assert after[jumping.endpoint] > incarnation[jumping.endpoint], "it has learnt how far it was"
    jumping.fabric.topics.create("last")
    assert until(lambda: "last" in shown(), PATIENCE_S)
    assert counter(first, "refused_members") == 0


def test_a_watch_tells_who_comes_and_who_goes(mesh):
    first = mesh("0")
    with first.fabric.watch_members(timeout=PATIENCE_S) as watch:
        assert next(watch).kind == "joined"
        second = mesh("1", seeds=[first])
        told = [next(watch)]
        second.stop()
        while told[-1].kind != "left":
            told.append(next(watch))
        assert told[0].kind == "joined"
        assert {change.member.endpoint for change in told} == {second.endpoint}
        assert [member.state for member in watch.members() if not member.local] == ["left"]
    with pytest.raises(errors.Closed):
        watch.poll(1.0)


def test_a_restart_that_nobody_missed_is_told_by_a_watch(mesh):
    """It is back before anybody suspects it: its state is the same, its process is not."""
    first = mesh("0")
    second = mesh("1", seeds=[first])
    assert agree([first, second])
    before = {member.endpoint: member for member in first.fabric.members()}[second.endpoint]
    with first.fabric.watch_members(timeout=PATIENCE_S) as watch:
        assert {next(watch).kind, next(watch).kind} == {"joined"}
        second.kill()
        second.again()
        back = next(change for change in watch if change.kind == "returned")
    assert (back.member.id, back.member.state) == (before.id, "alive")
    assert back.member.instance != before.instance
    assert back.member.since > before.since


async def test_an_asynchronous_watch_ends_after_its_timeout(mesh):
    first = mesh("0")
    async with aio.connect(first.url) as fabric:
        assert len(await fabric.members()) == 1  # What is known is told at once, however busy the machine is.
        async with fabric.watch_members(timeout=0.2) as watch:
            assert [change.kind async for change in watch] == ["joined"]


def peers(member, *arguments):
    command = [sys.executable, "-m", "zfabric", "peers", "--url", member.url, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("unmeasured")
def test_the_command_line_shows_the_mesh_and_follows_it(mesh):
    first = mesh("0", zone="here")
    second = mesh("1", seeds=[first])
    assert agree([first, second])
    with peers(first, "--json") as once:
        rows = json.loads(once.communicate(timeout=PATIENCE_S)[0])
    assert {row["endpoint"]: row["state"] for row in rows} == {first.endpoint: "alive", second.endpoint: "alive"}
    with peers(first) as table:
        text, _ = table.communicate(timeout=PATIENCE_S)
        assert (table.returncode, first.endpoint in text, "alive*" in text, "here" in text) == (0, True, True, True)
        assert text.startswith("mesh m: 2 alive\n")
    assert {row["mesh"] for row in rows} == {"m"}
    with peers(first, "--watch", "--json") as lines, peers(first, "--watch") as tables:
        assert [json.loads(lines.stdout.readline())["kind"] for _ in range(2)] == ["joined", "joined"]
        second.stop()
        for line in lines.stdout:
            change = json.loads(line)
            if change["kind"] == "left":
                break
        assert change["member"]["endpoint"] == second.endpoint
        assert any("left" in line for line in tables.stdout)
        first.freeze()
        assert [process.stderr.readline()[:13] for process in (lines, tables)] == ["no answer for"] * 2
        first.thaw()
        assert [process.stderr.readline() for process in (lines, tables)] == ["answers again\n"] * 2
        for process in (lines, tables):
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 130
            assert "Traceback" not in process.stderr.read()


def test_the_command_line_says_when_nobody_answers(mesh):
    first = mesh("0")
    first.kill()
    with peers(first, "--timeout", "0.5", "--watch") as process:
        _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "Traceback" in said) == (3, False)


def multicast():
    try:
        BeaconSocket(local=True).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not multicast(), reason="no multicast here")
def test_members_on_one_machine_find_each_other_by_beacon_and_other_meshes_do_not(mesh, tmp_path):
    """Neither the same name with another key, nor another name with the same key."""
    for name in ("right", "wrong"):
        keyfile.create_key(str(tmp_path / name))
    right, wrong = str(tmp_path / "right"), str(tmp_path / "wrong")
    name = f"m-{os.urandom(6).hex()}"
    friends = [mesh(str(number), name=name, key_file=right, beacon=True) for number in range(3)]
    strangers = [
        mesh("3", name=name, key_file=wrong, beacon=True),
        mesh("4", name=f"{name}-2", key_file=right, beacon=True),
    ]
    assert agree(friends)
    assert until(lambda: counter(friends[0], "beacons_refused") >= 4, PATIENCE_S)
    assert until(lambda: counter(friends[0], "beacons") > 0, PATIENCE_S)
    assert agree(friends)
    assert all(stranger.states() == {stranger.endpoint: "alive"} for stranger in strangers)


def test_a_flood_of_beacons_wakes_nobody(mesh):
    """They are read when the loop comes round anyway."""
    member = mesh("0", name=f"m-{os.urandom(6).hex()}", beacon=True)
    try:
        attacker = BeaconSocket(local=True)
    except OSError as error:
        pytest.skip(f"no multicast here: {error}")
    for _ in range(10):
        for _ in range(500):
            attacker.send(b"zb" + os.urandom(100))
        assert len(member.fabric.members()) == 1
    attacker.close()
    assert until(lambda: counter(member, "beacons_refused") >= 64, PATIENCE_S)
    assert counter(member, "members") == 1
