"""A leader in the application's own process: what it promises to those inside, to others, and at every kind of end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import zfabric
import zfabric.aio
from tests.process import interrupted
from tests.process.flow import Flow
from tests.process.leaders import compile_library
from tests.process.test_peers import Peers, here, read, until
from tests.scale import scaled
from zfabric import errors
from zfabric.store.directory import DataDirectory
from zfabric.testing import kill_leader

PATIENCE_S = 60.0
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
KINDS = ("fsync", "os", "memory")


@pytest.fixture
def url(tmp_path):
    """Of a directory, for a leader in a thread of this process."""
    yield f"zf+file:{tmp_path / 'data'}?leader=thread"
    until(lambda: leaders() == [])


@pytest.fixture
def peers(tmp_path):
    entry = Peers(tmp_path)
    try:
        yield entry
    finally:
        entry.close()


def connect(url, **options):
    return zfabric.connect(url, timeout=PATIENCE_S, **options)


def leaders():
    return [thread for thread in threading.enumerate() if thread.name == "zfabric-leader"]


def led_by(url):
    """Return the process that leads a directory, None if there is none."""
    holder = DataDirectory.check(url.removeprefix("zf+file:").partition("?")[0]).holder()
    return None if holder is None else holder["pid"]


def values(fabric, topic, count):
    with fabric.consumer(topic) as consumer:
        return read(consumer, count)


# One process.


def test_every_kind_of_topic_works_and_no_process_is_started(url):
    with connect(url) as fabric:
        for kind in KINDS:
            fabric.topics.create(kind, durability=kind)
            with fabric.producer() as producer, fabric.consumer(kind, start="latest") as consumer:
                numbers = [b"%03d" % number for number in range(300)]
                for number in numbers[:100]:
                    producer.send(kind, number).result(PATIENCE_S)
                for number in numbers[100:200]:
                    producer.send(kind, number)
                producer.flush(PATIENCE_S)
                producer.send_many(kind, numbers[200:])
                producer.flush(PATIENCE_S)
                assert read(consumer, 300) == numbers
        (status,) = fabric.status()
        assert (status.pid, led_by(url)) == (os.getpid(), os.getpid())
        assert len(leaders()) == 1
    assert led_by(url) is None
    with connect(url) as fabric:
        assert [len(values(fabric, kind, 300)) for kind in KINDS[:2]] == [300, 300]


def test_what_goes_to_memory_is_acknowledged_before_send_returns(url):
    """The caller takes the turn, unless the leader's thread happens to be in one."""
    with connect(url) as fabric, fabric.producer() as producer:
        fabric.topics.create("t", durability="memory")
        producer.send("t", b"v").result(PATIENCE_S)

        def at_once():
            time.sleep(0.001)
            return producer.send("t", b"v").done

        until(lambda: sum(at_once() for _ in range(20)) >= 15)


def test_a_lone_record_for_a_topic_in_memory_goes_by_express(url):
    """No command is sent, and it is acknowledged and readable when the call returns."""
    with connect(url) as fabric, fabric.producer() as producer:
        fabric.topics.create("t", durability="memory")
        producer.send("t", b"first").result(PATIENCE_S)
        next_id = fabric._pump.driver.core.requests.next_id

        sent = []

        def by_express():
            time.sleep(0.001)
            before = next_id()
            sent.append(b"%04d" % len(sent))
            done = producer.send("t", sent[-1]).done
            return done and next_id() == before + 1

        with fabric.consumer("t", start="latest") as consumer:
            until(lambda: sum(by_express() for _ in range(20)) >= 15)
            assert read(consumer, len(sent)) == sent


def test_an_express_record_is_on_its_way_before_the_rest_is_done(url):
    """The thread that sends it may wait for the caller's core: it gets it right after the publication."""
    steps = {"Publishing.publish": "return", "sched_yield": "c_call", "Express.taken": "call"}
    seen = []

    def note(frame, event, argument):
        name = argument.__name__ if event == "c_call" else frame.f_code.co_qualname
        if steps.get(name) == event:
            seen.append(name)

    def in_order():
        time.sleep(0.05)  # Unless a turn that was interrupted has come before.
        seen.clear()
        sys.setprofile(note)
        try:
            producer.send("t", b"v")
        finally:
            sys.setprofile(None)
        return seen == list(steps)

    with connect(url) as fabric, fabric.producer() as producer:
        fabric.topics.create("t", durability="memory")
        producer.send("t", b"first").result(PATIENCE_S)
        until(in_order)


