"""Peers as real processes: no broker, one leader process each, found by beacons or seeds."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

import zfabric
from tests.process import test_sdk
from zfabric import errors
from zfabric.store import keyfile, meshfile
from zfabric.wire.gossip import Member, Status

PATIENCE_S = 60.0


def until(condition):
    assert test_sdk.until(condition, PATIENCE_S)


class Peers:
    """Peers of one mesh of its own, each with a fabric in this process; what they start is killed at the end."""

    def __init__(self, directory):
        self.directory = directory
        self.mesh = f"m-{os.urandom(6).hex()}"
        self.fabrics = []
        self._stack = contextlib.ExitStack()

    def add(self, name, **options):
        """Be another peer, which finds the others through the first one."""
        if self.fabrics and "beacon" not in options:
            options["seed"] = here(self.fabrics[0]).removeprefix("tcp://")
        fabric = zfabric.connect(self.url(name), timeout=PATIENCE_S, beacon=options.pop("beacon", False), **options)
        self.fabrics.append(self._stack.enter_context(fabric))
        return fabric

    def url(self, name):
        return f"zf+peer://{self.mesh}?data={self.directory / name}"

    def three(self):
        for name in "abc":
            self.add(name)
            self.fabrics[-1].topics.create("t", if_absent=True)
        self.meet()
        until(lambda: all(len(f.topics.describe("t").partitions) == 3 for f in self.fabrics))
        return self.fabrics

    def meet(self):
        """Wait until each knows each."""
        count = len(self.fabrics)
        for fabric in self.fabrics:
            fabric.members()
        until(lambda: [sum(m.state == "alive" for m in f.members()) for f in self.fabrics] == [count] * count)

    def close(self):
        for fabric in self.fabrics:
            with contextlib.suppress(errors.ZFabricError):
                os.kill(fabric.status()[0].pid, signal.SIGCONT)
        self._stack.close()


@pytest.fixture
def peers(tmp_path):
    entry = Peers(tmp_path)
    try:
        yield entry
    finally:
        entry.close()


def leader(fabric):
    return psutil.Process(fabric.status()[0].pid)


def here(fabric):
    """Where others reach a peer."""
    return next(member.endpoint for member in fabric.members() if member.local)


def send(fabric, *values):
    with fabric.producer() as producer:
        return [producer.send("t", value).result(PATIENCE_S) for value in values]


def read(consumer, count):
    records = []

    def enough():
        records.extend(consumer.poll(timeout=0.2))
        return len(records) >= count

    until(enough)
    return sorted(record.value for record in records)


def test_peers_find_each_other_without_being_told_where(peers):
    for name in "ab":
        peers.add(name, beacon=True)
    peers.meet()
    assert {member.kind for member in peers.fabrics[0].members()} == {"peer"}
    peers.fabrics[0].topics.create("t")
    until(lambda: all("t" in fabric.topics.list() for fabric in peers.fabrics))
    for number, fabric in enumerate(peers.fabrics):
        send(fabric, b"%d" % number)
    for fabric in peers.fabrics:
        with fabric.consumer("t") as consumer:
            assert read(consumer, 2) == [b"0", b"1"]


@pytest.mark.parametrize("placement", ["process", "thread"])
def test_a_peer_is_there_and_keeps_though_nothing_is_asked_of_it(peers, placement):
    origin = peers.add("origin")
    peers.add("keeper", keep="t", leader=placement)
    origin.topics.create("t", replicas=2)
    with origin.producer() as producer:
        assert producer.send("t", b"1").result(timeout=PATIENCE_S).offset == 0
    assert [member.local for member in origin.members()].count(False) == 1


def test_a_killed_leader_is_started_again_where_it_was_and_nothing_is_lost_or_repeated(peers):
    fabrics = peers.three()
    with fabrics[0].consumer("t") as consumer, fabrics[1].producer() as producer:
        seen = []
        for number in range(6):
            endpoint = here(fabrics[1])
            producer.send("t", b"%d" % number).result(PATIENCE_S)
            leader(fabrics[1]).kill()
            producer.send("t", b"%d more" % number).result(PATIENCE_S)
            seen += read(consumer, 2)
            assert here(fabrics[1]) == endpoint
        assert seen == [value for number in range(6) for value in (b"%d" % number, b"%d more" % number)]
        assert len(consumer.assignment) == 3


def test_a_frozen_peer_holds_up_nobody_and_goes_on(peers):
    fabrics = peers.three()
    frozen = leader(fabrics[2])
    with fabrics[0].consumer("t") as consumer:
        send(fabrics[2], b"before")
        assert read(consumer, 1) == [b"before"]
        frozen.suspend()
        try:
            send(fabrics[1], b"meanwhile")
            assert read(consumer, 1) == [b"meanwhile"]
            with fabrics[1].consumer("t") as late:
                assert read(late, 1) == [b"meanwhile"]
                frozen.resume()
                assert read(late, 1) == [b"before"]
        finally:
            frozen.resume()
        send(fabrics[2], b"after")
        assert read(consumer, 1) == [b"after"]


def test_with_no_other_in_reach_appends_go_on_and_are_read_later(peers):
    """Store and forward: the link is down when the peer is started, too."""
    first = peers.add("a")
    first.topics.create("t")
    endpoint = here(first).removeprefix("tcp://")
    leader(first).suspend()
    alone = peers.add("b", beacon=True, seed=endpoint)
    alone.topics.create("t")
    send(alone, b"1", b"2", b"3")
    leader_of_first = [process for process in psutil.process_iter() if _leads(process, peers.directory / "a")]
    assert len(leader_of_first) == 1
    leader_of_first[0].resume()
    with first.consumer("t") as consumer:
        assert read(consumer, 3) == [b"1", b"2", b"3"]


def _leads(process, directory):
    with contextlib.suppress(psutil.Error):
        return f'"data":"{directory}"' in " ".join(process.cmdline())
    return False


def test_a_wiped_disk_is_another_origin(peers):
    fabrics = peers.three()
    with fabrics[0].consumer("t") as consumer:
        old = send(fabrics[1], b"old")[0]
        assert read(consumer, 1) == [b"old"]
        port = (peers.directory / "b" / "port").read_text()
        process = leader(fabrics[1])
        peers.fabrics.pop(1).close()
        process.kill()
        process.wait(PATIENCE_S)
        shutil.rmtree(peers.directory / "b")
        new = peers.add("b", listen=f"127.0.0.1:{port.strip()}")
        new.topics.create("t")
        placed = send(new, b"new 0", b"new 1")
        assert read(consumer, 2) == [b"new 0", b"new 1"]
        assert placed[0].partition != old.partition
        assert consumer.position[old.partition] == 1
        assert consumer.position[placed[0].partition] == 2


def test_what_an_origin_has_is_read_at_its_keeper_when_it_is_gone_for_good(peers):
    """Its application and its leader are killed, and nobody starts them again."""
    reader, _ = peers.add("reader"), peers.add("keeper", keep="t.*")
    origin = peers.add("origin")
    peers.meet()
    origin.topics.create("t.x", replicas=2)
    with origin.producer() as producer:
        assert producer.send("t.x", b"1").result(timeout=PATIENCE_S).offset == 0
    with reader.consumer("t.x", group="g") as consumer:
        assert read(consumer, 1) == [b"1"]
        with origin.producer() as producer:
            assert producer.send("t.x", b"2").result(timeout=PATIENCE_S).offset == 1
        pid = leader(origin).pid
        origin.close()
        os.kill(pid, signal.SIGKILL)
        assert read(consumer, 1) == [b"2"]
        until(lambda: any(member.state == "failed" for member in reader.members()))
        until(lambda: reader.topics.describe("t.x").partitions[0].online)  # At the keeper, which takes commits too.
        consumer.commit()
    with reader.consumer("t.x") as consumer:
        assert read(consumer, 2) == [b"1", b"2"]


def test_consumers_of_a_group_share_all_origins_and_a_killed_ones_part_moves(peers):
    fabrics = peers.three()
    for number, fabric in enumerate(fabrics):
        fabric.topics.alter("t", partitions=4)
        send(fabric, *[b"%d:%d" % (number, count) for count in range(20)])
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, peers.url("b")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        with fabrics[0].consumer("t", group="g") as one, fabrics[2].consumer("t", group="g") as two:
            seen = []

            def shared():
                for consumer in (one, two):
                    seen.extend(consumer.poll(timeout=0.1))
                    consumer.commit()
                return 0 < len(one.assignment) + len(two.assignment) < 12

            until(shared)
            worker.kill()
            until(lambda: shared() or len(one.assignment) + len(two.assignment) == 12)
            until(lambda: shared() or len({record.value for record in seen}) == 60)
            until(lambda: not shared() and set(one.assignment).isdisjoint(two.assignment))
    finally:
        worker.kill()
        worker.communicate()


WORKER = """
import sys, zfabric
with zfabric.connect(sys.argv[1], beacon=False, timeout=60) as fabric, fabric.consumer("t", group="g") as consumer:
    while True:
        consumer.poll(timeout=1.0)
