"""A disk in memory: the twin of ``store/volume.py`` for simulated leaders, with the same verbs and the same errors.

What this disk does, and nothing worse:

* ``commit()`` is atomic and durable. ``commit(sync=False)`` is atomic but not durable: a power cut keeps some of the
  newest such commits from the oldest on, never a later one without an earlier one.
* :meth:`SimDisk.kill` ends the process: the open transaction is gone; all commits and the whole journal remain.
* :meth:`SimDisk.crash` cuts the power: of the unsynced commits and of the journal any prefix remains.
* :attr:`SimDisk.fail_next_commit`: the commit raises StorageFailed and the disk takes nothing more until the process
  ends. Whether that commit is there afterwards is random, as when LMDB's write of the meta page fails.
* :attr:`SimDisk.disk_full`: ``check_room``, ``grow`` and ``journal`` raise StorageFull. Puts, deletes and commits go
  on, because the reserve is theirs.
* :attr:`SimDisk.map_full_in`: the put or delete after that many others raises MapFull, as for a map that is too small,
  until ``grow()``.
* :meth:`SimDisk.flip_bit` changes one bit of one stored value, silently, at any time.

Not modelled: damage to keys or to LMDB's tree, cut files (``store/lmdbfile.py`` has tests on real ones), slow disks.

Stricter than LMDB, where LMDB would return other bytes without a word. Each of these is an AssertionError or, for a
buffer, a ValueError:

* A buffer from a write transaction is dead after the next put or delete: LMDB moves the page under it. One from a
  reading is dead when the reading ends.
* A buffer from a write transaction cannot be put into the same one: LMDB moves it before it copies it.
* A reading that a write overtakes is dead.
* A cursor is dead after a move that arrived nowhere (except ``set_range`` and ``last``, which place it again), and its
  key and value are, once somebody deleted that key. ``next`` and ``prev`` go on from there.

There is no randomness but the ``Random`` that is passed in, and no time at all. Cost: a commit or an abandon is
proportional to what the transaction changed, not to what the disk holds.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final

import lmdb

from zfabric import errors
from zfabric.model import Buffer

__all__ = ["MapFull", "SimDisk"]

MapFull = lmdb.MapFullError
"""The class that LMDB raises, so that a shell needs one ``except`` for both."""

_KEY_BYTES_MAX: Final = 511

_Undo = dict[bytes, bytes | None]


class SimDisk:
    """One volume in memory.

    Args:
        name: stands where the directory stands in errors.

    Attributes:
        disk_full: whether the reserve is reached.
        map_full_in: puts and deletes until one raises MapFull; None for never.
        fail_next_commit: whether the next commit fails.
        commits: that changed something, since the beginning.
        puts: puts and deletes, since the beginning.
        map_full: what puts raise when :attr:`map_full_in` says so.
    """

    map_full: type[Exception] = MapFull

    def __init__(self, name: str = "simulated disk") -> None:
        self.name = name
        self.disk_full = False
        self.map_full_in: int | None = None
        self.fail_next_commit = False
        self.commits = 0
        self.puts = 0
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._txn: _Transaction | None = None
        self._unsynced: list[_Undo] = []
        self._doubtful: _Undo | None = None
        self._journal: list[bytes] = []
        self._replay_due = False
        self._failed = False

    # The verbs of a volume.

    @property
    def writing(self) -> bool:
        """Whether a write transaction is open."""
        return self._txn is not None

    def write(self) -> _Transaction:
        """Return the open write transaction, beginning one if there is none.

        Raises:
            StorageFailed: an earlier commit failed.
        """
        if self._txn is None:
            self._check_usable()
            self._txn = _Transaction(self, writable=True)
        return self._txn

    def commit(self, *, sync: bool = True) -> None:
        """Keep what the write transaction changed; without one, do nothing.

        Raises:
            StorageFailed: it was to fail; the disk takes nothing more.
        """
        txn = self._txn
        if txn is None:
            return
        assert not self._replay_due
        self._txn = None
        undo = txn.end()
        if self.fail_next_commit:
            self.fail_next_commit = False
            self._failed = True
            self._doubtful = undo
            raise errors.StorageFailed(directory=self.name, problem="simulated failure")
        if undo:
            self.commits += 1
            self._unsynced.append(undo)
            self._journal.clear()
        if sync:
            self._unsynced.clear()

    def abandon(self) -> None:
        """Drop what the write transaction changed; without one, do nothing."""
        txn, self._txn = self._txn, None
        if txn is not None:
            self._undo(txn.end())
            self._replay_due = bool(self._journal)

    def read(self) -> _Reading:
        """Return a context manager that yields the open write transaction, or else one for reading."""
        return _Reading(self)

    def journal(self, record: Buffer | Sequence[Buffer]) -> None:
        """Append one entry that outlives the process.

        Raises:
            StorageFull: the disk is full.
            StorageFailed: an earlier commit failed.
        """
        self._check_usable()
        entry = bytes(record) if isinstance(record, bytes | bytearray | memoryview) else b"".join(record)
        assert entry
        if self.disk_full:
            raise self._full()
        self._journal.append(entry)

    def journaled(self) -> Iterator[bytes]:
        """Yield the entries that no commit covers, oldest first; until the last was taken, commits are refused."""
        yield from list(self._journal)
        self._replay_due = False

    @property
    def journal_bytes(self) -> int:
        """Length of the entries that no commit covers."""
        return sum(map(len, self._journal))

    def grow(self) -> None:
        """End the shortage of :attr:`map_full_in`. No transaction may be open.

        Raises:
            StorageFull: the disk is full.
        """
        assert self._txn is None
        if self.disk_full:
            raise self._full()
        self.map_full_in = None

    def grow_if_needed(self) -> bool:
        """Tell that the map was not grown: this one has no size."""
        return False

    def refresh_room(self) -> None:
        """Do nothing: :attr:`disk_full` is always known."""

    def check_room(self) -> None:
        """Refuse an append while the disk is full.

        Raises:
            StorageFull: it is.
        """
        if self.disk_full:
            raise self._full()

    # Faults.

    def kill(self, rng: random.Random) -> None:
        """End the process as ``kill -9`` does; what it finds when it starts again is on the disk now."""
        txn, self._txn = self._txn, None
        if txn is not None:
            self._undo(txn.end())
        doubtful, self._doubtful = self._doubtful, None
        if doubtful:
            if rng.random() < 0.5:
                self._undo(doubtful)
            else:
                self._unsynced.append(doubtful)
                self._journal.clear()
        self._failed = False
        self.fail_next_commit = False
        self._replay_due = bool(self._journal)

    def crash(self, rng: random.Random) -> None:
        """Cut the power: the same, and any suffix of what was not synced is lost."""
        self.kill(rng)
        kept = rng.randint(0, len(self._unsynced))
        lost = self._unsynced[kept:]
        # The journal follows the last commit, so it does not apply to an older state.
        self._journal = [] if lost else self._journal[: rng.randint(0, len(self._journal))]
        for undo in reversed(lost):
            self._undo(undo)
        self._unsynced.clear()
        self._replay_due = bool(self._journal)

    def flip_bit(self, rng: random.Random) -> bytes | None:
        """Change one bit of one stored value; returns its key, or None when all values are empty."""
        filled = [key for key in self._keys if self._values[key]]
        if not filled:
            return None
        key = rng.choice(filled)
        value = bytearray(self._values[key])
        bit = rng.randrange(len(value) * 8)
        value[bit // 8] ^= 1 << bit % 8
        self._values[key] = bytes(value)
        return key

    # For checks.

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return all that a transaction would see now, in order."""
        return [(key, self._values[key]) for key in self._keys]

    # For the transactions and cursors of this module.

    def value_at(self, key: bytes) -> bytes | None:
        """Return the stored value."""
        return self._values.get(key)

    def key_from(self, key: bytes, *, after: bool) -> bytes | None:
        """Return the first key at ``key`` or behind it; with ``after``, the first behind it."""
        place = (bisect_right if after else bisect_left)(self._keys, key)
        return self._keys[place] if place < len(self._keys) else None

    def key_before(self, key: bytes | None) -> bytes | None:
        """Return the last key before ``key``, or the last of all."""
        place = len(self._keys) if key is None else bisect_left(self._keys, key)
        return self._keys[place - 1] if place else None

    def change(self, key: bytes, value: bytes | None) -> bytes | None:
        """Store or remove a value; returns the one before.

        Raises:
            MapFull: the switch says so; nothing was changed.
        """
        if self.map_full_in is not None:
            if self.map_full_in <= 0:
                raise MapFull("simulated")
            self.map_full_in -= 1
        self.puts += 1
        return self._set(key, value)

    @property
    def version(self) -> tuple[int, bool]:
        """Something that differs once a reading is overtaken."""
        return self.puts, self._failed

    def begin_reading(self) -> _Transaction:
        """Return the transaction that a reading yields."""
        if self._txn is not None:
            return self._txn
        self._check_usable()
        return _Transaction(self, writable=False)

    def _set(self, key: bytes, value: bytes | None) -> bytes | None:
        before = self._values.get(key)
        if value is None:
            if before is not None:
                del self._values[key]
                del self._keys[bisect_left(self._keys, key)]
        else:
            if before is None:
                insort(self._keys, key)
            self._values[key] = value
        return before

    def _undo(self, undo: _Undo) -> None:
        for key, value in undo.items():
            self._set(key, value)

    def _check_usable(self) -> None:
        if self._failed:
            raise errors.StorageFailed(directory=self.name, problem="simulated failure")

    def _full(self) -> errors.StorageFull:
        return errors.StorageFull(directory=self.name, free=0, reserve=1)


