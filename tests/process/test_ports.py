"""The sessions of a client on real sockets: what a socket's life tells, and that its end harms no other."""

import select
import subprocess
import sys
import threading
import time

import pytest
import zmq

from tests.process.leaders import free_ports, opened_ports
from zfabric.core.effects import CloseSession, OpenSession, Send, Subscribe
from zfabric.net import sockets
from zfabric.net.connector import Connector
from zfabric.net.lane import NONE
from zfabric.net.names import Names
from zfabric.net.ports import UNCLEAR
from zfabric.net.session import ASKED, Change

FRAME_MAX = 1 << 20


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/router"


@pytest.fixture
def server():
    context = sockets.context()
    routers = []

    def bound(endpoint):
        routers.append(sockets.router(context, FRAME_MAX))
        sockets.bind(routers[-1], endpoint)
        return routers[-1]

    yield bound
    for router in routers:
        router.close(linger=0)
    context.destroy(linger=0)


@pytest.fixture
def ports():
    with opened_ports(FRAME_MAX) as opened:
        yield opened


def poll_for(ports, seconds=20):
    """Return what came in, looking only where a poll says that there is something."""
    poller = select.poll()
    for fd in ports.fds():
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    while True:
        ready = [fd for fd, _ in poller.poll(seconds * 1000)]
        assert time.monotonic() < deadline
        if incoming := ports.drain(ready=ready):
            return incoming


def wait_for(ports, wanted, seconds=20):
    """Return what came in until each of ``wanted`` had."""
    seen = []
    deadline = time.monotonic() + seconds
    while not wanted <= {(number, what) for number, what in seen if isinstance(what, Change)}:
        assert time.monotonic() < deadline, (wanted, seen)
        seen += ports.drain()
        time.sleep(0.0002)
    return seen


def test_a_session_is_connected_answered_and_lost_in_this_order(ports, server, endpoint):
    router = server(endpoint)
    ports.perform([OpenSession(1, endpoint), Send(1, (b"question",))])
    seen = wait_for(ports, {(1, Change.CONNECTED)})
    peer, question = router.recv_multipart()
    router.send_multipart((peer, b"answer"))
    while not (more := ports.drain()):
        time.sleep(0.0002)
    seen += more
    router.close(linger=0)
    seen += wait_for(ports, {(1, Change.LOST)})
    assert (question, seen) == (b"question", [(1, Change.CONNECTED), (1, [b"answer"]), (1, Change.LOST)])


def test_a_session_waits_for_a_server_that_comes_later(ports, server, endpoint):
    ports.perform([OpenSession(1, endpoint), Send(1, (b"early",))])
    assert ports.drain() == []
    router = server(endpoint)
    wait_for(ports, {(1, Change.CONNECTED)})
    assert router.recv_multipart()[1:] == [b"early"]


def test_descriptors_alone_tell_of_a_new_session_and_of_its_messages(ports, server, endpoint):
    """A pipe that was never read counts its reader as awake, and signals nothing."""
    router = server(endpoint)
    ports.perform([OpenSession(1, endpoint), Send(1, (b"question",))])
    assert (ports.drain(ready=()) or poll_for(ports)) == [(1, Change.CONNECTED)]  # It may be there at once.
    peer, _ = router.recv_multipart()
    for answer in (b"one", b"two"):
        router.send_multipart((peer, answer))
        assert poll_for(ports) == [(1, [answer])]
    router.close(linger=0)
    assert poll_for(ports) == [(1, Change.LOST)]


@pytest.mark.timeout(120)
def test_closing_sessions_while_their_server_dies_never_stops_the_others(ports, server, endpoint):
    """An event that libzmq cannot tell blocks its I/O thread, and with it all sessions of the client."""
    number = 0
    for _ in range(300):
        router = server(endpoint)
        mine = range(number, number + 4)
        number += 4
        ports.perform([OpenSession(session, endpoint) for session in mine])
        wait_for(ports, {(session, Change.CONNECTED) for session in mine})
        router.close(linger=0)
        ports.perform([CloseSession(session) for session in mine])
    server(endpoint)
    ports.perform([OpenSession(number, endpoint)])
    wait_for(ports, {(number, Change.CONNECTED)})


def test_an_address_that_cannot_be_one_is_a_lost_session(ports):
    ports.perform([OpenSession(1, "tcp://")])
    assert ports.drain() == [(1, Change.LOST)]


