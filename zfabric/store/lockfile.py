"""One ``flock`` on one file: who holds it says so inside.

The kernel drops the lock when the last descriptor of it is closed, so a killed holder leaves nothing to clean up; the
text it left behind means nothing without the lock. Two things would keep a lock beyond its holder's death: a child
that was exec'd (descriptors are opened with O_CLOEXEC) and a child that was forked (every lock open in this process is
closed in the child; closing a copy does not unlock the parent's).

Looking who holds a lock takes it *shared* for some microseconds. An exclusive attempt that meets such a look is not
refused: when a shared attempt succeeds too, nobody holds the lock exclusively, and it is tried again.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from types import TracebackType
from typing import Final, Self

_CONTENT_BYTES_MAX: Final = 4096
_LOOK_ATTEMPTS: Final = 200
_LOOK_PAUSE_S: Final = 0.002

_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """A lock that is held until :meth:`close`, or until the process ends in whatever way.

    Attributes:
        path: the locked file.
        exclusive: whether nobody else can hold it at the same time.
    """

    def __init__(self, path: str, fd: int, *, exclusive: bool) -> None:
        self.path = path
        self.exclusive = exclusive
        self._fd = fd
        self._content_bytes = 0
        _open_locks.add(self)

    @property
    def closed(self) -> bool:
        """Whether the lock was given back, or belongs to the process this one was forked from."""
        return self._fd < 0

    def write(self, content: bytes) -> None:
        """Replace what the file says.

        One write, then the cut: a reader sees the new content, at worst with the tail of the old one.
        """
        assert self.exclusive
        assert len(content) <= _CONTENT_BYTES_MAX
        self._content_bytes = len(content)
        os.pwrite(self._fd, content, 0)
        os.ftruncate(self._fd, len(content))

    def close(self) -> None:
        """Give the lock back; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            # Blanks, not a cut: the next holder's write then needs no new block on a disk that is full.
            os.pwrite(fd, b" " * self._content_bytes, 0)
        finally:
            # A program that is being started holds a copy until its exec closes it; unlocking here is for all copies.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def forget(self) -> None:
        """Close this process's copy without giving the lock back: for a forked child."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def take_exclusive(path: str) -> FileLock | None:
    """Lock ``path`` for this holder alone, creating it; None when somebody else holds it."""
    fd = _open(path)
    try:
        for _ in range(_LOOK_ATTEMPTS):
            if _flock(fd, fcntl.LOCK_EX):
                return FileLock(path, fd, exclusive=True)
            if not _flock(fd, fcntl.LOCK_SH):
                break
            fcntl.flock(fd, fcntl.LOCK_UN)
            time.sleep(_LOOK_PAUSE_S)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def try_exclusive(path: str) -> FileLock | None:
    """Lock ``path`` for this holder alone, creating it; None when anybody else holds it, shared or not."""
    return _try(path, fcntl.LOCK_EX)


def try_shared(path: str) -> FileLock | None:
    """Lock ``path`` together with others, creating it; None when somebody holds it alone."""
    return _try(path, fcntl.LOCK_SH)


def read_holder(path: str) -> bytes | None:
    """Return what the exclusive holder of ``path`` wrote, or None when nobody holds it.

    The answer is empty in the instant between a holder's locking and its writing.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        if _flock(fd, fcntl.LOCK_SH):
            return None
        return os.pread(fd, _CONTENT_BYTES_MAX, 0).strip()
    finally:
        os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try(path: str, kind: int) -> FileLock | None:
    fd = _open(path)
    try:
        taken = _flock(fd, kind)
    except BaseException:
        os.close(fd)
        raise
    if not taken:
        os.close(fd)
        return None
    return FileLock(path, fd, exclusive=kind == fcntl.LOCK_EX)


def _forget_all() -> None:
    for lock in list(_open_locks):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)
