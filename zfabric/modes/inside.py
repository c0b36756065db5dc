"""Leaders in threads of this process: one for each directory that a fabric here asked for with ``leader="thread"``.

All fabrics of one process that use a directory so share one :class:`Residence`, and the leader that it may have
started. It ends with the last of them: it drains, leaves its mesh, and gives the directory back. It is also told to end
when the interpreter exits, and goes with the process when that is killed; whoever needs a leader then starts one. After
a failure that ends it, the next call of a client starts another.

The leader itself (``zfabric/server/inside.py``) is loaded by name, in its thread: modes say where a leader runs, and
lie below it. A forked child has no part in any of this.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast

from zfabric import errors
from zfabric.net.nearby import Nearby
from zfabric.store.directory import unusable

if TYPE_CHECKING:
    from zfabric.modes.options import LeaderOptions

log = logging.getLogger("zfabric.leader")

END_S: Final = 5.0
"""Longest wait for a leader's end: leaving a mesh and closing connections take less than two seconds."""
_NAME: Final = "zfabric.server.inside"

_residences: dict[str, Residence] = {}
_ending: dict[threading.Thread, Residence] = {}
_lock = threading.Lock()


class _Resident(Protocol):
    """``server/inside.py``'s."""

    served: bool

    def run(self) -> None:
        """Lead until told to stop."""
        ...

    def stop(self) -> None:
        """Let it end."""
        ...


class Residence:
    """A place in this process for the leader of one directory.

    Attributes:
        failures: leaders that were started here and could not begin. failure: why the last of them could not.
    """

    def __init__(self, path: str) -> None:
        self.failures = 0
        self.failure: errors.ZFabricError | None = None
        self._path = path
        self._users = 0
        self._resident: _Resident | None = None
        self._thread: threading.Thread | None = None
        self._over = False

    def join(self) -> None:
        """Another fabric has come; call it with the module's lock held."""
        self._users += 1

    def start(self, options: LeaderOptions) -> None:
        """Start a leader unless there is one, without waiting for it."""
        with _lock:
            if self._thread is not None or self._over:
                return
            self._thread = threading.Thread(
                target=self._run, args=(options, Nearby(options.listen)), name="zfabric-leader", daemon=True
            )
            _ending[self._thread] = self
            self._thread.start()

    def leave(self) -> None:
        """A fabric has been closed; with the last one the leader is told to end."""
        with _lock:
            self._users -= 1
            if self._users == 0:
                del _residences[self._path]
        if self._users == 0:
            self.stop()

    def stop(self) -> None:
        """Let the leader end, and start none any more."""
        self._over = True
        if self._resident is not None:
            self._resident.stop()

    def ended(self) -> None:
        """Wait until a leader that was told to end has ended, for five seconds at most."""
        thread = self._thread
        if self._over and thread is not None and thread is not threading.current_thread():
            thread.join(END_S)

    def _run(self, options: LeaderOptions, near: Nearby) -> None:
        resident: _Resident | None = None
        failure: errors.ZFabricError | None = None
        try:
            resident = cast("_Resident", import_module(_NAME).Resident(options, near))
            self._resident = resident
            if self._over:
                resident.stop()
            resident.run()
        except errors.DirectoryLocked:
            log.debug("leader_not_needed directory=%s", self._path)  # Somebody else was quicker.
        except errors.ZFabricError as error:
            failure = error
        except OSError as error:
            failure = unusable(self._path, error)
        finally:
            with _lock:
                self._resident = self._thread = None
                del _ending[threading.current_thread()]
                if failure is not None and resident is not None and not resident.served:
                    self.failures, self.failure = self.failures + 1, failure
            near.end()
        if failure is not None and resident is not None and resident.served:
            log.error("leader_ended problem=%s", failure)


def join(path: str) -> Residence:
    """Return the residence of a directory (its real path) for one more fabric, which leaves it later."""
    with _lock:
        residence = _residences.get(path)
        if residence is None:
            residence = _residences[path] = Residence(path)
        residence.join()
        return residence


def end_all() -> None:
    """Let all leaders of this process end, and wait for that: some seconds at most."""
    with _lock:
        ending = dict(_ending)
    for residence in ending.values():
        residence.stop()
    for thread in ending:
        thread.join(END_S)


def _forget() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()
    _residences.clear()
    _ending.clear()


os.register_at_fork(after_in_child=_forget)
atexit.register(end_all)
