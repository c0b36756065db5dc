"""Where topics and leaders are, and what becomes of that when they change."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import SECOND, Wire, endpoint
from zfabric import errors
from zfabric.core.client.client import AGE_NS
from zfabric.model import TopicConfig
from zfabric.wire import messages
from zfabric.wire.messages import Type


@pytest.fixture
def wire():
    return Wire(leaders=2)


def want(wire, name="t", seconds=10.0):
    pending = wire.client.want(name, wire.now, wire.now + int(seconds * SECOND))
    wire.step()
    return pending


def test_all_who_want_a_topic_share_one_question(wire):
    pendings = [wire.client.want("t", wire.now, wire.now + SECOND) for _ in range(5)]
    wire.step()
    assert (wire.asked_metadata, {pending.result().id for pending in pendings}) == (1, {1})
    assert (want(wire).result().name, wire.asked_metadata) == ("t", 1)


def test_an_unknown_topic_is_an_error_and_is_asked_for_again(wire):
    pending = want(wire, "u")
    wire.pass_time(3.0)  # Nobody tells who else has it.
    with pytest.raises(errors.UnknownTopic):
        pending.result()
    wire.topics["u"] = (2, [5], TopicConfig())
    assert want(wire, "u").result().id == 2


def test_a_star_in_an_endpoint_is_the_host_by_which_we_came(wire):
    want(wire)
    assert wire.client.endpoint(1) == endpoint(1)
    assert wire.client.endpoint(7) is None


def test_a_refresh_is_asked_once_at_a_time_and_at_most_every_50_ms(wire):
    want(wire)
    wire.up.clear()
    wire.lose()
    for _ in range(100):
        wire.client.refresh("t", wire.now)
        wire.pass_time(0.01)
    assert len(wire.client.requests.connections[wire.client.bootstrap].waiting) <= 2


def test_a_passing_error_is_asked_again_until_the_deadline(wire):
    want(wire)
    body = messages.Describe([1])
    pending = wire.client.call_partition(1, Type.DESCRIBE, body, wire.now, wire.now + SECOND, "it")
    for _ in range(200):
        wire.pass_time(0.01)
        for _, command in wire.sent[-1:]:
            wire.fail(command, errors.NotLeader(leader=1, partition=1))
    assert isinstance(pending.error, errors.NotLeader)
    assert 3 < len(wire.sent) < 20


def test_what_is_asked_of_a_deleted_topic_is_told_so_and_not_tried_to_the_end(wire):
    want(wire)
    del wire.topics["t"]
    body = messages.Describe([1])
    pending = wire.client.call_partition(1, Type.DESCRIBE, body, wire.now, wire.now + 60 * SECOND, "it", "t")
    wire.step()
    wire.fail(wire.sent[-1][1], errors.NotLeader(leader=1, partition=1))
    wire.pass_time(0.2)
    assert isinstance(pending.error, errors.UnknownTopic)


def test_topics_in_use_are_asked_for_again_in_time_and_others_are_not(wire):
    wire.topics["u"] = (2, [5], TopicConfig())
    want(wire, "u")
    wire.pass_time(AGE_NS / SECOND + 1)
    assert wire.asked_metadata == 1
    wire.open(wire.consumer("t"))
    before = wire.asked_metadata
    wire.pass_time(AGE_NS / SECOND + 1)
    assert wire.asked_metadata > before
    assert wire.client.topic("t") is not None


def test_a_leader_that_listens_elsewhere_gets_what_was_under_way(wire):
    """A node that was started again may not get the same ports."""
    producer = wire.producer(batch_bytes=1)
    for number in range(3):
        wire.send(producer, b"%d" % number)
    sent = wire.step()
    wire.places[1] = ("tcp://h:77", "tcp://h:78")
    wire.up = {wire.client.bootstrap, "tcp://h:77", "tcp://h:78"}
    wire.lose(endpoint(1))
    wire.pass_time(4.0)
    again = [command for session, command in wire.sent[3:] if wire.sessions.get(session) == "tcp://h:77"]
    assert [command.request for command in again] == [command.request for command in sent]
    for command in again:
        wire.accept(command)
    assert producer.used == 0
    opened = len(wire.opened)
    wire.pass_time(20.0)
    assert len(wire.opened) == opened, "nobody goes on trying where nobody listens"


def test_a_leader_that_comes_back_late_is_found_by_asking_again(wire):
    producer = wire.producer()
    wire.send(producer)
    [command] = wire.step()
    wire.up = {wire.client.bootstrap}
    wire.lose(endpoint(1))
    wire.pass_time(10.0)
    wire.places[1] = ("tcp://h:77", "tcp://h:78")
    wire.up |= {"tcp://h:77"}
    wire.pass_time(5.0)
    assert wire.sent[-1][1].request == command.request
    assert wire.sessions[wire.sent[-1][0]] == "tcp://h:77"


def test_nothing_is_due_and_nothing_is_busy_once_all_is_answered(wire):
    producer = wire.producer()
    wire.send(producer)
    wire.accept(wire.step()[0])
    wire.pass_time(200.0)
    assert not wire.client.busy()
    assert wire.client.next_deadline() is None