def test_a_name_that_is_looked_up_for_long_keeps_no_other_session_waiting(ports, server):
    """A seed, or an origin of a mesh, whose name server is silent; the others are there."""
    answers = threading.Event()

    def look_up(host):
        answers.wait(30)
        return "127.0.0.1" if host == "known.example" else ""

    ports._connector = Connector(Names(look_up))
    port = free_ports(1)
    router = server(f"tcp://127.0.0.1:{port}")
    try:
        named = [f"tcp://known.example:{port}", "tcp://slow.example:1"]
        ports.perform([OpenSession(number, endpoint) for number, endpoint in enumerate(named, 1)])
        ports.perform([Send(1, (b"held",)), OpenSession(3, f"tcp://127.0.0.1:{port}"), Send(3, (b"at once",))])
        assert (3, Change.CONNECTED) in wait_for(ports, {(3, Change.CONNECTED)})
        assert router.recv_multipart()[1] == b"at once"
        ports.perform([OpenSession(4, "tcp://closed.example:1"), CloseSession(4)])
        answers.set()
        seen = []
        while len(seen) < 2:
            seen += poll_for(ports)
        assert set(seen) == {(1, Change.CONNECTED), (2, Change.NOWHERE)}
        assert router.recv_multipart()[1] == b"held"
        ports.perform([OpenSession(5, "tcp://slow.example:1")])
        assert (5, Change.NOWHERE) in wait_for(ports, {(5, Change.NOWHERE)}), "whether or not it is looked up again"
    finally:
        answers.set()


def test_the_end_of_a_context_does_not_wait_for_a_socket_that_nobody_knows():
    """KeyboardInterrupt within pyzmq's Context.socket() leaves such a one, held by the traceback."""
    context = sockets.context()
    unknown = zmq.Socket(context, zmq.DEALER)
    sockets.end(context)
    unknown.close(linger=0)
    deadline = time.monotonic() + 20
    while not context.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert context.closed


def test_messages_are_taken_one_by_one_where_a_descriptor_tells_of_them(ports, server, endpoint):
    """A poll tells of the first of two only, so whoever takes it has to ask for the other."""
    router = server(endpoint)
    ports.perform([OpenSession(1, endpoint), Send(1, (b"question",))])
    assert ports.unread() == UNCLEAR  # Nothing can be sent yet.
    wait_for(ports, {(1, Change.CONNECTED)})
    peer, _ = router.recv_multipart()
    router.send_multipart((peer, b"one"))
    router.send_multipart((peer, b"two", b"parts"))
    taken = []
    deadline = time.monotonic() + 20
    while len(taken) < 2:
        assert time.monotonic() < deadline
        fd = ports.unread()
        if fd is None:
            poller = select.poll()
            for known in ports.fds():
                poller.register(known, select.POLLIN)
            ((fd, _),) = poller.poll(20_000)
        message = ports.take(fd)
        taken += [] if message is None else [message]
    assert taken == [(1, [b"one"]), (1, [b"two", b"parts"])]
    assert ports.unread() is None
    assert ports.take(UNCLEAR) is None


def test_a_first_part_of_so_many_bytes_is_taken_for_a_whole_message(ports, server, endpoint):
    """A short one may have others behind it; those behind a long one, which nobody sends, are messages."""
    router = server(endpoint)
    ports.perform([OpenSession(1, endpoint, alone_bytes=5), Send(1, (b"question",))])
    wait_for(ports, {(1, Change.CONNECTED)})
    peer, _ = router.recv_multipart()
    for parts in ((b"alone",), (b"head", b"tail", b"end"), (b"bare",), (b"", b""), (b"whole", b"rest"), (b"last!",)):
        router.send_multipart((peer, *parts))
    taken = []
    deadline = time.monotonic() + 20
    while len(taken) < 7:
        assert time.monotonic() < deadline
        taken += [parts for _, parts in ports.drain()]
    assert taken == [[b"alone"], [b"head", b"tail", b"end"], [b"bare"], [b"", b""], [b"whole"], [b"rest"], [b"last!"]]


