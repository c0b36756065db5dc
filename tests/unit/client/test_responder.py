"""An instance of a service, with callers and workers that the test plays."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from zfabric import errors
from zfabric.core import effects
from zfabric.core.client import vitals
from zfabric.core.client.client import Client
from zfabric.core.client.job import Method
from zfabric.core.client.responder import Responder
from zfabric.core.client.unread import ASK_BYTES, CALLER_BYTES, EXCESS
from zfabric.wire import calls
from zfabric.wire.card import ServiceCard

SECOND = 1_000_000_000
PEER = b"peer"


class Stage:
    """An instance of service ``s`` with method ``m``, and two workers for it."""

    def __init__(self, start_ns=SECOND):
        self.client = Client("tcp://h:1", "zf://h", "h", Random(1), software="test", locate=False)
        self.now, self.number = SECOND, 0
        card = ServiceCard("s", "", "tcp://i:1", 7)
        self.responder = Responder(
            self.client, card, concurrency=2, queue=10, streams=1, wake=lambda: None, patience_ns=SECOND
        )
        self.responder.offer(Method("m", None, idempotent=True, stream=False))
        self.responder.start(self.now, start_ns)
        (listen,) = (effect for effect in self.client.take_effects() if isinstance(effect, effects.Listen))
        self.session = listen.session
        self.client.listens(self.session, "tcp://i:1", self.now)
        self.client.take_effects()

    def ask(self, body=b"body", peer=PEER, seconds=1, *, method=b"s.m", stream=False):
        """Say a REQUEST; tells whether the pump has to ask for the next deadline after it."""
        self.number += 1
        self.client.restless = False
        flags, window = (calls.FLAG_STREAM, 8) if stream else (0, 0)
        frames = calls.request(
            calls.REQUEST, self.number, 7, seconds * 1_000_000, method, b"", body, flags=flags, window=window
        )
        self.client.receive(self.session, [peer, *frames], self.now)
        return self.client.restless

    def work(self, size):
        """Let a worker answer what it can take with so many bytes each; returns who was answered, in order."""
        answered = []
        while (job := self.responder.take(self.now)) is not None:
            answered.append(job.peer)
            self.answer(job, bytes(size))
        return answered

    def sent(self, peer):
        """What was sent to a caller since this was last asked of anybody."""
        effects_ = [effect.frames for effect in self.client.take_effects() if isinstance(effect, effects.Send)]
        return [calls.read_answered(frames[1:]) for frames in effects_ if frames[0] == peer]

    def say(self, peer, kind, number):
        self.client.receive(self.session, [peer, *calls.bare(kind, number)], self.now)

    def answer(self, job, body=b""):
        """A worker is through with a request."""
        self.client.requests.effect(self.responder.answer(job, body))
        self.responder.end(job, self.now)

    def call_back(self):
        """Run what is to be run outside the lock, as the pump does."""
        for callback, delivery, error in self.client.take_callbacks():
            callback(delivery, error)

    def replies(self):
        sent = [effect.frames for effect in self.client.take_effects() if isinstance(effect, effects.Send)]
        return [calls.read_answered(frames[1:]) for frames in sent if frames[0] == PEER]


def test_a_worker_that_attends_gets_the_request_that_comes():
    stage = Stage()
    stage.ask()  # The first of its method takes a closer look.
    stage.answer(stage.responder.take(stage.now))
    stage.responder.attended = True
    assert not stage.responder.ready
    assert not stage.ask(b"question")
    assert stage.responder.ready
    assert not stage.ask(b"another")
    jobs = [stage.responder.take(stage.now), stage.responder.take(stage.now)]
    assert [job.body for job in jobs] == [b"question", b"another"]
    assert stage.responder.running == 2
    stage.ask(b"third")
    assert stage.responder.take(stage.now) is None
    stage.replies()
    for job in jobs:
        stage.answer(job, b"re: " + job.body)
    assert [(reply.number, reply.body) for reply in stage.replies()] == [(2, b"re: question"), (3, b"re: another")]
    assert stage.responder.take(stage.now).body == b"third"


@pytest.mark.parametrize("prompt", [True, False])
def test_workers_are_called_as_the_pump_wants_it(prompt):
    """By itself, at once, or as users' callbacks are."""
    stage = Stage()
    stage.responder.prompt = prompt
    stage.ask()
    assert stage.client.handing is prompt
    assert stage.client.calling is not prompt