WITHOUT_A_PAUSE = """
import sys, zfabric
with zfabric.connect(sys.argv[1], timeout=60) as fabric, fabric.producer() as producer:
    fabric.topics.create("t", durability="memory")
    for _ in range(20_000):
        producer.send("t", b"v")
    producer.flush(60)
    (status,) = fabric.status()
    print(status.records_in, status.batches_in)
"""


@pytest.mark.usefixtures("unmeasured")
def test_records_sent_without_a_pause_share_batches(url):
    """Measured for coverage it would make a pause behind each, on a slow machine."""
    command = [sys.executable, "-c", WITHOUT_A_PAUSE, url]
    told = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True).stdout
    records, batches = map(int, told.split())
    assert records == 20_000
    assert batches < 10_000


def test_all_fabrics_of_a_process_share_one_leader_which_ends_with_the_last(url):
    first, second = connect(url), connect(url)
    first.topics.create("t")
    with connect(url.partition("?")[0]) as guest:  # It would have started a process.
        assert {fabric.status()[0].pid for fabric in (first, second, guest)} == {os.getpid()}
        with guest.producer() as producer:
            producer.send("t", b"1").result(PATIENCE_S)
    first.close()
    assert (values(second, "t", 1), len(leaders())) == ([b"1"], 1)
    second.close()
    assert (led_by(url), leaders()) == (None, [])


@pytest.mark.parametrize("again", range(3))
def test_a_directory_can_be_opened_again_at_once(url, again):
    for number in range(5):
        with connect(url) as fabric:
            fabric.topics.create("t", if_absent=True)
            with fabric.producer() as producer:
                producer.send("t", b"%d" % number).result(PATIENCE_S)
    with connect(url) as fabric:
        assert values(fabric, "t", 5) == [b"%d" % number for number in range(5)]


def test_threads_that_send_and_read_at_once_lose_and_repeat_nothing(url):
    with connect(url) as fabric:
        fabric.topics.create("t", durability="memory")
        sent, failures = [], []

        def work(name):
            try:
                with fabric.producer() as producer:
                    for number in range(300):
                        value = b"%d-%03d" % (name, number)
                        delivery = producer.send("t", value)
                        if number % 7 == name:
                            delivery.result(PATIENCE_S)
                        sent.append(value)
            except errors.ZFabricError as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        with fabric.consumer("t") as consumer:
            for thread in threads:
                thread.start()
            got = read(consumer, 1200)
            for thread in threads:
                thread.join()
        assert failures == []
        assert got == sorted(sent)


def test_the_asynchronous_sdk_leaves_all_turns_to_the_leader_s_thread(url):
    async def main():
        async with zfabric.aio.connect(url, timeout=PATIENCE_S) as fabric:
            await fabric.topics.create("t", durability="memory")
            async with fabric.producer() as producer, fabric.consumer("t") as consumer:
                deliveries = [await producer.send("t", b"%d" % number) for number in range(50)]
                assert not fabric._pump.driver.ports.drives
                for delivery in deliveries:
                    await delivery.result(PATIENCE_S)
                got = []
                while len(got) < 50:
                    got += [record.value for record in await consumer.poll(timeout=1.0)]
                assert got == [b"%d" % number for number in range(50)]
            assert (await fabric.status())[0].pid == os.getpid()

    asyncio.run(main())
    assert leaders() == []


