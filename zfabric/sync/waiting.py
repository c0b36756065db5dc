# Generated from zfabric/aio/waiting.py by tools/unasync; edit that file.
"""Waiting for more than one thing, on the pump of a fabric: ``fabric.waiting``.

A pump drives its sockets while somebody waits on it, so this is where an application that has nothing to do should
wait; in a simulation, it is what lets time pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from zfabric.core.client.client import Client
from zfabric.core.client.overdue import hindrance
from zfabric.core.client.pending import Pending
from zfabric.settings import check_range
from zfabric.sync.consumer import Consumer
from zfabric.sync.pump import Pump


class Waiting:
    """The clock of a fabric, and ways to let it run."""

    def __init__(self, pump: Pump, core: Client) -> None:
        self._pump = pump
        self._core = core

    def now(self) -> int:
        """Return the time by which this fabric works (monotonic ns)."""
        return self._pump.now()

    def hindrance(self) -> str:
        """Return why what was asked of the fabric may be unanswered; "" if its connections do not tell."""
        with self._pump.lock:
            return hindrance(self._core.requests.connections.values())

    def sleep(self, seconds: float) -> None:
        """Wait, while what goes on in the background goes on."""
        check_range("seconds", seconds, 0.0, 1e9, "s")
        self._pump.wait(Pending(), seconds)

    def ready(self, consumers: Sequence[Consumer], timeout: float) -> bool:
        """Wait until one of these consumers, all of this fabric and open, may have something to return.

        Args:
            timeout: seconds.

        Returns:
            whether one has; at once, if one had before.
        """
        check_range("timeout", timeout, 0.0, 1e9, "s")
        some: Pending[None] = Pending()

        def arrived() -> None:
            some.resolve(None)

        with self._pump.lock:
            waited = [consumer.arrival() for consumer in consumers]
            for pending in waited:
                pending.on_done(arrived)
        try:
            return self._pump.wait(some, timeout)
        finally:
            with self._pump.lock:
                for pending in waited:
                    pending.forget(arrived)
