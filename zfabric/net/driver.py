"""One step of a client: what came in goes to the core, what the core wants goes out, until nothing is left.

Both pumps call :meth:`Driver.step` under their lock and poll :meth:`fds` outside it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from zfabric import errors
from zfabric.core.effects import Send
from zfabric.net import sockets
from zfabric.net.ports import Ports
from zfabric.net.session import Change

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

ROUNDS_MAX = 8
FAR_NS = 3_600_000_000_000
"""Longest time until somebody looks around: more than a poll takes as its timeout would be a mistake."""
DRAIN_MAX = 64
"""Messages that are taken before somebody looks whether what is waited for has come: a flood of one sender's would hold
up everybody else's (1,024 of garbage: 180 ms rather than 0.4 ms for a request, measured)."""
_log = logging.getLogger(__name__)


class Mode(Protocol):
    """Where leaders are found (``zfabric/modes``)."""

    @property
    def inside(self) -> bool:
        """Whether a leader may be in this process."""
        ...

    def locate(self) -> Sequence[str]:
        """Make sure that somebody leads, without waiting; raises what keeps that from being.

        Returns endpoints of members of the mesh that were found meanwhile, for an observer to see it through.
        """
        ...

    def close(self) -> None:
        """This client has left."""
        ...

    def ended(self) -> None:
        """Wait, for a bounded time, until what has to end in this process with the client has ended."""
        ...

    def listen_endpoint(self) -> str:
        """Return where an instance of a service may listen, to be reached by whoever reaches the leader."""
        ...


class Awaited(Protocol):
    """What a caller waits for."""

    @property
    def done(self) -> bool:
        """Whether it has come."""
        ...


class Driver:
    """The core, its sockets and its mode.

    Attributes:
        due_ns: when to come back at the latest, as the last :meth:`step` found (monotonic).
        ports: its sockets. effects: what the core wants done, always the same list.
    """

    def __init__(self, core: Client, mode: Mode) -> None:
        self.core = core
        self.due_ns = 0
        self._mode = mode
        self._context = sockets.context()
        self.ports = Ports(self._context, 68 << 20)
        self.effects = core.requests.effects
        self._wanted = core.requests.take_effects  # As core.take_effects: two or three times a step.

    @property
    def generation(self) -> int:
        """Changes whenever the set of :meth:`fds` does."""
        return self.ports.generation

    @property
    def inside(self) -> bool:
        """Whether :meth:`ended` may have something to wait for."""
        return self._mode.inside

    def fds(self) -> list[int]:
        """Descriptors to poll for reading."""
        return self.ports.fds()

    def send(self) -> int | None:
        """Send what the core, which is not restless, wants sent; returns where a message has come in, None if none has.

        Then it can be polled until :attr:`due_ns`, and the message handed to the core. While requests go to and fro
        that is all there is to do, and a third of a :meth:`step`, which has to follow once the core is restless.
        """
        if self.effects:
            self.put()
        return self.ports.unread()

    def put(self) -> None:
        """Send what the core wants sent; :meth:`send` or :meth:`step` has to follow before the next poll."""
        effects = self.effects
        if len(effects) == 1:
            (effect,) = effects
            if type(effect) is Send:
                effects.clear()
                self.ports.put(effect)
                return
        if self.ports.perform(self._wanted()):
            self._locate()

    def step(self, ready: Iterable[int] | None = None, until: Awaited | None = None) -> int | None:
        """Do all there is to do now; returns when to come back (monotonic ns).

        What the core wants sent goes out before anything else: somebody waits for it.

        Args:
            ready: the descriptors that a poll found readable, so that no others are looked at (3 us each); what came
                in elsewhere makes the next poll return at once. None looks at all.
            until: what the caller waits for: when it is done the rest is left to the next step, which comes before the
                next poll.
        """
        core, ports = self.core, self.ports
        core.restless = True  # Until all is done.
        wanted = self._wanted()
        asked = bool(wanted) and ports.perform(wanted)
        for _ in range(ROUNDS_MAX):
            if asked:
                self._locate()
            incoming = ports.drain(DRAIN_MAX, ready, patient=until is not None)
            now = time.monotonic_ns()
            ready = ()
            core.wall_offset_ms = time.time_ns() // 1_000_000 - now // 1_000_000
            for session, what in incoming:
                if type(what) is list:
                    core.receive(session, what, now)
                else:
                    self._change(session, what, now)
            done = until is not None and until.done
            due_ns = None if done else core.next_deadline()
            late = due_ns is not None and due_ns <= now
            if late:
                core.tick(now)
                due_ns = core.next_deadline()
            wanted = self._wanted()
            asked = bool(wanted) and ports.perform(wanted)
            if done and not asked:
                return None
            if not incoming and not wanted and not ports.more:
                self.due_ns = now + FAR_NS if due_ns is None else min(due_ns, now + FAR_NS)
                core.restless = False
                return due_ns
            if core.calling or core.handing:
                break  # Whoever drives runs callbacks now: they may be what hands out a request.
        return time.monotonic_ns()  # Somebody talks without end: let the caller look at its own deadline.

    def _change(self, session: int, what: object, now: int) -> None:
        core = self.core
        if what is Change.LOST or what is Change.NOWHERE:
            core.lost(session, now, nowhere=what is Change.NOWHERE)
        elif what is Change.CONNECTED:
            if self.ports.drives_near:
                core.requests.express = self.ports.express
            core.connected(session, now)
        elif isinstance(what, str):
            core.listens(session, what, now)
        elif isinstance(what, bytes):
            core.left(session, what, now)

    def _locate(self) -> None:
        try:
            found = self._mode.locate()
            if found and self.core.anchor is not None:
                self.core.anchor.hear(found, time.monotonic_ns())
        except errors.ZFabricError as error:
            self.core.requests.fail_all(error)
        self.ports.prefer_near()

    def may_drive(self) -> None:
        """Say that whoever calls :meth:`step` may spend a leader's turn on it, if that is in this process."""
        self.ports.drives = True

    def listen_endpoint(self) -> str:
        """Return where an instance of a service may listen."""
        return self._mode.listen_endpoint()

    def run_callbacks(self) -> None:
        """Run user callbacks; call it without the lock. What they raise is logged, since nobody waits for it."""
        callbacks = self.core.take_callbacks()
        if not callbacks:
            return
        due = iter(callbacks)
        try:
            for callback, delivery, error in due:
                try:
                    callback(delivery, error)
                except Exception:  # noqa: BLE001 - user code; logged with its traceback
                    _log.exception("delivery_callback_failed callback=%r", callback)
        finally:
            self.core.return_callbacks(list(due))

    def close(self) -> None:
        """Close the sockets and leave the mode."""
        self.ports.perform(self.core.take_effects())
        self.ports.close()
        sockets.end(self._context)
        self._mode.close()

    def ended(self) -> None:
        """Wait until what :meth:`close` has told to end in this process has ended: some seconds at most."""
        self._mode.ended()