def test_an_exception_of_a_signal_handler_harms_neither_the_leader_nor_what_was_sent(url):
    """It strikes in the middle of a lent turn, or of an express way; that is then taken back and repeated."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-m", "tests.process.struck", url]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE_S * 1.5, check=True)
    told = json.loads(done.stdout)
    assert told["struck"] == 20
    assert sorted(told["got"]) == list(range(told["sent"]))
    assert told["same"]


def test_a_forked_child_is_refused_and_its_parent_goes_on(url):
    with connect(url) as fabric, fabric.producer() as producer:
        fabric.topics.create("t")
        fabric.topics.create("m", durability="memory")
        producer.send("t", b"1").result(PATIENCE_S)
        for _ in range(5):  # It has an express way now.
            producer.send("m", b"1").result(PATIENCE_S)
        pid = os.fork()
        if pid == 0:
            refused = arrived = False
            try:
                fabric.topics.list()
            except errors.Forked:
                try:
                    producer.send("m", b"2")
                except errors.Forked:
                    refused = True
            fabric.close()
            with connect(url) as own, own.producer() as mine:  # Over its parent's sockets, as any other process.
                mine.send("t", b"2").result(PATIENCE_S)
                arrived = own.status()[0].pid == os.getppid()
            os._exit(0 if refused and arrived else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        producer.send("t", b"3").result(PATIENCE_S)
        assert values(fabric, "t", 3) == [b"1", b"2", b"3"]


def test_help_for_tests_does_not_kill_the_test(url):
    with connect(url) as fabric, pytest.raises(errors.NotSupported, match="leader='thread'"):
        kill_leader(fabric)


@pytest.mark.parametrize("durability", KINDS[:2])
def test_ctrl_c_in_the_middle_of_a_turn_is_held_back_until_that_is_over(url, durability):
    """Whatever the producer took is there, once and in order, as with a leader elsewhere."""
    with connect(url) as fabric:
        fabric.topics.create(interrupted.OTHER, durability=durability)
    count = scaled(40)
    command = [sys.executable, "-m", "tests.process.interrupted", "send", url, str(count), "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    assert said["interrupted"] == count
    (sent,) = said["result"]
    with connect(url) as fabric, fabric.consumer(interrupted.OTHER) as consumer:
        got = []
        until(lambda: got.extend(r.value for r in consumer.poll(100_000, timeout=0.2)) or len(got) >= sent)
        assert got == [b"%d" % number for number in range(sent)]


# Others of the same directory.

APPLICATION = """
import sys, zfabric
with zfabric.connect(sys.argv[1], timeout=60) as fabric:
    fabric.topics.create("t", if_absent=True, durability=sys.argv[2])
    print(fabric.status()[0].pid, flush=True)
    with fabric.producer() as producer:
        for line in sys.stdin:
            producer.send("t", line.strip().encode()).result(60)
            print("acked", flush=True)
    EXIT
