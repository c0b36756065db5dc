"""Durability ``"os"``: an acknowledgement that means "in the page cache", without an fsync and without any damage.

Promise. ``kill -9`` of the leader loses nothing that was acknowledged. A power cut loses no more than what was
acknowledged since the last commit, and never damages the volume.

How. The batches of such topics are put into the open LMDB write transaction like all others; it just is not committed
until a batch with durability ``"fsync"`` or a timer commits it. A transaction lives in the memory of its process, so
each batch is first appended to the file ``journal`` with one plain write, and acknowledged after that. The page cache
outlives the process: at the next start the leader puts the entries into a new transaction and commits it.

LMDB's own ``sync=False`` is no alternative: after a power cut it reopened cleanly with half of the records that it had
been told to sync, and with wrong ones (measured).

Which entries count. An entry carries the number of the last commit before it (LMDB's transaction number). Once the
commit that covers it is durable, that number is history, so the entry is stale, whether or not the cut of the file
that follows the commit took place or survived. What a power cut does to a file that nobody fsynced (old entries back
after newer ones, zeros, a torn entry) is seen as a wrong number or a wrong checksum; the first such entry ends the
journal. Replay is therefore exact: neither too much nor, after ``kill -9``, too little.

An entry, little-endian:

=======  ===========  ==================================================================================
bytes    field        meaning
=======  ===========  ==================================================================================
0 to 3   length u32   of the bytes; 1 to 134,217,728, so that zeros are never an entry
4 to 7   crc u32      CRC32C over generation, length as u64, and the bytes
8 to 15  commit u64   number of the last commit before it
16 on    bytes        what the leader handed in; the journal does not look inside
=======  ===========  ==================================================================================
"""

from __future__ import annotations

import errno
import os
import struct
from _thread import get_ident  # All that is wanted of threading, which a leader does not load for it.
from collections.abc import Iterator, Sequence
from typing import Final

from fastcrc.crc32 import iscsi as crc32c

from zfabric import errors
from zfabric.model import Buffer

JOURNAL: Final = "journal"
ENTRY_BYTES_MAX: Final = 128 << 20
"""The largest batch (64 MiB and its overhead) and what the leader says about it fit with room."""

_HEAD: Final = struct.Struct("<IIQ")
_COVERED: Final = struct.Struct("<QQ")
_PIECES_MAX: Final = 512
"""Buffers in one write; the kernel takes 1024."""


class Journal:
    """The file, open for appending by the one process that holds the volume's lock.

    Args:
        directory: of the volume.
        generation: number of the volume's last commit.

    Attributes:
        bytes: length of the entries that count.
        lent_bytes: what other threads than the one that opened it have appended.
        dropped_bytes: what followed them when the file was opened: stale entries, or a tail that a crash tore.

    Raises:
        OSError: the file cannot be opened or cut.
    """

    def __init__(self, directory: str, generation: int) -> None:
        self._directory = directory
        self._thread = get_ident()
        self.lent_bytes = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(os.path.join(directory, JOURNAL), flags, 0o600)
        self.bytes = 0
        size = os.fstat(self._fd).st_size
        for entry in _read(self._fd, size, generation):
            self.bytes += _HEAD.size + len(entry)
        self.dropped_bytes = size - self.bytes
        if self.dropped_bytes:
            # New entries behind a torn one would never be read.
            os.ftruncate(self._fd, self.bytes)

    def append(self, pieces: Sequence[Buffer], generation: int) -> None:
        """Append one entry made of ``pieces``; it outlives this process when this returns.

        Raises:
            StorageFull: the disk is full; the journal is as it was.
            StorageFailed: the write failed otherwise.
        """
        length = sum(len(piece) for piece in pieces)
        assert 0 < length <= ENTRY_BYTES_MAX
        crc = crc32c(_COVERED.pack(generation, length))
        for piece in pieces:
            crc = crc32c(piece, crc)
        try:
            _write(self._fd, [_HEAD.pack(length, crc, generation), *pieces], _HEAD.size + length)
        except OSError as error:
            self._undo(error)
        self.bytes += _HEAD.size + length
        if get_ident() != self._thread:
            self.lent_bytes += _HEAD.size + length

    def entries(self, generation: int) -> Iterator[bytes]:
        """Yield the entries that no commit covers, oldest first."""
        return _read(self._fd, self.bytes, generation)

    def clear(self) -> None:
        """Cut the file after a commit that covers all entries.

        After a crash the cut does not matter: entries that it did not reach, or that come back, are stale. In a living
        process it does, because entries behind stale ones are not read.

        Raises:
            StorageFailed: the file cannot be cut.
        """
        if not self.bytes:
            return
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise errors.StorageFailed(directory=self._directory, problem=f"journal: {error}") from error
        self.bytes = 0

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _undo(self, error: OSError) -> None:
        """Remove what a failed write left, then say what happened."""
        directory = self._directory
        try:
            os.ftruncate(self._fd, self.bytes)
        except OSError as worse:
            raise errors.StorageFailed(directory=directory, problem=f"journal: {worse}") from error
        if error.errno in _FULL:
            free = os.fstatvfs(self._fd)
            raise errors.StorageFull(directory=directory, free=free.f_bavail * free.f_frsize, reserve=0) from error
        raise errors.StorageFailed(directory=directory, problem=f"journal: {error}") from error


def examine(directory: str, generation: int) -> Iterator[bytes | str]:
    """Yield the entries that no commit covers, from the file of a journal that somebody else may have open.

    Last comes a text if they seem to end too early: what follows is long enough for an entry and of this generation. A
    torn tail and stale entries are normal.

    Raises:
        OSError: the file cannot be read; there is none before the volume was first led.
    """
    fd = os.open(os.path.join(directory, JOURNAL), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        place = 0
        for entry in _read(fd, size, generation):
            place += _HEAD.size + len(entry)
            yield entry
        lost = _lost(fd, place, size, generation)
        if lost:
            yield f"an entry at byte {place:,} is damaged; from there on {lost} are not put back into the log"
    finally:
        os.close(fd)


def _lost(fd: int, place: int, size: int, generation: int) -> int:
    """Count the entries of this generation that have their length in the file from ``place`` on."""
    lost = 0
    while place + _HEAD.size <= size:
        length, _, commit = _HEAD.unpack(os.pread(fd, _HEAD.size, place))
        place += _HEAD.size + length
        if not 0 < length <= ENTRY_BYTES_MAX or place > size:
            break
        lost += commit == generation
    return lost


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def _write(fd: int, pieces: list[Buffer], total: int) -> None:
    """Write all of ``pieces``: one call, unless the kernel takes less (a signal, a nearly full disk)."""
    if len(pieces) > _PIECES_MAX:
        pieces = [b"".join(pieces)]
    written = os.writev(fd, pieces)
    if written < total:
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def _read(fd: int, size: int, generation: int) -> Iterator[bytes]:
    place = 0
    while place + _HEAD.size <= size:
        head = os.pread(fd, _HEAD.size, place)
        if len(head) < _HEAD.size:
            return
        length, crc, commit = _HEAD.unpack(head)
        place += _HEAD.size
        if commit != generation or not 0 < length <= min(ENTRY_BYTES_MAX, size - place):
            return
        entry = os.pread(fd, length, place)
        if len(entry) < length or crc32c(entry, crc32c(_COVERED.pack(commit, length))) != crc:
            return
        place += length
        yield entry
