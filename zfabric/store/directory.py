"""The data directory: what users see, name in URLs and put on a disk (``./zfabric-data``).

========================  ===============================================================================
name                      what it is
========================  ===============================================================================
``FORMAT``                ``zfabric data 1``
``LOCK``                  locked by whoever leads; says ``{"pid": …, "mode": …, "listen": …}`` inside
``clients``               locked, shared, by every process that uses the directory embedded
``leader-0``, ``-1``, …   the volumes (``volume.py``), one for each leader process
``members``               the members of a mesh that leader 0 knew in its last run (``meshfile.py``)
``port``                  a peer's port, so that it is found where it was (``server/peering.py``)
``run``                   ipc sockets; a link to a private directory elsewhere when the path is too long for one
========================  ===============================================================================

Who leads, and who is left. The one who locked ``LOCK`` leads. An embedded leader ends when its last client has left:
it then tries to lock ``clients`` for itself, which works only when nobody holds it. If it does, it keeps that lock
until it has ended and given up ``LOCK``; a client that comes in between waits in :meth:`DataDirectory.attach_client`,
then finds no leader and starts one. So no client ever attaches to a leader that has decided to go. A client that is
killed has left, because the kernel gives its lock back; one that forks has not come twice, because the child drops its
copy.

A socket's path has at most 107 bytes. Where ``run`` would be too deep, the first process that asks makes it a link to
a directory under the system's temporary directory, of a name derived from the real path and the user; all others
follow the link, also those with another idea of where the temporary directory is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
from typing import Final, Literal, TypedDict

import msgspec

from zfabric import errors
from zfabric.store import lockfile
from zfabric.store.formatfile import (
    FORMAT,
    FORMAT_NEW,
    check_format,
    finish_format,
    make_directory,
    refuse_foreign,
    write_format,
)

__all__ = ["INSTEAD", "DataDirectory", "Holder", "Mode", "unusable"]

Mode = Literal["embedded", "node", "peer"]

VERSION: Final = 1
VOLUME_ROOM: Final = 1 << 20
"""Bytes that have to be free for a new volume."""
LOCK: Final = "LOCK"
CLIENTS: Final = "clients"
RUN: Final = "run"
MEMBERS: Final = "members"
PORT: Final = "port"

_SOCKET_PATH_BYTES_MAX: Final = 103 if sys.platform == "darwin" else 107
_SOCKET_NAME_BYTES_MAX: Final = 24
"""Longest name in ``run``; all sockets live in one place, so the longest decides for all."""
_VOLUME = re.compile(r"leader-(0|[1-9]\d{0,5})\Z")
_SERVICE = re.compile(r"svc-([1-9]\d{0,9})-\d+\Z")
_ATTACH_PAUSE_S: Final = 0.01
_CREATE_ATTEMPTS: Final = 100


INSTEAD: Final = {
    errno.EACCES: "let this user write there, or choose another directory",
    errno.EPERM: "let this user write there, or choose another directory",
    errno.EROFS: "choose a directory on a disk that can be written to",
    errno.ENOSPC: "free some space or choose a directory on another disk",
    errno.EDQUOT: "free some space or choose a directory on another disk",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EMFILE: "close some files or raise their limit (ulimit -n)",
    errno.ENFILE: "close some files or raise their limit (sysctl fs.file-max)",
}
"""What to do about the refusals of the system that need no stack trace, by their number."""


def unusable(directory: str, error: OSError) -> errors.DirectoryUnusable:
    """Return what to tell a user whose data directory the system refused."""
    problem = error.strerror or str(error)
    if error.filename is not None and os.fspath(error.filename) != directory:
        problem = f"{problem}: {os.fsdecode(error.filename)!r}"
    instead = INSTEAD.get(error.errno or 0, "choose another directory")
    return errors.DirectoryUnusable(directory=directory, problem=problem, instead=instead)


class Holder(TypedDict):
    """Who leads a directory: process id, how, and where it listens (a URL or an ipc path; may be empty).

    In the instant between locking and writing it down, the process id is 0 and the rest is empty.
    """

    pid: int
    mode: str
    listen: str


def service_socket(pid: int, number: int) -> str:
    """Return the name of the socket of a process's service."""
    return f"svc-{pid}-{number}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _has_room(directory: str) -> bool:
    """Tell whether a socket may have a path in a directory."""
    return len(os.fsencode(directory)) + 1 + _SOCKET_NAME_BYTES_MAX <= _SOCKET_PATH_BYTES_MAX


