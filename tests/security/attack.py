"""What the tests of bad input share: a real node, somebody who goes on working, and sockets that say anything."""

from __future__ import annotations

import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import zmq

import zfabric
from tests.process.leaders import free_ports
from zfabric import errors
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type

MIB = 1 << 20
GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL" + bytes(16) + b"\0" + bytes(31)


def until(condition, seconds=60.0):
    """Wait for a condition; tells whether it came."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


class Node:
    """One ``zfabric serve`` with one leader, killed in the end.

    Attributes:
        url, port: where it listens. publish: port of the leader's XPUB.
        pid: the leader's process id at the start.
        base: the leader's anonymous memory before any test, bytes.
    """

    def __init__(self, directory, *, descriptors=None, **settings):
        config = directory / "node.toml"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        config.write_text("\n".join(["[leader]", *lines, ""]))
        self.log = directory / "node.log"
        self.port = free_ports(4)
        self.url = f"zf://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "zfabric", "serve", "--data", str(directory / "data"), "--leaders", "1",
                   "--listen", f"127.0.0.1:{self.port}", "--config", str(config)]  # fmt: skip
        if descriptors is not None:
            command = ["bash", "-c", 'ulimit -n "$0" && exec "$@"', str(descriptors), *command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        assert ready, "the node says something within 60 s"
        assert b"ready" in self.process.stdout.readline(), self.log.read_text()
        status = self.status()
        self.pid = status.pid
        self.publish = int(status.publish.rpartition(":")[2])
        self.base = self.memory()

    def status(self):
        """What the leader says of itself."""
        with zfabric.connect(self.url, timeout=30) as fabric:
            return fabric.status()[0]

    def memory(self):
        """The leader's anonymous memory, bytes."""
        with open(f"/proc/{self.pid}/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:"))

    def same(self):
        """Whether the leader is the process that it was, and answers."""
        return self.status().pid == self.pid

    def stop(self):
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Bystander:
    """Somebody else's producer and consumer, at work while others attack: each record must be acknowledged and read."""

    def __init__(self, node, topic, timeout=60):
        self.done = 0
        self._stop = threading.Event()
        self._failure = None
        self._fabric = zfabric.connect(node.url, timeout=timeout)
        self._fabric.topics.create(topic, if_absent=True)
        self._topic = topic
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self):
        try:
            with self._fabric.producer() as producer, self._fabric.consumer(self._topic, start="latest") as consumer:
                first = None
                while not self._stop.is_set():
                    value = b"%d" % self.done
                    offset = producer.send(self._topic, value).result(timeout=60).offset
                    first = offset if first is None else first
                    assert offset == first + self.done, "stored once, in order"
                    records = consumer.poll(timeout=60)
                    assert [(record.offset, record.value) for record in records] == [(offset, value)]
                    self.done += 1
        except BaseException as error:  # noqa: BLE001 - told to the test
            self._failure = error

    def progress(self, operations=30, seconds=60.0):
        """Assert that so many more records go through from here on."""
        goal = self.done + operations
        until(lambda: self.done >= goal or self._failure is not None, seconds)
        if self._failure is not None:
            raise self._failure
        assert self.done >= goal, "somebody else's work goes on"

    def close(self):
        """End it; raises what went wrong."""
        self._stop.set()
        self._thread.join(90)
        self._fabric.close()
        if self._failure is not None:
            raise self._failure


class Stranger:
    """A raw ZeroMQ socket at a port of a node."""

    def __init__(self, port, kind=zmq.DEALER, **options):
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def say(self, *frames):
        """Send one message."""
        self.socket.send_multipart(frames)

    def hear(self, seconds=20.0):
        """Return the next message as a command; None if there is none in time."""
        if not self.socket.poll(int(seconds * 1000)):
            return None
        return messages.read(self.socket.recv_multipart())

    def ask(self, *frames):
        """Send one message and return its answer: the error it is, or the body."""
        self.say(*frames)
        answer = self.hear()
        assert answer is not None, "there is an answer"
        if answer.type == Type.ERROR:
            return errors.from_wire(answer.body.code, answer.body.values)
        return answer.body

    def hello(self, seconds=20.0):
        """Tell whether the session lives."""
        self.say(messages.command(Type.HELLO, 77, messages.Hello("stranger", 1, 1)))
        while (answer := self.hear(seconds)) is not None:
            if answer.request == 77:
                return answer.type == Type.WELCOME
        return False

    def close(self):
        """End it."""
        self.context.destroy(linger=0)


@contextmanager
def stranger(port, kind=zmq.DEALER, **options):
    """Yield a raw ZeroMQ socket."""
    entry = Stranger(port, kind, **options)
    try:
        yield entry
    finally:
        entry.close()


def ready_command(kind=b"DEALER", identity=b""):
    """Return a ZMTP READY."""
    body = b"\5READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    body += b"\x08Identity" + struct.pack(">I", len(identity)) + identity
    return (b"\4" + bytes([len(body)]) if len(body) < 256 else b"\6" + struct.pack(">Q", len(body))) + body


def frame(data, *, more=False):
    """Return a ZMTP frame in its long form."""
    return bytes([2 | more]) + struct.pack(">Q", len(data)) + data


@contextmanager
def shaken(port, **properties):
    """Yield a TCP connection that has done the handshake by hand."""
    with wire(port, GREETING + ready_command(**properties)) as connection:
        heard = b""
        while b"Socket-Type" not in heard:
            piece = connection.recv(4096)
            assert piece, "the handshake is answered"
            heard += piece
        yield connection


@contextmanager
def wire(port, data=b""):
    """Yield a TCP connection that has sent ``data``."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with suppress(OSError):
            connection.sendall(data)
        yield connection


def hung_up(connection):
    """Whether the other side has closed the connection; waits for it."""
    connection.settimeout(20)
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def sealed(payload, partition, **fields):
    """Return header and payload of a batch as a producer would send it, with some header fields forged."""
    header, payload = batch.seal(
        payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=0, producer_epoch=0,
        base_sequence=0, last_sequence=0, partition=partition,
    )  # fmt: skip
    return batch.HEADER.pack(*batch.parse(header)._replace(**fields)), payload


def one_record(value=b"v"):
    """Return the payload of a batch of one record."""
    return batch.encode_columns(0, None, [value], None)


def partition_id(fabric, topic, number=0):
    """Return the id of a partition."""
    return fabric.topics.describe(topic).partitions[number].id


def packed(kind, body, request=9, flags=0, version=1):
    """Return a command frame with any bytes as its body."""
    return messages.COMMAND.pack(messages.SIGNATURE, version, kind, flags, request) + body
