"""A caller and instances that the test plays: what each word of theirs does to the requests under way."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from zfabric import errors
from zfabric.core import effects
from zfabric.core.client import caller as callers
from zfabric.core.client.breaker import CONSECUTIVE
from zfabric.core.client.caller import Caller
from zfabric.core.client.client import Client
from zfabric.core.client.errand import Errand
from zfabric.core.client.pool import SETTLE_NS
from zfabric.settings import CALLS_PER_INSTANCE_MAX
from zfabric.wire import calls
from zfabric.wire.card import DRAINING, ServiceCard

MS = 1_000_000
SECOND = 1_000 * MS


class Stage:
    """One caller, and instances 1 to ``count`` of service ``s`` that are there while they are ``up``."""

    def __init__(self, *versions):
        self.client = Client("tcp://h:1", "zf://h", "h", Random(1), software="test", locate=False)
        self.caller = self.client.caller = Caller(self.client)
        self.now = SECOND
        self.up = set(range(1, len(versions) + 1))
        self.sessions, self.opened, self.asked = {}, [], []
        self.client.now = self.now
        self.client.members.complete = True
        cards = [ServiceCard("s", version, f"tcp://i:{n}", n) for n, version in enumerate(versions, 1)]
        self.caller.instances.use(self.now)
        self.caller.instances.learn(cards, self.now)

    def step(self):
        for _ in range(1_000):
            due = self.client.next_deadline()
            if due is not None and due <= self.now:
                self.client.tick(self.now)
            wanted = self.client.take_effects()
            if not wanted:
                return
            for effect in wanted:
                self.perform(effect)
        raise AssertionError("the caller never rests")

    def perform(self, effect):
        if isinstance(effect, effects.OpenSession) and effect.endpoint.startswith("tcp://i:"):
            number = int(effect.endpoint.rpartition(":")[2])
            self.opened.append(number)
            self.sessions[effect.session] = number
            if number in self.up:
                self.client.connected(effect.session, self.now)
        elif isinstance(effect, effects.CloseSession):
            self.sessions.pop(effect.session, None)
        elif isinstance(effect, effects.Send) and effect.session in self.sessions:
            asked = calls.read_asked(effect.frames)
            number = self.sessions[effect.session]
            if asked.type != calls.PING:
                self.asked.append((number, asked))
            elif number in self.up:
                self.say(number, calls.pong(asked.number, number, draining=False))

    def say(self, number, frames):
        session = next(session for session, known in self.sessions.items() if known == number)
        self.client.receive(session, frames, self.now)

    def lose(self, number):
        """An instance has died."""
        self.now += MS
        self.up.discard(number)
        session = next(session for session, known in self.sessions.items() if known == number)
        self.client.lost(session, self.now)
        self.step()

    def pass_time(self, seconds):
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.now += 10 * MS
            self.step()

    def ask(self, **options):
        deadline_ns = options.pop("deadline_ns", self.now + 60 * SECOND)
        errand = Errand(options.pop("method", "s.m"), b"", b"", deadline_ns, 60.0)
        if options:
            errand.choose(**options)
        self.caller.call(errand, self.now)
        self.step()
        return errand


def test_a_stream_without_end_does_not_wait_without_end_for_a_fabric_that_is_silent():
    """Nobody answers, so no service is known, and there is no deadline that would tell so."""
    stage = Stage()
    stage.client.members.complete = False
    errands = []
    for silence_s in (5.0, None):
        errand = Errand("s.m", b"", b"", stage.now + 10**18, 1e9)
        errand.vary(calls.REQUEST, stream=True)
        if silence_s is not None:
            errand.bear(silence_s, stage.now)
        stage.caller.call(errand, stage.now)
        errands.append(errand)
    stage.pass_time(4.0)
    assert [errand.done for errand in errands] == [False, False]
    stage.pass_time(3.0)
    assert [errand.done for errand in errands] == [True, False]
    assert isinstance(errands[0].error, errors.ServiceUnavailable)
    assert errands[0].error.seconds == 5.0


def test_a_request_that_was_lost_with_an_instance_is_never_called_unexecuted():
    stage = Stage("1")
    errand = stage.ask(idempotent=True)
    stage.lose(1)
    stage.pass_time(5.0)
    assert isinstance(errand.error, errors.CalleeLost)


@pytest.mark.parametrize(
    "refusal",
    [
        errors.UnknownMethod(service="s", method="m", known="older"),
        errors.WouldDeadlock(service="s", method="m", concurrency=1),
        errors.Overloaded(service="s", running=1, concurrency=1, queued=0, limit=0),
    ],
)
def test_what_one_instance_refuses_another_is_asked_for(refusal):
    """One that is older than the method, for instance, while a new version is rolled out."""
    stage = Stage("1", "1")
    taken, told = stage.ask(), stage.ask()
    for errand, number in ((taken, 1), (told, 3)):
        first, asked = stage.asked[[asked.number for _, asked in stage.asked].index(errand.attempts[0].number)]
        stage.say(first, calls.failure(calls.REFUSED, asked.number, refusal))
        stage.step()
        second, again = stage.asked[-1]
        assert (second, again.number) != (first, asked.number)
        answer = calls.reply(again.number, b"x") if number == 1 else calls.failure(calls.REFUSED, again.number, refusal)
        stage.say(second, answer)
        stage.step()
    assert taken.result() == b"x"
    assert type(told.error) is type(refusal)


@pytest.mark.parametrize("options", [{}, {"hedge_ns": 20 * MS}], ids=["repeated", "hedged"])
def test_a_request_that_was_lost_with_two_instances_goes_to_no_third(options):
    """It may be what they died of."""
    stage = Stage("1", "1", "1", "1")
    errand = stage.ask(idempotent=True, **options)
    if options:
        stage.pass_time(0.1)
    stage.lose(stage.asked[0][0])
    stage.pass_time(1.0)
    stage.lose(stage.asked[1][0])
    stage.pass_time(5.0)
    assert isinstance(errand.error, errors.CalleeLost)
    assert len({number for number, _ in stage.asked}) == len(stage.asked) == 2


def test_a_lost_request_goes_to_nobody_who_has_died_as_well_and_is_not_yet_known_to_have():
    """Else it would be lost with two, as all that are under way when a host loses its power."""
    stage = Stage("1", "1", "1")
    errand = stage.ask(idempotent=True)
    first = stage.asked[0][0]
    second, third = {1, 2, 3} - {first}
    stage.up.discard(second)
    stage.lose(first)
    assert [number for number, _ in stage.asked] == [first, third]
    stage.lose(second)
    stage.say(third, calls.reply(stage.asked[1][1].number, b"x"))
    assert errand.result() == b"x"


def test_a_lost_request_waits_for_the_first_instance_that_is_heard_again():
    stage = Stage("1", "1")
    errand = stage.ask(idempotent=True)
    (first, _), *_ = stage.asked
    other = 3 - first
    stage.up.discard(other)
    stage.lose(first)
    stage.pass_time(3.0)
    assert (len(stage.asked), errand.done) == (1, False)
    stage.say(other, calls.pong(0, other, draining=False))
    stage.step()
    assert stage.asked[1][0] == other


def test_what_another_instance_refuses_after_a_loss_is_a_loss():
    stage = Stage("1", "1")
    errand = stage.ask(idempotent=True)
    stage.lose(stage.asked[0][0])
    (_, _), (second, again) = stage.asked
    refusal = errors.Overloaded(service="s", running=1, concurrency=1, queued=0, limit=0)
    stage.say(second, calls.failure(calls.REFUSED, again.number, refusal))
    stage.pass_time(5.0)
    assert isinstance(errand.error, errors.CalleeLost)


@pytest.mark.parametrize("idempotent", [True, False])
def test_whether_a_method_is_idempotent_is_asked_elsewhere_when_its_first_request_is_lost(idempotent):
    """No answer has told yet. What asks is meant for an instance that there is not, so nobody executes it."""
    stage = Stage("1", "1", "1")
    errand = stage.ask()
    lost = stage.asked[0][0]
    stage.lose(lost)
    number, doubt = stage.asked[-1]
    assert number != lost
    assert doubt.instance not in {0, 1, 2, 3}
    error = errors.WrongInstance(instance=doubt.instance)
    stage.say(number, calls.failure(calls.REFUSED, doubt.number, error, flags=int(idempotent)))
    stage.step()
    if idempotent:
        number, again = stage.asked[-1]
        assert again.instance == number
        stage.say(number, calls.reply(again.number, b"x", int(idempotent)))
        assert errand.result() == b"x"
    else:
        assert isinstance(errand.error, errors.CalleeLost)
        assert len(stage.asked) == 2


def test_a_first_request_that_is_lost_with_the_only_instance_is_told_to_be_at_once():
    stage = Stage("1")
    errand = stage.ask()
    stage.lose(1)
    assert isinstance(errand.error, errors.CalleeLost)


def test_who_is_lost_with_the_question_too_asks_no_third_one():
    stage = Stage("1", "1", "1")
    errand = stage.ask()
    stage.lose(stage.asked[0][0])
    stage.lose(stage.asked[1][0])
    assert isinstance(errand.error, errors.CalleeLost)
    assert len(stage.asked) == 2


@pytest.mark.parametrize("options", [{"version": "2"}, {"instance": 9}])
def test_a_version_or_an_instance_that_is_not_there_is_told_after_a_second(options):
    stage = Stage("1")
    errand = stage.ask(**options)
    stage.pass_time(2.0)
    assert isinstance(errand.error, errors.ServiceUnavailable)
    assert next(iter(options)) in errand.error.wanted


def test_what_was_never_sent_waits_by_its_deadline_for_an_instance_that_is_known_to_be_reached():
    stage = Stage("1")
    stage.up.discard(1)
    patient = stage.ask(deadline_ns=stage.now + 10 * SECOND)
    hasty = stage.ask(deadline_ns=stage.now + 2 * SECOND)
    elsewhere = stage.ask(version="2")
    stage.pass_time(3.0)
    assert [errand.done for errand in (patient, hasty, elsewhere)] == [False, True, True]
    assert isinstance(hasty.error, errors.ServiceUnavailable)
    assert "could not be reached" in hasty.error.detail
    stage.up.add(1)
    stage.pass_time(5.0)
    stage.say(1, calls.reply(stage.asked[0][1].number, b"there"))
    assert patient.result() == b"there"


@pytest.mark.parametrize("ends", ["told that it has ended", "draining", "on another host only"])
def test_an_instance_that_will_not_be_reached_is_waited_for_no_longer_than_none(ends):
    stage = Stage("1")
    stage.up.discard(1)
    errand = stage.ask()
    stage.pass_time(3.0)
    assert not errand.done
    told = {
        "told that it has ended": [],
        "draining": [ServiceCard("s", "1", "tcp://i:1", 1, flags=DRAINING)],
        "on another host only": [ServiceCard("s", "1", "tcp://127.0.0.1:1", 1, host="elsewhere")],
    }
    stage.caller.instances.learn(told[ends], stage.now)
    stage.pass_time(1.1)
    assert isinstance(errand.error, errors.ServiceUnavailable)
    assert 3.0 <= errand.error.seconds <= 4.1


@pytest.mark.parametrize("word", [[b"garbage"], calls.pong(1, 5, draining=False)])
def test_an_instance_that_talks_nonsense_is_not_connected_to_again_at_once(word):
    stage = Stage("1")
    stage.ask()
    stage.say(1, word)
    stage.pass_time(0.9)
    assert stage.opened == [1]
    stage.pass_time(0.5)
    assert stage.opened == [1, 1]


def test_a_method_that_is_not_idempotent_any_more_is_never_taken_for_one(monkeypatch):
    monkeypatch.setattr(callers, "REMEMBERED_MAX", 1)
    stage = Stage("1")
    for flags in (calls.FLAG_IDEMPOTENT, 0):
        errand = stage.ask()
        stage.say(1, calls.reply(stage.asked[-1][1].number, b"", flags))
        assert errand.done
    assert not stage.caller.idempotent(errand)


def test_services_that_nobody_offers_are_soon_forgotten():
    stage = Stage("1")
    errands = [stage.ask(method=f"nobody-{number}.m") for number in range(50)]
    stage.ask()
    stage.pass_time(10.0)
    assert all(isinstance(errand.error, errors.ServiceUnavailable) for errand in errands)
    assert list(stage.caller.instances.pools) == ["s"]


def test_a_request_whose_time_is_over_already_is_not_sent():
    """As those are that a handler makes after its own deadline."""
    stage = Stage("1")
    stage.ask()
    errand = stage.ask(deadline_ns=stage.now)
    assert isinstance(errand.error, errors.RequestTimeout)
    assert len(stage.asked) == 1


def test_a_plain_request_and_its_reply_leave_the_pump_nothing_to_ask_for():
    """It asks for the next deadline again after whatever may have changed it, and after nothing else."""
    stage = Stage("1")
    stage.ask()
    stage.say(1, calls.reply(stage.asked[0][1].number, b""))  # It tells that the method is not idempotent.
    stage.client.restless = False
    first, _ = stage.ask(), stage.ask()
    stage.say(1, calls.reply(stage.asked[1][1].number, b"reply"))
    assert first.result() == b"reply"
    assert not stage.client.restless
    error = errors.RemoteError(method="s.m", kind="E", text="")
    stage.say(1, calls.failure(calls.FAILED, stage.asked[2][1].number, error))
    assert stage.client.restless


@pytest.mark.parametrize("options", [{"deadline_ns": SECOND + 50 * MS}, {"hedge_ns": MS, "idempotent": True}])
def test_a_request_with_a_nearer_deadline_makes_the_pump_ask_for_it(options):
    stage = Stage("1")
    stage.ask()
    stage.client.restless = False
    stage.ask(**options)
    assert stage.client.restless


def test_an_instance_that_another_one_had_to_answer_for_is_known_to_be_slow():
    """It never says how long it takes; that it took longer than the hedge is enough."""
    stage, firsts = Stage("1", "1"), []
    for _ in range(30):
        before = len(stage.asked)
        errand = stage.ask(idempotent=True, hedge_ns=20 * MS)
        firsts.append(stage.asked[before][0])
        stage.pass_time(0.01)
        if firsts[-1] == 1:
            stage.pass_time(0.02)
        number, asked = stage.asked[-1]
        assert number == 2
        stage.say(2, calls.reply(asked.number, b"x"))
        stage.step()
        assert errand.done
    assert 1 <= firsts.count(1) <= 3


def test_a_caller_answers_an_instance_that_asks_whether_it_reads():
    stage = Stage("1")
    stage.ask()
    stage.say(1, calls.pong(calls.QUESTION | 5, 1, draining=False))
    stage.say = None  # An answer of the stage's own would be one too many.
    [sent] = [effect for effect in stage.client.take_effects() if isinstance(effect, effects.Send)]
    told = calls.read_asked(sent.frames)
    assert (told.type, told.number) == (calls.PING, calls.QUESTION | 5)


def test_those_who_find_no_room_are_tried_in_order_and_one_tells_for_all():
    """With each reply: were each of thousands tried, a burst of n requests would take n * n steps."""
    stage = Stage("1", "2")
    most = 2 * CALLS_PER_INSTANCE_MAX
    burst = [stage.ask() for _ in range(most + 50)]
    pool = stage.caller.instances.pools["s"]
    drawn, random = 0, pool._random

    def counted():
        nonlocal drawn
        drawn += 1
        return random()

    pool._random = counted
    assert (len(stage.asked), len(pool.hungry)) == (most, 50)
    stage.say(1, calls.reply(next(asked for number, asked in stage.asked if number == 1).number, b""))
    stage.step()
    assert len(stage.asked) == most + 1
    assert list(pool.hungry) == burst[-49:]
    assert drawn < 20


def test_those_who_are_over_are_forgotten_though_the_first_in_line_waits_on():
    """A stream may wait for ever, and requests come and time out behind it for as long."""
    stage = Stage("1")
    burst = [stage.ask(deadline_ns=1_000 * SECOND) for _ in range(CALLS_PER_INSTANCE_MAX + 1)]
    late = [stage.ask(deadline_ns=stage.now + SECOND) for _ in range(50)]
    stage.pass_time(2.0)
    assert all(isinstance(errand.error, errors.ServiceUnavailable) for errand in late)
    assert list(stage.caller.instances.pools["s"].hungry) == burst[-1:]


def test_an_instance_that_takes_long_to_answer_is_given_more_time_with_each_try():
    """It may have a thousand callers who come at once: who gave up each second would all begin anew each second."""
    stage = Stage("1")
    stage.up.discard(1)
    stage.ask()
    tries = []
    for _ in range(160):
        stage.pass_time(0.1)
        if len(stage.opened) > len(tries):
            tries.append(stage.now)
    gaps = [(later - earlier) / SECOND for earlier, later in pairwise(tries)]
    assert [1 <= gap < 3.5 for gap in gaps[:2]] == [True, True]
    assert min(gaps[2:]) >= 4


def test_one_that_wants_a_certain_instance_does_not_wait_for_others():
    stage = Stage("1", "2")
    for _ in range(CALLS_PER_INSTANCE_MAX):
        stage.ask(version="1"), stage.ask(version="2")
    first, second = stage.ask(version="1"), stage.ask(version="2")
    freed = next(asked.number for number, asked in stage.asked if number == 2)
    stage.say(2, calls.reply(freed, b""))
    stage.step()
    assert (len(first.attempts), len(second.attempts)) == (0, 1)


def test_a_fabric_that_has_not_answered_is_said_to_have_not():
    stage = Stage()
    stage.client.members.complete = False
    errand = stage.ask(deadline_ns=stage.now + 5 * SECOND)
    stage.pass_time(4.9)
    assert not errand.done
    stage.pass_time(0.1)
    assert isinstance(errand.error, errors.ServiceUnavailable)
    assert "zf://h has not answered" in str(errand.error)
    stage.client.members.heard_ns, stage.client.members.complete = stage.now, True
    errand = stage.ask()
    stage.pass_time(1.1)
    assert "is one running?" in str(errand.error)


@pytest.mark.parametrize("connects", [True, False])
def test_first_requests_wait_a_moment_until_all_instances_are_connected(connects):
    """Else all of them went to the one that is the first, full or a canary as it may be."""
    stage = Stage("1", "1")
    stage.up.discard(2)
    burst = [stage.ask() for _ in range(100)]
    assert stage.asked == []
    if connects:
        stage.up.add(2)
        session = next(session for session, known in stage.sessions.items() if known == 2)
        stage.client.connected(session, stage.now)
        stage.step()
        assert [number for number, _ in stage.asked].count(1) == 50
    else:
        stage.pass_time(SETTLE_NS / SECOND)
        assert [number for number, _ in stage.asked] == [1] * 100
    assert all(errand.attempts for errand in burst)


def test_an_instance_that_refuses_for_no_reason_of_an_instance_is_soon_left_alone():
    stage, odd = Stage("1", "1"), errors.NotFound(kind="user", name="eve")
    asked = 0
    for _ in range(100):
        errand = stage.ask()
        while stage.asked[asked:]:
            number, command = stage.asked[asked]
            asked += 1
            frames = (
                calls.reply(command.number, b"x") if number == 2 else calls.failure(calls.REFUSED, command.number, odd)
            )
            stage.say(number, frames)
            stage.step()
        assert errand.result() == b"x"
    assert [number for number, _ in stage.asked].count(1) == CONSECUTIVE
