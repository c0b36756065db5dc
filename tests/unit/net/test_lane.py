"""Lanes on real sockets: whole messages however they are cut, few subscribers, one user, and a SUB elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import select
import socket
import sys
import threading
import time

import pytest

from tests.process.leaders import opened_ports
from zfabric.core.effects import CloseSession, OpenSession, Subscribe
from zfabric.core.leader.counters import Counters
from zfabric.net import lane, sockets
from zfabric.net.lane import Lane
from zfabric.net.session import ASKED, Change, Subscription
from zfabric.server.lanes import STUCK_NS
from zfabric.server.publishing import Publishing
from zfabric.settings import LeaderSettings
from zfabric.wire.batch import HEADER_BYTES

FRAME_MAX = 1 << 20
PATIENCE_S = 20.0
A, B = b"\0\0\0\1", b"\0\0\0\2"
HEADER = bytes(HEADER_BYTES)


class Publisher:
    """What a leader publishes with, attended to by whoever waits for something."""

    def __init__(self, endpoints, **settings):
        self.context = sockets.context()
        self.counters = Counters()
        self.publishing = Publishing(self.context, LeaderSettings(**settings), self.counters, endpoints)

    def attend(self):
        assert not self.publishing.take_subscriptions()
        self.publishing.lanes.attend()
        self.publishing.lanes.listen()

    @property
    def name(self):
        return self.publishing.lanes._name

    def publish(self, topic, value, header=HEADER):
        self.publishing.publish((topic, header, value))

    def close(self):
        if not self.context.closed:
            self.publishing.close()
            self.context.destroy(linger=0)


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/xpub"


@pytest.fixture
def publishing(endpoint):
    made = []

    def make(*endpoints, **settings):
        made.append(Publisher(endpoints or (endpoint,), **settings))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


@pytest.fixture
def ports():
    with opened_ports(FRAME_MAX) as opened:
        yield opened


def until(condition, *publishers):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        for publisher in publishers:
            publisher.attend()
        time.sleep(0.0002)
    return found


def subscribed(ports, publisher, endpoint, *topics, number=1):
    """Open a session, which is connected once, and let its subscriptions take effect."""
    publishing = publisher.publishing
    total, by_lane = publishing.subscriptions, publishing.lanes.subscriptions
    ports.perform([OpenSession(number, endpoint, subscribe=True), *(Subscribe(number, topic) for topic in topics)])
    assert until(ports.drain, publisher) == [(number, Change.CONNECTED)]
    assert ports.drain() == []
    session = ports._sessions[number]
    by_lane += len(topics) * (type(session) is Lane)
    total += len(topics)
    # Those of the SUB that was there before come, and go.
    until(lambda: (publishing.subscriptions, publishing.lanes.subscriptions) == (total, by_lane), publisher)
    return session


def heard(ports, count, *publishers):
    messages = []

    def enough():
        messages.extend(ports.drain())
        return len(messages) >= count

    until(enough, *publishers)
    return messages


def streamed(messages):
    """Return the bytes in which messages of two or three parts go through a lane."""
    stream = b""
    for topic, second, *third in messages:
        stream += lane.HEAD.pack(topic, len(second), len(third[0]) + 1 if third else 0) + second + b"".join(third)
    return stream


@pytest.fixture
def pair():
    """A lane, and the leader's end of it."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    near.setblocking(False)
    yield Lane(1, "ipc:///nowhere", near, FRAME_MAX, set()), far
    near.close()
    far.close()


def test_a_subscriber_on_this_machine_hears_by_a_lane_and_its_sub_is_gone(ports, publishing, endpoint):
    publisher = publishing()
    assert type(subscribed(ports, publisher, endpoint, A)) is Lane
    publisher.publish(B, b"not this")
    publisher.publish(A, b"one")
    publisher.publishing.publish((A, b"head"))
    publisher.publish(A, b"")
    assert heard(ports, 3) == [(1, [A, HEADER, b"one"]), (1, [A, b"head"]), (1, [A, HEADER, b""])]
    ports.perform([Subscribe(1, A, False), Subscribe(1, B)])
    assert ports.drain() == []
    until(lambda: publisher.publishing.lanes._by_topic.keys() == {B}, publisher)
    publisher.publish(A, b"not this")
    publisher.publish(B, b"two")
    assert heard(ports, 1) == [(1, [B, HEADER, b"two"])]
    assert len(ports.fds()) == 1


