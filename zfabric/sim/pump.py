"""The pump of simulated clients: the core in virtual time, for the asynchronous SDK and for the synchronous one.

It offers what ``aio/pump.py`` and ``sync/pump.py`` offer. Within a coroutine of the world, waiting suspends it. In the
synchronous twin, waiting lets the world go on until the result is there, so one caller at a time has the word.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.core.client.client import Client
from zfabric.core.effects import ClientEffect, CloseSession, Listen, Locate, OpenSession, Send, Subscribe
from zfabric.core.effects import Frames as Parts
from zfabric.sim.network import Frames, Network
from zfabric.sim.walk import next_deadline
from zfabric.sim.world import EPOCH_MS, Task, World

if TYPE_CHECKING:
    from zfabric.core.client.caller import Caller
    from zfabric.core.client.errand import Errand
    from zfabric.core.client.pending import Pending
    from zfabric.model import Buffer


class Listening:
    """A listening session as the network sees it: the socket of an instance of a service.

    Attributes:
        frozen: its process stands still.
    """

    def __init__(self, pump: SimPump, session: int) -> None:
        self.frozen = False
        self._pump = pump
        self._session = session

    def take(self, peer: bytes, frames: Frames) -> None:
        """A message of ``peer`` has arrived."""
        self._pump.receive(self._session, [peer, *frames])

    def subscribe(self, peer: bytes, topic: bytes, *, on: bool) -> None:
        """Nothing: nobody publishes here."""

    def left(self, peer: bytes) -> None:
        """Nothing: a ROUTER does not tell."""


class SimPump:
    """Drives one client of a simulation.

    Args:
        locate: called when the core asks for a leader (embedded mode). name: by which the network knows the client.

    Attributes:
        alive: neither closed nor killed. stepped_ns: when :meth:`flush` was last called. paced_ns: set by producers.
    """

    def __init__(
        self, world: World, network: Network, core: Client, name: str, *, locate: Callable[[], None] | None = None
    ) -> None:
        self.name = name
        self.alive = True
        self.stepped_ns = world.now
        self.paced_ns = 0
        self.lock = threading.RLock()  # Nobody else takes it: facades ask for one.
        self._world = world
        self._network = network
        self._core = core
        self._locate = locate
        self._due: int | None = None
        self._listening: dict[int, Listening] = {}
        self._frozen_until = 0
        self._tasks: list[Task] = []
        core.wall_offset_ms = EPOCH_MS

    # For the facades.

    def now(self) -> int:
        """Return the virtual time (monotonic ns)."""
        return self._world.now

    @property
    def forked(self) -> bool:
        """Never: a simulated process does not fork."""
        return False

    @property
    def state(self) -> str:
        """``open`` or ``closed``."""
        return "open" if self.alive else "closed"

    def listen_endpoint(self) -> str:
        """Return where an instance of a service may listen."""
        return "sim://*"

    def checkpoint(self) -> None:
        """Nothing: nobody interrupts a simulated caller."""

    def check(self) -> None:
        """Raise Closed after the end."""
        if not self.alive:
            raise errors.Closed(what="fabric")

    def rests(self, now: int) -> bool:
        """As the pump of asyncio: a :meth:`flush` has to follow whatever was sent."""
        return False

    def flush(self, *, look: bool = True) -> None:
        """Do all there is to do now, and come back when there is more; there is nothing to look for, it arrives."""
        self.check()
        core, world = self._core, self._world
        if world.now < self._frozen_until:
            world.at(self._frozen_until, self._thaw)
            return
        self.stepped_ns = world.now
        while True:
            due_ns = next_deadline(core)
            if due_ns is not None and due_ns <= world.now:
                core.tick(world.now)
            effects = core.take_effects()
            if not effects:
                break
            for effect in effects:
                self._perform(effect)
        for callback, delivery, error in core.take_callbacks():
            callback(delivery, error)
        due_ns = next_deadline(core)
        assert due_ns is None or due_ns > world.now, "a deadline that a tick does not move would make a pump spin"
        if due_ns is not None and (self._due is None or due_ns < self._due):
            self._due = due_ns
            world.at(due_ns, lambda: self._timer(due_ns))

    def _perform(self, effect: ClientEffect) -> None:
        match effect:
            case Send(session, frames):
                self._send(session, frames)
            case OpenSession(session, endpoint, _, alert):
                self._network.open(self, session, endpoint, alert=alert)
            case CloseSession(session):
                self._close_session(session)
            case Listen():
                self._listen(effect)
            case Subscribe(session, topic, on):
                self._network.subscribe(self, session, topic, on=on)
            case Locate():
                if self._locate is not None:
                    self._locate()

    def _send(self, session: int, frames: Parts) -> None:
        if session not in self._listening:
            self._network.send(self, session, frames)
        elif not self._network.reply(bytes(frames[0]), frames[1:]):
            peer = bytes(frames[0])
            self._world.at(self._world.now, lambda: self._happen(lambda: self._core.left(session, peer, self.now())))

    def _listen(self, wanted: Listen) -> None:
        session = wanted.session
        endpoint = wanted.endpoint.replace("*", f"{self.name}-{session}")
        self._listening[session] = server = Listening(self, session)
        self._network.bind(endpoint, self.name, server)
        self._core.listens(session, endpoint, self._world.now)

    def _close_session(self, session: int) -> None:
        server = self._listening.pop(session, None)
        if server is None:
            self._network.close(self, session)
        else:
            self._network.unbind(server)

    def kill(self) -> None:
        """End the client as SIGKILL does: it sends nothing more and hears nothing more."""
        self.alive = False
        for task in self._tasks:
            task.kill()
        self._network.leave(self)
        for server in self._listening.values():
            self._network.unbind(server)

    def freeze(self, seconds: float) -> None:
        """Stand still for a while, as after SIGSTOP; what arrives meanwhile is handled afterwards."""
        self._frozen_until = self._world.now + int(seconds * 1e9)
        for server in self._listening.values():
            server.frozen = True
            self._network.silence(server)
        self._world.at(self._frozen_until, self._thaw)

    def _thaw(self) -> None:
        if self.alive and self._world.now >= self._frozen_until:
            for server in self._listening.values():
                server.frozen = False
            self.flush()

    def _happen(self, event: Callable[[], None]) -> None:
        """Let something happen to the process: now, or when it goes on."""
        if not self.alive:
            return
        if self._world.now < self._frozen_until:
            self._world.at(self._frozen_until, lambda: self._happen(event))
            return
        event()
        self.flush()

    def post(self, send: Send) -> None:
        """Send a message with the next flush."""
        self._core.requests.effect(send)

    # For the network.

    def connected(self, session: int) -> None:
        """The session's connection is there."""
        self._happen(lambda: self._core.connected(session, self._world.now))

    def receive(self, session: int, frames: Frames) -> None:
        """A message has arrived."""
        self._happen(lambda: self._core.receive(session, frames, self._world.now))

    def lost(self, session: int) -> None:
        """The session's connection has ended."""
        self._happen(lambda: self._core.lost(session, self._world.now))

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

    async def arrive(self, pending: Pending[Any], timeout: float | None) -> bool:
        """As :meth:`wait`."""
        return await self.wait(pending, timeout)

    def flush_soon(self) -> None:
        """As :meth:`flush`."""
        self.flush()

    flush_now = flush_soon

    def attend(self, wake: Callable[[], None]) -> bool:
        """Tell that workers are called as users' callbacks are."""
        return False

    def leave(self, wake: Callable[[], None]) -> None:
        """Nothing."""

    async def do(self, caller: Caller, errand: Errand) -> Buffer:
        """Begin an errand, wait until it is done, which the core sees to, and return its result, or raise it."""
        try:
            send = caller.begin(errand, self.now())
            if send is not None:
                self.post(send)
            await self.wait(errand, None)
        except BaseException:
            if not errand.done:  # Nobody waits for it any more.
                caller.abandon(errand, self.now())
                self.flush()
            raise
        return errand.result()

    def spawn(self, body: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Begin a task; returns what cancels it: nothing, so that it goes on as one that minds no cancellation."""
        self._tasks = [task for task in self._tasks if not task.done]
        self._tasks.append(self._world.start(body, f"{self.name} handler"))
        return lambda: None

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

    def arrive(self, pending: Pending[Any], timeout: float | None) -> bool:
        """As :meth:`wait`."""
        return self.wait(pending, timeout)

    def do(self, caller: Caller, errand: Errand) -> Buffer:
        """Begin an errand, let the world go on until it is done, which the core sees to, and return or raise it."""
        try:
            send = caller.begin(errand, self.now())
            if send is not None:
                self.post(send)
            self.wait(errand, None)
        except BaseException:
            if not errand.done:  # Nobody waits for it any more.
                caller.abandon(errand, self.now())
                self.flush()
            raise
        return errand.result()

    def hire(self, work: Callable[[], None], count: int) -> list[Any]:
        """Refuse: the world has one thread."""
        raise errors.NotSupported(
            what="a service of the synchronous SDK", where="in a simulation", instead="offer it with connect_async()"
        )

    def close(self) -> None:
        """Close the sessions."""
        if self.alive:
            self.flush()
            self.kill()
