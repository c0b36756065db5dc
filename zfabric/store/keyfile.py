"""Mesh keys in files: one line of 64 hex digits, 32 secret bytes, readable by its owner alone.

Whoever has the key can speak in the mesh as any member; who has not is not heard. 32 to 128 hex digits are taken.
"""

from __future__ import annotations

import os
import re
import stat

# Where hashlib has it from; that would load OpenSSL, which costs a leader 3.5 MB.
from _blake2 import blake2b
from typing import Final

from zfabric import errors

KEY_BYTES: Final = 32
KEY_BYTES_MIN: Final = 16
KEY_BYTES_MAX: Final = 64
_FILE_BYTES_MAX: Final = 4_096
_HEX = re.compile(rb"\s*((?:[0-9a-fA-F]{2})*)\s*\Z")


def create_key(path: str) -> None:
    """Write a new key to a file that must not exist, with mode 0600.

    Raises:
        AlreadyExists: something is there; a key is never overwritten. ConfigurationError: it cannot be written.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise errors.AlreadyExists(kind="file", name=path) from error
    except OSError as error:
        raise _wrong(
            path, error.strerror or str(error), "choose a file in a directory that you may write to"
        ) from error
    try:
        os.fchmod(file, 0o600)
        os.write(file, os.urandom(KEY_BYTES).hex().encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def read_key(path: str) -> bytes:
    """Return the key in a file.

    Raises:
        ConfigurationError: it cannot be read, others may read it, or it holds no key.
    """
    make = f"make one with 'zfabric keys generate --mesh {path}'"
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _wrong(path, error.strerror or str(error), make) from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise _wrong(path, "it is no regular file", make)
        if found.st_mode & 0o077:
            problem = f"others than its owner may use it (mode {found.st_mode & 0o777:04o})"
            raise _wrong(path, problem, f"run 'chmod 600 {path}', and change the key if others have seen it")
        text = os.read(file, _FILE_BYTES_MAX)
    except OSError as error:
        raise _wrong(path, error.strerror or str(error), make) from error
    finally:
        os.close(file)
    match = _HEX.match(text)
    if match is None or not KEY_BYTES_MIN <= len(match[1]) // 2 <= KEY_BYTES_MAX:
        size = "no hex digits" if match is None else f"{len(match[1])} hex digits"
        raise _wrong(path, f"{size} where {2 * KEY_BYTES_MIN} to {2 * KEY_BYTES_MAX} are wanted", make)
    return bytes.fromhex(match[1].decode())


def fingerprint(path: str) -> str:
    """Return by what the key in a file is told from others: 8 hex digits, of which nobody learns the key; "" for none.

    Raises:
        ConfigurationError: as :func:`read_key`.
    """
    if not path:
        return ""
    return blake2b(read_key(path), digest_size=4, person=b"zfabric key name").hexdigest()


def _wrong(path: str, problem: str, instead: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(source=f"mesh key file {path!r}", problem=problem, instead=instead)