"""


class Application:
    """Another process, that sends a line at a time."""

    def __init__(self, url, durability="fsync", environment=None, end="pass"):
        self.process = subprocess.Popen(
            [sys.executable, "-c", APPLICATION.replace("EXIT", end), url, durability],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self.leader = int(self.process.stdout.readline())

    def send(self, value):
        self.process.stdin.write(value + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "acked\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def test_others_of_the_directory_go_on_when_the_application_is_killed(url):
    """Here a producer and a consumer, each of its own fabric; the first to need it starts the next leader."""
    with Application(url) as application:
        assert application.leader == application.process.pid == led_by(url)
        with Flow(url, "t") as flow:
            flow.await_progress()
            application.process.kill()
            flow.await_progress(10)
            assert led_by(url) == os.getpid()
            assert flow.finish() > 10


@pytest.mark.parametrize("durability", KINDS[:2])
def test_what_was_acknowledged_outlives_the_application(url, durability):
    with Application(url, durability) as application:
        for number in range(5):
            application.send(str(number))
        os.kill(application.process.pid, signal.SIGKILL)
        application.process.wait()
    with connect(url.partition("?")[0]) as fabric:
        assert values(fabric, "t", 5) == [b"%d" % number for number in range(5)]


def test_an_interpreter_that_ends_without_closing_leaves_nothing_behind(url):
    """Neither the lock, nor sockets, nor a hanging thread; what "os" topics got is committed."""
    with Application(url, "os", end="fabric = zfabric.connect(sys.argv[1]); fabric.status()") as application:
        application.send("0")
        application.process.communicate(timeout=PATIENCE_S)
        assert application.process.returncode == 0
    assert led_by(url) is None
    run = os.path.join(url.removeprefix("zf+file:").partition("?")[0], "run")
    assert os.listdir(run) == []
    with connect(url) as fabric:
        assert values(fabric, "t", 1) == [b"0"]


def test_the_leader_that_a_process_has_started_is_used_as_it_is(url):
    with connect(url.partition("?")[0]) as fabric:
        pid = fabric.status()[0].pid
        assert pid != os.getpid()
        with connect(url) as other:
            assert other.status()[0].pid == pid
            os.kill(pid, signal.SIGKILL)
            until(lambda: other.status()[0].pid != pid)


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    source = os.path.join(os.path.dirname(__file__), "fail.c")
    return compile_library(source, str(tmp_path_factory.mktemp("fail") / "fail.so"))


def test_a_commit_that_fails_ends_the_leader_and_not_the_application(failing, url):
    """The next one is started at once, and what was not acknowledged is sent to that."""
    environment = {"LD_PRELOAD": failing, "ZFABRIC_FAIL": "flush:30"}
    with Application(url, environment=environment) as application:
        for number in range(40):
            application.send(str(number))
        application.process.communicate(timeout=PATIENCE_S)
        assert application.process.returncode == 0
    with connect(url) as fabric:
        assert values(fabric, "t", 40) == sorted(b"%d" % number for number in range(40))


def test_a_python_without_assertions_is_told_so(tmp_path):
    program = "import sys, zfabric; zfabric.connect(sys.argv[1]).status()"
    command = [sys.executable, "-O", "-c", program, f"zf+file:{tmp_path}/data?leader=thread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr


def test_an_application_that_does_not_ask_for_it_loads_no_leader(tmp_path):
    program = (
        "import sys, json, zfabric\n"
        "with zfabric.connect(sys.argv[1]) as fabric: fabric.topics.list()\n"
        "print(json.dumps([name for name in sys.modules if name in ('lmdb', 'zfabric.modes.inside')]))"
    )
    command = [sys.executable, "-c", program, f"zf+file:{tmp_path}/data"]
    assert json.loads(subprocess.run(command, capture_output=True, timeout=PATIENCE_S).stdout) == []


# Peers.


def test_a_peer_whose_leader_is_in_its_application_is_like_any_other(peers):
    a, b = peers.add("a", leader="thread"), peers.add("b")
    for fabric in (a, b):
        fabric.topics.create("t", if_absent=True)
    peers.meet()
    assert a.status()[0].pid == os.getpid() != b.status()[0].pid
    with a.consumer("t") as at_a, b.consumer("t") as at_b, a.producer() as from_a, b.producer() as from_b:
        for number in range(20):
            from_a.send("t", b"a%02d" % number).result(PATIENCE_S)
            from_b.send("t", b"b%02d" % number).result(PATIENCE_S)
        expected = [b"a%02d" % number for number in range(20)] + [b"b%02d" % number for number in range(20)]
        assert read(at_a, 40) == read(at_b, 40) == expected


def test_a_peer_that_is_closed_leaves_the_mesh_at_once(peers):
    a, b = peers.add("a"), peers.add("b", leader="thread")
    peers.meet()
    gone = here(b)
    b.close()
    until(lambda: {m.endpoint: m.state for m in a.members()}[gone] == "left")


def test_readers_elsewhere_go_on_where_a_killed_application_was(peers):
    """It is killed again and again; another process of its directory, then itself, leads after it."""
    reader = peers.add("reader")
    reader.topics.create("t", if_absent=True)
    seed = here(reader).removeprefix("tcp://")
    there = f"{peers.url('writer')}&seed={seed}&beacon=0&leader=thread"
    sent = []
    with reader.consumer("t") as consumer:
        for cycle in range(3):
            with Application(there) as application:
                for number in range(5):
                    sent.append(b"%d-%d" % (cycle, number))
                    application.send(sent[-1].decode())
                application.process.kill()
                application.process.wait()
        with connect(there) as fabric, fabric.producer() as producer:
            sent.append(b"9-0")
            producer.send("t", sent[-1]).result(PATIENCE_S)
            assert read(consumer, 16) == sent


FORKING = """
import os, signal, sys, zfabric
with zfabric.connect(sys.argv[1], timeout=60) as fabric:
    print(next(member.endpoint for member in fabric.members()), flush=True)
    child = os.fork()
    if child == 0:
        signal.pause()
    print(child, flush=True)
    signal.pause()
"""


def test_a_child_that_outlives_a_killed_application_keeps_none_of_its_ports(tmp_path):
    there = f"zf+peer://forking-{os.getpid()}?data={tmp_path / 'data'}&leader=thread&beacon=0"
    application = subprocess.Popen([sys.executable, "-c", FORKING, there], stdout=subprocess.PIPE, text=True)
    endpoint, child = application.stdout.readline().strip(), int(application.stdout.readline())
    try:
        application.kill()
        application.wait()
        with connect(there) as fabric:
            assert here(fabric) == endpoint
    finally:
        os.kill(child, signal.SIGKILL)
        application.communicate()


def test_garbage_at_its_ports_harms_nobody(peers):
    fabric = peers.add("a", leader="thread")
    fabric.topics.create("t", durability="memory")
    host, port = here(fabric).removeprefix("tcp://").split(":")
    with fabric.producer() as producer, fabric.consumer("t") as consumer, contextlib.ExitStack() as stack:
        for number in range(40):
            line = stack.enter_context(socket.create_connection((host, int(port) + number % 2)))
            with contextlib.suppress(OSError):
                line.sendall(os.urandom(300) if number % 3 else b"\xff" + bytes(8) + b"\x7f" + os.urandom(100))
            producer.send("t", b"%02d" % number).result(PATIENCE_S)
        assert read(consumer, 40) == [b"%02d" % number for number in range(40)]