class _Transaction:
    """Satisfies ``core.transaction.Transaction``; changes the disk in place and remembers what was there."""

    __slots__ = ("_before", "_disk", "_open", "_version", "_views", "_writable")

    def __init__(self, disk: SimDisk, *, writable: bool) -> None:
        self._disk = disk
        self._writable = writable
        self._open = True
        self._before: _Undo = {}
        self._views: list[memoryview] = []
        self._version = disk.version

    @property
    def writable(self) -> bool:
        return self._writable

    def get(self, key: bytes, /) -> memoryview | None:
        self.check()
        _check_key(key, longest=None)
        value = self._disk.value_at(key)
        return None if value is None else self.view(value)

    def put(self, key: bytes, value: Buffer, /) -> bool:
        assert not any(value is view for view in self._views)
        _check_key(key, longest=_KEY_BYTES_MAX)
        self._change(key, bytes(value))
        return True

    def delete(self, key: bytes, /) -> bool:
        _check_key(key, longest=None)
        return self._change(key, None)

    def cursor(self) -> _Cursor:
        self.check()
        return _Cursor(self, self._disk)

    def check(self) -> None:
        """Refuse a use after the end, or after a write that this reading does not see."""
        assert self._open
        assert self._writable or self._version == self._disk.version

    def view(self, value: bytes) -> memoryview:
        """Return a buffer that dies when LMDB's would."""
        view = memoryview(value)
        self._views.append(view)
        return view

    def end(self) -> _Undo:
        """End it; returns what was there before its changes."""
        assert self._open
        self._open = False
        self._release()
        return self._before

    def _change(self, key: bytes, value: bytes | None) -> bool:
        self.check()
        assert self._writable
        key = bytes(key)
        before = self._disk.change(key, value)
        self._release()
        if before is None and value is None:
            return False
        self._before.setdefault(key, before)
        return before is not None

    def _release(self) -> None:
        for view in self._views:
            view.release()
        self._views.clear()