def test_its_descriptor_alone_tells_of_messages_and_of_the_end(ports, publishing, endpoint):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    poller = select.poll()
    (fd,) = ports.fds()
    poller.register(fd, select.POLLIN)
    assert ports.unread() is None
    assert poller.poll(0) == []
    for value in (b"one", b"two"):
        publisher.publish(A, value)
    assert poller.poll(PATIENCE_S * 1_000) == [(fd, select.POLLIN)]
    assert ports.take(fd) == (1, [A, HEADER, b"one"])
    assert ports.unread() == fd  # It was received together with the first: no poll would tell.
    assert ports.take(fd) == (1, [A, HEADER, b"two"])
    assert ports.unread() is None
    publisher.close()
    assert poller.poll(PATIENCE_S * 1_000)
    assert ports.take(fd) is None
    assert ports.drain(ready=[fd]) == [(1, Change.LOST)]
    assert ports.fds() == []


def test_what_the_leader_had_sent_before_it_ended_arrives(ports, publishing, endpoint):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    for number in range(100):
        publisher.publish(A, b"%d" % number)
    publisher.close()
    messages = heard(ports, 101)
    assert messages == [*((1, [A, HEADER, b"%d" % number]) for number in range(100)), (1, Change.LOST)]


def test_messages_are_whole_however_the_stream_is_cut(pair):
    """Pieces of one byte to twice of what is received at once, of messages shorter and longer than that."""
    reader, writer = pair
    chance = random.Random(7)
    sizes = [0, 1, 5, 100, 20_000, 32_700, 32_768, 40_000, 200_000]
    messages = [[A, HEADER, chance.randbytes(chance.choice(sizes))] for _ in range(60)]
    messages += [[B, b"head"], [B, b""], [A, chance.randbytes(50_000)], [A, HEADER, b""]]
    chance.shuffle(messages)
    stream = streamed(messages)
    found, at = [], 0
    while at < len(stream):
        at += writer.send(stream[at : at + chance.choice([1, 3, 11, 12, 13, 500, 32_768, 65_536])])
        while (parts := reader.read()) is not None:
            found.append([bytes(part) for part in parts])
    assert found == messages
    assert not reader.over


def test_a_long_payload_is_handed_on_in_place_and_can_not_be_written(pair):
    reader, writer = pair
    writer.sendall(streamed([[A, HEADER, b"v" * 65_536]]))
    (payload,) = reader.read()[2:]
    assert (type(payload), payload.readonly, bytes(payload)) == (memoryview, True, b"v" * 65_536)


