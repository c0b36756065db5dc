"""Callers and instances against each other: what may never happen, and bugs planted by hand that make it happen."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from calling import FAULTS, Run

from zfabric import errors
from zfabric.core.client import caller
from zfabric.core.client.caller import Caller
from zfabric.core.client.errand import Inflow
from zfabric.core.client.hedging import ENOUGH
from zfabric.core.client.pool import Pool
from zfabric.core.client.responder import Responder
from zfabric.sim.network import Weather
from zfabric.testing.simulation import Simulation

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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("faults", MIXES.values(), ids=MIXES)
def test_whatever_fails_nothing_is_executed_twice_or_told_wrongly(faults, seed):
    run = Run(seed, faults).play()
    assert run.seen == []
    assert run.answered >= 0.8 * run.callers * run.requests


@pytest.mark.parametrize("seed", range(3))
def test_on_a_network_that_loses_messages_a_stream_fails_rather_than_having_a_hole(seed):
    """ZeroMQ does not lose any within a connection; a ROUTER does, when a peer takes nothing."""
    run = Run(seed, ("breaks",), Weather(loss=0.02), timeout=1.0).play()
    assert not {"wrong-reply", "executed-twice"} & set(run.anomalies)
    assert run.errors["ProtocolViolation"] + run.errors["RequestTimeout"] > 0


async def offer(simulation, name, method, **options):
    fabric = simulation.connect_async(name)
    service = fabric.service("s", **options)
    service.method("m")(method)
    await service.start()
    return service


async def outcomes(simulation, fabric, count, **options):
    """Ask so often at the same time; returns what came of it."""
    found = []

    async def ask():
        try:
            found.append(await fabric.request("s.m", **options))
        except errors.ZFabricError as error:
            found.append(error)

    tasks = [simulation.start(ask()) for _ in range(count)]
    for task in tasks:
        await simulation.world.join(task)
    return found


def test_what_one_instance_refuses_another_takes_and_all_refuse_only_when_all_are_full():
    """No request is lost between them; each of the two runs or queues three."""
    with Simulation(1) as simulation:

        async def slow(request):
            await simulation.sleep(0.5)
            return b"done"

        async def play():
            services = [await offer(simulation, f"host-{n}", slow, concurrency=2, queue=1) for n in range(2)]
            fabric = simulation.connect_async("caller")
            await outcomes(simulation, fabric, 1)
            fitting = await outcomes(simulation, fabric, 6)
            beyond = await outcomes(simulation, fabric, 10)
            return services, fitting, beyond

        ((services, fitting, beyond),) = simulation.run(play())
        assert fitting == [b"done"] * 6
        assert [type(found) for found in beyond if found != b"done"] == [errors.Overloaded] * 4
        assert all(service.stats()["overloaded"] > 0 for service in services)


def test_an_instance_that_is_full_does_not_draw_the_requests_that_another_one_has_room_for():
    """It refuses at once, so by latency it is the best: were that all, repeats would soon have used up their budget."""
    with Simulation(1) as simulation:

        async def method(request):
            await simulation.sleep(50.0 if request.value else 0.05)
            return b"done"

        async def play():
            full = await offer(simulation, "host-1", method, concurrency=1, queue=0)
            await offer(simulation, "host-2", method)
            hog, fabric = simulation.connect_async("hog"), simulation.connect_async("caller")
            held = simulation.start(hog.request("s.m", b"hold", instance=full.instance, timeout=60.0))
            await simulation.sleep(1.0)
            for _ in range(30):
                assert await outcomes(simulation, fabric, 10) == [b"done"] * 10
            assert await simulation.world.join(held) == b"done"
            return full

        (full,) = simulation.run(play(), seconds=600.0)
        assert full.stats()["overloaded"] < 100


def test_instances_of_one_service_may_have_different_methods():
    """As while a version with a new method is rolled out; one that nobody has is still told at once."""
    with Simulation(1) as simulation:

        async def method(request):
            return request.method.encode()

        async def play():
            for number, name in enumerate(["old", "new"]):
                service = simulation.connect_async(f"host-{number}").service("s")
                service.method(name)(method)
                await service.start()
            fabric = simulation.connect_async("caller")
            for _ in range(200):
                assert await fabric.request("s.old") == b"old"
                assert await fabric.request("s.new") == b"new"
            began = simulation.now
            for _ in range(50):
                with pytest.raises(errors.UnknownMethod):
                    await fabric.request("s.none")
            assert simulation.now - began < 1.0

        simulation.run(play(), seconds=600.0)


def test_a_canary_gets_no_more_of_what_a_caller_is_first_asked_for():
    """A hundred requests at once, of each of ten callers that are not connected to anybody yet."""
    with Simulation(1) as simulation:

        def answering(name):
            async def method(request):
                await simulation.sleep(0.005)
                return name

            return method

        async def play():
            for name, version, weight in ((b"1", "1.0", 100), (b"2", "1.0", 100), (b"canary", "2.0", 10)):
                await offer(simulation, f"host-{name}", answering(name), version=version, weight=weight)
            found = []
            for number in range(10):
                found += await outcomes(simulation, simulation.connect_async(f"caller-{number}"), 100)
            assert set(found) == {b"1", b"2", b"canary"}
            assert found.count(b"canary") < 2 * 1_000 * 10 / 210

        simulation.run(play(), seconds=600.0)


def test_an_instance_that_does_not_connect_holds_up_first_requests_for_a_moment_only():
    with Simulation(1) as simulation:

        async def method(request):
            return b"here"

        async def play():
            await offer(simulation, "host-1", method)
            gone = simulation.connect_async("host-2")
            service = gone.service("s", weight=10)
            service.method("m")(method)
            await service.start()
            simulation.freeze_client(gone, 60.0)
            fabric = simulation.connect_async("caller")
            began = simulation.now
            assert await fabric.request("s.m") == b"here"
            assert simulation.now - began < 0.5

        simulation.run(play(), seconds=600.0)


def test_requests_that_fail_at_one_instance_only_go_to_the_others_after_a_while():
    with Simulation(1) as simulation:
        executed = []

        async def broken(request):
            executed.append("broken")
            raise ValueError("disk")

        async def sound(request):
            executed.append("sound")
            return b""

        async def play():
            await offer(simulation, "host-1", broken)
            await offer(simulation, "host-2", sound)
            fabric = simulation.connect_async("caller")
            for _ in range(200):
                await outcomes(simulation, fabric, 1)

        simulation.run(play())
        assert "broken" in executed[:100]
        assert executed.count("broken") <= 60
        assert "broken" not in executed[-50:]


def test_a_service_that_starts_just_after_a_request_for_it_takes_that():
    """Who has nobody to ask looks again and again, rather than with the next refresh of the members a second later."""
    with Simulation() as simulation:

        async def method(request):
            return b"here"

        async def play():
            fabric = simulation.connect_async("caller")
            with pytest.raises(errors.ServiceUnavailable):
                await fabric.request("s.m")
            asked = simulation.start(outcomes(simulation, fabric, 1))
            await simulation.sleep(0.4)
            await offer(simulation, "host", method)
            assert await simulation.world.join(asked) == [b"here"]

        simulation.run(play())


def test_hedging_by_what_was_observed_cuts_the_tail_for_few_requests_more():
    """Each instance is slow once in fifty times: 2 s rather than 10 ms."""
    took = {None: [], "auto": []}
    executed = []
    with Simulation(3) as simulation:
        random = simulation.world.random

        async def method(request):
            executed.append(request.value)
            await simulation.sleep(2.0 if random.random() < 0.02 else random.uniform(0.005, 0.010))
            return b""

        async def play():
            for number in range(3):
                await offer(simulation, f"host-{number}", method)
            fabric = simulation.connect_async("caller")
            for hedge, times in took.items():
                executed.clear()
                for _ in range(600):
                    began = simulation.now
                    await fabric.request("s.m", idempotent=True, hedge=hedge)
                    times.append(simulation.now - began)
            assert 600 < len(executed) <= 600 * 1.1

        simulation.run(play(), seconds=36_000.0)
    slow = {hedge: sum(seconds >= 1.0 for seconds in times[ENOUGH:]) for hedge, times in took.items()}
    assert slow[None] >= 6
    assert slow["auto"] <= 1


@pytest.mark.parametrize("fault", ["kill", "freeze", "cut"])
@pytest.mark.parametrize("seed", range(5))
def test_a_dead_callee_is_noticed_within_a_second(fault, seed):
    """Heartbeats every 250 ms, of which 600 ms may be missing."""
    with Simulation(seed) as simulation:
        began = []

        async def forever(request):
            began.append(request)
            await simulation.sleep(3_600.0)

        async def strike(service, fabric):
            while not began:
                await simulation.sleep(0.01)
            await simulation.sleep(simulation.world.random.random())
            if fault == "kill":
                simulation.kill_client(fabric)
            elif fault == "freeze":
                simulation.freeze_client(fabric, 60.0)
            else:
                simulation.network.partition("caller", "host")
            return simulation.now

        async def play():
            offering = simulation.connect_async("host")
            service = offering.service("s")
            service.method("m")(forever)
            await service.start()
            caller = simulation.connect_async("caller")
            asked = simulation.start(outcomes(simulation, caller, 1, timeout=600.0))
            struck = await strike(service, offering)
            (told,) = await simulation.world.join(asked)
            assert isinstance(told, errors.CalleeLost)
            assert simulation.now - struck <= 1.0

        simulation.run(play(), seconds=3_600.0)


async def read_on(stream):
    async for chunk in stream:
        assert chunk == b"chunk"


@pytest.mark.parametrize(("fault", "timeout", "most"), [("kill", 60.0, 2.1), ("cut", 3.0, 4.1), ("freeze", 3.0, 4.1)])
def test_a_handler_does_not_go_on_for_a_caller_that_has_gone_or_whose_time_is_over(fault, timeout, most):
    """Who was killed is noticed on the connection, by what is sent; of others the time that they gave is known."""
    with Simulation(1) as simulation:
        service, ended = None, []

        async def method(request):
            # Handlers here are not stopped by a cancellation.
            while not (service.stats()["cancelled"] or service.stats()["expired"]):
                await simulation.sleep(0.01)
            assert request.cancelled
            ended.append(simulation.now)

        async def play():
            nonlocal service
            service = await offer(simulation, "host", method)
            fabric = simulation.connect_async("caller")
            asked = simulation.start(outcomes(simulation, fabric, 1, timeout=timeout))
            await simulation.sleep(0.5)
            began = simulation.now
            if fault == "kill":
                simulation.kill_client(fabric)
            elif fault == "freeze":
                simulation.freeze_client(fabric, 30.0)
            else:
                simulation.network.partition("caller", "host")
            await simulation.sleep(30.0)
            if fault == "cut":
                simulation.heal()
            if fault != "kill":
                await simulation.world.join(asked)
            (at,) = ended
            assert at - began <= most

        simulation.run(play(), seconds=600.0)


def test_a_stream_waits_for_a_slow_reader_for_as_long_as_its_patience_and_not_longer():
    with Simulation() as simulation:

        async def endless(request):
            while True:
                yield b"chunk"

        async def play():
            service = await offer(simulation, "host", endless)
            async with simulation.connect_async("caller").stream("s.m") as stream:
                for _ in range(30):
                    assert await anext(stream) == b"chunk"
                    await simulation.sleep(59.0)
                assert service.stats()["running"] == 1
                await simulation.sleep(1.5)
                assert (service.stats()["running"], service.stats()["stalled"]) == (0, 1)
                with pytest.raises(errors.StreamStalled):
                    await read_on(stream)

        simulation.run(play(), seconds=3_600.0)


def test_a_service_of_the_synchronous_sdk_is_refused_in_a_simulation():
    with Simulation() as simulation, pytest.raises(errors.NotSupported):
        simulation.connect().service("s").start()


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
    patch(Responder, "_at_rest", lambda self: not self.jobs)


@planted("failed", "drain", weather=Weather(delay=0.02))
def give_up_when_an_instance_drains(patch):
    patch(caller, "_FREE", ())
    patch(Pool, "takes_over", lambda *arguments: False)


@planted("failed", "kill")
def keep_what_was_lost_waiting(patch):
    patch(Caller, "_repeat_lost", lambda *arguments: None)


@planted("executed-though-refused", "freeze", "breaks")
def take_what_was_lost_for_unsent(patch):
    def wrong(self, pool, errand, channel, now):
        self._finish(errand, now)
        errand.fail(errors.ServiceUnavailable(service=errand.service, seconds=0.0))

    patch(Caller, "_repeat_lost", wrong)


@planted("wrong-reply", weather=Weather(delay=0.05))
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
