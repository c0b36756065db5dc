"""Bad connections, and bad messages before anybody reads them (reliability.md, section 5: 1 to 4, 10 to 13)."""

from __future__ import annotations

import random
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import pytest

import zfabric
from tests.security.attack import (
    GREETING,
    MIB,
    Bystander,
    Node,
    Stranger,
    frame,
    hung_up,
    packed,
    shaken,
    stranger,
    until,
    wire,
)
from zfabric import errors
from zfabric.wire import messages
from zfabric.wire.messages import Type

pytestmark = pytest.mark.usefixtures("others")


@pytest.mark.parametrize("first", [b"\xff", b"\xff\0\0\0\0\0\0\0\1\x7f", b"\1\0", b"\x16\3\1", b""])
def test_garbage_harms_nobody(node, others, first):
    """1: bytes that are no ZMTP."""
    for number in range(10):
        noise = first + random.Random(number).randbytes(MIB)
        with wire(node.port, noise), wire(node.publish, noise):
            others.progress(1)
    counted(node)


def test_text_is_taken_for_an_ancient_zmtp_and_counted(node):
    """1: libzmq takes whatever does not begin with 0xff for version 1 of its protocol, so it reaches the leader."""
    before = node.status().errors
    with wire(node.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000):
        assert until(lambda: node.status().errors > before)
    counted(node)


def counted(node):
    """Wait until all that was said is counted: the next test counts as well."""
    last = -1
    while last != (last := node.status().errors):
        time.sleep(0.1)


def test_half_a_greeting_and_silence_is_hung_up(node):
    """2: a silent peer holds a descriptor for three seconds, not for ever."""
    with ExitStack() as stack:
        silent = [
            stack.enter_context(wire(port, said))
            for said in (b"", GREETING[:5], GREETING[:32], GREETING)
            for port in (node.port, node.publish)
        ]
        assert all(hung_up(connection) for connection in silent)


def test_thousands_of_idle_connections_keep_nobody_out(node, others):
    """3: as many as fit here; each is hung up by and by, and others connect meanwhile."""
    idle = [socket.create_connection(("127.0.0.1", node.port), timeout=20) for _ in range(2_000)]
    try:
        others.progress(20)
        with zfabric.connect(node.url, timeout=30) as fabric:
            assert "others" in fabric.topics.list()
        assert all(hung_up(connection) for connection in idle)
    finally:
        for connection in idle:
            connection.close()


def test_a_connection_that_is_reset_behind_a_full_queue_costs_others_a_moment(tmp_path):
    """A process that then finds a probe there is aborted by libzmq (net/sockets.py); the supervisor starts another."""
    node = Node(tmp_path)
    try:
        worker = Bystander(node, "t")
        try:
            worker.progress(5)
            with shaken(node.port) as connection:
                connection.settimeout(1.0)
                with suppress(OSError):
                    connection.sendall((b"\0\x14" + b"x" * 20 + b"\4\7\4PING\0\0") * 50_000)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            worker.progress(20)
        finally:
            worker.close()
    finally:
        node.stop()


def test_a_leader_without_descriptors_serves_whom_it_has_and_recovers(tmp_path):
    """3: more idle connections than the leader may have descriptors."""
    node = Node(tmp_path, descriptors=128)
    try:
        worker = Bystander(node, "t")
        try:
            worker.progress(5)
            idle = [socket.create_connection(("127.0.0.1", node.port), timeout=20) for _ in range(200)]
            worker.progress(20)
            time.sleep(1.0)  # Two rounds of the leader's upkeep without a descriptor.
            worker.progress(20)
            for connection in idle:
                connection.close()
            with zfabric.connect(node.url, timeout=30) as fabric:
                assert "t" in fabric.topics.list()
            worker.progress(20)
        finally:
            worker.close()
        assert node.same(), node.log.read_text()[-3_000:]
    finally:
        node.stop()


@pytest.mark.parametrize("size", [1 << 25, 1 << 40, (1 << 63) - 1])
def test_an_oversized_frame_before_the_handshake_is_not_kept(node, size):
    """4: its length alone ends the connection."""
    frame = b"\2" + struct.pack(">Q", size)
    for port in (node.port, node.publish):
        with wire(port, GREETING + frame + bytes(8 * MIB)) as connection:
            assert hung_up(connection)


def test_an_oversized_frame_after_the_handshake_ends_its_connection(node, others):
    with stranger(node.port) as attacker:
        assert attacker.hello()
        attacker.say(bytes(40 * MIB))
        others.progress(10)
        attacker.say(packed(Type.STATUS, b"\x90"))
        assert attacker.hello()  # Connected again by libzmq.


def test_a_second_client_with_the_same_id_reads_nothing_of_the_first(node):
    """10: the first one keeps its id, and its answers."""
    with stranger(node.port, ROUTING_ID=b"twin") as first:
        assert first.hello()
        second = Stranger(node.port, ROUTING_ID=b"twin")
        for number in range(100, 150):
            first.say(packed(Type.STATUS, b"\x90", request=number))
            second.say(packed(Type.STATUS, b"\x90", request=number + 1_000))
        heard = [first.hear().request for _ in range(50)]
        assert heard == list(range(100, 150))
        assert second.hear(0.5) is None
        second.close()