@pytest.mark.parametrize("lengths", [(FRAME_MAX + 1, 0), (4, FRAME_MAX + 2), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_lengths_that_nobody_sends_end_the_lane_and_take_no_memory(pair, lengths):
    reader, writer = pair
    writer.sendall(lane.HEAD.pack(A, *lengths) + b"more")
    assert reader.read() is None
    assert reader.over


def test_the_largest_part_that_may_be_is_taken(pair):
    reader, writer = pair
    stream = memoryview(streamed([[A, HEADER, bytes(FRAME_MAX)]]))
    parts = None
    while parts is None:
        assert not reader.over
        stream = stream[writer.send(stream[:50_000]) :]
        parts = reader.read()
    assert len(parts[2]) == FRAME_MAX


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_message_that_is_cut_off_is_none(pair, size):
    reader, writer = pair
    stream = streamed([[A, HEADER, b"whole"], [A, HEADER, b"v" * size]])
    writer.sendall(stream[:-1])
    writer.close()
    assert reader.read() == [A, HEADER, b"whole"]
    assert (reader.read(), reader.over) == (None, True)
    assert reader.read() is None


def test_a_slow_subscriber_misses_whole_messages_and_nobody_else_any(ports, publishing, endpoint):
    publisher = publishing(publish_queue=8)
    slow = lane.reach(publisher.name)
    slow.send(lane.WISH.pack(1, A))
    until(lambda: publisher.publishing.subscriptions == 1, publisher)
    (at_leader,) = publisher.publishing.lanes._by_topic[A]
    subscribed(ports, publisher, endpoint, A, number=2)
    values = [b"%04d" % number * 5_000 for number in range(200)]
    found = []
    for value in values:
        publisher.publish(A, value)
        found += heard(ports, 1, publisher)
    assert [bytes(parts[2]) for _, parts in found] == values
    reader = Lane(1, endpoint, slow, FRAME_MAX, set())
    late = []

    def read():
        parts = reader.read()
        late.extend([bytes(parts[2])] if parts else [])
        return parts is None and not at_leader.waiting

    until(read, publisher)
    assert 8 <= len(late) < len(values)
    assert late == sorted(late)
    assert set(late) <= set(values)
    assert late[0] == values[0]
    publisher.publish(A, b"again")
    until(lambda: (parts := reader.read()) and parts == [A, HEADER, b"again"], publisher)
    slow.close()


def test_one_that_takes_nothing_is_dropped_and_one_that_waits_for_nothing_is_not(publishing, endpoint):
    publisher = publishing(publish_queue=8)
    lanes = publisher.publishing.lanes
    slow, frozen, idle = (lane.reach(publisher.name) for _ in range(3))
    for count, (subscriber, topic) in enumerate(((slow, A), (frozen, A), (idle, B)), 1):
        subscriber.send(lane.WISH.pack(1, topic))
        until(lambda wanted=count: lanes.subscriptions == wanted, publisher)
    now = 0
    while lanes.subscriptions == 3:
        while not all(subscriber.waiting for subscriber in lanes._by_topic[A]):
            publisher.publish(A, bytes(50_000))
        lanes.look(now)
        now += STUCK_NS // 5
        assert now < 100 * STUCK_NS
        taken = lanes._by_topic[A][0].taken
        while lanes._by_topic[A][0].taken == taken:  # As slow as it may be.
            slow.recv(500_000)
            publisher.attend()
    assert now > STUCK_NS
    assert len(lanes._by_topic[A]) == len(lanes._by_topic[B]) == 1
    while frozen.recv(1 << 20):  # All that the kernel has taken, and the end.
        pass
    slow.close()
    idle.close()
    frozen.close()


def test_beyond_lanes_max_a_subscriber_keeps_its_sub_until_one_has_left(ports, publishing, endpoint):
    publisher = publishing(lanes_max=1)
    assert type(subscribed(ports, publisher, endpoint, A)) is Lane
    assert type(subscribed(ports, publisher, endpoint, A, number=2)) is not Lane
    publisher.publish(A, b"to both")
    assert sorted(heard(ports, 2)) == [(1, [A, HEADER, b"to both"]), (2, [A, HEADER, b"to both"])]
    assert publisher.publishing._counters.bytes_out == 2 * (HEADER_BYTES + len(b"to both"))
    ports.perform([CloseSession(1)])
    until(lambda: publisher.publishing.subscriptions == 1, publisher)
    assert type(subscribed(ports, publisher, endpoint, A, number=3)) is Lane


def test_with_lanes_max_0_there_is_none(ports, publishing, endpoint):
    publisher = publishing(lanes_max=0)
    assert type(subscribed(ports, publisher, endpoint, A)) is not Lane
    assert lane.reach(publisher.name) is None
    publisher.publish(A, b"by libzmq")
    assert heard(ports, 1) == [(1, [A, HEADER, b"by libzmq"])]


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "localhost", "[::1]"])
def test_a_lane_is_found_wherever_its_leader_is_found_on_this_machine(ports, publishing, bound):
    publisher = publishing(f"tcp://{bound}:*")
    port = publisher.publishing.socket.get(sockets.zmq.LAST_ENDPOINT).decode().rpartition(":")[2]
    host = bound if bound != "0.0.0.0" else "localhost"
    assert type(subscribed(ports, publisher, f"tcp://{host}:{port}", A)) is Lane


