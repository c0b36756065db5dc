"""Sessions with a leader of this process: the same life as over a socket, and no thread is woken without need."""

from __future__ import annotations

import os
import select

import pytest
import zmq

from tests.process.leaders import free_ports
from zfabric.core.effects import CloseSession, OpenSession, Send
from zfabric.net import nearby, sockets
from zfabric.net.nearby import Bell, Nearby
from zfabric.net.ports import Ports
from zfabric.net.session import Change

ENDPOINT = "ipc:///nowhere/router"


@pytest.fixture
def leader():
    made = Nearby(ENDPOINT)
    yield made
    made.end()


@pytest.fixture
def ports():
    with zmq.Context() as context:
        made = Ports(context, 1 << 20)
        yield made
        made.close()


def readable(fds):
    """Tell whether a poll of these would return at once."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


def opened(ports, number=1):
    ports.perform([OpenSession(number, ENDPOINT)])
    assert ports.drain() == [(number, Change.CONNECTED)]
    return ports


def test_a_session_is_connected_carries_messages_both_ways_and_is_lost_with_the_leader(leader, ports):
    opened(ports).perform([Send(1, (b"a", b"b")), Send(1, (b"c",))])
    assert ports.drain() == []
    (peer, first), (same, second) = leader.inbox
    assert (peer, first, second) == (same, (b"a", b"b"), (b"c",))
    assert leader.post(peer, (b"d", b"e"))
    assert ports.drain() == [(1, [b"d", b"e"])]
    leader.end()
    assert ports.drain() == [(1, Change.LOST)]
    assert not leader.post(peer, (b"f",))
    assert ports.drain() == []
    assert ports.fds() == []


def test_whoever_polls_is_woken_once_for_all_that_has_come(leader, ports):
    opened(ports).perform([Send(1, (b"a",))])
    ports.drain()
    peer = leader.inbox[0][0]
    assert not readable(ports.fds())
    for _ in range(3):
        leader.post(peer, (b"x",))
    assert readable(ports.fds())
    assert len(ports.drain()) == 3
    assert not readable(ports.fds())


def test_a_leader_that_lends_no_turn_is_woken(leader, ports):
    opened(ports).perform([Send(1, (b"a",))])
    ports.drain()
    assert readable([leader.bell.fd])


def test_who_takes_the_turn_has_the_answer_at_once_and_wakes_nobody(leader, ports):
    asked = []

    def lend(patient):
        asked.append(patient)
        peer, _ = leader.inbox.popleft()
        leader.post(peer, (b"done",))
        return "done"

    leader.lend = lend
    ports.drives = True
    opened(ports).perform([Send(1, (b"a",))])
    assert ports.drain() == [(1, [b"done"])]
    ports.perform([Send(1, (b"a",))])
    assert ports.drain(patient=True) == [(1, [b"done"])]
    assert asked == [False, True]
    assert not readable([leader.bell.fd, *ports.fds()])


def test_a_turn_that_leaves_something_rings_for_the_leader_s_thread(leader, ports):
    leader.lend = lambda patient: "left"
    ports.drives = True
    opened(ports).perform([Send(1, (b"a",))])
    ports.drain()
    assert readable([leader.bell.fd])


def test_who_was_put_off_is_asked_again_if_it_waits(leader, ports):
    """Then it need not wait for the leader's thread, which was woken for it."""
    asked = []
    leader.lend = lambda patient: asked.append(patient) or ("done" if patient else "later")
    ports.drives = True
    opened(ports).perform([Send(1, (b"a",))])
    for patient in (False, False, True, True):
        ports.drain(patient=patient)
    assert asked == [False, True]
    assert readable([leader.bell.fd])


def test_a_session_of_one_who_has_left_gets_nothing(leader, ports):
    opened(ports).perform([Send(1, (b"a",))])
    ports.drain()
    peer = leader.inbox[0][0]
    ports.perform([CloseSession(1)])
    assert not leader.post(peer, (b"x",))
    assert leader.sessions == {}


def test_too_much_that_waits_ends_the_session(leader, ports, monkeypatch):
    monkeypatch.setattr(nearby, "WAITING_MAX", 3)
    opened(ports).perform([Send(1, (b"a",))] * 4)
    assert ports.drain() == [(1, Change.LOST)]


def test_nobody_else_can_claim_a_session_s_name(leader):
    peers = {leader.open(number).peer for number in range(10)}
    assert len({peer[-16:] for peer in peers}) == 10


def test_a_leader_that_is_ending_takes_no_new_sessions(leader):
    leader.withdraw()
    assert nearby.find(ENDPOINT) is None
    after = Nearby(ENDPOINT)
    try:
        leader.end()
        assert nearby.find(ENDPOINT) is after
    finally:
        after.end()


def test_a_session_over_a_socket_is_given_up_for_a_near_one(ports):
    """It was opened before anybody knew that the leader would be here; subscriptions stay as they are."""
    endpoint = f"tcp://127.0.0.1:{free_ports(1)}"
    ports.perform([OpenSession(1, endpoint), OpenSession(2, endpoint, subscribe=True)])
    made = Nearby(endpoint)
    try:
        ports.prefer_near()
        assert ports.drain() == [(1, Change.LOST)]
        ports.perform([OpenSession(3, endpoint)])
        assert ports.drain() == [(3, Change.CONNECTED)]
    finally:
        made.end()


def test_a_forked_child_has_no_leader(leader):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if nearby.find(ENDPOINT) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert nearby.find(ENDPOINT) is leader


def test_a_bell_that_was_given_back_rings_into_nobody_s_descriptor():
    bell = Bell()
    number = bell.fd
    bell.close()
    reader, writer = os.pipe()
    looked_at = os.dup(reader)
    os.dup2(writer, number)  # The number was given again.
    try:
        bell.ring()
        assert not readable([looked_at])
    finally:
        for descriptor in {reader, writer, looked_at, number}:
            os.close(descriptor)


def test_sockets_that_two_threads_use_are_polled_without_missing_what_has_come():
    """EVENTS tells what a descriptor, being edge-triggered, does not tell twice."""
    import threading

    from zfabric.net.polling import SharedPoller

    lock = threading.Lock()
    with sockets.context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        one.bind("inproc://a")
        other.connect("inproc://a")
        poller = SharedPoller(lock)
        bell = Bell()
        poller.register(one, zmq.POLLIN)
        poller.register(bell.fd, zmq.POLLIN)
        with lock:
            assert poller.poll(0) == []
            for _ in range(2):
                other.send(b"x")
            assert poller.poll(30_000) == [(one, zmq.POLLIN)]
            one.recv()  # Takes in what would have made the descriptor readable for the second one.
            assert poller.poll(30_000) == [(one, zmq.POLLIN)]
            one.recv()
            assert poller.poll(0) == []
            bell.ring()
            assert poller.poll(30_000) == [(bell.fd, zmq.POLLIN)]
            bell.hush()
            poller.unregister(one)
            other.send(b"x")
            assert poller.poll(0) == []
        bell.close()
