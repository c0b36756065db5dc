"""More of everything than anybody needs (reliability.md, section 5: 25)."""

from __future__ import annotations

import pytest
import zmq

import zfabric
from tests.security.attack import (
    MIB,
    Bystander,
    Node,
    frame,
    one_record,
    packed,
    partition_id,
    sealed,
    shaken,
    stranger,
    until,
)
from zfabric import errors
from zfabric.settings import (
    GROUPS_PER_PARTITION_MAX,
    PARTITIONS_MAX,
    PRODUCERS_PER_PARTITION_MAX,
    TOPIC_PARTITIONS_MAX,
)
from zfabric.wire import messages
from zfabric.wire.messages import Type

pytestmark = pytest.mark.usefixtures("others")


def answers(client, requests):
    """Send many requests, a few hundred under way at a time; return the answers."""
    heard = []
    for sent, request in enumerate(requests, 1):
        client.say(request)
        while sent - len(heard) >= 400:
            heard.append(client.hear())
    while len(heard) < sent:
        heard.append(client.hear())
    assert None not in heard
    return heard


@pytest.fixture
def place(node, request):
    """Id of a partition of the test's own topic."""
    with zfabric.connect(node.url, timeout=30) as fabric:
        fabric.topics.create(request.node.name)
        return partition_id(fabric, request.node.name)


def test_a_hundred_thousand_subscriptions_are_kept_and_forgotten(node, others):
    before, memory = node.status().subscriptions, node.memory()
    with stranger(node.publish, zmq.SUB, SNDHWM=0) as reader:
        for number in range(1, PARTITIONS_MAX + 1):
            reader.socket.setsockopt(zmq.SUBSCRIBE, messages.PARTITION.pack(number))
        others.progress(20)
        assert until(lambda: node.status().subscriptions >= before + PARTITIONS_MAX)
        assert node.memory() < memory + 100 * MIB
    assert until(lambda: node.status().subscriptions <= before + 1)


def test_subscriptions_to_what_cannot_exist_cost_little_and_are_counted(node, others):
    before, memory, refused = node.status().subscriptions, node.memory(), node.status().errors
    with stranger(node.publish, zmq.SUB, SNDHWM=0) as reader:
        for number in range(5_000):
            reader.socket.setsockopt(zmq.SUBSCRIBE, b"%d" % number * 50)
        others.progress(20)
        assert until(lambda: node.status().errors >= refused + 5_000)
    assert node.status().subscriptions <= before + 1
    assert node.memory() < memory + 150 * MIB


def test_one_subscription_repeated_without_end_keeps_nobody_from_subscribing(tmp_path):
    """The end of it is told once by libzmq, each repetition every time: a count alone would run full for ever."""
    node = Node(tmp_path, subscriptions_max=20_000)
    try:
        with zfabric.connect(node.url, timeout=30) as fabric:
            fabric.topics.create("t")
            place = messages.PARTITION.pack(partition_id(fabric, "t"))
        worker = Bystander(node, "t")
        try:
            worker.progress(5)
            with shaken(node.publish, kind=b"SUB") as connection:
                for _ in range(30):
                    connection.sendall(frame(b"\1" + place) * 1_000)
                worker.progress(20)
                assert until(lambda: b"subscriptions_exceeded" in node.log.read_bytes())
            assert until(lambda: node.status().subscriptions < 20_000)
            worker.progress(20)
        finally:
            worker.close()
        assert node.same()
    finally:
        node.stop()


def test_a_thousand_subscribers_each_get_each_batch_cheaply(node, place):
    """What 1,000 consumers look like to a leader: a connection and a subscription each."""
    memory = node.memory()
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4_000)
    try:
        readers = []
        for _ in range(1_000):
            reader = context.socket(zmq.SUB)
            reader.setsockopt(zmq.SUBSCRIBE, messages.PARTITION.pack(place))
            reader.connect(f"tcp://127.0.0.1:{node.publish}")
            readers.append(reader)
        assert until(lambda: node.status().subscriptions >= 1_000)
        with stranger(node.port) as producer:
            for number in range(5):
                payload = one_record(b"%d" % number)
                producer.ask(*messages.produce(9, 0, *sealed(payload, place)))
                for reader in readers:
                    frames = []
                    while len(frames) != 3:  # Else it is a HEAD beacon.
                        assert reader.poll(20_000)
                        frames = reader.recv_multipart()
                    assert frames[2] == payload
        assert node.memory() < memory + 100 * MIB
    finally:
        context.destroy(linger=0)
    assert until(lambda: node.memory() < node.base + 16 * MIB), "what they took is given back when they have left"


def test_groups_of_a_partition_are_bounded_by_a_typed_error(node, place, others):
    commits = (
        messages.command(Type.COMMIT_OFFSETS, n, messages.CommitOffsets(f"g{n}", [messages.CommitOffset(place, 0)]))
        for n in range(1, GROUPS_PER_PARTITION_MAX + 21)
    )
    with stranger(node.port) as attacker:
        heard = answers(attacker, commits)
        assert sum(answer.type == Type.DONE for answer in heard) == GROUPS_PER_PARTITION_MAX
        refused = next(answer.body for answer in heard if answer.type == Type.ERROR)
        error = errors.from_wire(refused.code, refused.values)
        assert isinstance(error, errors.LimitExceeded)
        assert error.limit == GROUPS_PER_PARTITION_MAX
        others.progress(10)
        assert isinstance(
            attacker.ask(messages.command(Type.DELETE_GROUP, 9, messages.DeleteGroup("g1"))), messages.Empty
        )
        again = messages.CommitOffsets("new", [messages.CommitOffset(place, 0)])
        assert isinstance(attacker.ask(messages.command(Type.COMMIT_OFFSETS, 9, again)), messages.Empty)


def test_producers_of_a_partition_are_bounded_by_a_typed_error(node, place, others):
    begins = (
        messages.command(Type.INIT_PRODUCER, n, messages.InitProducer(place, n))
        for n in range(1, PRODUCERS_PER_PARTITION_MAX + 21)
    )
    with stranger(node.port) as attacker:
        heard = answers(attacker, begins)
        assert sum(answer.type == Type.PRODUCER_IS for answer in heard) == PRODUCERS_PER_PARTITION_MAX
        refused = heard[-1].body
        error = errors.from_wire(refused.code, refused.values)
        assert isinstance(error, errors.LimitExceeded)
        assert error.limit == PRODUCERS_PER_PARTITION_MAX
        batch = sealed(one_record(), place, producer_id=1 << 60)
        assert isinstance(attacker.ask(*messages.produce(9, 0, *batch)), errors.LimitExceeded)
        others.progress(10)


def test_partitions_of_a_node_are_bounded_by_a_typed_error(tmp_path):
    node = Node(tmp_path)
    try:
        with stranger(node.port) as attacker:
            made = 0
            while True:
                body = [f"t{made}", TOPIC_PARTITIONS_MAX, ["fsync"]]
                answer = attacker.ask(packed(Type.CREATE_TOPIC, messages._encode(body)))
                if isinstance(answer, errors.ZFabricError):
                    break
                made += 1
            assert isinstance(answer, errors.LimitExceeded)
            assert made * TOPIC_PARTITIONS_MAX <= PARTITIONS_MAX
            assert answer.limit == PARTITIONS_MAX
            assert attacker.hello()
        assert node.same(), node.log.read_text()[-3_000:]
        assert node.memory() < node.base + 200 * MIB
    finally:
        node.stop()
