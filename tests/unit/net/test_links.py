"""Outgoing connections of gossip, on real sockets of this machine."""

from __future__ import annotations

import threading
import time

import pytest
import zmq

from tests.process.leaders import free_ports
from zfabric.net.links import IDLE_NS, LINKS_MAX, RECEIVED_BYTES, RECEIVED_MAX, WAIT_NS, WAITING_MAX, Links
from zfabric.net.names import Names

SECOND = 1_000_000_000


@pytest.fixture
def links():
    made = Links(1_000)
    yield made
    made.close()


@pytest.fixture
def listener():
    """A ROUTER and its endpoint."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        port = free_ports(1)
        socket.bind(f"tcp://127.0.0.1:{port}")
        yield socket, f"tcp://127.0.0.1:{port}"


def heard(socket, links):
    """Return the next message that a listener receives."""
    deadline = time.monotonic() + 30
    while not socket.poll(5):
        links.receive()
        assert time.monotonic() < deadline
    return socket.recv_multipart()


def received(links):
    deadline = time.monotonic() + 30
    while not (found := links.receive()):
        zmq.select([links.fd], [], [], 0.1)
        assert time.monotonic() < deadline
    return found


def test_what_is_sent_before_the_connection_is_made_arrives_in_order(links, listener):
    socket, endpoint = listener
    for number in range(5):
        links.send(endpoint, b"%d" % number, 0)
    assert [heard(socket, links)[1] for _ in range(5)] == [b"%d" % number for number in range(5)]
    assert (len(links), links.dropped) == (1, 0)


def test_an_answer_comes_with_the_endpoint_that_it_answers_for(links, listener):
    socket, endpoint = listener
    links.send(endpoint, b"ping", 0)
    peer, _ = heard(socket, links)
    for number in range(3):
        socket.send_multipart([peer, b"%d" % number])
    found = []
    while len(found) < 3:
        found += received(links)
    assert found == [(endpoint, b"%d" % number) for number in range(3)]


def test_a_message_of_several_frames_is_none_and_counted(links, listener):
    socket, endpoint = listener
    links.send(endpoint, b"ping", 0)
    peer, _ = heard(socket, links)
    socket.send_multipart([peer, b"two", b"frames"])
    socket.send_multipart([peer, b"one"])
    assert received(links) == [(endpoint, b"one")]
    assert links.misshapen == 1


def test_a_frame_that_is_too_large_ends_the_connection_that_it_came_on(links, listener):
    socket, endpoint = listener
    links.send(endpoint, b"ping", 0)
    peer, _ = heard(socket, links)
    socket.send_multipart([peer, bytes(2_000)])
    again = peer
    deadline = time.monotonic() + 30
    while again == peer:
        links.send(endpoint, b"ping", time.monotonic_ns())
        links.tick(time.monotonic_ns())  # Where libzmq gives a connection up for good, a new link is made in time.
        links.receive()
        if socket.poll(20):
            again = socket.recv_multipart()[0]
        assert time.monotonic() < deadline
    assert links.receive() == []


def test_links_have_a_bound_and_the_one_used_longest_ago_goes(links):
    first = free_ports(1)
    endpoints = [f"tcp://127.0.0.1:{first}", *(f"tcp://127.0.0.{number}:9" for number in range(2, LINKS_MAX + 2))]
    for endpoint in endpoints[:-1]:
        links.send(endpoint, b"x", 0)
    links.send(endpoints[0], b"x", 0)
    links.send(endpoints[-1], b"x", 0)
    assert len(links) == LINKS_MAX
    assert endpoints[0] in links._links
    assert endpoints[1] not in links._links


def test_a_link_to_nobody_goes_after_two_seconds_with_what_waits(links):
    endpoint = f"tcp://127.0.0.1:{free_ports(1)}"
    for _ in range(WAITING_MAX + 3):
        links.send(endpoint, b"x", 0)
    assert links.dropped == 3
    links.tick(WAIT_NS)
    assert len(links) == 1
    links.send(endpoint, b"x", WAIT_NS)
    links.tick(WAIT_NS + 1)
    assert (len(links), links.dropped) == (0, WAITING_MAX + 4)


def test_an_idle_link_is_closed(links, listener):
    socket, endpoint = listener
    links.send(endpoint, b"x", 0)
    heard(socket, links)
    links.tick(IDLE_NS)
    assert len(links) == 1
    links.tick(IDLE_NS + 1)
    assert len(links) == 0
    links.send(endpoint, b"y", IDLE_NS + 2)
    assert heard(socket, links)[1] == b"y"


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "tcp://", "tcp://h", "tcp://127.0.0.1:99999", "inproc://x", "tcp://*:1"]
)
def test_an_endpoint_that_cannot_be_one_loses_a_frame_and_nothing_else(links, endpoint):
    """It may come from a forged member."""
    links.send(endpoint, b"x", 0)
    links.tick(WAIT_NS + 1)
    assert (len(links), links.dropped) == (0, 1)


def test_who_claims_to_be_at_many_places_takes_no_link_from_those_that_are_there(links, listener):
    """Each of a stranger's frames may name another endpoint, and a new connection may take longer than they do."""
    socket, endpoint = listener
    links.send(endpoint, b"ping", 0)
    peer, _ = heard(socket, links)
    socket.send_multipart([peer, b"ack"])
    assert received(links) == [(endpoint, b"ack")]
    for number in range(3 * LINKS_MAX):
        links.send(f"tcp://127.0.0.1:{number + 1}", b"x", number)
    assert len(links) == LINKS_MAX
    links.send(endpoint, b"again", 1_000)
    assert heard(socket, links) == [peer, b"again"], "over the same connection"


