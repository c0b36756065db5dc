"""The pump of asyncio, with a driver that the test plays."""

from __future__ import annotations

import asyncio

import pytest

from zfabric.aio.pump import Pump
from zfabric.core.client.pending import Pending

LONG_NS = 60_000_000_000


class Idle:
    """A core, its sockets and who drives them: nothing ever comes in."""

    generation = 0
    inside = handing = restless = False

    def __init__(self):
        self.core = self.ports = self
        self.effects = []

    def fds(self):
        return []

    def step(self, ready=None):
        return None

    def send(self):
        return None

    def nothing(self):
        return None

    run_callbacks = close = nothing


class Caller:
    """Begins errands, and sends nothing for them."""

    def begin(self, errand, now):
        return None


class Sight:
    """Says for how long to watch, and keeps what one says of it."""

    def __init__(self, limit_ns):
        self.limit_ns = limit_ns
        self.told = []

    def took(self, waited_ns):
        self.told.append(waited_ns)


async def turns(pump, count):
    """Let the loop turn so often; return how often it was kept awake meanwhile."""
    kept = 0
    for _ in range(count):
        await asyncio.sleep(0)
        kept += pump._awake
    return kept


@pytest.mark.parametrize("limit_ns", [0, 1, LONG_NS])
def test_who_waits_alone_keeps_the_loop_awake_for_as_long_as_it_is_said_or_until_the_reply_is_there(limit_ns):
    async def run():
        pump = Pump(Idle())
        pump._watching = Sight(limit_ns)
        errand = Pending()
        asking = asyncio.create_task(pump.do(Caller(), errand))
        await turns(pump, 5)
        assert await turns(pump, 20) == (20 if limit_ns == LONG_NS else 0)
        errand.resolve(b"reply")
        assert await asking == b"reply"
        assert len(pump._watching.told) == 1
        await turns(pump, 1)
        assert await turns(pump, 5) == 0  # Nobody waits any more.
        await pump.close()

    asyncio.run(run())


def test_only_the_first_of_several_that_wait_watches_and_tells_how_long_it_took():
    async def run():
        pump = Pump(Idle())
        pump._watching = Sight(0)
        errands = [Pending(), Pending()]
        asking = [asyncio.create_task(pump.do(Caller(), errand)) for errand in errands]
        await turns(pump, 5)
        for errand, task in zip(errands, asking, strict=True):
            errand.resolve(b"reply")
            await task
        assert len(pump._watching.told) == 1
        await pump.close()

    asyncio.run(run())


class Looked(Idle):
    """Counts the looks at everything."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    def step(self, ready=None):
        self.looks += ready is None


@pytest.mark.parametrize(("how", "looks"), [("wait", 1), ("arrive", 0)])
def test_who_waits_for_an_arrival_looks_at_nothing_before_and_waits_until_it_comes_or_its_time_is_up(how, looks):
    async def run():
        driver = Looked()
        pump = Pump(driver)
        await pump.arrive(Pending(), 0)  # In a loop that is new to it, all is looked after.
        driver.looks = 0
        pending = Pending()
        assert not await getattr(pump, how)(pending, 0.001)
        assert (driver.looks, pending.callbacks) == (looks, [])
        asyncio.get_running_loop().call_soon(pending.resolve, None)
        assert await getattr(pump, how)(pending, 60.0)
        assert await getattr(pump, how)(pending, 60.0)
        await pump.close()

    asyncio.run(run())