def test_what_is_published_comes_whole_whatever_else_a_publisher_sends(ports, endpoint):
    """One that sends parts less or more than it must may lose the message behind that, and no other."""
    header = b"h" * 10 + b"\0\0" + b"h" * 84
    wrong = [
        [b"id"],
        [b"id", header],
        [b"id", header, b"payload", b"more"],
        [b"id", header, b"payload", b"and", b"more"],
    ]
    others = [[b"id", b"head"], [b"id", b"a", b"b", b"c"], [b"id", b"h" * 96, b"x" * 40_000], [b"id", b"", b""]]
    lost = [[b"id", header, b"lost %d" % number] for number in range(len(wrong))]
    whole = [[b"id", header, b"whole %d" % number] for number in range(len(wrong))]
    last = [b"id", header, b"last"]
    context = sockets.context()
    publisher = context.socket(zmq.XPUB)
    publisher.bind(endpoint)
    try:
        ports.perform([OpenSession(1, endpoint, subscribe=True), Subscribe(1, b"id", on=True)])
        while not publisher.poll(1):
            assert ports.drain() == []
        publisher.send_multipart([ASKED, NONE])
        wait_for(ports, {(1, Change.CONNECTED)})
        for messages in (*zip(wrong, lost, whole, strict=True), others, [last]):
            for parts in messages:
                publisher.send_multipart(parts)
        taken = []
        deadline = time.monotonic() + 20
        while taken[-1:] != [last]:
            assert time.monotonic() < deadline
            taken += [[bytes(part) for part in parts] for _, parts in ports.drain()]
        assert [parts for parts in taken if parts in whole or parts in others] == [*whole, *others]
    finally:
        context.destroy(linger=0)


HELD = """
import sys
from zfabric.net import sockets
ctx = sockets.context()
socket = getattr(sockets, sys.argv[1])(ctx, 1 << 20)
print(sockets.bind(socket, "tcp://127.0.0.1:*"), flush=True)
sys.stdin.readline()  # Nobody reads until here.
print(len([socket.recv_multipart() for _ in range(1_000)]), flush=True)
"""
FLOOD = """
import os, sys, time, zmq
from zfabric.net import sockets
socket = sockets.dealer(sockets.context(), 1 << 20)
sockets.alert(socket)
socket.set(zmq.SNDHWM, 0)
socket.set(zmq.IMMEDIATE, 1)  # The first send waits for the connection.
sockets.connect(socket, sys.argv[1])
for _ in range(5_000):
    socket.send(bytes(100))
time.sleep(1)  # Else those that are still here die with it.
os.kill(os.getpid(), 9)
"""


def test_whoever_fills_a_services_queue_and_dies_does_not_take_it_along(tmp_path):
    """A process that probes such a connection is aborted by libzmq."""
    server = subprocess.Popen(
        [sys.executable, "-c", HELD, "service"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        endpoint = server.stdout.readline().strip()
        floods = [subprocess.Popen([sys.executable, "-c", FLOOD, endpoint]) for _ in range(3)]
        for flood in floods:
            flood.wait(timeout=60)
        time.sleep(1.0)  # As long as four probes take.
        answer, _ = server.communicate("go\n", timeout=60)
        assert (answer, server.returncode) == ("1000\n", 0)
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("kind", ["service", "sub"])
def test_no_application_probes_where_others_can_fill_its_queue(kind):
    with sockets.context() as ctx:
        made = sockets.sub(ctx, 1 << 20, 256) if kind == "sub" else getattr(sockets, kind)(ctx, 1 << 20)
        with made:
            assert (made.get(zmq.HEARTBEAT_IVL), made.get(zmq.TCP_KEEPALIVE)) == (0, 1)


def test_a_name_that_leads_elsewhere_after_a_loss_is_followed(ports, server):
    """A container that was started again with another address: the second session after the loss is there."""
    known = {"moving.example": "127.0.0.1"}
    ports._connector = Connector(Names(known.get))
    port = free_ports(1)
    server(f"tcp://127.0.0.2:{port}")
    first = server(f"tcp://127.0.0.1:{port}")
    endpoint = f"tcp://moving.example:{port}"
    ports.perform([OpenSession(1, endpoint)])
    wait_for(ports, {(1, Change.CONNECTED)})
    known["moving.example"] = "127.0.0.2"
    first.close(linger=0)
    wait_for(ports, {(1, Change.LOST)})
    ports.perform([OpenSession(2, endpoint)])
    while ports._connector._names.address("moving.example", time.monotonic_ns()) != "127.0.0.2":
        ports.drain()
    ports.perform([CloseSession(2), OpenSession(3, endpoint)])
    wait_for(ports, {(3, Change.CONNECTED)})