def test_a_method_that_was_replaced_gets_no_request_any_more():
    stage = Stage()
    for _ in range(2):
        stage.ask()
        stage.answer(stage.responder.take(stage.now))
    other = Method("m", None, idempotent=False, stream=False)
    stage.responder.offer(other)
    stage.ask()
    assert stage.responder.take(stage.now).method is other


def test_the_end_of_the_last_request_of_one_that_drains_is_no_usual_one():
    """It ends then: the pump has to ask for the next deadline."""
    stage = Stage()
    stage.ask()
    job = stage.responder.take(stage.now)
    stage.responder.drain(stage.now, stage.now + SECOND)
    stage.client.restless = False
    stage.answer(job)
    assert stage.client.restless
    assert stage.client.next_deadline() == 0


def full(stage, peer=b"deaf"):
    """Let a caller ask until nothing more is begun for it; returns the number that it is asked by."""
    for _ in range(5):
        stage.ask(peer=peer, seconds=60)
    assert [stage.work(CALLER_BYTES), stage.responder.ready] == [[peer], False]
    assert len(stage.responder.backlog) == 4
    reply, question = stage.sent(peer)
    assert (reply.type, question.type) == (calls.REPLY, calls.PONG)
    return question.number


def test_a_caller_that_does_not_read_has_nothing_more_begun_until_it_has_read():
    stage = Stage()
    question = full(stage)
    stage.ask(peer=b"other")
    assert stage.work(10) == [b"other"]
    stage.say(b"deaf", calls.PING, question ^ 1)
    assert stage.work(10) == []
    stage.say(b"deaf", calls.PING, question)
    assert stage.sent(b"deaf") == []
    assert stage.work(10) == [b"deaf"] * 4
    assert stage.responder.backlog.bytes == 0


def test_a_worker_that_attends_gets_nothing_of_a_caller_that_does_not_read():
    """Though it has been asked already when it becomes full."""
    stage = Stage()
    for size in (ASK_BYTES, CALLER_BYTES):
        stage.ask(peer=b"deaf")
        stage.work(size)
    stage.responder.attended = True
    stage.ask(peer=b"deaf")
    assert stage.work(10) == []
    stage.ask(peer=b"other")
    assert stage.work(10) == [b"other"]


def test_requests_that_wait_for_their_caller_to_read_may_be_cancelled_and_fill_half_of_the_queue():
    stage = Stage()
    full(stage)
    for _ in range(20):
        stage.ask(peer=b"deaf")
    assert len(stage.responder.backlog) == 7  # As many as two workers would take, and half of ten.
    for _ in range(3):
        stage.ask(peer=b"other")
    assert stage.work(10) == [b"other"] * 3
    for number in range(1, 40):
        stage.say(b"deaf", calls.CANCEL, number)
    assert (len(stage.responder.backlog), stage.responder.backlog.bytes) == (0, 0)
    assert stage.responder.jobs == {}


def test_a_caller_that_reads_nothing_for_the_services_patience_is_given_up():
    stage = Stage()
    full(stage)
    stage.now += 20 * SECOND
    stage.client.tick(stage.now)
    assert len(stage.responder.backlog) == 0
    assert stage.responder.counts["cancelled"] == 4


def test_a_caller_that_has_gone_is_forgotten_with_what_it_has_not_read():
    stage = Stage()
    full(stage)
    stage.client.left(stage.session, b"deaf", stage.now)
    assert len(stage.responder.backlog) == 0
    stage.ask(peer=b"deaf")
    assert stage.work(10) == [b"deaf"]


