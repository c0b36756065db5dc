"""Opening LMDB: which options, and what must hold before it touches the file.

Sync modes are LMDB's defaults: one ``fdatasync`` and one synchronous write of the meta page for a commit. Without the
second (``metasync=False``) the last commit was lost in one of 300 power cuts; without both (``sync=False``) the file
was damaged silently; with ``writemap`` a full disk is a fatal signal (all measured).

Read-ahead stays on. Measured on cold files, with and without it: 300-byte records in order 235 and 44 MB/s, 100 KB
batches in order 1,992 and 54, batches at random 960 and 89, small records at random 6 and 4. A log is read in runs, and
a batch lies in neighbouring pages. What it costs in resident memory, ``pages.py`` gives back.
"""

from __future__ import annotations

import os
from typing import Any, Final

import lmdb

from zfabric import errors
from zfabric.settings import GIB, MIB
from zfabric.store import lmdbfile

DATA: Final = "data.mdb"

_OLDEST: Final = (2, 1, 1)
"""Older ones run into CVE-2019-16224 to 16228 on a crafted file."""
_TWO_ENGINES: Final = 3
_READERS_MAX: Final = 32


def check_engine() -> None:
    """Refuse a package that reads crafted files unsafely.

    Raises:
        ConfigurationError: it is too old.
    """
    if _version() < _OLDEST:
        raise errors.ConfigurationError(
            source="package lmdb",
            problem=f"version {lmdb.__version__} reads crafted files unsafely",
            instead="install lmdb>=2.1.1",
        )


def check_data(directory: str) -> int:
    """Return how many bytes the data file needs, once it is sure that LMDB can map it.

    Raises:
        DirectoryDamaged: it is missing, was cut, or is none of LMDB's.
    """
    try:
        fd = os.open(os.path.join(directory, DATA), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise errors.DirectoryDamaged(directory=directory, problem=f"{DATA} is missing") from error
    try:
        return lmdbfile.check_length(fd).need_bytes
    except lmdbfile.Damaged as error:
        raise errors.DirectoryDamaged(directory=directory, problem=str(error)) from error
    finally:
        os.close(fd)


def open_environment(directory: str, map_bytes: int, need_bytes: int) -> lmdb.Environment:
    """Open the environment with a map of ``map_bytes``, or what the file needs and a quarter more.

    Raises:
        DirectoryDamaged: LMDB does not take the file.
        StorageFailed: the disk or the address space does not allow it.
    """
    wanted = max(map_bytes, need_bytes + need_bytes // 4)
    try:
        return lmdb.open(
            directory,
            map_size=-(-wanted // MIB) * MIB,
            subdir=True,
            metasync=True,
            sync=True,
            writemap=False,
            mode=0o600,
            readahead=True,
            max_readers=_READERS_MAX,
            max_dbs=0,
            **_engine(),
        )
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
        raise errors.DirectoryDamaged(directory=directory, problem=str(error)) from error
    except lmdb.Error as error:
        raise errors.StorageFailed(directory=directory, problem=str(error)) from error


def open_reader(directory: str, need_bytes: int) -> lmdb.Environment:
    """Open an environment that is there for reading beside its leader: of all files, ``lock.mdb`` alone is written.

    Raises:
        lmdb.Error: LMDB does not take it.
    """
    map_bytes = need_bytes + need_bytes // 4 + GIB
    return lmdb.open(
        directory, map_size=-(-map_bytes // MIB) * MIB, subdir=True, readonly=True, create=False, max_dbs=0, **_engine()
    )


def _engine() -> dict[str, Any]:
    # The package carries LMDB 1.0 too, whose files are others, and an environment variable can choose it.
    return {"lib_version": 0} if _version()[0] >= _TWO_ENGINES else {}


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in lmdb.__version__.split(".")[:3] if part.isdigit())