def test_a_name_that_is_looked_up_for_long_keeps_nobody_else_waiting(listener):
    """A silent name server: libzmq would look the name up in the thread of all connections."""
    socket, endpoint = listener
    answers = threading.Event()

    def look_up(host):
        answers.wait(30)
        return "127.0.0.1" if host == "known.example" else ""

    links = Links(1_000, Names(look_up))
    named = endpoint.replace("127.0.0.1", "known.example")
    try:
        for number in range(20):
            links.send(f"tcp://slow{number}.example:1", b"lost", SECOND)
        links.send(named, b"held", SECOND)
        links.send(endpoint, b"at once", SECOND)
        assert heard(socket, links)[1] == b"at once"
        assert links.dropped == 0
        answers.set()
        assert heard(socket, links)[1] == b"held"
        deadline = time.monotonic() + 30
        while links.dropped < 20:
            links.receive()
            assert time.monotonic() < deadline
        assert len(links) == 2
    finally:
        answers.set()
        links.close()


def test_frames_for_names_that_are_not_found_in_time_are_dropped_and_bounded():
    silent = threading.Event()
    links = Links(1_000, Names(lambda host: str(silent.wait(30))))
    try:
        for number in range(LINKS_MAX + 5):
            for _ in range(WAITING_MAX + 1):
                links.send(f"tcp://host{number}:1", b"x", SECOND)
        held = LINKS_MAX * WAITING_MAX
        assert links.dropped == LINKS_MAX + 5 * (WAITING_MAX + 1)
        links.tick(SECOND + WAIT_NS)
        assert links.dropped == LINKS_MAX + 5 * (WAITING_MAX + 1)
        links.tick(SECOND + WAIT_NS + 1)
        assert links.dropped == LINKS_MAX + 5 * (WAITING_MAX + 1) + held
    finally:
        silent.set()
        links.close()


def test_clearing_closes_all(links, listener):
    socket, endpoint = listener
    links.send(endpoint, b"x", 0)
    heard(socket, links)
    links.clear()
    assert len(links) == 0


def test_a_flood_is_taken_in_bounded_parts_and_keeps_no_other_link_waiting(listener):
    """Whoever we speak to may answer for ever; what is not read waits with it."""
    socket, endpoint = listener
    links = Links(100_000)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as calm:
        calm.linger = 0
        other = f"tcp://127.0.0.1:{free_ports(1)}"
        calm.bind(other)
        links.send(endpoint, b"ping", 0)
        links.send(other, b"ping", 0)
        peer, _ = heard(socket, links)
        neighbour, _ = heard(calm, links)
        for number in range(20):
            socket.send_multipart([peer, b"%d " % number + bytes(50_000)])
        for number in range(500):  # More would be too much for the sender, which drops it.
            socket.send_multipart([peer, b"%d" % number] if number % 2 else [peer, b"two", b"frames"])
        flood, rounds = [], []
        while len(flood) < 270:
            found = received(links)
            if len(flood) == 0:
                calm.send_multipart([neighbour, b"calm"])
            rounds.append(found)
            flood += [frame for whence, frame in found if whence == endpoint]
        assert max(sum(len(frame) for _, frame in found) for found in rounds) <= RECEIVED_BYTES + 50_010
        assert max(len(found) for found in rounds) <= RECEIVED_MAX
        assert [int(frame.split()[0].rstrip(bytes(1))) for frame in flood] == [*range(20), *range(1, 500, 2)]
        everything = [whence for found in rounds for whence, _ in found]
        while other not in everything:
            everything += [whence for whence, _ in received(links)]
        assert links.misshapen == 250
        while links.pending:
            assert links.receive() == []
    links.close()