def test_an_answer_to_a_question_makes_nobody_a_caller_again_that_has_said_farewell():
    """A drain would wait for it."""
    stage = Stage()
    stage.say(b"deaf", calls.PING, 1)
    assert [told.type for told in stage.sent(b"deaf")] == [calls.PONG]
    question = full(stage)
    stage.say(b"deaf", calls.FAREWELL, 0)
    stage.say(b"deaf", calls.PING, question)
    assert vitals.stats(stage.responder)["callers"] == 0


def test_what_would_be_far_too_much_for_a_caller_that_does_not_read_is_an_error_instead():
    stage = Stage()
    stage.ask(peer=b"deaf")
    stage.ask(peer=b"deaf")
    jobs = [stage.responder.take(stage.now), stage.responder.take(stage.now)]
    stage.responder.unread.sent(b"deaf", EXCESS * CALLER_BYTES - 2_000, stage.now)
    stage.answer(jobs[0], bytes(2_000))
    stage.answer(jobs[1], bytes(2_000))
    reply, failure = (told for told in stage.sent(b"deaf") if told.type != calls.PONG)
    assert (reply.type, failure.type) == (calls.REPLY, calls.FAILED)
    assert failure.failure.code == errors.LimitExceeded.code
    assert (stage.responder.running, stage.responder.counts["failures"]) == (0, 1)


def test_callers_take_turns_however_much_one_of_them_asks():
    stage = Stage()
    for _ in range(6):
        stage.ask(peer=b"much")
    for _ in range(2):
        stage.ask(peer=b"little")
    assert stage.work(10) == [b"much", b"little", b"much", b"little"] + [b"much"] * 4


def test_when_there_is_no_room_the_newest_request_of_the_caller_with_the_most_gives_way():
    """Ten wait beside what two workers would take: each of the callers gets its share of that."""
    stage = Stage()
    for _ in range(20):
        stage.ask(peer=b"much")
    assert len(stage.sent(b"much")) == 8
    for _ in range(20):
        stage.ask(peer=b"late")
    (*given_way,) = (answer.number for answer in stage.sent(b"much"))
    assert given_way == [12, 11, 10, 9, 8, 7]
    assert stage.responder.counts["overloaded"] == 8 + 20
    answered = stage.work(10)
    assert (answered.count(b"much"), answered.count(b"late")) == (6, 6)
    assert (stage.responder.jobs, stage.responder.backlog.bytes) == ({}, 0)


def test_bytes_that_wait_are_shared_as_well():
    """Four bodies of 16 MiB fill what may wait."""
    stage = Stage()
    large = bytes(16 << 20)
    for _ in range(5):
        stage.ask(large, peer=b"much")
    assert [answer.number for answer in stage.sent(b"much")] == [5]
    stage.ask(peer=b"little")
    assert [answer.number for answer in stage.sent(b"much")] == [4]
    assert stage.work(10) == [b"much", b"little", b"much", b"much"]


def test_a_caller_that_reads_nothing_takes_nobody_s_place():
    stage = Stage()
    full(stage)
    for _ in range(20):
        stage.ask(peer=b"other")
    assert all(answer.type != calls.REFUSED for answer in stage.sent(b"deaf"))
    stage.ask(peer=b"deaf")
    assert stage.sent(b"other") == []


def test_a_request_whose_time_is_over_is_not_wanted_any_more_though_nobody_says_so():
    """Neither one that runs, nor one that waits: it holds no place."""
    stage = Stage()
    for _ in range(4):
        stage.ask()
    running, told = [stage.responder.take(stage.now) for _ in range(2)], []
    for job in running:
        job.cancel = lambda job=job: told.append(job)
    stage.now += 3 * SECOND // 2
    stage.client.tick(stage.now)
    stage.call_back()
    assert told == running
    assert [job.cancelled for job in running] == [True, True]
    assert len(stage.responder.backlog) == 0
    assert stage.responder.counts["expired"] == 4
    for _ in range(3):  # Whoever cleans up may take long, and is told once.
        stage.now += 2 * SECOND
        stage.client.tick(stage.now)
        stage.call_back()
    assert (told, stage.responder.counts["expired"]) == (running, 4)
    for job in running:
        stage.responder.end(job, stage.now)
    assert stage.responder.jobs == {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["health", "stats"])