class DataDirectory:
    """A directory that was checked to be ours.

    Attributes:
        path: as given. real_path: the same directory for every process, whatever its working directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.real_path = os.path.realpath(path)

    @classmethod
    def create_or_check(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Return the data directory ``path``, creating it when nothing is there. Any number of processes may try.

        Raises:
            DirectoryFormat: it is something else, or a newer version wrote it.
            OSError: it cannot be made or entered.
        """
        directory = os.fspath(path)
        make_directory(directory)
        for _ in range(_CREATE_ATTEMPTS):
            if check_format(directory, "data", VERSION):
                return cls(directory)
            names = set(os.listdir(directory))
            if FORMAT in names:
                continue
            refuse_foreign(directory, _foreign(names))
            own = f"{FORMAT_NEW}.{os.urandom(6).hex()}"
            write_format(directory, "data", VERSION, own)
            finish_format(directory, own)
        raise errors.DirectoryFormat(
            directory=directory, problem="its FORMAT comes and goes", instead="choose another directory"
        )

    @classmethod
    def check(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Return the data directory ``path`` without creating anything.

        Raises:
            NotFound: nothing is there, or something else.
            DirectoryFormat: its FORMAT says something else, or a newer version wrote it.
        """
        directory = os.fspath(path)
        if not os.path.lexists(directory):
            raise errors.NotFound(kind="data directory", name=directory)
        make_directory(directory)
        if not check_format(directory, "data", VERSION):
            raise errors.NotFound(kind="data directory", name=directory)
        return cls(directory)

    # Who leads.

    def lock(self, mode: Mode, listen: str) -> lockfile.FileLock:
        """Become the one who leads; the returned lock is held until it is closed or the process ends.

        Raises:
            DirectoryLocked: somebody leads already; ``pid`` says who (0 in the instant before it wrote it down).
        """
        lock = lockfile.take_exclusive(self._file(LOCK))
        if lock is None:
            raise self.locked(self.holder())
        try:
            lock.write(msgspec.json.encode(Holder(pid=os.getpid(), mode=mode, listen=listen)) + b"\n")
        except BaseException:
            lock.close()
            raise
        return lock

    def locked(self, holder: Holder | None) -> errors.DirectoryLocked:
        """Return the error that says who leads, and where to reach that one."""
        if holder is None:
            return errors.DirectoryLocked(directory=self.path, pid=0)
        where = f"zf://{holder['listen']}" if holder["mode"] == "node" else "it"
        return errors.DirectoryLocked(directory=self.path, pid=holder["pid"], where=where)

    def holder(self) -> Holder | None:
        """Return who leads now, or None. It may have changed when this returns; only :meth:`lock` is sure."""
        content = lockfile.read_holder(self._file(LOCK))
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=Holder)
        except msgspec.DecodeError:
            return Holder(pid=0, mode="", listen="")

    # Who is left.

    def attach_client(self, *, timeout: float = 10.0) -> lockfile.FileLock:
        """Count this process among the clients until the returned lock is closed or the process ends.

        Waits while a leader is ending. Several in one process are fine; a forked child's copies close themselves.

        Args:
            timeout: seconds.

        Raises:
            Unreachable: the ending leader has not ended in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            lock = self.try_attach_client()
            if lock is not None:
                return lock
            if time.monotonic() >= deadline:
                raise errors.Unreachable(url=self.path, seconds=timeout, detail="its last leader is still ending")
            time.sleep(_ATTACH_PAUSE_S)

    def try_attach_client(self) -> lockfile.FileLock | None:
        """The same without waiting; None while a leader is ending."""
        return lockfile.try_shared(self._file(CLIENTS))

    def try_exclusive_clients(self) -> lockfile.FileLock | None:
        """Return a lock that keeps clients from coming, or None when one is there. For the leader, which then ends."""
        return lockfile.try_exclusive(self._file(CLIENTS))

    # What is inside.

    def volumes(self) -> list[int]:
        """Return the numbers of the volumes that exist, in order."""
        found = (_VOLUME.match(name) for name in os.listdir(self.real_path))
        return sorted(int(match[1]) for match in found if match is not None)

    def volume_path(self, number: int) -> str:
        """Return the directory of volume ``number``, whether or not it exists."""
        assert 0 <= number < 1_000_000
        return self._file(f"leader-{number}")

    @property
    def members_path(self) -> str:
        """The file that keeps the members of a mesh, whether or not it exists."""
        return self._file(MEMBERS)

    @property
    def port_path(self) -> str:
        """The file that keeps the port of a peer, whether or not it exists."""
        return self._file(PORT)

    def check_room(self, number: int) -> None:
        """Check that volume ``number`` is there, or that there is room for it.

        LMDB maps its lock file, and when there is no block for that the process dies by SIGBUS, which says nothing.

        Raises:
            DirectoryUnusable: the disk is full.
        """
        found = os.statvfs(self.real_path)
        free = found.f_bavail * found.f_frsize
        if free < VOLUME_ROOM and not os.path.exists(os.path.join(self.volume_path(number), FORMAT)):
            raise errors.DirectoryUnusable(
                directory=self.path,
                problem=f"the disk is full: {free:,} bytes are free, a new volume takes {VOLUME_ROOM:,}",
                instead=INSTEAD[errno.ENOSPC],
            )

    def socket_path(self, name: str) -> str:
        """Return the absolute path of the ipc socket ``name``, in a directory that exists and is this user's alone.

        Raises:
            InvalidArgument: the name is no plain file name, or too long.
            DirectoryFormat: what is called ``run``, or what it links to, is not a private directory.
        """
        if not name or "/" in name or name.startswith(".") or len(os.fsencode(name)) > _SOCKET_NAME_BYTES_MAX:
            allowed = f"1 to {_SOCKET_NAME_BYTES_MAX} bytes without '/', not beginning with '.'"
            raise errors.InvalidArgument(name="socket", value=repr(name)[:100], allowed=allowed)
        return os.path.join(self._run_directory(), name)

    def clean_run(self) -> int:
        """Remove the sockets that killed processes left; returns how many. For whoever holds :meth:`lock`.

        Those of services stay while their process lives: it does not end with the leader.
        """
        directory = self._run_directory()
        removed = 0
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            owner = _SERVICE.match(name)
            if owner is not None and _lives(int(owner[1])):
                continue
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
                removed += 1
        return removed

    def drop_run(self) -> None:
        """The same, and remove the directory if it is elsewhere: for a leader that ends."""
        self.clean_run()
        directory = self._run_directory()
        if directory != self._file(RUN):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _file(self, name: str) -> str:
        return os.path.join(self.real_path, name)

    def _run_directory(self) -> str:
        run = self._file(RUN)
        if _has_room(run):
            return self._private(run)
        try:
            return self._private(os.readlink(run))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise self._unusable(run, "is not a link to a shorter path") from error
        # Loaded only here: together they cost a leader 4 MB.
        import hashlib
        import tempfile

        digest = hashlib.blake2b(os.fsencode(self.real_path), digest_size=10).hexdigest()
        elsewhere = os.path.join(tempfile.gettempdir(), f"zfabric-{os.getuid()}-{digest}")
        if not _has_room(elsewhere):  # Some runners of tests have a temporary directory that is too deep itself.
            elsewhere = os.path.join("/tmp", os.path.basename(elsewhere))  # noqa: S108 - a private one is made there
        self._private(elsewhere)
        try:
            os.symlink(elsewhere, run)
        except FileExistsError:
            # Another process was first, perhaps with another temporary directory; its link decides.
            return self._private(os.readlink(run))
        return elsewhere

    def _private(self, directory: str) -> str:
        """Create ``directory`` if needed, and make sure that nobody else can reach or exchange what is in it."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        found = os.lstat(directory)
        if not stat.S_ISDIR(found.st_mode):
            raise self._unusable(directory, "is not a directory")
        # The owner of the data directory decides what is in it anyway, so root may follow; a stranger's is refused.
        owners = {os.getuid(), os.stat(self.real_path).st_uid}
        if found.st_uid not in owners or found.st_mode & 0o077:
            raise self._unusable(directory, f"belongs to user {found.st_uid} with mode {found.st_mode & 0o777:o}")
        return directory

    def _unusable(self, directory: str, problem: str) -> errors.DirectoryFormat:
        return errors.DirectoryFormat(
            directory=self.path,
            problem=f"sockets cannot live in {directory!r}: it {problem}",
            instead="remove it or choose another directory",
        )


def _foreign(names: set[str]) -> set[str]:
    """Return the names that no unfinished creation leaves."""
    return {name for name in names if not name.startswith(FORMAT_NEW)}