def test_leaders_with_the_same_port_at_two_addresses_are_told_apart(ports, publishing):
    first = publishing("tcp://127.0.0.1:*")
    port = first.publishing.socket.get(sockets.zmq.LAST_ENDPOINT).decode().rpartition(":")[2]
    second = publishing(f"tcp://127.0.0.2:{port}")
    without = publishing(f"tcp://127.0.0.3:{port}", lanes_max=0)
    for number, (publisher, kind) in enumerate([(first, Lane), (second, Lane), (without, Subscription)], 1):
        assert type(subscribed(ports, publisher, f"tcp://127.0.0.{number}:{port}", A, number=number)) is kind
    for publisher, value in ((first, b"one"), (second, b"two"), (without, b"three")):
        publisher.publish(A, value)
    assert sorted(heard(ports, 3)) == [(1, [A, HEADER, b"one"]), (2, [A, HEADER, b"two"]), (3, [A, HEADER, b"three"])]


def test_whoever_has_put_a_proxy_in_between_is_not_passed_by(ports, publishing):
    publisher = publishing("tcp://127.0.0.1:*")
    target = publisher.publishing.socket.get(sockets.zmq.LAST_ENDPOINT).decode()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        port = listener.getsockname()[1]

        def forward(source, sink):
            with contextlib.suppress(OSError):
                while data := source.recv(65_536):
                    sink.sendall(data)

        def proxy():
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2])))
            for end in (near, far):
                stack.callback(end.close)
                stack.callback(end.shutdown, socket.SHUT_RDWR)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=forward, args=pair, daemon=True).start()

        threading.Thread(target=proxy, daemon=True).start()
        assert type(subscribed(ports, publisher, f"tcp://127.0.0.1:{port}", A)) is Subscription
        publisher.publish(A, b"by the proxy")
        assert heard(ports, 1) == [(1, [A, HEADER, b"by the proxy"])]


def test_a_name_that_is_found_while_a_lane_is_open_is_no_matter_to_that(ports, publishing, endpoint):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    ports.perform([OpenSession(2, "tcp://nobody.invalid:7400")])
    assert until(ports.drain) == [(2, Change.NOWHERE)]
    publisher.publish(A, b"v")
    assert heard(ports, 1) == [(1, [A, HEADER, b"v"])]


def test_a_client_without_a_descriptor_keeps_its_sub(ports, publishing, endpoint, monkeypatch):
    publisher = publishing()

    def none_left(*arguments):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(lane.socket, "socket", none_left)
    assert type(subscribed(ports, publisher, endpoint, A)) is Subscription
    publisher.publish(A, b"by libzmq")
    assert heard(ports, 1) == [(1, [A, HEADER, b"by libzmq"])]


