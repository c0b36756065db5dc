"""Keepers as real processes: killed, started again, dialled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, LeaderProcess, Node, free_port
from tests.process.test_doctor import flip_in_file
from zfabric import errors
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.store.scrub import Scrub

SETTINGS = LeaderSettings(maintenance_ms=100)


def until(reached):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = reached()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def copies(keeper, topic="sensor.x"):
    """Return the copies of a topic at a keeper, by the number at the origin."""
    with zfabric.connect(keeper.url, timeout=PATIENCE_S) as fabric:
        try:
            return fabric.topics.describe(topic).copies
        except errors.UnknownTopic:
            return []


def held(keeper, topic="sensor.x"):
    return sum(copy.end_offset for copy in copies(keeper, topic))


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def test_a_batch_that_all_have_acknowledged_is_at_the_keeper_when_the_origin_is_gone(tmp_path, stack):
    origin = stack.enter_context(LeaderProcess(str(tmp_path / "o"), SETTINGS))
    keeper = stack.enter_context(
        LeaderProcess(str(tmp_path / "k"), SETTINGS, keep=("sensor.*",), follow=(origin.endpoint,))
    )
    with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("sensor.x", partitions=2, replicas=2)
        fabric.topics.create("other")
        producer.send("other", b"v").result(timeout=PATIENCE_S)
        for count in range(200):
            producer.send("sensor.x", b"%d" % count, key=b"%d" % count)
        producer.flush(timeout=PATIENCE_S)
        origin.kill()
    assert held(keeper) == 200
    assert copies(keeper, "other") == []
    keeper.kill()
    keeper.again()
    assert held(keeper) == 200


def test_keepers_and_origins_that_are_killed_go_on_where_they_were(tmp_path, stack):
    origin = stack.enter_context(LeaderProcess(str(tmp_path / "o"), SETTINGS))
    keepers = [
        stack.enter_context(
            LeaderProcess(str(tmp_path / name), SETTINGS, keep=("sensor.*",), follow=(origin.endpoint,))
        )
        for name in ("k", "l")
    ]
    with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric:
        fabric.topics.create("sensor.x", replicas=2)
        with fabric.producer() as producer:
            sent = 0
            for victim in (keepers[0], origin, keepers[1], origin):
                deliveries = [producer.send("sensor.x", b"%d" % number) for number in range(sent, sent + 50)]
                victim.kill()
                deliveries += [producer.send("sensor.x", b"%d" % number) for number in range(sent + 50, sent + 100)]
                victim.again()
                for delivery in deliveries:
                    delivery.result(timeout=PATIENCE_S)
                sent += 100
        until(lambda: [held(keeper) for keeper in keepers] == [sent, sent])
        part = fabric.topics.describe("sensor.x").partitions[0]
        until(lambda: sorted(fabric.topics.describe("sensor.x").partitions[0].keepers.values()) == [sent, sent])
    for keeper in keepers:

        def whole(keeper=keeper):
            [copy] = copies(keeper)
            return (copy.start_offset, copy.end_offset, copy.lag, copy.problem) == (0, part.end_offset, 0, "")

        until(whole)


def test_an_origin_that_can_only_dial_out_is_kept_over_the_connection_that_it_opens(tmp_path, stack):
    keeper = stack.enter_context(LeaderProcess(str(tmp_path / "k"), SETTINGS, keep=("sensor.*",)))
    origin = stack.enter_context(LeaderProcess(str(tmp_path / "o"), SETTINGS, offer_to=(keeper.endpoint,)))
    with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("sensor.x", replicas=2)
        assert producer.send("sensor.x", b"v").result(timeout=PATIENCE_S).offset == 0
        keeper.kill()
        keeper.again()
        assert producer.send("sensor.x", b"v").result(timeout=PATIENCE_S).offset == 1
        origin.kill()
        origin.again()
        assert producer.send("sensor.x", b"v").result(timeout=PATIENCE_S).offset == 2
    assert held(keeper) == 3


def test_an_origin_with_a_new_disk_is_another_origin(tmp_path, stack):
    origin = stack.enter_context(LeaderProcess(str(tmp_path / "o"), SETTINGS))
    keeper = stack.enter_context(
        LeaderProcess(str(tmp_path / "k"), SETTINGS, keep=("sensor.*",), follow=(origin.endpoint,))
    )
    with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("sensor.x")
        producer.send("sensor.x", b"first").result(timeout=PATIENCE_S)
    until(lambda: held(keeper) == 1)
    origin.kill()
    (tmp_path / "o").rename(tmp_path / "lost")
    origin.again()
    with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("sensor.x")
        for _ in range(2):
            producer.send("sensor.x", b"second").result(timeout=PATIENCE_S)
    until(lambda: sorted(copy.end_offset for copy in copies(keeper)) == [1, 2])
    assert len({copy.origin for copy in copies(keeper)}) == 2


def served(data, *options):
    """Start a node of one leader from the command line; returns its process and where it listens."""
    port = free_port()
    command = [sys.executable, "-m", "zfabric", "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "--leaders", "1", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert b"ready" in process.stdout.readline()
    process.stdout.close()
    return process, f"127.0.0.1:{port}"


@pytest.fixture
def nodes():
    started = []
    yield started
    for process in started:
        process.terminate()
    for process in started:
        assert process.wait(PATIENCE_S) == 0


def test_a_keeper_finds_origins_in_its_mesh_and_one_that_dials_it(tmp_path, nodes):
    mesh = ("--mesh", "m", "--no-beacon")
    keeper, place = served(tmp_path / "k", *mesh, "--keep", "sensor.*")
    nodes.append(keeper)
    origins = []
    for name, options in (("a", (*mesh, "--seed", place)), ("b", (*mesh, "--seed", place)), ("c", ("--keeper", place))):
        process, where = served(tmp_path / name, *options)
        nodes.append(process)
        origins.append(where)
    for where in origins:
        with zfabric.connect(f"zf://{where}", timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
            fabric.topics.create("sensor.x", replicas=2)
            producer.send("sensor.x", where.encode()).result(timeout=PATIENCE_S)
    with zfabric.connect(f"zf://{place}", timeout=PATIENCE_S) as fabric:
        found = fabric.topics.describe("sensor.x").copies
        assert [copy.end_offset for copy in found] == [1, 1, 1]
        assert len({copy.origin for copy in found}) == 3


def test_a_fabric_of_several_leaders_has_no_copies_and_says_so(tmp_path):
    with (
        Node(str(tmp_path / "n")) as node,
        zfabric.connect(node.url, timeout=PATIENCE_S) as fabric,
        pytest.raises(errors.NotSupported),
    ):
        fabric.topics.create("sensor.x", replicas=2)


def test_bits_that_flip_on_a_keepers_disk_are_put_back_from_its_origin(tmp_path, stack):
    origin = stack.enter_context(LeaderProcess(str(tmp_path / "o"), SETTINGS))
    keeper = stack.enter_context(
        LeaderProcess(str(tmp_path / "k"), SETTINGS, keep=("sensor.*",), follow=(origin.endpoint,))
    )
    with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("sensor.x", replicas=2)
        for number in range(20):
            producer.send("sensor.x", b"value number %02d" % number).result(timeout=PATIENCE_S)
    keeper.kill()
    flip_in_file(tmp_path / "k", b"value number 07")
    flip_in_file(tmp_path / "k", b"value number 13")
    assert len(list(Scrub(DataDirectory.check(tmp_path / "k")).run())) == 2
    keeper.again()

    def mended():
        with zfabric.connect(keeper.url, timeout=PATIENCE_S) as fabric:
            [leader] = fabric.status()
            return (leader.damaged, leader.mended) == (2, 2)

    until(mended)
    until(lambda: [copy.problem for copy in copies(keeper)] == [""])
    assert list(Scrub(DataDirectory.check(tmp_path / "k")).run()) == []


@pytest.mark.parametrize("dials", [False, True], ids=["mesh", "dials"])
def test_bits_that_flip_on_an_origins_disk_are_put_back_from_its_keeper_once_a_reader_has_come_to_them(
    tmp_path, nodes, dials
):
    """Though it keeps nothing itself."""
    mesh = () if dials else ("--mesh", "m", "--no-beacon")
    keeper, place = served(tmp_path / "k", *mesh, "--keep", "sensor.*")
    nodes.append(keeper)
    options = ("--keeper", place) if dials else (*mesh, "--seed", place)
    origin, where = served(tmp_path / "o", *options)
    nodes.append(origin)
    with zfabric.connect(f"zf://{where}", timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("sensor.x", replicas=2)
        for number in range(20):
            producer.send("sensor.x", b"value number %02d" % number).result(timeout=PATIENCE_S)
    origin.terminate()
    assert origin.wait(PATIENCE_S) == 0
    flip_in_file(tmp_path / "o", b"value number 07")
    assert len(list(Scrub(DataDirectory.check(tmp_path / "o")).run())) == 1
    origin, where = served(tmp_path / "o", *options)
    nodes.append(origin)
    with zfabric.connect(f"zf://{where}", timeout=PATIENCE_S) as fabric, fabric.consumer("sensor.x") as consumer:
        with pytest.raises(errors.CorruptBatch):
            _ = [consumer.poll(1, timeout=PATIENCE_S) for _ in range(20)]
        until(lambda: [(leader.damaged, leader.mended) for leader in fabric.status()] == [(1, 1)])
        consumer.seek(0, "earliest")
        assert [consumer.poll(1, timeout=PATIENCE_S)[0].offset for _ in range(20)] == list(range(20))
    assert list(Scrub(DataDirectory.check(tmp_path / "o")).run()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB, and what makes it larger."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system here: {error}")
    yield place, ["mount", "-o", "remount,size=200m", str(place)]
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_keeper_with_a_full_disk_holds_up_nobody_and_goes_on_when_there_is_room(tmp_path, stack, small_disk):
    place, grow = small_disk
    origins = [stack.enter_context(LeaderProcess(str(tmp_path / name), SETTINGS)) for name in ("o", "p")]
    follow = tuple(origin.endpoint for origin in origins)
    small, other = (
        stack.enter_context(LeaderProcess(str(where), SETTINGS, keep=("sensor.*",), follow=follow))
        for where in (place / "k", tmp_path / "k")
    )
    for origin in origins:
        with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer(compression="none") as producer:
            fabric.topics.create("sensor.x", replicas=2)
            for _ in range(30):
                # The other keeper has all of them on its disk.
                producer.send("sensor.x", os.urandom(500_000)).result(timeout=PATIENCE_S)
    until(lambda: all("free some space" in copy.problem for copy in copies(small)))
    until(lambda: held(other) == 60)  # The first ones may have been acknowledged by the small one alone.
    assert held(small) < 60
    subprocess.run(grow, check=True, capture_output=True)
    until(lambda: held(small) == 60)
    until(lambda: [copy.problem for copy in copies(small)] == ["", ""])
    other.kill()
    with zfabric.connect(origins[0].url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        producer.send("sensor.x", b"the last one").result(timeout=PATIENCE_S)


def test_nobody_produces_to_a_copy(tmp_path, stack):
    origin = stack.enter_context(LeaderProcess(str(tmp_path / "o"), SETTINGS))
    keeper = stack.enter_context(
        LeaderProcess(str(tmp_path / "k"), SETTINGS, keep=("sensor.*",), follow=(origin.endpoint,))
    )
    with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("sensor.x")
        producer.send("sensor.x", b"v").result(timeout=PATIENCE_S)
    until(lambda: held(keeper) == 1)
    with zfabric.connect(keeper.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        with pytest.raises(errors.UnknownTopic):
            producer.send("sensor.x", b"v")
        # A topic of its own beside the copies, under the same name.
        fabric.topics.create("sensor.x")
        producer.send("sensor.x", b"mine").result(timeout=PATIENCE_S)
        info = fabric.topics.describe("sensor.x")
        assert [part.end_offset for part in info.partitions] == [1]
        assert [copy.end_offset for copy in info.copies] == [1]
