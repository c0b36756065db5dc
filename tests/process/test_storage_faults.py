"""Real leaders whose storage fails, fills up or grows under them, and clients that see nothing but a delay."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest
import zmq

import zfabric
from tests.process.flow import PATIENCE_S, Flow
from tests.process.leaders import LeaderProcess, Node, compile_library
from zfabric import errors
from zfabric.core.cluster.placement import Placement
from zfabric.core.effects import Reply
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Turn
from zfabric.model import TopicConfig
from zfabric.settings import MIB, LeaderSettings
from zfabric.store.volume import Volume
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import CreateTopic

HERE = os.path.dirname(__file__)
STORAGE_FAILED = 75
SETTINGS = LeaderSettings(disk_reserve_bytes=0, maintenance_ms=20)


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def connected(running):
    return zfabric.connect(running.url, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    return compile_library(os.path.join(HERE, "fail.c"), str(tmp_path_factory.mktemp("fail") / "fail.so"))


# A commit that fails.


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("call", ["flush", "pages", "meta"])
def test_a_failed_commit_ends_the_leader_and_nothing_it_told_is_lost(failing, tmp_path, call, durability):
    """After a failed flush the next one succeeds and means nothing, so there may be no next one."""
    with LeaderProcess(str(tmp_path / "data"), SETTINGS) as leader, connected(leader) as fabric:
        fabric.topics.create("t", durability=durability)
        assert leader.stop() == 0
        # The first commits are those of the start; "os" topics commit once a second.
        at = {"fsync": 20, "os": 2}[durability]
        leader.again(LD_PRELOAD=failing, ZFABRIC_FAIL=f"{call}:{at}")
        with Flow(leader.url, "t") as flow:
            assert leader.process.wait(PATIENCE_S) == STORAGE_FAILED
            leader.again(ZFABRIC_FAIL="")
            flow.await_progress()
            assert flow.finish() > 0


def test_a_node_starts_a_leader_again_whose_commit_failed(failing, tmp_path):
    """Each of its leaders fails after some commits, again and again; the node goes on."""
    log = tmp_path / "log"
    environment = {"LD_PRELOAD": failing, "ZFABRIC_FAIL": "flush:40"}
    with Node(str(tmp_path / "data"), environment, str(log)) as node:
        with connected(node) as fabric:
            fabric.topics.create("t", partitions=2)
        with Flow(node.url, "t", 2) as flow:
            wait_for(lambda: log.read_text().count(f"status={STORAGE_FAILED}") >= 6)
            flow.await_progress()
            flow.finish()


# A disk that fills up.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32m", "zfabric-test", place], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system here: {error}")
    yield place
    subprocess.run(["umount", place], check=True)


RESERVED = LeaderSettings(disk_reserve_bytes=8 * MIB, maintenance_ms=20)


def produce_raw(leader, partition):
    """Return what the leader itself answers to one record."""
    payload = batch.encode_columns(0, None, [b"raw"], None)
    header, payload = batch.seal(
        payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=0, producer_epoch=0,
        base_sequence=0, last_sequence=0, partition=partition,
    )  # fmt: skip
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(leader.url.replace("zf://", "tcp://"))
        socket.send_multipart(messages.produce(1, 0, header, payload))
        assert socket.poll(PATIENCE_S * 1_000)
        return messages.read(socket.recv_multipart())


def fill(leader, producer, topic, value):
    """Send until a record is refused; returns the offsets of those before, the delivery that waits and the refusal.

    A disk that is only slow takes what it is asked about: an offset more.
    """
    taken = []
    while True:
        delivery = producer.send(topic.name, value)
        try:
            taken.append(delivery.result(timeout=1.5).offset)
        except errors.RequestTimeout:
            answer = produce_raw(leader, topic.partitions[0].id)
            if answer.type == Type.ERROR:
                return sorted(taken), delivery, answer
            taken += [answer.body.base_offset, delivery.result(PATIENCE_S).offset]


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_a_full_disk_refuses_appends_until_retention_has_made_room(small_disk, durability):
    with LeaderProcess(str(small_disk / "data"), RESERVED) as leader, connected(leader) as fabric:
        topic = fabric.topics.create("t", durability=durability)
        with fabric.producer() as producer:
            taken, waiting, refused = fill(leader, producer, topic, bytes(300_000))
            assert taken == list(range(len(taken)))
            assert refused.body.code == errors.StorageFull.code
            with fabric.consumer("t") as consumer:
                read = []
                while len(read) < len(taken):
                    read += [record.offset for record in consumer.poll(1000, timeout=60.0)]
            assert read == taken
            fabric.topics.alter("t", retention_bytes=2 * MIB)
            assert waiting.result(timeout=PATIENCE_S).offset == len(taken)
        assert leader.process.poll() is None


def test_a_disk_that_another_program_filled_is_used_again_when_it_has_room(small_disk):
    with LeaderProcess(str(small_disk / "data"), RESERVED) as leader, connected(leader) as fabric:
        topic = fabric.topics.create("t")
        other = small_disk / "other"
        other.write_bytes(bytes(26 * MIB))
        with fabric.producer() as producer:
            wait_for(lambda: produce_raw(leader, topic.partitions[0].id).type == Type.ERROR)
            waiting = producer.send("t", b"v")
            with pytest.raises(errors.RequestTimeout):
                waiting.result(timeout=0.2)
            other.unlink()
            assert waiting.result(timeout=PATIENCE_S).offset >= 0
        assert leader.process.poll() is None


# A map that grows.


def test_the_map_grows_under_clients_that_go_on(tmp_path):
    """From 1 MiB to 32 and more, with a journal to put back each time; then a kill, and all is there."""
    settings = LeaderSettings(map_bytes=MIB, disk_reserve_bytes=0)
    values = [b"%d " % number * 6000 for number in range(400)]
    with LeaderProcess(str(tmp_path / "data"), settings) as leader, connected(leader) as fabric:
        fabric.topics.create("synced")
        fabric.topics.create("cached", durability="os")

        def send(topic):
            with fabric.producer() as producer:
                for value in values:
                    producer.send(topic, value)
                producer.flush(PATIENCE_S)

        threads = [threading.Thread(target=send, args=(topic,)) for topic in ("synced", "cached")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (status,) = fabric.status()
        assert status.map_bytes >= 16 * MIB
        leader.kill()
        leader.again()
        for topic in ("synced", "cached"):
            with fabric.consumer(topic) as consumer:
                read = []
                while len(read) < len(values):
                    read += [record.value for record in consumer.poll(1000, timeout=60.0)]
            assert read == values


# When commits happen.


def test_what_only_the_journal_holds_is_committed_when_nothing_else_happens(tmp_path):
    """Durability "os": a power cut takes the last second at most, also of a leader that is idle since."""
    journal = tmp_path / "data" / "leader-0" / "journal"
    with LeaderProcess(str(tmp_path / "data"), SETTINGS) as leader, connected(leader) as fabric:
        fabric.topics.create("t", durability="os")
        with fabric.producer() as producer:
            seen = []
            for _ in range(50):
                assert producer.send("t", b"v").result(timeout=PATIENCE_S).durability == "os"
                seen.append(journal.stat().st_size)
            assert max(seen) > 0
        wait_for(lambda: journal.stat().st_size == 0)
        leader.kill()
        journal.unlink()
        leader.again()
        assert fabric.topics.describe("t").partitions[0].end_offset == 50


def test_lone_records_show_in_the_write_amplification(tmp_path):
    """A commit writes whole pages, however little it holds."""
    with LeaderProcess(str(tmp_path / "data"), SETTINGS) as leader, connected(leader) as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer:
            for _ in range(20):
                producer.send("t", bytes(200)).result(timeout=PATIENCE_S)
        # The leader looks at its counters twice a second.
        wait_for(lambda: fabric.topics.describe("t").partitions[0].write_amplification > 5.0)


class Driven:
    """The leader's turns on a real volume, by a clock that is given."""

    def __init__(self, volume, config):
        self.volume, self.now = volume, 0
        leader, placement = Leader(0, SETTINGS), Placement()
        self.turns = Turn(volume, leader, placement)

        def start(txn):
            leader.start(txn)
            placement.start("f", 1, SETTINGS.record_bytes_max, txn)

        self.turns.begin(start)
        (created,) = self.turn(Type.CREATE_TOPIC, CreateTopic("t", 1, config))
        self.partition = created.body.topic.partitions[0].id

    def turn(self, *command, wait_ms=1):
        """Take a turn ``wait_ms`` later, with a command or without; returns the answers."""
        self.now += wait_ms * 1_000_000
        commands = [(b"peer", Command(command[0], 0, 1, command[1], ()))] if command else []
        effects = self.turns.change(commands, self.now, self.now // 1_000_000)
        return [messages.read(effect.frames) for effect in effects if isinstance(effect, Reply) and effect.peer]

    def produce(self):
        payload = batch.encode_columns(0, None, [bytes(200)], None)
        header, payload = batch.seal(
            payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=0, producer_epoch=0,
            base_sequence=0, last_sequence=0, partition=self.partition,
        )  # fmt: skip
        return self.turn(Type.PRODUCE, messages.Produce(header, payload, payload))


def test_shared_commits_write_less_and_an_answer_still_waits_for_its_own(tmp_path):
    """The same lone records, each with a commit of its own or sixty in one."""
    commits, written = {}, {}
    for interval_ms in (0, 200):
        with Volume.open(tmp_path / str(interval_ms), SETTINGS) as volume:
            driven = Driven(volume, TopicConfig(commit_interval_ms=interval_ms))
            before = volume.stats()
            answers = [answer for _ in range(60) for answer in driven.produce()]
            assert len(answers) == (60 if interval_ms == 0 else 0)
            assert volume.stats().commits - before.commits == len(answers)
            answers += driven.turn(wait_ms=200)
            assert [answer.body.base_offset for answer in answers] == list(range(60))
            commits[interval_ms] = volume.stats().commits - before.commits
            written[interval_ms] = volume.stats().bytes_written - before.bytes_written
    assert commits == {0: 60, 200: 1}
    # A file system in memory counts nothing.
    assert written[0] > 10 * written[200] or written[0] == 0