def test_out_of_descriptors_nobody_spins_and_lanes_come_back(publishing, endpoint):
    publisher = publishing()
    lanes = publisher.publishing.lanes
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with lane.reach(publisher.name) as early:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            lanes.attend()
            assert lanes._epoll.poll(0) == []
            with pytest.raises(ConnectionResetError):
                early.recv(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert lane.reach(publisher.name) is None
    lanes.look(0)
    lane.reach(publisher.name).close()


@pytest.fixture
def stranger(endpoint):
    """A publisher of another kind."""
    context = sockets.context()
    made = context.socket(sockets.zmq.XPUB)
    made.bind(endpoint)
    yield made
    context.destroy(linger=0)


def joined(ports, stranger, endpoint, *messages):
    """Subscribe to it, have it publish at once, and return what comes of that."""
    ports.perform([OpenSession(1, endpoint, subscribe=True), Subscribe(1, A)])
    wishes = set()
    while wishes != {b"\1" + A, b"\1" + ASKED}:
        assert ports.drain() == []
        if stranger.poll(1):
            wishes.add(stranger.recv())
    for parts in messages:
        stranger.send_multipart(parts)
    return heard(ports, len(messages))


def test_a_leader_that_knows_no_lanes_is_heard_after_its_first_message(ports, stranger, endpoint):
    found = joined(ports, stranger, endpoint, [A, HEADER, b"one"], [A, HEADER, b"two"])
    assert found == [(1, Change.CONNECTED), (1, [A, HEADER, b"two"])]


@pytest.mark.parametrize(
    "told", [b"", b"-", b"\0", b"name", b"zfabric-", b"zfabric-" + b"0" * 33, b"z" * 70_000, b" " * 9]
)
def test_a_publisher_leads_nobody_to_what_listens_for_others(ports, stranger, endpoint, told, monkeypatch):
    monkeypatch.setattr(lane, "reach", lambda name: pytest.fail(f"{name} is connected to"))
    found = joined(ports, stranger, endpoint, [ASKED, told], [A, HEADER, b"one"])
    assert found == [(1, Change.CONNECTED), (1, [A, HEADER, b"one"])]


def test_another_user_gets_none(ports, publishing, endpoint, monkeypatch):
    real = os.geteuid()
    with monkeypatch.context() as changed:
        changed.setattr(os, "geteuid", lambda: real + 1)
        publisher = publishing()
    ports.perform([OpenSession(1, endpoint, subscribe=True)])
    assert heard(ports, 2, publisher) == [(1, Change.CONNECTED), (1, Change.LOST)]  # The leader looks,
    with monkeypatch.context() as changed:
        changed.setattr(os, "geteuid", lambda: real + 2)
        assert type(subscribed(ports, publisher, endpoint, A, number=2)) is not Lane  # and the subscriber.
    publisher.publish(A, b"by libzmq")
    assert heard(ports, 1) == [(2, [A, HEADER, b"by libzmq"])]


@pytest.mark.parametrize("garbage", [b"\2\0\0\0\1", b"\1\0\0\0\1\xff\0\0\0\1", b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage_ends_its_lane_and_no_other(ports, publishing, endpoint, garbage):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    stranger = lane.reach(publisher.name)
    stranger.send(garbage)
    until(lambda: publisher.counters.errors == 1, publisher)
    assert select.select([stranger], [], [], PATIENCE_S)[0]
    with stranger, contextlib.suppress(ConnectionResetError):  # Where more of it was never read.
        assert stranger.recv(1) == b""
    assert publisher.publishing.subscriptions == 1
    publisher.publish(A, b"still")
    assert heard(ports, 1) == [(1, [A, HEADER, b"still"])]


def test_a_wish_may_come_in_pieces_and_twice(publishing, endpoint):
    publisher = publishing()
    with lane.reach(publisher.name) as subscriber:
        for piece in (b"\1", b"\0\0", b"\0\1\1", b"\0\0\0\1"):
            subscriber.send(piece)
            publisher.attend()
            publisher.attend()
        assert publisher.publishing.subscriptions == 1
        subscriber.send(lane.WISH.pack(0, A) * 2)
        publisher.attend()
        assert publisher.publishing.subscriptions == 0
        subscriber.send(lane.WISH.pack(1, A))
        until(lambda: publisher.publishing.subscriptions == 1, publisher)
    until(lambda: publisher.publishing.subscriptions == 0, publisher)


def test_fifty_thousand_subscriptions_take_effect(ports, publishing, endpoint):
    publisher = publishing()
    topics = [number.to_bytes(4, "big") for number in range(50_000)]
    subscribed(ports, publisher, endpoint, *topics)
    publisher.publish(topics[-1], b"v")
    assert heard(ports, 1) == [(1, [topics[-1], HEADER, b"v"])]


def test_too_many_subscriptions_end_the_lane(ports, publishing, endpoint):
    publisher = publishing(subscriptions_max=1_000)
    ports.perform([OpenSession(1, endpoint, subscribe=True)])
    assert until(ports.drain, publisher) == [(1, Change.CONNECTED)]
    ports.perform([Subscribe(1, number.to_bytes(4, "big")) for number in range(1_001)])
    assert ports.drain() == []
    assert until(ports.drain, publisher) == [(1, Change.LOST)]
    assert publisher.publishing.subscriptions == 0


def test_dropping_all_subscribers_ends_lanes_and_they_come_back(ports, publishing, endpoint):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    publisher.publishing.drop(int(PATIENCE_S * 1e9))
    assert until(ports.drain) == [(1, Change.LOST)]
    assert type(subscribed(ports, publisher, endpoint, A, number=2)) is Lane


def test_whoever_subscribes_to_more_than_a_leader_takes_at_once_keeps_to_a_sub(
    ports, publishing, endpoint, monkeypatch
):
    monkeypatch.setattr(lane, "KERNEL_BYTES", 4_096)
    publisher = publishing()
    subscribed(ports, publisher, endpoint)
    topics = [number.to_bytes(4, "big") for number in range(20_000)]
    ports.perform([Subscribe(1, topic) for topic in topics])
    assert ports.drain() == [(1, Change.LOST)]
    until(lambda: publisher.publishing.subscriptions == 0, publisher)
    assert type(subscribed(ports, publisher, endpoint, *topics, number=2)) is not Lane
    publisher.publish(topics[-1], b"v")
    assert heard(ports, 1) == [(2, [topics[-1], HEADER, b"v"])]


class Struck(Exception):
    """As a handler of signals may raise it, anywhere."""


@pytest.fixture
def strike():
    """Have one call of C raise as it returns: the n-th of that name."""

    def at(name, number=1):
        left = [number]

        def profile(frame, event, what):
            if event == "c_return" and what.__name__ == name:
                left[0] -= 1
                if not left[0]:
                    sys.setprofile(None)
                    raise Struck

        sys.setprofile(profile)

    yield at
    sys.setprofile(None)


def test_a_publisher_that_is_struck_while_it_sends_leaves_no_torn_stream(ports, publishing, endpoint, strike):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    strike("send")
    with pytest.raises(Struck):
        publisher.publish(A, b"one")
    sys.setprofile(None)
    publisher.publish(A, b"two")
    seen = heard(ports, 1)
    seen += until(ports.drain) if seen[-1][1] is not Change.LOST else []
    assert seen in ([(1, [A, HEADER, b"one"]), (1, Change.LOST)], [(1, Change.LOST)])


def test_a_publisher_that_is_struck_while_it_keeps_the_rest_leaves_nobody_waiting(ports, publishing, endpoint, strike):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    sent = 0

    def publish():
        nonlocal sent
        while True:
            strike("append")
            publisher.publish(A, b"%08d" % sent * 5_000)
            sent += 1

    with pytest.raises(Struck):
        publish()
    assert publisher.publishing.lanes.subscriptions == 0
    seen = heard(ports, sent + 1)
    assert [bytes(parts[2][:8]) for _, parts in seen[:-1]] == [b"%08d" % number for number in range(sent)]
    assert seen[-1] == (1, Change.LOST)


def test_a_subscriber_that_is_struck_while_it_receives_loses_the_lane(ports, publishing, endpoint, strike):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    publisher.publish(A, b"one")
    strike("recv")
    with pytest.raises(Struck):
        ports.drain()
    sys.setprofile(None)
    assert ports.drain() == [(1, Change.LOST)]
    assert ports.fds() == []


def test_a_forked_child_holds_nothing_open(ports, publishing, endpoint):
    publisher = publishing()
    subscribed(ports, publisher, endpoint, A)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        publisher.close()
        assert until(ports.drain) == [(1, Change.LOST)]
        assert lane.reach(publisher.name) is None
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)