def test_an_id_is_free_again_once_its_owner_has_left(node):
    with stranger(node.port, ROUTING_ID=b"heir") as first:
        assert first.hello()

    def again():
        with stranger(node.port, ROUTING_ID=b"heir") as second:
            return second.hello(0.5)

    assert until(again)


@pytest.mark.parametrize(
    "identity",
    [b"", b"x" * 255, b"\0\0\0\0\1", b"\0", b"\0" * 200, b"\xff" * 5, b"y" * 300, b"z" * 100_000],
    ids=["empty", "255 bytes", "like the server's own", "zero", "zeros", "ones", "300 bytes", "100 KB"],
)
def test_a_client_with_a_strange_routing_id_is_answered(node, identity):
    """11."""
    hello = messages.command(Type.HELLO, 5, messages.Hello("x", 1, 1))
    with shaken(node.port, identity=identity) as connection:
        connection.sendall(frame(hello))
        heard = b""
        while b"zf\1\3" not in heard:  # WELCOME
            piece = connection.recv(4096)
            assert piece
            heard += piece


@pytest.mark.parametrize("frames", [
    (b"",), (b"", b""), (b"zf",), (b"x" * 15,), (b"",) * 9, (b"a",) * 1_000,
    (packed(Type.STATUS, b"\x90"), b"more"), (packed(Type.PRODUCE, b""),), (packed(Type.PRODUCE, bytes(96)),),
    (packed(Type.PRODUCE, bytes(96)), b"", b""), (packed(Type.FETCHED, b"\x91\x90"),),
], ids=lambda frames: f"{len(frames)} frames")  # fmt: skip
def test_missing_and_extra_frames_are_counted_and_answered_where_they_can_be(node, frames):
    """12."""
    before = node.status().errors
    with stranger(node.port) as attacker:
        if len(frames[0]) >= messages.COMMAND_BYTES:
            assert isinstance(attacker.ask(*frames), errors.ProtocolViolation)
        else:
            attacker.say(*frames)
        assert attacker.hello()
    assert node.status().errors == before + 1


@pytest.fixture(params=[{}])
def small(tmp_path, request):
    """A node whose leader may hold 64 MiB."""
    entry = Node(tmp_path, memory_max_bytes=64 * MIB, **request.param)
    worker = Bystander(entry, "t")
    try:
        worker.progress(5)
        yield entry, worker
        worker.progress(20)
    finally:
        worker.close()
        entry.stop()


@pytest.mark.parametrize(("ours", "kind"), [("port", b"DEALER"), ("publish", b"SUB")])
def test_an_endless_message_is_dropped_and_others_go_on(small, ours, kind):
    """13: it passes MAXMSGSIZE and the high watermark; the leader sees its memory and drops all connections."""
    node, worker = small
    piece = frame(bytes(MIB // 2), more=True) if ours == "port" else frame(b"\1" + bytes(900), more=True) * 500

    def send_without_end(connection):
        for _ in range(8_000):  # The leader looks every half second: a fast machine takes gigabytes a second.
            connection.sendall(piece)

    with shaken(getattr(node, ours), kind=kind) as connection, pytest.raises(ConnectionError):
        send_without_end(connection)
    assert b"memory_exceeded" in node.log.read_bytes()
    worker.progress(30)
    assert until(lambda: node.memory() < 64 * MIB + node.base)
    assert node.same(), node.log.read_text()[-3_000:]


def test_a_reader_that_never_reads_is_dropped_and_others_go_on(small):
    """Answers wait in libzmq, up to its high watermark of 1,000 for each connection, and each may have 16 MiB."""
    node, worker = small
    with zfabric.connect(node.url, timeout=30) as fabric:
        fabric.topics.create("big")
        with fabric.producer() as producer:
            for _ in range(32):
                producer.send("big", bytes(1_000_000))
        place = fabric.topics.describe("big").partitions[0].id
    with stranger(node.port, RCVHWM=1) as attacker:
        for number in range(1, 50):
            attacker.say(messages.command(Type.FETCH, number, messages.Fetch(16 << 20, [messages.FetchPart(place, 0)])))
        assert until(lambda: b"memory_exceeded" in node.log.read_bytes())
        worker.progress(30)
    assert until(lambda: node.memory() < 64 * MIB + node.base)
    assert node.same(), node.log.read_text()[-3_000:]


CONSUMER = """
import sys, zfabric
with zfabric.connect(sys.argv[1], timeout=30) as fabric, fabric.consumer("t", start="latest") as consumer:
    consumer.poll(timeout=0.0)
    print("here", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("small", [{"lanes_max": 0}], indirect=True)
def test_a_frozen_client_is_noticed_by_either_of_its_connections(small):
    """Its kernel goes on to acknowledge what arrives; only a probe tells."""
    node, _ = small
    before = node.status()
    command = [sys.executable, "-c", CONSUMER, node.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"here\n"
            assert until(lambda: node.status().subscriptions > before.subscriptions)
            process.send_signal(signal.SIGSTOP)
            assert until(lambda: node.status().clients <= before.clients)
            assert until(lambda: node.status().subscriptions <= before.subscriptions)
        finally:
            process.kill()
