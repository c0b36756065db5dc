"""An instance of a service, with callers and workers that the test plays."""

from __future__ import annotations

from random import Random

import pytest

from zfabric.core import effects
from zfabric.core.client.client import Client
from zfabric.core.client.job import Method
from zfabric.core.client.responder import Responder
from zfabric.wire import calls
from zfabric.wire.card import ServiceCard

SECOND = 1_000_000_000
PEER = b"peer"


class Stage:
    """An instance of service ``s`` with method ``m``, and two workers for it."""

    def __init__(self):
        self.client = Client("tcp://h:1", "zf://h", "h", Random(1), software="test", locate=False)
        self.now, self.number = SECOND, 0
        card = ServiceCard("s", "", "tcp://i:1", 7)
        self.responder = Responder(
            self.client, card, {}, concurrency=2, queue=10, wake=lambda: None, patience_ns=SECOND
        )
        self.responder.offer(Method("m", None, idempotent=True, stream=False))
        self.responder.start(self.now)
        (listen,) = (effect for effect in self.client.take_effects() if isinstance(effect, effects.Listen))
        self.session = listen.session
        self.client.listens(self.session, "tcp://i:1", self.now)
        self.client.take_effects()

    def ask(self, body=b"body"):
        """Say a REQUEST; tells whether the pump has to ask for the next deadline after it."""
        self.number += 1
        self.client.restless = False
        frames = calls.request(calls.REQUEST, self.number, 7, 1_000_000, b"s.m", b"", body)
        self.client.receive(self.session, [PEER, *frames], self.now)
        return self.client.restless

    def answer(self, job, body=b""):
        """A worker is through with a request."""
        self.client.requests.effect(self.responder.answer(job, body))
        self.responder.end(job, self.now)

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
