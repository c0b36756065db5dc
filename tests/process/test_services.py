"""Services in real processes: what callers are promised while instances are killed, frozen, drained and talked to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import zmq

import zfabric
from tests.process.leaders import PATIENCE_S, Node, free_ports
from zfabric import errors
from zfabric.wire import calls
from zfabric.wire.membership import Announce

SERVER = """
import json, os, sys, time, zfabric

fabric = zfabric.connect(sys.argv[1])
service = fabric.service("users", version=sys.argv[2], concurrency=4, queue=int(sys.argv[3]))

@service.method("get", idempotent=True)
def get(request):
    return b"%d %b" % (os.getpid(), request.value)

@service.method("put")
def put(request):
    time.sleep(0.002)
    return b"%d %b" % (os.getpid(), request.value)

@service.method("sleep")
def sleep(request):
    time.sleep(float(request.value))
    return b"awake"

@service.method("once", idempotent=True)
def once(request):
    if os.path.exists(request.value):
        return b"twice"
    with open(request.value, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

@service.method("garbage")
def garbage(request):
    return {"no": "bytes"}

@service.method("die")
def die(request):
    raise SystemExit("handlers may not end a worker")

@service.method("kill")
def kill(request):
    os._exit(1)

@service.method("refuse")
def refuse(request):
    raise zfabric.NotFound(kind="user", name=request.value.decode())

@service.method("count")
def count(request):
    for number in range(int(request.value)):
        yield b"%d" % number

print("ready", os.getpid(), flush=True)
service.run()
print(json.dumps(service.stats()), flush=True)
fabric.close()
"""


class Instance:
    """One instance in a process of its own."""

    def __init__(self, fabric, version="1.0", queue=1_000):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, fabric.url, version, str(queue)], stdout=subprocess.PIPE, text=True
        )
        self.version = version

    def end(self):
        with_pipe = self.process
        if with_pipe.poll() is None:
            with_pipe.send_signal(signal.SIGCONT)
            with_pipe.kill()
        with_pipe.wait(20)
        with_pipe.stdout.close()


def until(condition, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.fixture
def fabric(zfabric_fabric):
    return zfabric_fabric


@contextmanager
def instances(fabric, count=1, **options):
    started = [Instance(fabric, **options) for _ in range(count)]
    try:
        assert until(lambda: len(fabric.services("users")) == count)
        yield started
    finally:
        for instance in started:
            instance.end()


class Load:
    """Threads that ask all the time, and what they were told."""

    def __init__(self, fabric, method, threads=3, **options):
        self.answers, self.errors, self.over = [], [], False
        self._threads = [
            threading.Thread(target=self._ask, args=(fabric, method, number, options)) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, fabric, method, number, options):
        turn = 0
        while not self.over:
            value = b"%d-%d" % (number, turn)
            turn += 1
            try:
                pid, _, echo = fabric.request(method, value, timeout=PATIENCE_S, **options).partition(b" ")
                assert echo == value
                self.answers.append(int(pid))
            except errors.ZFabricError as error:
                self.errors.append(error)

    def go_on(self, count=200, among=()):
        """Wait until so many more are answered, and these instances have been asked at all: who is asked is chance."""
        wanted, pids = len(self.answers) + count, {instance.process.pid for instance in among}
        assert until(lambda: len(self.answers) >= wanted and pids <= set(self.answers))

    def end(self):
        self.over = True
        for thread in self._threads:
            thread.join(PATIENCE_S)
        return set(self.answers)


def test_a_request_is_answered_by_an_instance_in_another_process(fabric):
    with instances(fabric) as (one,):
        assert fabric.request("users.get", b"42") == b"%d 42" % one.process.pid
        assert list(fabric.stream("users.count", b"1000")) == [b"%d" % number for number in range(1000)]
        fabric.notify("users.get", b"43")
        assert until(lambda: json.loads(fabric.request("users.stats"))["methods"]["get"]["calls"] == 2)
        assert fabric.request("users.health") == b"ok"


def test_who_has_looked_at_the_members_before_is_told_of_services_too(fabric):
    with fabric.service("s"), zfabric.connect(fabric.url) as other:
        assert len(other.members()) == 1
        assert [found.service for found in other.services()] == ["s"]


def test_of_three_instances_one_is_killed_under_load_and_no_idempotent_request_fails(fabric):
    with instances(fabric, 3) as running:
        load = Load(fabric, "users.get", idempotent=True)
        try:
            load.go_on(among=running)
            running[0].process.kill()
            load.go_on()
        finally:
            seen = load.end()
        assert load.errors == []
        assert seen == {instance.process.pid for instance in running}


def test_an_instance_that_is_told_to_end_drains_and_no_request_fails_at_all(fabric):
    """Not even one that may not be executed twice."""
    with instances(fabric, 2) as running:
        load = Load(fabric, "users.put")
        try:
            load.go_on(among=running)
            running[0].process.terminate()
            assert running[0].process.wait(PATIENCE_S) == 0
            load.go_on()
        finally:
            seen = load.end()
        assert load.errors == []
        assert seen == {instance.process.pid for instance in running}
        stats = json.loads(running[0].process.stdout.read().splitlines()[-1])
        assert stats["replies"] == load.answers.count(running[0].process.pid)
        assert until(lambda: [entry.version for entry in fabric.services("users")] == ["1.0"])


def test_a_frozen_instance_is_noticed_on_the_connection(fabric):
    """ZMTP's heartbeats tell; nobody waits for the deadline."""
    with instances(fabric) as (one,):
        fabric.request("users.get", b"42")
        one.process.send_signal(signal.SIGSTOP)
        with pytest.raises(errors.CalleeLost) as lost:
            fabric.request("users.put", b"43", timeout=60.0)
        assert lost.value.retriable
        one.process.send_signal(signal.SIGCONT)
        assert until(lambda: answered(fabric, one))


def answered(fabric, instance):
    try:
        return fabric.request("users.get", b"1", timeout=2.0) == b"%d 1" % instance.process.pid
    except errors.ZFabricError:
        return False


def test_of_three_instances_one_is_frozen_under_load_and_no_idempotent_request_fails(fabric):
    with instances(fabric, 3) as running:
        load = Load(fabric, "users.get", idempotent=True)
        try:
            load.go_on(among=running)
            running[0].process.send_signal(signal.SIGSTOP)
            load.go_on(1_000)
            running[0].process.send_signal(signal.SIGCONT)
            load.go_on()
        finally:
            load.end()
        assert load.errors == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_of_four_instances_two_go_at_once_under_load_and_no_idempotent_request_fails(fabric, number):
    """One that is lost with an instance is not lost with another one that is as dead."""
    with instances(fabric, 4) as running:
        load = Load(fabric, "users.get", threads=6, idempotent=True)
        try:
            load.go_on()
            for instance in running[:2]:
                instance.process.send_signal(number)
            load.go_on(1_000)
        finally:
            load.end()
        assert load.errors == []


def test_an_idempotent_request_that_kills_whoever_executes_it_takes_two_instances_and_no_more(fabric):
    with instances(fabric, 4) as running:
        fabric.request("users.get", b"42")
        with pytest.raises(errors.CalleeLost):
            fabric.request("users.kill", timeout=20.0, idempotent=True)
        assert until(lambda: [instance.process.poll() for instance in running].count(None) == 2)
        assert until(lambda: len(fabric.services("users")) == 2)
        for _ in range(20):
            fabric.request("users.get", b"42")
        assert [instance.process.poll() for instance in running].count(None) == 2


def test_children_of_a_process_that_serves_and_asks_use_nothing_of_its_and_may_have_their_own(fabric):
    """As of a server that forks its workers: the parent's requests and stream go on, whatever a child closes."""
    service = fabric.service("forking")
    service.method("get", idempotent=True)(lambda request: request.value)

    @service.method("endless")
    def endless(request):
        number = 0
        while not request.cancelled:
            yield b"%d" % number
            number += 1

    def refused(use):
        with pytest.raises(errors.Forked):
            use()

    def owned():
        with zfabric.connect(fabric.url) as own, own.service("child") as beside:
            beside.method("get")(lambda request: b"child")
            assert own.request("forking.get", b"own") == b"own"
            assert own.request("child.get") == b"child"

    with service, fabric.stream("forking.endless") as stream:
        assert next(stream) == b"0"
        uses = [
            lambda: refused(lambda: fabric.request("forking.get")),
            lambda: refused(lambda: next(stream)),
            lambda: refused(lambda: fabric.service("other")),
            lambda: (stream.close(), service.stop(), fabric.close()),
            owned,
        ]
        load = threading.Thread(target=lambda: [fabric.request("forking.get", b"x") for _ in range(2_000)])
        load.start()
        for use in uses:
            child = os.fork()
            if not child:
                signal.alarm(30)
                failed = True
                try:
                    use()
                    failed = False
                finally:
                    os._exit(failed)
            assert os.waitpid(child, 0)[1] == 0, use
        load.join(20)
        assert [next(stream) for _ in range(20)] == [b"%d" % number for number in range(1, 21)]
        assert fabric.request("forking.get", b"x") == b"x"


def test_a_request_that_was_lost_with_its_instance_is_repeated_only_if_it_may_be(fabric):
    with instances(fabric, 1) as (one,):
        failed = []

        def ask():
            try:
                fabric.request("users.sleep", b"60", timeout=PATIENCE_S)
            except errors.ZFabricError as error:
                failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert until(lambda: json.loads(fabric.request("users.stats"))["running"] == 1)
        one.process.kill()
        asking.join(PATIENCE_S)
        assert [type(error) for error in failed] == [errors.CalleeLost]
        with pytest.raises(errors.ServiceUnavailable) as gone:
            fabric.request("users.get", b"42", timeout=5.0)
        assert gone.value.service == "users"


def test_the_first_request_of_an_idempotent_method_is_repeated_too(fabric, tmp_path):
    """Its caller has had no answer yet that says so; another instance does."""
    began = tmp_path / "pid"
    with instances(fabric, 2) as both, zfabric.connect(fabric.url) as caller:
        told = []
        path = os.fsencode(began)
        asking = threading.Thread(target=lambda: told.append(caller.request("users.once", path, timeout=PATIENCE_S)))
        asking.start()
        assert until(lambda: began.exists() and began.read_text())
        next(one for one in both if one.process.pid == int(began.read_text())).process.kill()
        asking.join(PATIENCE_S)
        assert told == [b"twice"]


def test_a_handler_that_never_returns_holds_nobody_else_up(fabric):
    with instances(fabric) as (one,):
        assert fabric.request("users.health") == b"ok"  # Else it might be too late before it is even sent.
        with pytest.raises(errors.RequestTimeout):
            fabric.request("users.sleep", b"600", timeout=0.2)
        assert fabric.request("users.get", b"1") == b"%d 1" % one.process.pid


def test_what_a_handler_raises_or_returns_wrongly_is_a_typed_error_of_its_caller(fabric):
    with instances(fabric) as (one,):
        with pytest.raises(errors.RemoteError) as raised:
            fabric.request("users.garbage")
        assert (raised.value.method, raised.value.kind, raised.value.traceback) == ("users.garbage", "TypeError", "")
        for _ in range(5):
            with pytest.raises(errors.RemoteError) as raised:
                fabric.request("users.die")
            assert raised.value.kind == "SystemExit"
        with pytest.raises(errors.NotFound) as refused:
            fabric.request("users.refuse", b"eve")
        assert (refused.value.kind, refused.value.name) == ("user", "eve")
        with pytest.raises(errors.UnknownMethod) as unknown:
            fabric.request("users.nothing")
        assert "refuse" in unknown.value.known
        with pytest.raises(errors.RemoteError) as traced:
            fabric.request("users.garbage", traceback=True)
        assert "Traceback" in traced.value.traceback
        assert fabric.request("users.get", b"1") == b"%d 1" % one.process.pid


def test_more_than_an_instance_takes_is_refused_and_says_so(fabric):
    with instances(fabric, queue=0):
        sleepers = [threading.Thread(target=sleep, args=(fabric,)) for _ in range(4)]
        for sleeper in sleepers:
            sleeper.start()
        with pytest.raises(errors.Overloaded) as refused:
            until(lambda: fabric.request("users.get", b"1") and False)
        assert (refused.value.running, refused.value.concurrency, refused.value.retriable) == (4, 4, True)
    for sleeper in sleepers:
        sleeper.join(PATIENCE_S)


def sleep(fabric):
    """Have a worker sleep for as long as there is one; again if there was no room."""
    while True:
        try:
            fabric.request("users.sleep", b"600", timeout=600.0)
        except errors.Overloaded:
            continue
        except (errors.CalleeLost, errors.ServiceUnavailable):
            return


def test_a_caller_may_ask_for_a_version(fabric):
    with instances(fabric, version="1.4.2") as (old,), instances_beside(fabric, "2.0.0") as new:
        assert until(lambda: len(fabric.services("users")) == 2)
        for wanted, instance in (("1", old), ("1.4", old), ("2.0.0", new)):
            assert {fabric.request("users.get", b"1", version=wanted) for _ in range(10)} == {
                b"%d 1" % instance.process.pid
            }
        with pytest.raises(errors.ServiceUnavailable) as missing:
            fabric.request("users.get", b"1", version="3", timeout=0.5)
        assert "version 3" in str(missing.value)


@contextmanager
def instances_beside(fabric, version):
    instance = Instance(fabric, version)
    try:
        yield instance
    finally:
        instance.end()


def test_garbage_on_the_socket_of_a_service_hurts_nobody_else(fabric):
    with instances(fabric):
        context = zmq.Context()
        stranger = context.socket(zmq.DEALER)
        stranger.linger = 0
        stranger.connect(fabric.services("users")[0].endpoint)
        good = calls.request(calls.REQUEST, 7, 0, 0, b"users.get", b"", b"x")[0]
        messages = [[b""], [b"zf"], [os.urandom(100)], [good[:20]], [good[:3] + b"\xff" + good[4:]], [good, b"", b""],
                    [good[:2] + b"\x09" + good[3:]], [calls.bare(calls.CREDIT, 1)[0]], [b"x"] * 9]  # fmt: skip
        for message in messages:
            stranger.send_multipart(message)
        bad_headers = calls.request(calls.REQUEST, 8, 0, 0, b"users.get", b"\xc1", b"x")
        stranger.send_multipart(bad_headers)
        answers = {}
        while 8 not in answers:
            assert stranger.poll(PATIENCE_S * 1_000)
            answer = calls.read_answered(stranger.recv_multipart())
            answers[answer.number] = answer.failure
        assert answers[8].code == errors.ProtocolViolation.code
        stats = json.loads(fabric.request("users.stats"))
        assert stats["garbage"] >= 6
        context.destroy(linger=0)


def test_an_instance_that_answers_garbage_is_left(fabric):
    """Its connection counts as lost: what it had fails with a typed error, or goes to another."""
    from zfabric.wire.card import ServiceCard
    from zfabric.wire.messages import Type

    context = zmq.Context()
    liar = context.socket(zmq.ROUTER)
    liar.linger = 0
    port = free_ports(1)
    liar.bind(f"tcp://127.0.0.1:{port}")
    card = ServiceCard("users", "", f"tcp://127.0.0.1:{port}", 5)
    fabric.ask(Type.ANNOUNCE, Announce(card, 60_000), "announcement")
    over = threading.Event()

    def lie():
        while not over.is_set():
            if liar.poll(20):
                peer, frame, *_ = liar.recv_multipart()
                if frame[3] == calls.PING:
                    liar.send_multipart([peer, *calls.pong(1, 5, draining=False)])
                elif frame[3] == calls.REQUEST:
                    liar.send_multipart([peer, b"zf" + os.urandom(30)])

    thread = threading.Thread(target=lie)
    thread.start()
    try:
        with pytest.raises(errors.CalleeLost):
            fabric.request("users.get", b"1", timeout=PATIENCE_S)
    finally:
        over.set()
        thread.join()
        context.destroy(linger=0)


def test_a_service_of_a_node_listens_on_the_interface_that_reaches_it(tmp_path):
    """And is there for callers of the node in other processes, over TCP; also after the leaders were killed."""
    node = Node(str(tmp_path / "node"))
    with node, zfabric.connect(node.url, timeout=30.0) as fabric, instances(fabric) as (one,):
        (found,) = fabric.services("users")
        assert found.endpoint.startswith("tcp://127.0.0.1:")
        assert fabric.request("users.get", b"1") == b"%d 1" % one.process.pid
        node.kill(leaders=True)
        assert fabric.request("users.get", b"2") == b"%d 2" % one.process.pid
        node.start()
        assert until(lambda: len(fabric.services("users")) == 1)
