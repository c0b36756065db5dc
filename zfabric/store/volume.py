"""The volume: what one leader process keeps, in one LMDB environment with one unnamed database.

Promise. What :meth:`Volume.commit` covered is on the disk when it returns, all of it or none of it, through ``kill -9``
and power cuts. Damage is found before it is read as data, or raises; a volume is led by one process at a time, and
never created over something else.

Sync modes stay LMDB's defaults (``engine.py``): one ``fdatasync`` and one synchronous write of the meta page for a
commit.

A commit that failed is final. After a failed fsync Linux marks the pages clean and the next fsync succeeds, so the
volume refuses everything from then on, and the leader ends. Two things are not failures: :data:`MapFull` (the caller
abandons the transaction, grows the map and repeats the turn) and :class:`StorageFull`, raised before anything is
written while retention still has pages to work with.

The write transaction belongs to a turn of the leader's loop, or to several: while all that it holds has durability
``"os"`` it stays open, and :meth:`Volume.journal` makes each turn outlive the process (``journal.py``). Whoever
abandons it replays :meth:`Volume.journaled` first and the turn after.

States::

    idle --write()--> writing --commit()--> idle
                      writing --abandon(), MapFull in commit()--> idle
    any  --commit failed--> failed --close()--> closed
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import lmdb

from zfabric import errors
from zfabric.model import Buffer
from zfabric.settings import GIB, MIB, LeaderSettings
from zfabric.store import lmdbfile, lockfile
from zfabric.store.engine import DATA, check_data, check_engine, open_environment
from zfabric.store.formatfile import (
    FORMAT,
    FORMAT_NEW,
    check_format,
    finish_format,
    make_directory,
    refuse_foreign,
    write_format,
)
from zfabric.store.journal import JOURNAL, Journal
from zfabric.store.pages import release_mapped

if TYPE_CHECKING:
    from zfabric.core.transaction import Transaction

MapFull = lmdb.MapFullError
"""Raised by a put, a delete or a commit for which the map is too small: abandon, grow, repeat the turn."""

VERSION: Final = 1
LOCK: Final = "LOCK"
_OURS: Final = frozenset({LOCK, FORMAT, FORMAT_NEW, DATA, "lock.mdb", JOURNAL})

_GROW_AT: Final = 0.8
_GROW_ROOM: Final = 1 * MIB
_MAP_BYTES_CEILING: Final = 1 << 46
_RESERVE_SHARE: Final = 20
_RESERVE_MOST: Final = 1 * GIB
_USAGE: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_USAGE_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class VolumeStats:
    """Counters of one volume since it was opened, sizes as they are now.

    Attributes:
        map_bytes: address space of the map. used_bytes: length of the data file that LMDB uses, free pages included.
        free_bytes: what the disk has left for this user, as of the last :meth:`Volume.refresh_room`.
        commits: that wrote something.
        bytes_written: what the opening thread made the kernel write to disks (pages made dirty, counted by it): LMDB's
            pages, its meta page, and the journal, where other threads' entries count too. A page that is overwritten
            before the kernel writes it counts once. Zero on file systems in memory, but for those entries.
        journal_bytes: entries that no commit covers yet.
        journal_dropped_bytes: stale or torn bytes that opening removed from the journal.
    """

    map_bytes: int
    used_bytes: int
    free_bytes: int
    commits: int
    bytes_written: int
    journal_bytes: int
    journal_dropped_bytes: int


class Volume:
    """One LMDB environment, its lock and its journal. Made by :meth:`open`, used by one thread.

    Attributes:
        path: the directory.
        map_full: what puts and commits raise when the map is too small.
    """

    map_full: type[Exception] = MapFull

    def __init__(self, path: str, settings: LeaderSettings, lock: lockfile.FileLock, env: lmdb.Environment) -> None:
        self.path = path
        self._settings = settings
        self._lock = lock
        self._env = env
        self._txn: lmdb.Transaction[memoryview] | None = None
        self._snapshots: list[lmdb.Transaction[memoryview]] = []
        self._failed: str | None = None
        self._closed = False
        self._page_bytes = env.stat()["psize"]
        self._map_bytes = 0
        self._used_bytes = 0
        self._generation = 0
        self._free_bytes = 0
        self._reserve_bytes = 0
        self._floor_bytes = 0
        self._note_state()
        self._journal = Journal(path, self._generation)
        self._replay_due = self._journal.bytes > 0
        self.refresh_room()
        self._commits = 0
        self._written_before = _blocks_written()

    @classmethod
    def open(cls, path: str | os.PathLike[str], settings: LeaderSettings) -> Self:
        """Open the volume in directory ``path``, creating it when nothing is there.

        Raises:
            DirectoryLocked: a process leads it; ``pid`` says which (0 in the instant before it wrote it down).
            DirectoryFormat: it is something else, or a newer version wrote it.
            DirectoryDamaged: the data file is missing, was cut, or is none of LMDB's.
            StorageFailed: the disk or the address space does not allow it.
            OSError: the directory cannot be made or entered.
        """
        check_engine()
        directory = os.fspath(path)
        make_directory(directory)
        names = set(os.listdir(directory))
        if not names & {FORMAT, FORMAT_NEW}:
            refuse_foreign(directory, names - {LOCK})
        lock = _take_lock(directory)
        try:
            return cls._open_locked(directory, settings, lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def _open_locked(cls, directory: str, settings: LeaderSettings, lock: lockfile.FileLock) -> Self:
        lock.write(b"%d\n" % os.getpid())
        complete = check_format(directory, "volume", VERSION)
        need_bytes = 0
        if complete:
            need_bytes = check_data(directory)
        else:
            names = set(os.listdir(directory))
            refuse_foreign(directory, names - (_OURS if FORMAT_NEW in names else {LOCK}))
            _remove_unfinished(directory)
            write_format(directory, "volume", VERSION)
        env = open_environment(directory, settings.map_bytes, need_bytes)
        try:
            volume = cls(directory, settings, lock, env)
            if not complete:
                # LMDB leaves the first pages of a new file to the kernel; a complete directory has them on the disk.
                env.sync(True)
                finish_format(directory)
        except BaseException:
            env.close()
            raise
        return volume

    # The turn.

    @property
    def writing(self) -> bool:
        """Whether a write transaction is open."""
        return self._txn is not None

    def write(self) -> Transaction:
        """Return the open write transaction, beginning one if there is none.

        Its puts and deletes may raise :data:`MapFull`. What its ``get`` and cursors return is valid until its next
        put or delete; whoever keeps it copies it.

        Raises:
            StorageFailed: an earlier commit failed, or LMDB cannot begin.
        """
        if self._txn is None:
            self._check_usable()
            try:
                self._txn = self._env.begin(write=True, buffers=True)
            except lmdb.Error as error:
                raise self._fail(error) from error
        return self._txn

    def commit(self) -> None:
        """Make all that the write transaction holds durable; without one, do nothing.

        Raises:
            MapFull: nothing was committed; the transaction is gone, as after :meth:`abandon`.
            StorageFailed: it is not known what the disk holds; the volume takes nothing any more.
        """
        txn = self._txn
        if txn is None:
            return
        # A commit clears the journal, so what nobody put back would be lost.
        assert not self._replay_due
        self._txn = None
        try:
            txn.commit()
        except MapFull:
            _abort(txn)
            self._replay_due = self._journal.bytes > 0
            raise
        except lmdb.Error as error:
            _abort(txn)
            raise self._fail(error) from error
        before = self._generation
        self._note_state()
        assert self._generation >= before
        if self._generation > before:
            self._commits += 1
            # Entries before an empty commit still have the current number, and nothing but the journal holds them.
            try:
                self._journal.clear()
            except errors.StorageFailed as error:
                self._failed = str(error.problem)
                raise

    def abandon(self) -> None:
        """Drop what the write transaction holds; without one, do nothing."""
        txn, self._txn = self._txn, None
        if txn is not None:
            _abort(txn)
            self._replay_due = self._journal.bytes > 0

    def read(self) -> _Reading:
        """Return a context manager that yields a transaction for reading.

        While a write transaction is open it is that one, so that acknowledged but uncommitted batches are seen.
        Otherwise it is a snapshot of the last commit (entering and leaving takes 1.5 us, measured); LMDB reuses no
        page that an open one may see, so it must be short.

        Raises:
            StorageFailed: on entry, after a failed commit.
        """
        return _Reading(self._begin_reading, self._end_reading)

    # Durability "os".

    def journal(self, record: Buffer | Sequence[Buffer]) -> None:
        """Append one entry to the journal; it outlives this process when this returns.

        Call it after the turn's last put and before its acks: a turn that is repeated for :data:`MapFull` would
        otherwise find its own entries among the replayed ones. A turn that commits needs no entries.

        Args:
            record: what :meth:`journaled` gives back as bytes, whole or in pieces; not empty.

        Raises:
            StorageFull: the disk is full; nothing was appended.
            StorageFailed: the write failed; the volume takes nothing any more.
        """
        self._check_usable()
        pieces = [record] if isinstance(record, bytes | bytearray | memoryview) else record
        try:
            self._journal.append(pieces, self._generation)
        except errors.StorageFailed as error:
            self._failed = str(error.problem)
            raise

    def journaled(self) -> Iterator[bytes]:
        """Yield the entries that no commit covers, oldest first: to be replayed after opening and after abandoning.

        The leader puts them into the write transaction (skipping what its log has already) and must not journal them
        again. Until the last one was taken, a commit is refused by an assertion.
        """
        yield from self._journal.entries(self._generation)
        self._replay_due = False

    @property
    def journal_bytes(self) -> int:
        """Length of the entries that no commit covers; a commit makes it zero. Bounding it is the caller's."""
        return self._journal.bytes

    # Room.

    def grow(self) -> None:
        """Double the map. No transaction may be open.

        The reserve is not asked: a delete copies pages before it frees any, so retention may need a larger map
        exactly when the disk is nearly full.

        Raises:
            StorageFull: the disk has less than 1 MiB left, so a larger map would not help.
            StorageFailed: the address space does not allow it.
        """
        self._check_usable()
        assert self._txn is None
        assert not self._snapshots
        self.refresh_room()
        if self._free_bytes < _GROW_ROOM or self._map_bytes >= _MAP_BYTES_CEILING:
            raise self._full()
        try:
            self._env.set_mapsize(self._map_bytes * 2)
        except lmdb.Error as error:
            raise self._fail(error) from error
        self._note_state()

    def grow_if_needed(self) -> bool:
        """Double the map when 80 % are used and no transaction is open, so that turns rarely meet :data:`MapFull`."""
        if self._used_bytes < self._map_bytes * _GROW_AT or self._txn is not None or self._snapshots:
            return False
        self.grow()
        return True

    def refresh_room(self) -> None:
        """Ask the file system what is free (2 us). Call it on a timer: others fill the disk too.

        LMDB's file never shrinks; what retention frees is free inside of it. So once the reserve is reached, appends
        may go on if the file has as much as the reserve to reuse. Half of the reserve stays for deletes even then,
        because a large batch needs neighbouring pages and may lengthen the file in spite of free ones.
        """
        found = os.statvfs(self.path)
        # As it is once the journal is empty; until then its entries count twice, as they are and as pages to come.
        self._free_bytes = found.f_bavail * found.f_frsize + self._journal.bytes
        wanted = self._settings.disk_reserve_bytes
        share = found.f_blocks * found.f_frsize // _RESERVE_SHARE
        self._reserve_bytes = self._floor_bytes = min(share, _RESERVE_MOST) if wanted < 0 else wanted
        if self._free_bytes < self._reserve_bytes and self.reusable_bytes() >= self._reserve_bytes:
            self._floor_bytes //= 2

    def check_room(self) -> None:
        """Refuse an append when the reserve is reached and the file has too little to reuse; deletes never ask.

        Costs a comparison, so ask before each turn: :meth:`refresh_room` noted what is free, commits what they added.

        Raises:
            StorageFull: it is refused.
        """
        if self._free_bytes - 2 * self._journal.bytes < self._floor_bytes:
            raise self._full()

    # Upkeep.

    def stats(self) -> VolumeStats:
        """Return sizes and counters. Call it from the thread that opened the volume (see ``bytes_written``)."""
        return VolumeStats(
            map_bytes=self._map_bytes,
            used_bytes=self._used_bytes,
            free_bytes=self._free_bytes - self._journal.bytes,
            commits=self._commits,
            bytes_written=(_blocks_written() - self._written_before) * _USAGE_BLOCK + self._journal.lent_bytes,
            journal_bytes=self._journal.bytes,
            journal_dropped_bytes=self._journal.dropped_bytes,
        )

    def reusable_bytes(self) -> int:
        """Return how many of the used bytes are free pages, by reading the list of them: not for every turn.

        Raises:
            DirectoryDamaged: the list cannot be followed.
        """
        fd = os.open(os.path.join(self.path, DATA), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return lmdbfile.count_free(fd, lmdbfile.read_meta(fd)) * self._page_bytes
        except lmdbfile.Damaged as error:
            raise errors.DirectoryDamaged(directory=self.path, problem=str(error)) from error
        finally:
            os.close(fd)

    def release_pages(self) -> int:
        """Let go of pages that were read and count as resident memory; returns the bytes of map released.

        They stay in the page cache, and open transactions and buffers stay valid: the map is read-only and shared,
        the next touch maps the page again. Does nothing where ``/proc/self/maps`` does not exist.
        """
        return release_mapped(os.path.join(self.path, DATA))

    def reader_check(self) -> int:
        """Clear the reader slots of killed processes, which would keep pages from reuse; returns how many."""
        self._check_usable()
        return self._env.reader_check()

    def close(self) -> None:
        """Abort what is open, close LMDB and the journal, give the lock back; a second call does nothing.

        Batches with durability ``"os"`` that no commit covers stay in the journal; commit first.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.abandon()
            self._env.close()
            self._journal.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin_reading(self) -> Transaction:
        if self._txn is not None:
            return self._txn
        self._check_usable()
        try:
            txn = self._env.begin(buffers=True)
        except lmdb.Error as error:
            raise self._fail(error) from error
        self._snapshots.append(txn)
        return txn

    def _end_reading(self, txn: Transaction) -> None:
        # Readings nest, so the one that ends is the last, unless it was the write transaction.
        if self._snapshots and self._snapshots[-1] is txn:
            self._snapshots.pop().abort()

    def _note_state(self) -> None:
        """Remember LMDB's sizes and the number of its last commit; growth comes off what is known to be free."""
        info = self._env.info()
        used_bytes = (info["last_pgno"] + 1) * self._page_bytes
        self._free_bytes -= used_bytes - self._used_bytes
        self._map_bytes = info["map_size"]
        self._used_bytes = used_bytes
        self._generation = info["last_txnid"]

    def _check_usable(self) -> None:
        if self._closed:
            raise errors.Closed(what=f"volume {self.path!r}")
        if self._failed is not None:
            raise errors.StorageFailed(directory=self.path, problem=self._failed)

    def _fail(self, error: lmdb.Error) -> errors.StorageFailed:
        self._failed = str(error)
        return errors.StorageFailed(directory=self.path, problem=self._failed)

    def _full(self) -> errors.StorageFull:
        free, reserve = max(self._free_bytes - self._journal.bytes, 0), self._reserve_bytes
        return errors.StorageFull(directory=self.path, free=free, reserve=reserve)


class _Reading:
    """What :meth:`Volume.read` returns; a generator would cost more than the transaction."""

    __slots__ = ("_begin", "_end", "_txn")

    def __init__(self, begin: Callable[[], Transaction], end: Callable[[Transaction], None]) -> None:
        self._begin = begin
        self._end = end

    def __enter__(self) -> Transaction:
        self._txn = self._begin()
        return self._txn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self._txn)


def _take_lock(directory: str) -> lockfile.FileLock:
    path = os.path.join(directory, LOCK)
    lock = lockfile.take_exclusive(path)
    if lock is None:
        holder = lockfile.read_holder(path) or b""
        raise errors.DirectoryLocked(directory=directory, pid=int(holder) if holder.isdigit() else 0)
    return lock


def _remove_unfinished(directory: str) -> None:
    """Remove what a creation left that a power cut ended: files of any content, in which nothing was ever promised."""
    for name in _OURS - {LOCK, FORMAT, FORMAT_NEW}:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def _abort(txn: lmdb.Transaction[memoryview]) -> None:
    """Abort a transaction that may have failed already."""
    try:
        txn.abort()
    except lmdb.Error:
        return


def _blocks_written() -> int:
    """Return the blocks of 512 bytes that this thread made dirty (the process, where threads are not counted)."""
    return resource.getrusage(_USAGE).ru_oublock
