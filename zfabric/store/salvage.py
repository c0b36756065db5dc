"""Copying what can still be read into a new directory: ``zfabric doctor DIR --salvage NEW``.

For a directory whose file was cut or whose pages are damaged. LMDB cannot be asked for such a file, so no leader
starts on it; its rows are read by their bytes instead (``lmdbtree.py``), and every row that is whole is put into a
volume of its own under NEW. Then, as after a crash: the leader epoch goes beyond all that were seen, state rows are
computed anew where they disagree with the batches (``repair.py``), and entries of the journal that continue the log
are put back. What could not be read is missing in NEW and nowhere silent: its readers get ``CorruptBatch`` with the
next offset that is there, and a scrub of NEW names it. Records at the end of a log that were lost, with every row
that remembered them, are known to nobody, and their offsets are given again.

DIR is not changed, but for its LOCK, which says who led it last; nobody leads it meanwhile. NEW appears under its name
when it is complete and durable, so a copy that was interrupted is never taken for one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from zfabric import errors
from zfabric.core.leader import keys
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.log import load_state
from zfabric.settings import MIB, LeaderSettings
from zfabric.store import journal
from zfabric.store.directory import DataDirectory
from zfabric.store.formatfile import sync_directory
from zfabric.store.lmdbfile import Damaged
from zfabric.store.lmdbtree import Hole, Row
from zfabric.store.reader import VolumeReader
from zfabric.store.repair import repair
from zfabric.store.rowcheck import decode_state
from zfabric.store.scrub import Scrub
from zfabric.store.volume import Volume
from zfabric.wire import batch
from zfabric.wire.batch import HEADER_BYTES

if TYPE_CHECKING:
    from zfabric.core.transaction import Transaction

UNFINISHED: Final = ".unfinished"
_COMMIT_BYTES: Final = 64 * MIB
_COMMIT_ROWS: Final = 20_000
_KEY_BYTES_MAX: Final = 511
"""Of LMDB; a longer one is damage."""
_EPOCH_END: Final = 1 << 31


@dataclass(slots=True)
class Salvage:
    """What was copied so far.

    Attributes:
        rows, bytes: copied. lost: rows, and pages of unknown many rows, that cannot be read.
        entries: of the journal, put back; entries_lost: that continue nothing or are damaged.
        unreadable: volumes of which nothing can be read, by number.
    """

    rows: int = 0
    bytes: int = 0
    lost: int = 0
    entries: int = 0
    entries_lost: int = 0
    unreadable: tuple[int, ...] = ()

    @property
    def incomplete(self) -> bool:
        """Whether anything is missing in the copy."""
        return bool(self.lost or self.entries_lost or self.unreadable)


def salvage(directory: DataDirectory, new: str, result: Salvage) -> Iterator[None]:
    """Copy all that can be read into ``new``, step by step; ``result`` is counted up meanwhile.

    Raises:
        InvalidArgument: ``new`` is there already, or lies in ``directory``.
        DirectoryLocked: somebody leads the directory.
        StorageFailed, StorageFull: the copy cannot be written.
        OSError: a file cannot be read, or ``new`` cannot be made.
    """
    new = os.path.realpath(new)
    if os.path.lexists(new) or os.path.commonpath([new, directory.real_path]) == directory.real_path:
        raise errors.InvalidArgument(name="NEW", value=repr(new)[:300], allowed="a name outside of DIR that is free")
    with _led_by_nobody(directory):
        unfinished = new + UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        copy = DataDirectory.create_or_check(unfinished)
        commits: dict[int, int] = {}
        for number in directory.volumes():
            yield from _volume(number, directory.volume_path(number), copy, result, commits)
        findings = []
        for step in Scrub(copy).steps():
            findings += step
            yield
        repair(copy, findings)
        for number, commit in commits.items():
            _journal(number, directory.volume_path(number), commit, copy, result)
        os.rename(unfinished, new)
        sync_directory(os.path.dirname(new))


@contextmanager
def _led_by_nobody(directory: DataDirectory) -> Iterator[None]:
    try:
        lock = directory.lock("embedded", "")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        yield  # Mounted read-only, as a damaged disk should be: nobody can lead it.
        return
    with lock:
        yield


def _volume(number: int, path: str, copy: DataDirectory, result: Salvage, commits: dict[int, int]) -> Iterator[None]:
    """Copy the rows of one volume, and note the commit of which they are."""
    try:
        with VolumeReader(path) as reader, reader.snapshot() as tree:
            with Volume.open(copy.volume_path(number), LeaderSettings()) as volume:
                yield from _rows(tree.rows(), volume, result)
            commits[number] = tree.meta.transaction
    except (Damaged, FileNotFoundError):
        result.unreadable += (number,)


def _rows(rows: Iterator[Row | Hole], volume: Volume, result: Salvage) -> Iterator[None]:
    epoch = pending = count = 0
    for found in rows:
        if isinstance(found, Hole) or found.value is None or not 0 < len(found.key) <= _KEY_BYTES_MAX:
            result.lost += 1
            continue
        volume.write().put(found.key, found.value)
        epoch = max(epoch, _epoch(found.key, found.value))
        size = len(found.key) + len(found.value)
        result.rows += 1
        result.bytes += size
        pending += size
        count += 1
        if pending >= _COMMIT_BYTES or count >= _COMMIT_ROWS:
            volume.commit()
            volume.grow_if_needed()
            pending = count = 0
            yield
    volume.write().put(keys.volume("epoch"), keys.U64.pack(epoch))
    volume.commit()


def _epoch(key: bytes, value: bytes) -> int:
    """Return the leader epoch that a row tells, or 0."""
    if key == keys.volume("epoch") and len(value) == keys.U64.size:
        told = int(keys.U64.unpack(value)[0])
        return told if told < _EPOCH_END else 0
    if key[:1] == keys.BATCH and len(value) >= HEADER_BYTES:
        header = batch.parse(value)
        whole = not batch.damage(value[:HEADER_BYTES], value[HEADER_BYTES:], header, *keys.split_batch(key))
        return header.leader_epoch if whole else 0
    state = decode_state(value) if key[:1] == keys.STATE else None
    return state.epoch if state is not None else 0


def _journal(number: int, path: str, commit: int, copy: DataDirectory, result: Salvage) -> None:
    """Put the entries back that no commit covers and that continue their log, as a leader does at its start."""
    kept = lost = 0
    with Volume.open(copy.volume_path(number), LeaderSettings()) as volume:
        leader, txn = Leader(number, LeaderSettings()), volume.write()
        try:
            leader.start(txn)
            for entry in journal.examine(path, commit):
                if isinstance(entry, str) or not _continues(entry, txn):
                    lost += 1
                    continue
                leader.restore(entry, txn)
                leader.flush(txn)
                kept += 1
        except FileNotFoundError:
            return
        except errors.CorruptRow:
            # Nobody knows which topics there are: the scrub of the copy says so.
            result.entries_lost += kept + lost + 1
            return
        volume.commit()
    result.entries += kept
    result.entries_lost += lost


def _continues(entry: bytes, txn: Transaction) -> bool:
    header = batch.parse(entry)
    return header.base_offset <= load_state(header.partition, txn).end