class _Cursor:
    """Satisfies ``core.transaction.Cursor``."""

    __slots__ = ("_disk", "_key", "_lost", "_txn")

    def __init__(self, txn: _Transaction, disk: SimDisk) -> None:
        self._txn = txn
        self._disk = disk
        self._key: bytes | None = None
        self._lost = False

    def set_range(self, key: bytes, /) -> bool:
        return self._place(self._disk.key_from(key, after=False))

    def last(self) -> bool:
        return self._place(self._disk.key_before(None))

    def next(self) -> bool:
        assert not self._lost
        if self._key is None:
            return self._place(self._disk.key_from(b"", after=False))
        return self._place(self._disk.key_from(self._key, after=True))

    def prev(self) -> bool:
        assert not self._lost
        return self._place(self._disk.key_before(self._key))

    def key(self) -> memoryview:
        self._value()
        assert self._key is not None
        return self._txn.view(self._key)

    def value(self) -> memoryview:
        return self._txn.view(self._value())

    def _place(self, key: bytes | None) -> bool:
        self._txn.check()
        self._key = key
        self._lost = key is None
        return key is not None

    def _value(self) -> bytes:
        self._txn.check()
        assert self._key is not None
        value = self._disk.value_at(self._key)
        assert value is not None
        return value


class _Reading:
    """What :meth:`SimDisk.read` returns."""

    __slots__ = ("_disk", "_txn")

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk

    def __enter__(self) -> _Transaction:
        self._txn = self._disk.begin_reading()
        return self._txn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._txn.writable:
            self._txn.end()


def _check_key(key: Buffer, *, longest: int | None) -> None:
    if not key or (longest is not None and len(key) > longest):
        raise lmdb.BadValsizeError("simulated")
