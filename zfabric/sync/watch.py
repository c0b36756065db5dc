# Generated from zfabric/aio/watch.py by tools/unasync; edit that file.
"""Changes of the mesh as the SDK shows them: ``fabric.watch_members()``."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from zfabric import errors
from zfabric.core.client import members
from zfabric.model import MemberChange, MemberInfo
from zfabric.settings import check_timeout

if TYPE_CHECKING:
    from zfabric.core.client.watch import Watch
    from zfabric.sync.pump import Pump


class MemberWatch:
    """Tells who comes, goes and changes; made by ``fabric.watch_members()``. A context manager and an iterator.

    It begins with each member that is known. Changes of one member that were not taken in time are told as one. The
    fabric asks for changes once a second until this is closed.
    """

    def __init__(self, pump: Pump, core: Watch, timeout: float | None) -> None:
        self._pump = pump
        self._core = core
        self._timeout = timeout
        self._left: list[MemberChange] = []

    def poll(self, timeout: float | None = None) -> list[MemberChange]:
        """Return what has changed; an empty list if nothing did within ``timeout`` seconds. None waits for ever.

        Raises:
            Closed: this or its fabric was closed.
        """
        check_timeout("timeout", timeout)
        with self._pump.lock:
            self._pump.check()
            pending = self._core.ready()
        self._pump.wait(pending, timeout)
        with self._pump.lock:
            if self._core.closed:
                raise errors.Closed(what="watch of members")
            return [members.change(found) for found in self._core.take()]

    def members(self) -> list[MemberInfo]:
        """Return all members as they are known now, without asking, sorted by host and endpoint."""
        with self._pump.lock:
            return members.shown(self._core.all())

    def age(self) -> float:
        """Return for how many seconds nothing was heard: about one at the most while somebody answers.

        What :meth:`members` shows is as old; beyond five or so, whoever this fabric asks is away.
        """
        with self._pump.lock:
            return self._core.age_ns(self._pump.now()) / 1e9

    def close(self) -> None:
        """End it. A second call does nothing."""
        with self._pump.lock:
            self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> MemberChange:
        if not self._left:
            self._left = self.poll(self._timeout)[::-1]
        if not self._left:
            raise StopIteration
        return self._left.pop()
