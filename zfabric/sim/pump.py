"""The pump of simulated clients: the core in virtual time, for the asynchronous SDK and for the synchronous one.

It offers what ``aio/pump.py`` and ``sync/pump.py`` offer. Within a coroutine of the world, waiting suspends it. In the
synchronous twin, waiting lets the world go on until the result is there, so one caller at a time has the word.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.core.client.client import Client
from zfabric.core.effects import CloseSession, Locate, OpenSession, Send
from zfabric.sim.network import Frames, Network
from zfabric.sim.world import EPOCH_MS, World

if TYPE_CHECKING:
    from zfabric.core.client.pending import Pending


class SimPump:
    """Drives one client of a simulation.

    Args:
        locate: called when the core asks for a leader (embedded mode). name: by which the network knows the client.

    Attributes:
        alive: neither closed nor killed. stepped_ns: when :meth:`flush` was last called.
    """

    def __init__(
        self, world: World, network: Network, core: Client, name: str, *, locate: Callable[[], None] | None = None
    ) -> None:
        self.name = name
        self.alive = True
        self.stepped_ns = world.now
        self.lock = threading.RLock()  # Nobody else takes it: facades ask for one.
        self._world = world
        self._network = network
        self._core = core
        self._locate = locate
        self._due: int | None = None
        core.wall_offset_ms = EPOCH_MS

    # For the facades.

    def now(self) -> int:
        """Return the virtual time (monotonic ns)."""
        return self._world.now

    @property
    def forked(self) -> bool:
        """Never: a simulated process does not fork."""
        return False

    def checkpoint(self) -> None:
        """Nothing: nobody interrupts a simulated caller."""

    def check(self) -> None:
        """Raise Closed after the end."""
        if not self.alive:
            raise errors.Closed(what="fabric")

    def flush(self, *, look: bool = True) -> None:
        """Do all there is to do now, and come back when there is more; there is nothing to look for, it arrives."""
        self.check()
        core, world = self._core, self._world
        self.stepped_ns = world.now
        while True:
            due_ns = core.next_deadline()
            if due_ns is not None and due_ns <= world.now:
                core.tick(world.now)
            effects = core.take_effects()
            if not effects:
                break
            for effect in effects:
                if isinstance(effect, Send):
                    self._network.send(self, effect.session, effect.frames)
                elif isinstance(effect, OpenSession):
                    self._network.open(self, effect.session, effect.endpoint)
                elif isinstance(effect, CloseSession):
                    self._network.close(self, effect.session)
                elif isinstance(effect, Locate):
                    if self._locate is not None:
                        self._locate()
                else:
                    self._network.subscribe(self, effect.session, effect.topic, on=effect.on)
        for callback, delivery, error in core.take_callbacks():
            callback(delivery, error)
        due_ns = core.next_deadline()
        assert due_ns is None or due_ns > world.now, "a deadline that a tick does not move would make a pump spin"
        if due_ns is not None and (self._due is None or due_ns < self._due):
            self._due = due_ns
            world.at(due_ns, lambda: self._timer(due_ns))

    def kill(self) -> None:
        """End the client as SIGKILL does: it sends nothing more and hears nothing more."""
        self.alive = False
        self._network.leave(self)

    # For the network.

    def connected(self, session: int) -> None:
        """The session's connection is there."""
        if self.alive:
            self._core.connected(session, self._world.now)
            self.flush()

    def receive(self, session: int, frames: Frames) -> None:
        """A message has arrived."""
        if self.alive:
            self._core.receive(session, frames, self._world.now)
            self.flush()

    def lost(self, session: int) -> None:
        """The session's connection has ended."""
        if self.alive:
            self._core.lost(session, self._world.now)
            self.flush()

    def _timer(self, due_ns: int) -> None:
        if self._due == due_ns:
            self._due = None
            if self.alive:
                self.flush()


class AsyncPump(SimPump):
    """For ``zfabric.aio``, in coroutines of the world."""

    async def wait(self, pending: Pending[Any], timeout: float | None) -> bool:
        """Wait until ``pending`` is done; tells whether it is. ``timeout`` in seconds, None for ever."""
        self.flush()
        return await self._world.wait(pending, timeout)

    async def close(self) -> None:
        """Close the sessions."""
        if self.alive:
            self.flush()
            self.kill()


class SyncPump(SimPump):
    """For ``zfabric.sync``: waiting lets the world go on."""

    def wait(self, pending: Pending[Any], timeout: float | None) -> bool:
        """Let the world go on until ``pending`` is done; tells whether it is. ``timeout`` in seconds."""
        self.flush()
        seconds = 1e9 if timeout is None else timeout
        return self._world.run_until(lambda: pending.done, seconds)

    def close(self) -> None:
        """Close the sessions."""
        if self.alive:
            self.flush()
            self.kill()
