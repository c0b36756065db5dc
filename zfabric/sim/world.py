"""Virtual time: one thread, one seed, one queue of what happens next.

Everything random comes from :attr:`World.random`, everything timed from :attr:`World.now`, and what happens at the
same instant happens in the order in which it was asked for. So a run is a function of its seed, and a failing one is
repeated by its number.

Users' code runs as coroutines. One of them waits by awaiting :meth:`World.sleep` or a ``Pending`` of the core through
the pump; the world resumes it when its time has come. A coroutine that raises ends the run with that exception, unless
it was killed with its process.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from random import Random
from types import coroutine
from typing import TYPE_CHECKING, Any

from zfabric import errors

if TYPE_CHECKING:
    from zfabric.core.client.pending import Pending

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
START_NS = 1_000 * SECOND
EPOCH_MS = 1_800_000_000_000
"""Wall clock (ms since 1970) at virtual time 0."""

Arrived = bool
"""How a wait ended: what was waited for is there, or time is up."""
Resume = Callable[[Arrived], None]
Wait = Callable[[Resume], None]
"""What a coroutine gives to the world when it waits: called with how to resume it."""


@coroutine
def _suspend(wait: Wait) -> Generator[Wait, bool, bool]:
    return (yield wait)


class Task:
    """A coroutine under way.

    Attributes:
        name: as it was given. done: it has returned, raised or was killed. result: what it returned.
        error: what it raised.
    """

    def __init__(self, world: World, name: str, body: Coroutine[Wait, bool, Any]) -> None:
        self.name = name
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._world = world
        self._body = body
        self._turn = 0
        self._context = copy_context()  # Of its own, as asyncio's tasks have.

    def step(self, value: Arrived | None) -> None:
        """Run it until it waits again."""
        if self.done:
            return
        self._turn += 1
        turn = self._turn
        try:
            wait = self._context.run(self._body.send, value)  # type: ignore[arg-type]
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except BaseException as error:  # noqa: BLE001 - kept, and raised by World.run_until
            self.done, self.error = True, error
            self._world.failed(self)
        else:
            wait(lambda value: self._resume(turn, value))

    def _resume(self, turn: int, value: Arrived) -> None:
        # Both the result and the timeout of a wait may want to resume; the first one counts.
        if turn == self._turn:
            self._turn += 1
            self._world.at(self._world.now, lambda: self.step(value))

    def kill(self) -> None:
        """End it where it waits, as its process ends: no ``finally`` of it may do anything any more."""
        if not self.done:
            self.done = True
            self._turn += 1
            self._world.bury(self._body)


class World:
    """The clock, the queue and the dice of one simulation.

    Attributes:
        now: monotonic ns. random: the only source of chance. steps: things that happened.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = START_NS
        self.steps = 0
        self.trace: list[str] | None = None
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._failed: list[Task] = []
        self._buried: list[Coroutine[Wait, bool, Any]] = []

    # Time.

    def wall_ms(self, now: int | None = None) -> int:
        """Return the wall clock at ``now`` (ms since 1970)."""
        return EPOCH_MS + (self.now if now is None else now) // MILLISECOND

    def at(self, when: int, action: Callable[[], None]) -> None:
        """Let ``action`` happen at ``when`` (monotonic ns), or now if that is past."""
        self._count += 1
        heapq.heappush(self._queue, (max(when, self.now), self._count, action))

    def after(self, delay: int, action: Callable[[], None]) -> None:
        """Let ``action`` happen in ``delay`` ns."""
        self.at(self.now + delay, action)

    def note(self, text: str) -> None:
        """Write a line of the trace, if somebody wants one."""
        if self.trace is not None:
            self.trace.append(f"{(self.now - START_NS) / SECOND:.6f} {text}")

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Let things happen until ``reached()``, for at most ``seconds`` of virtual time; tells whether it was.

        Raises:
            what a task raised: the run is over.
        """
        end = self.now + int(seconds * SECOND)
        while not reached():
            if not self._queue or self._queue[0][0] > end:
                self.now = end
                return reached()
            when, _, action = heapq.heappop(self._queue)
            self.now = when
            self.steps += 1
            action()
            if self._failed:
                failed = self._failed.pop()
                assert failed.error is not None
                raise failed.error
        return True

    # Tasks.

    def start(self, body: Coroutine[Wait, bool, Any], name: str = "task") -> Task:
        """Begin a coroutine, now."""
        task = Task(self, name, body)
        self.at(self.now, lambda: task.step(None))
        return task

    def failed(self, task: Task) -> None:
        """Note that a task raised; the run ends with it."""
        self._failed.append(task)

    def bury(self, body: Coroutine[Wait, bool, Any]) -> None:
        """Keep a killed coroutine from being closed, which would run its ``finally`` clauses."""
        self._buried.append(body)

    def close(self) -> None:
        """End it all; what was killed is closed now, and nothing of it can happen any more."""
        self._queue.clear()
        for body in self._buried:
            try:
                body.close()
            except (errors.ZFabricError, RuntimeError):
                continue  # A `finally` that found its fabric closed, or wanted to wait: it was dead long ago.
        self._buried.clear()

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of virtual time."""
        due = self.now + int(seconds * SECOND)
        await _suspend(lambda resume: self.at(due, lambda: resume(True)))

    async def join(self, task: Task) -> Any:
        """Wait for a task and return its result."""
        while not task.done:
            await self.sleep(0.001)
        return task.result

    async def wait(self, pending: Pending[Any], timeout: float | None) -> bool:
        """Wait until ``pending`` is done, for at most ``timeout`` seconds; tells whether it is."""
        if pending.done:
            return True

        def begin(resume: Resume) -> None:
            pending.on_done(lambda: resume(True))
            if timeout is not None:
                self.after(int(timeout * SECOND), lambda: resume(False))

        return await _suspend(begin) or pending.done
