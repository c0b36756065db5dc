"""Connections for good to places with names: looked up beside them, and followed to where the names lead later."""

from __future__ import annotations

import select
import threading
import time

import pytest
import zmq

from tests.process.leaders import free_ports
from zfabric.net import sockets
from zfabric.net.dialling import DOUBT_NS, LOOK_NS, Dialler
from zfabric.net.names import Names


class Dialled:
    """A dialler whose clock is turned by hand.

    Attributes:
        known: where names lead; a name that is not there leads nowhere. silent: while clear, no name is answered.
        asked: names that were looked up.
    """

    def __init__(self):
        self.context = sockets.context()
        self.known, self.asked = {}, []
        self.silent = threading.Event()
        self.silent.set()
        self.dialler = Dialler(Names(self.look_up))
        self.now = 0
        self.lines, self.servers = [], []

    def look_up(self, host):
        self.asked.append(host)
        self.silent.wait(30)
        return self.known.get(host, "")

    def dial(self, endpoint):
        socket = sockets.dealer(self.context, 1_000)
        monitor = sockets.monitor(self.context, socket)
        self.lines.append((socket, monitor))
        self.dialler.dial(monitor, socket, endpoint, self.now)
        return monitor

    def serve(self, host, port):
        router = sockets.router(self.context, 1_000)
        router.bind(f"tcp://{host}:{port}")
        self.servers.append(router)
        return router

    def until_told(self, monitor, *, connected, step=LOOK_NS):
        """Drive it until the monitor tells that a connection has come, or has gone; ``step``: of the clock (ns)."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            select.select([*self.dialler.fds(), monitor.get(zmq.FD)], [], [], 0.05)
            while monitor.get(zmq.EVENTS) & zmq.POLLIN:
                if self.dialler.noticed(monitor, self.now) == connected:
                    return True
            self.now += step
            self.dialler.tick(self.now)
        return False

    def close(self):
        self.silent.set()
        self.dialler.close()
        for socket, monitor in self.lines:
            sockets.close_monitored(socket, monitor)
        for server in self.servers:
            server.close(linger=0)
        sockets.end(self.context)


@pytest.fixture
def dialled():
    made = Dialled()
    yield made
    made.close()


def test_a_name_that_is_looked_up_for_long_keeps_no_other_line_waiting(dialled):
    port = free_ports(1)
    dialled.serve("127.0.0.1", port)
    dialled.silent.clear()
    dialled.dial(f"tcp://slow.example:{port}")
    assert dialled.until_told(dialled.dial(f"tcp://127.0.0.1:{port}"), connected=True)


def test_a_name_that_leads_nowhere_is_asked_for_until_it_leads_somewhere(dialled):
    port = free_ports(1)
    dialled.serve("127.0.0.1", port)
    monitor = dialled.dial(f"tcp://late.example:{port}")
    while len(dialled.asked) < 3:
        dialled.now += LOOK_NS
        dialled.dialler.tick(dialled.now)
        select.select(dialled.dialler.fds(), [], [], 0.05)
    dialled.known["late.example"] = "127.0.0.1"
    assert dialled.until_told(monitor, connected=True)
    assert dialled.dialler.next_deadline() is None


def test_a_line_whose_name_leads_elsewhere_goes_there_once_its_connection_is_lost(dialled):
    """It is connected to an address, so libzmq alone would try that one for ever."""
    port = free_ports(1)
    first = dialled.serve("127.0.0.1", port)
    dialled.known["moved.example"] = "127.0.0.1"
    monitor = dialled.dial(f"tcp://moved.example:{port}")
    assert dialled.until_told(monitor, connected=True, step=0), "before it is doubted"
    dialled.known["moved.example"] = "127.0.0.2"
    dialled.now += 10 * DOUBT_NS
    dialled.dialler.tick(dialled.now)
    assert dialled.asked == ["moved.example"], "while there is a connection nobody asks"
    second = dialled.serve("127.0.0.2", port)
    first.close(linger=0)
    assert dialled.until_told(monitor, connected=False)
    assert dialled.until_told(monitor, connected=True)
    dialled.lines[0][0].send(b"here")
    assert second.recv_multipart()[1] == b"here"