"""


def test_a_client_reads_everything_and_has_no_leader(peers, tmp_path):
    fabrics = peers.three()
    for number, fabric in enumerate(fabrics):
        send(fabric, b"%d" % number)
    seeds = [member.endpoint.removeprefix("tcp://") for member in fabrics[0].members()]
    url = f"zf+peer://{peers.mesh}?role=client"
    with zfabric.connect(url, seed=["127.0.0.1:9", *seeds], timeout=PATIENCE_S) as client:
        with client.consumer("t") as consumer:
            assert read(consumer, 3) == [b"0", b"1", b"2"]
            # It is connected to those that it reads, and sees the mesh through one of them.
            until(lambda: client._core.requests.sessions == sorted(f"tcp://{seed}" for seed in seeds))
            assert len(client.members()) == 3
        assert len(client.topics.describe("t").partitions) == 3
        with pytest.raises(errors.NotSupported, match="role='client'"):
            client.producer()
        # It would be the part of whichever member it sees the mesh through just now.
        with pytest.raises(errors.NotSupported, match="role='client'"):
            client.topics.delete("t")
        with pytest.raises(errors.NotSupported, match="role='client'"):
            client.topics.alter("t", retention=9.0)
        assert len(fabrics[0].topics.describe("t").partitions) == 3


def test_a_client_goes_on_through_another_member_when_its_own_has_gone(peers):
    """It was given one address; the others it has learnt. Reading goes on, and nothing is raised."""
    fabrics = peers.three()
    for number, fabric in enumerate(fabrics):
        send(fabric, b"%d" % number)
    seed = here(fabrics[0]).removeprefix("tcp://")
    with (
        zfabric.connect(f"zf+peer://{peers.mesh}?role=client&seed={seed}", timeout=PATIENCE_S) as client,
        client.consumer("t") as consumer,
    ):
        assert read(consumer, 3) == [b"0", b"1", b"2"]
        pid = fabrics[0].status()[0].pid
        fabrics[0].close()  # Or it would start its leader again.
        os.kill(pid, signal.SIGKILL)
        send(fabrics[1], b"3")
        assert read(consumer, 1) == [b"3"]
        local = [member.endpoint for member in client.members() if member.local]
        assert local == [here(fabrics[1])] or local == [here(fabrics[2])]
        assert client.topics.create("u").name == "u"


def test_a_client_of_a_member_of_another_mesh_is_told_both_names(peers, tmp_path):
    """A right seed among wrong ones is found; of wrong ones alone nothing is asked but which mesh they are in."""
    right = peers.add("a")
    right.topics.create("t")
    url = f"zf+peer://other{os.getpid()}?data={tmp_path / 'o'}&beacon=0"
    with zfabric.connect(url, timeout=PATIENCE_S) as other:
        other.topics.list()
        wrong, good = (here(fabric).removeprefix("tcp://") for fabric in (other, right))
        url = f"zf+peer://{peers.mesh}?role=client"
        with zfabric.connect(url, seed=[wrong], timeout=PATIENCE_S) as client:
            for use in (lambda: client.consumer("t"), client.members, lambda: client.topics.create("x")):
                with pytest.raises(errors.WrongMesh) as caught:
                    use()
                assert caught.value.mesh == peers.mesh
                assert caught.value.found == f"other{os.getpid()}"
        assert other.topics.list() == []
        with zfabric.connect(url, seed=[wrong, good], timeout=PATIENCE_S) as client:
            assert client.topics.list() == ["t"]


def test_the_commands_work_with_peers(peers):
    fabrics = peers.three()
    for number, fabric in enumerate(fabrics):
        send(fabric, b"%d" % number)

    b = peers.url("b")

    def run(*arguments, text="", url=b):
        done = subprocess.run(
            [sys.executable, "-m", "zfabric", *arguments, "--url", url], capture_output=True, text=True, input=text
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert sorted(run("consume", "t").split()) == ["0", "1", "2"]
    assert sorted(run("consume", "t", "--group", "g").split()) == ["0", "1", "2"]
    run("produce", "t", text="3\n")
    assert run("consume", "t", "--group", "g").split() == ["3"]
    described = json.loads(run("topic", "describe", "t", "--json"))["partitions"]
    place = next(part["partition"] for part in described if part["end_offset"] == 2)
    assert run("consume", "t", "--partition", str(place), "--from", "1").split() == ["3"]
    assert len(run("consume", "t", "--follow", "--count", "4").split()) == 4
    rows = json.loads(run("group", "reset", "g", "t", "--to", "earliest", "--json"))
    assert [row["offset"] for row in rows] == [0, 0, 0]
    seed = here(fabrics[0]).removeprefix("tcp://")
    assert len(run("consume", "t", url=f"zf+peer://{peers.mesh}?role=client&seed={seed}").split()) == 4
    mistyped = peers.directory / "mistyped"
    done = subprocess.run([sys.executable, "-m", "zfabric", "topic", "list", "--url", f"zf+peer://m?data={mistyped}"])
    assert done.returncode == 4
    assert not mistyped.exists()


def test_a_directory_belongs_to_one_mesh_at_a_time(peers):
    fabric = peers.add("a")
    fabric.topics.list()
    url = f"zf+peer://other?data={peers.directory / 'a'}"
    with zfabric.connect(url, beacon=False) as other, pytest.raises(errors.DirectoryLocked, match=peers.mesh):
        other.topics.list()
    with zfabric.connect(f"zf+file://{peers.directory / 'a'}") as embedded:  # It is the same leader.
        assert embedded.topics.list() == []
        assert embedded.status()[0].pid == fabric.status()[0].pid


def test_a_directory_that_goes_over_to_another_mesh_is_told_with_both_names(peers, tmp_path, caplog):
    peers.add("a", beacon=False).topics.list()
    told = []
    for before in (peers.mesh, "plant"):
        member = Member(b"x" * 16, 5, 9, Status.FAILED, "tcp://127.0.0.1:1")
        meshfile.store(str(tmp_path / "a" / "members"), before, [member])
        with zfabric.connect(peers.url("a"), beacon=False):
            told.append([record.getMessage() for record in caplog.records if record.name == "zfabric.peer"])
    assert told[0] == []
    [words] = told[1]
    assert words.startswith(f"mesh_changed mesh={peers.mesh!r} before='plant' ")


def test_a_copy_of_a_directory_is_noticed_and_another_origin_once_it_has_an_identity_of_its_own(peers):
    origin = peers.add("origin")
    origin.topics.create("t")
    send(origin, b"1", b"2")
    with origin.consumer("t", group="g") as consumer:
        assert read(consumer, 2) == [b"1", b"2"]
        consumer.commit()
    process = leader(origin)
    origin.close()
    peers.fabrics.clear()
    process.terminate()
    process.wait(PATIENCE_S)
    shutil.copytree(peers.directory / "origin", peers.directory / "copy", ignore=shutil.ignore_patterns("run", "port"))
    pair = [peers.add("origin"), peers.add("copy")]
    until(lambda: 0 not in [fabric.status()[0].mesh_collisions for fabric in pair])
    running = [leader(fabric) for fabric in pair]
    doctor = [sys.executable, "-m", "zfabric", "doctor", str(peers.directory / "copy"), "--new-identity"]
    refused = subprocess.run(doctor, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert refused.returncode == 1
    assert "DirectoryLocked" in refused.stderr or "led by process" in refused.stderr
    for fabric, process in zip(pair, running, strict=True):
        fabric.close()
        process.terminate()
        process.wait(PATIENCE_S)
    peers.fabrics.clear()
    told = json.loads(subprocess.run([*doctor, "--json"], capture_output=True, check=True, timeout=PATIENCE_S).stdout)
    assert told["before"] != told["identity"]
    pair = [peers.add("origin"), peers.add("copy")]
    peers.meet()
    send(pair[1], b"3")
    ends = {told["before"]: 2, told["identity"]: 3}
    until(lambda: {part.origin: part.end_offset for part in pair[0].topics.describe("t").partitions} == ends)
    with pair[0].consumer("t", group="g") as consumer:
        assert read(consumer, 1) == [b"3"]  # The copy has the group's offsets as well.


def test_a_mesh_key_that_cannot_be_read_is_told(peers):
    with pytest.raises(errors.ConfigurationError, match="none"):
        zfabric.connect(peers.url("a"), key=str(peers.directory / "none"))


def test_another_key_than_that_of_the_running_leader_is_refused(peers):
    """Whoever gives a key would else use a mesh that others can speak in; who gives none may have more."""
    keys = [str(peers.directory / name) for name in ("right.key", "wrong.key")]
    for key in keys:
        keyfile.create_key(key)
    for name, led, given, problem in (("a", keys[0], keys[1], "another key"), ("b", "", keys[0], "none")):
        options = {"key": led} if led else {}
        with zfabric.connect(peers.url(name), **options, timeout=PATIENCE_S) as first:
            first.topics.list()
            with (
                zfabric.connect(peers.url(name), key=given, timeout=PATIENCE_S) as second,
                pytest.raises(errors.ConfigurationError, match=f"with {problem}"),
            ):
                second.topics.list()
            for same in ({}, options):
                with zfabric.connect(peers.url(name), **same, timeout=PATIENCE_S) as third:
                    assert third.topics.list() == []


def test_an_option_that_the_running_leader_does_not_have_is_told_with_both_values(peers, caplog):
    with zfabric.connect(peers.url("a"), zone="attic", timeout=PATIENCE_S) as first:
        assert first.topics.list() == []
        for zone in ("attic", "cellar"):
            assert "option_ignored" not in caplog.text
            with zfabric.connect(peers.url("a"), zone=zone, timeout=PATIENCE_S) as other:
                assert other.topics.list() == []
        assert [member.zone for member in first.members()] == ["attic"]
    [told] = [record for record in caplog.records if record.name == "zfabric.peer"]
    assert "option=zone given='cellar' leader_has='attic'" in told.getMessage()


def test_options_of_a_peer_are_for_peers_alone(tmp_path):
    with pytest.raises(errors.InvalidArgument, match="zf\\+peer://MESH"):
        zfabric.connect(f"zf+file://{tmp_path}", zone="z")


def test_twenty_peers_find_each_other(peers):
    for number in range(20):
        peers.add(f"p{number}")
    peers.fabrics[0].topics.create("t")
    peers.meet()
    until(lambda: all("t" in fabric.topics.list() for fabric in peers.fabrics))
    for number, fabric in enumerate(peers.fabrics):
        send(fabric, b"%02d" % number)
    with peers.fabrics[7].consumer("t") as consumer:
        assert read(consumer, 20) == [b"%02d" % number for number in range(20)]
