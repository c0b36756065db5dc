"""The storage that machines read and write: one ordered key/value transaction, handed in.

LMDB's own transaction satisfies :class:`Transaction` as it is; ``sim/disk.py`` has the twin that crashes. A machine
never opens, commits or aborts one: the shell does, and performs the machine's effects only after the commit.

Keys and values come back as buffers that are valid until the transaction ends; whoever keeps one copies it.
"""

from __future__ import annotations

from typing import Protocol

from zfabric.model import Buffer


class Cursor(Protocol):
    """A place in the ordered keys. Each move tells whether it arrived somewhere."""

    def set_range(self, key: bytes, /) -> bool:
        """Move to the first key at or after ``key``."""
        ...

    def last(self) -> bool:
        """Move to the last key of all."""
        ...

    def next(self) -> bool:
        """Move one key forward."""
        ...

    def prev(self) -> bool:
        """Move one key back."""
        ...

    def key(self) -> Buffer:
        """Return the key here."""
        ...

    def value(self) -> Buffer:
        """Return the value here."""
        ...


class Transaction(Protocol):
    """An ordered map from bytes to bytes that changes as a whole or not at all."""

    def get(self, key: bytes, /) -> Buffer | None:
        """Return the value at ``key``, or None."""
        ...

    def put(self, key: bytes, value: Buffer, /) -> bool:
        """Store ``value`` at ``key``, over what was there."""
        ...

    def delete(self, key: bytes, /) -> bool:
        """Remove ``key``; tells whether it was there."""
        ...

    def cursor(self) -> Cursor:
        """Return a new cursor, valid until the transaction ends or the next delete through it."""
        ...