def test_what_an_instance_says_of_itself_needs_no_worker_and_no_room_and_is_said_while_it_drains(method, stream):
    stage = Stage()
    for _ in range(20):
        stage.ask()
    running = stage.responder.take(stage.now), stage.responder.take(stage.now)
    stage.responder.drain(stage.now, stage.now + SECOND)
    stage.replies()
    stage.ask(method=f"s.{method}".encode(), stream=stream)
    (answer,) = stage.replies()
    assert answer.type == (calls.CHUNK if stream else calls.REPLY)
    if method == "health":
        assert bytes(answer.body) == b"ok"
    else:
        told = msgspec.json.decode(answer.body)
        assert (told["running"], told["waiting"], told["draining"], told["methods"]["stats"]["calls"]) == (
            2,
            10,
            True,
            1,
        )
    for job in running:
        stage.answer(job)
    assert len(stage.work(10)) == 10


def test_a_caller_that_reads_nothing_is_not_told_how_an_instance_is():
    stage = Stage()
    full(stage)
    stage.sent(b"deaf")
    stage.ask(peer=b"deaf", method=b"s.stats")
    (answer,) = stage.sent(b"deaf")
    assert (answer.type, answer.failure.code) == (calls.REFUSED, errors.Overloaded.code)


def test_a_service_s_own_method_of_such_a_name_takes_a_worker():
    stage = Stage()
    stage.responder.offer(Method("health", None, idempotent=True, stream=False))
    stage.ask(method=b"s.health")
    assert stage.replies() == []
    assert stage.responder.take(stage.now).method.name == "health"


def test_streams_of_one_caller_leave_workers_to_others_and_take_half_of_the_queue_at_most():
    stage = Stage()
    for _ in range(8):
        stage.ask(peer=b"much", stream=True)
    first = stage.responder.take(stage.now)
    assert stage.responder.take(stage.now) is None
    refused = [answer.number for answer in stage.sent(b"much") if answer.type == calls.REFUSED]
    assert refused == [7, 8]
    stage.ask(peer=b"little")
    assert stage.work(10) == [b"little"]
    stage.ask(peer=b"much")  # Nor do they hold up what is no stream.
    assert stage.work(10) == [b"much"]
    stage.say(b"much", calls.CANCEL, 2)
    stage.answer(first)
    assert stage.responder.take(stage.now).number == 3
    stage.client.left(stage.session, b"much", stage.now)
    assert len(stage.responder.backlog) == 0


def test_streams_that_wait_for_their_own_maker_s_streams_are_refused():
    """All that a caller may have at once have asked for such a one themselves."""
    stage = Stage()
    stage.ask(peer=b"self", stream=True)
    job = stage.responder.take(stage.now)
    job.asks(b"")
    stage.ask(peer=b"self", stream=True)
    (answer,) = stage.sent(b"self")
    assert (answer.type, answer.failure.code) == (calls.REFUSED, errors.WouldDeadlock.code)


def test_a_service_that_starts_waits_for_its_fabric_as_long_as_it_is_told_to():
    """As for a node that is started after it."""
    stage = Stage(start_ns=30 * SECOND)
    began, announced = stage.now, stage.responder.announced
    while not announced.done and stage.now < began + 60 * SECOND:
        stage.now += SECOND // 10
        stage.client.tick(stage.now)
        stage.client.take_effects()
    assert 29 * SECOND < stage.now - began <= 31 * SECOND
    assert isinstance(announced.error, errors.Unreachable)
