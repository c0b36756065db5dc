"""What becomes of a fabric that nobody has closed and nobody can use any more.

Python collects it some time, in whatever thread, in the middle of something. pyzmq then ends the context before the
sockets are closed, which are collected behind it, and libzmq waits for them: the program stood still for ever. So what
has the sockets is kept here for as long as its pump lives, and then closed in its own order, by a thread: whoever is
interrupted by a collection may hold any lock.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zfabric.net.driver import Driver


def keep(pump: object, driver: Driver, *fds: int) -> weakref.finalize[Any, Any]:
    """Keep a driver until its pump is gone, then close it and these descriptors; ``detach()`` ends that."""
    kept = weakref.finalize(pump, _abandoned, driver, fds)
    kept.atexit = False  # The system takes everything back, and threads can be started no more.
    return kept


def _abandoned(driver: Driver, fds: tuple[int, ...]) -> None:
    warnings.warn("a fabric was not closed: use 'with', or close()", ResourceWarning, stacklevel=2)
    threading.Thread(target=_close, args=(driver, fds), name="zfabric-abandoned", daemon=True).start()


def _close(driver: Driver, fds: tuple[int, ...]) -> None:
    driver.close()
    for fd in fds:
        os.close(fd)
    driver.ended()
