"""The ``FORMAT`` file of a directory: what it is, and which version wrote it.

One line, ``zfabric KIND VERSION``. It is written beside its name and renamed, so it is whole or absent; what is
created under it is created between the two, so a directory with a ``FORMAT`` was complete at least once, and one with
only a ``FORMAT.new`` never held anything that anybody was promised.
"""

from __future__ import annotations

import os
import re
from typing import Final

from zfabric import errors

FORMAT: Final = "FORMAT"
FORMAT_NEW: Final = "FORMAT.new"

_LINE = re.compile(rb"zfabric ([a-z]{1,20}) (\d{1,9})\n\Z")
_READ_BYTES_MAX: Final = 64


def check_format(directory: str, kind: str, version: int) -> bool:
    """Tell whether ``directory`` is a complete one of this kind; False when it has no ``FORMAT``.

    Raises:
        DirectoryFormat: it is of another kind, or a newer version wrote it.
    """
    try:
        with open(os.path.join(directory, FORMAT), "rb") as file:
            line = file.read(_READ_BYTES_MAX)
    except FileNotFoundError:
        return False
    match = _LINE.match(line)
    if match is None or match[1] != kind.encode():
        raise errors.DirectoryFormat(
            directory=directory,
            problem=f"its FORMAT says {line.decode(errors='replace').strip()!r}, expected 'zfabric {kind} {version}'",
            instead="choose another directory",
        )
    found = int(match[2])
    if found > version:
        raise errors.DirectoryFormat(
            directory=directory,
            problem=f"it was written in {kind} format {found}, this program knows formats up to {version}",
            instead="upgrade zfabric or choose another directory",
        )
    return True


def is_newer(directory: str, kind: str, version: int) -> bool:
    """Tell whether the ``FORMAT`` of ``directory`` is whole and of a newer version than ``version``."""
    try:
        with open(os.path.join(directory, FORMAT), "rb") as file:
            match = _LINE.match(file.read(_READ_BYTES_MAX))
    except FileNotFoundError:
        return False
    return match is not None and match[1] == kind.encode() and int(match[2]) > version


def refuse_foreign(directory: str, names: set[str]) -> None:
    """Raise the error for a directory without ``FORMAT`` that holds ``names``, if it holds any.

    Raises:
        DirectoryFormat: the directory is not empty and not ours.
    """
    if names:
        raise errors.DirectoryFormat(
            directory=directory,
            problem=f"it is not empty and holds no zfabric data (it has {min(names)!r})",
            instead="choose an empty or a new directory",
        )


def make_directory(directory: str) -> None:
    """Create ``directory`` and its parents for this user alone; what is there already stays as it is.

    Its name is made durable too: a commit inside is worth nothing in a directory that a power cut removes.

    Raises:
        DirectoryFormat: something else has that name.
    """
    missing = []
    step = os.path.abspath(directory)
    while not os.path.exists(step):
        missing.append(step)
        step = os.path.dirname(step)
    for step in reversed(missing):
        try:
            os.mkdir(step, 0o700)
        except FileExistsError:
            # Another process creates the same directory.
            continue
        sync_directory(os.path.dirname(step))
    if not os.path.isdir(directory):
        raise errors.DirectoryFormat(
            directory=directory, problem="it is not a directory", instead="choose another name"
        )


def write_format(directory: str, kind: str, version: int, name: str = FORMAT_NEW) -> None:
    """Write the line under a name that does not count yet."""
    fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"zfabric {kind} {version}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def finish_format(directory: str, name: str = FORMAT_NEW) -> None:
    """Give the line its name; from now on the directory counts as complete."""
    sync_directory(directory)
    os.rename(os.path.join(directory, name), os.path.join(directory, FORMAT))
    sync_directory(directory)


def sync_directory(directory: str) -> None:
    """Make the names in ``directory`` durable; LMDB syncs its file but never the name of it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
