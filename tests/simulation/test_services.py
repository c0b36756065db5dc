"""Callers and instances against each other: what may never happen, and bugs planted by hand that make it happen."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from calling import FAULTS, Run

from zfabric import errors
from zfabric.core.client import caller
from zfabric.core.client.caller import Caller
from zfabric.core.client.errand import Inflow
from zfabric.core.client.responder import Responder
from zfabric.sim.network import Weather

MIXES = {
    "nothing": (),
    "draining": ("drain",),
    "leader": ("leader", "drain"),
    "killing": ("kill", "drain"),
    "freezing": ("freeze",),
    "cutting": ("cut", "breaks"),
    "everything": FAULTS,
}
SEEDS = 30


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("faults", MIXES.values(), ids=MIXES)
def test_whatever_fails_nothing_is_executed_twice_or_told_wrongly(faults, seed):
    run = Run(seed, faults).play()
    assert run.seen == []
    assert run.answered >= 0.8 * run.callers * run.requests


@pytest.mark.parametrize("seed", range(5))
def test_on_a_network_that_loses_messages_a_stream_fails_rather_than_having_a_hole(seed):
    """ZeroMQ does not lose any within a connection; a ROUTER does, when a peer takes nothing."""
    run = Run(seed, ("breaks",), Weather(loss=0.02), timeout=1.0).play()
    assert not {"wrong-reply", "executed-twice"} & set(run.anomalies)
    assert run.errors["ProtocolViolation"] + run.errors["RequestTimeout"] > 0


@dataclass
class Planted:
    plant: object
    sign: str
    faults: tuple
    weather: Weather | None = None


PLANTED = {}


def planted(sign, *faults, weather=None):
    def register(plant):
        PLANTED[plant.__name__] = Planted(plant, sign, faults, weather)
        return plant

    return register


@planted("executed-twice", "freeze", "breaks")
def repeat_whatever_was_lost(patch):
    patch(Caller, "idempotent", lambda self, errand: True)


@planted("failed", "drain", weather=Weather(delay=0.02))
def close_before_all_callers_have_said_farewell(patch):
    patch(Responder, "_at_rest", lambda self: not self._jobs)


@planted("failed", "drain", weather=Weather(delay=0.02))
def give_up_when_an_instance_drains(patch):
    patch(caller, "_FREE", ())


@planted("failed", "kill")
def keep_what_was_lost_waiting(patch):
    patch(Caller, "_repeat_lost", lambda *arguments: None)


@planted("executed-though-refused", "freeze", "breaks")
def take_what_was_lost_for_unsent(patch):
    def wrong(self, pool, errand, channel, now):
        self._finish(errand, now)
        errand.fail(errors.ServiceUnavailable(service=errand.service, seconds=0.0))

    patch(Caller, "_repeat_lost", wrong)


@planted("wrong-reply", "freeze", weather=Weather(spikes=0.01))
def take_the_next_reply_for_ones_own(patch):
    received = Caller.received

    def wrong(self, session, frames, now):
        known = self.instances.by_session.get(session)
        if known is not None and known[1].attempts and frames[0][3] == 61:
            oldest = next(iter(known[1].attempts))
            frames = [frames[0][:8] + oldest.to_bytes(8, "little") + frames[0][16:], *frames[1:]]
        received(self, session, frames, now)

    patch(Caller, "received", wrong)


@planted("wrong-reply", weather=Weather(loss=0.02))
def go_on_after_a_gap_in_a_stream(patch):
    add = Inflow.add

    def careless(self, place, body, *, end):
        return add(self, self._expected, body, end=end)

    patch(Inflow, "add", careless)


@planted("late", "freeze", "cut")
def wait_beyond_the_deadline(patch):
    call = Caller.call

    def patient(self, errand, now):
        errand.deadline_ns += 500_000_000
        call(self, errand, now)

    patch(Caller, "call", patient)
    patch(Caller, "_repeat_lost", lambda *arguments: None)


@planted("failed", "leader", "drain")
def forget_an_instance_with_the_leader(patch):
    from zfabric.core.client.instances import Instances

    fill = Instances._fill

    def forgetful(self, pool, now):
        fill(self, pool, now)
        for channel in list(pool.channels.values()):
            if channel.gone:
                self.drop(pool, channel)

    patch(Instances, "_fill", forgetful)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name, monkeypatch):
    bug = PLANTED[name]
    bug.plant(monkeypatch.setattr)
    for seed in range(SEEDS):
        run = Run(seed, bug.faults, bug.weather, timeout=2.0).play()
        if bug.sign in run.anomalies:
            return
    pytest.fail(f"{SEEDS} seeds show nothing of {name}")
