"""Facts about the leader's own process, read from /proc where there is one."""

from __future__ import annotations

import functools
import os
import resource
import select
import sys
import time
from collections.abc import Callable


def resident() -> tuple[int, int]:
    """Return (resident bytes, the anonymous part of it).

    LMDB's clean pages are resident but the kernel's to take back; the anonymous part is what the process holds.
    """
    fd = _statm()
    if fd is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak, peak) if sys.platform == "darwin" else (peak << 10, peak << 10)
    _, all_pages, file_pages, *_ = os.pread(fd, 200, 0).split()
    page = os.sysconf("SC_PAGE_SIZE")
    return int(all_pages) * page, (int(all_pages) - int(file_pages)) * page


@functools.cache
def _statm() -> int | None:
    # Kept open: it has to be read when strangers hold all descriptors there are.
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def deserted() -> bool:
    """Tell whether nobody holds the other end of the pipe that is standard input: a supervisor that was killed."""
    poll = select.poll()
    poll.register(0, 0)  # POLLHUP is told unasked.
    return bool(poll.poll(0))


class Memory:
    """A bound on what this process holds, beside the pages of files.

    Where dropping something frees too little (the rest is ours: rings of memory topics, say), the bound is not exceeded
    again before another quarter was added.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bound = 0

    def exceeded(self) -> int:
        """Return the bytes that it holds if that is more than it may, else 0."""
        held = resident()[1]
        self._bound = max(self._most, min(self._bound, held + held // 4))
        if held <= self._bound:
            return 0
        self._bound = 1 << 62
        return held


class Load:
    """How busy this process has been lately, seen about every half second."""

    def __init__(self) -> None:
        self._at = time.monotonic_ns()
        self._used = time.process_time_ns()
        self._percent = 0.0

    def look(self) -> int:
        """Return the percent of one core that it used in the last ten seconds or so."""
        now, used = time.monotonic_ns(), time.process_time_ns()
        passed = now - self._at
        if passed > 0:
            part = min(1.0, passed / 10e9)
            self._percent += part * (100 * (used - self._used) / passed - self._percent)
            self._at, self._used = now, used
        return round(self._percent)


def trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc keeps much of it otherwise).

    With nothing to give it takes some microseconds.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    import ctypes

    return getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
