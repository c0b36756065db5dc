"""Reading a volume that another process may be leading: snapshots that stay whole, and change nothing.

The rows are read by their bytes (``lmdbtree.py``), not through LMDB's map: a file that is cut while it is read is an
error here and a fatal signal there. LMDB is asked for one thing only: a read transaction, which takes a slot in
``lock.mdb`` and so keeps the pages of one commit from reuse while somebody leads. It reads no page but the meta pages,
which were checked before. A snapshot is held for a fraction of a second, because pages that it keeps make the file
grow.

Where ``lock.mdb`` is missing nobody has the volume open, because LMDB creates it first; nothing is created then, and
if it appears, the snapshot is not trusted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import lmdb

from zfabric import errors
from zfabric.store import lmdbfile
from zfabric.store.engine import DATA, check_engine, open_reader
from zfabric.store.lmdbtree import Tree

_LOCK_DATA: Final = "lock.mdb"
_ATTEMPTS: Final = 100


class VolumeReader:
    """Snapshots of the volume in ``directory``. Used by one thread; not by a process that leads it.

    Raises:
        FileNotFoundError: there is no data file.
        ConfigurationError: the lmdb package is too old.
    """

    def __init__(self, directory: str) -> None:
        check_engine()
        self._directory = directory
        self._fd = os.open(os.path.join(directory, DATA), os.O_RDONLY | os.O_CLOEXEC)
        self._env: lmdb.Environment | None = None

    def check_length(self) -> None:
        """Check that the file has all pages that LMDB may read.

        Raises:
            Damaged: it was cut, or its meta pages are gone.
        """
        lmdbfile.check_length(self._fd)

    def transaction(self) -> int:
        """Return the number of the last commit.

        Raises:
            Damaged: the meta pages are gone.
        """
        return lmdbfile.read_meta(self._fd).transaction

    @contextmanager
    def snapshot(self) -> Iterator[Tree]:
        """Yield the tree of the last commit.

        Raises:
            Damaged: a meta page is gone.
            DirectoryLocked: a process began to lead the volume while it was read without LMDB's lock; read it again.
            StorageFailed: LMDB cannot open it.
        """
        lock = os.path.join(self._directory, _LOCK_DATA)
        if not os.path.exists(lock):
            yield Tree(self._fd, lmdbfile.read_meta(self._fd))
            if os.path.exists(lock):
                raise errors.DirectoryLocked(directory=self._directory, pid=0)
            return
        txn, meta = self._pin()
        try:
            yield Tree(self._fd, meta)
        finally:
            txn.abort()

    def _pin(self) -> tuple[lmdb.Transaction[bytes], lmdbfile.Meta]:
        """Begin a read transaction; returns it with its meta page."""
        for _ in range(_ATTEMPTS):
            newest = lmdbfile.read_meta(self._fd)
            if os.fstat(self._fd).st_size < 2 * newest.page_bytes:
                raise lmdbfile.Damaged(f"{DATA} was cut within its meta pages")
            try:
                if self._env is None:
                    self._env = open_reader(self._directory, newest.need_bytes)
                txn: lmdb.Transaction[bytes] = self._env.begin()
            except lmdb.MapResizedError:
                self._unmap()
                continue
            except lmdb.Error as error:
                raise errors.StorageFailed(directory=self._directory, problem=str(error)) from error
            found = [meta for meta in lmdbfile.read_metas(self._fd) if meta.transaction == txn.id()]
            if found:
                return txn, found[0]
            # Two commits came between LMDB's look at the meta pages and ours.
            txn.abort()
        raise errors.StorageFailed(directory=self._directory, problem="its meta pages change faster than they are read")

    def _unmap(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        self._unmap()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
