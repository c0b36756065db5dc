"""Reading the rows of an LMDB data file by its bytes, through damage.

LMDB trusts its pages: a wrong page number is a fatal signal, a wrong length reads a neighbour's bytes. Who looks for
damage reads the main tree with bounded reads instead and checks what LMDB takes for granted: each page bears its own
number and the kind that its level demands, its nodes lie inside of it, its keys ascend and stay between those of its
parent. A page that fails is reported as a :class:`Hole`, the range of keys that could be in it, and the walk goes on
behind it; a single row that fails is a :class:`Row` without a value. The layout is described in ``lmdbfile.py``.

The bounds also end every walk: a page that points back to one of its ancestors holds keys outside its own range.
"""

from __future__ import annotations

import os
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from zfabric.settings import MIB
from zfabric.store.lmdbfile import Damaged, Meta

_HEADER: Final = struct.Struct("=QHHHH")
_OVERFLOW_HEADER: Final = struct.Struct("=QHHI")
_NODE: Final = struct.Struct("=HHHH")
_U64: Final = struct.Struct("=Q")
_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_OVERFLOW: Final = 0x04
_IN_MEMORY: Final = 0xC010
"""Flags that LMDB uses on pages in memory and ignores in the file."""
_BIG: Final = 0x01
_VALUE_BYTES_MAX: Final = 256 * MIB
_LITTLE: Final = sys.byteorder == "little"


class Row(NamedTuple):
    """One row; ``value`` is None where it cannot be read, and ``problem`` says why."""

    key: bytes
    value: bytes | None
    problem: str = ""


class Hole(NamedTuple):
    """A page that cannot be read: no row with ``low <= key < high`` is known (``high`` None: to the end)."""

    low: bytes
    high: bytes | None
    problem: str


class _Branch(NamedTuple):
    keys: list[bytes]
    pages: list[int]


class Tree:
    """The main tree as of one commit. Valid while the pages of that commit are not reused (``reader.py``).

    Attributes:
        meta: the meta page of that commit.
    """

    def __init__(self, fd: int, meta: Meta) -> None:
        self.meta = meta
        self._fd = fd
        self._branches: dict[int, _Branch] = {}

    def rows(self, first: bytes = b"") -> Iterator[Row | Hole]:
        """Yield rows from the first key at or after ``first`` on, in order, and holes where pages are damaged."""
        if self.meta.main_root is not None:
            yield from self._visit(self.meta.main_root, 1, b"", None, first)

    def first(self, prefix: bytes) -> Row | Hole | None:
        """Return the first row that begins with ``prefix``, or the hole where it would be; None if there is none."""
        for found in self.rows(prefix):
            if isinstance(found, Hole):
                return found if found.low[: len(prefix)] <= prefix else None
            return found if found.key.startswith(prefix) else None
        return None

    def find(self, key: bytes) -> Row | None:
        """Return the row ``key``; one without a value if a damaged page may hold it; None if there is none."""
        for found in self.rows(key):
            if isinstance(found, Hole):
                return Row(key, None, found.problem)
            return found if found.key == key else None
        return None

    def floor(self, key: bytes) -> Row | Hole | None:
        """Return the last row at or before ``key``, or the hole where it would be."""
        root = self.meta.main_root
        return None if root is None else self._floor(root, 1, b"", None, key)

    def _visit(self, number: int, level: int, low: bytes, high: bytes | None, first: bytes) -> Iterator[Row | Hole]:
        try:
            if level < self.meta.main_depth:
                branch = self._branch(number, low, high)
            else:
                yield from self._leaf(number, low, high, first)
                return
        except Damaged as error:
            yield Hole(max(low, first), high, str(error))
            return
        last = len(branch.keys) - 1
        for index, (key, page) in enumerate(zip(branch.keys, branch.pages, strict=True)):
            until = branch.keys[index + 1] if index < last else high
            if until is None or until > first:
                yield from self._visit(page, level + 1, key if index else low, until, first)

    def _floor(self, number: int, level: int, low: bytes, high: bytes | None, key: bytes) -> Row | Hole | None:
        try:
            if level >= self.meta.main_depth:
                rows = [row for row in self._leaf(number, low, high, low) if row.key <= key]
                return rows[-1] if rows else None
            branch = self._branch(number, low, high)
        except Damaged as error:
            return Hole(low, high, str(error))
        last = len(branch.keys) - 1
        for index in range(max(bisect_right(branch.keys, key) - 1, 0), -1, -1):
            until = branch.keys[index + 1] if index < last else high
            found = self._floor(branch.pages[index], level + 1, branch.keys[index] if index else low, until, key)
            if found is not None:
                return found
        return None

    def _page(self, number: int, kind: int) -> tuple[bytes, tuple[int, ...]]:
        """Return (a page, where its nodes begin)."""
        size = self.meta.page_bytes
        if not 2 <= number <= self.meta.last_page:
            raise Damaged(f"data.mdb: a tree page has the number {number}, the last page is {self.meta.last_page}")
        page = os.pread(self._fd, size, number * size)
        if len(page) < size:
            raise Damaged(f"data.mdb: page {number} lies beyond the end of the file")
        own, _, flags, lower, upper = _HEADER.unpack_from(page)
        if own != number or flags & ~_IN_MEMORY != kind:
            raise Damaged(f"data.mdb: page {number} says that it is page {own} with flags {flags:#x}")
        if not _HEADER.size < lower <= upper <= size or lower & 1:
            raise Damaged(f"data.mdb: page {number} has bounds {lower} and {upper}")
        nodes = struct.unpack_from(f"={(lower - _HEADER.size) // 2}H", page, _HEADER.size)
        if min(nodes) < upper or max(nodes) + _NODE.size > size:
            raise Damaged(f"data.mdb: page {number} points beyond itself")
        return page, nodes

    def _branch(self, number: int, low: bytes, high: bytes | None) -> _Branch:
        known = self._branches.get(number)
        if known is not None:
            return known
        page, nodes = self._page(number, _BRANCH)
        keys: list[bytes] = []
        pages: list[int] = []
        before = low
        for index, at in enumerate(nodes):
            joined, flags, key_size = _node(page, at)
            key = page[at + _NODE.size : at + _NODE.size + key_size]
            # The first key of a branch page stands for everything below the second; LMDB leaves it empty.
            if index and (not before < key or (high is not None and key >= high)):
                raise Damaged(f"data.mdb: keys of page {number} are out of order")
            before = key if index else low
            keys.append(key)
            pages.append(joined | flags << 32)
        branch = self._branches[number] = _Branch(keys, pages)
        return branch

    def _leaf(self, number: int, low: bytes, high: bytes | None, first: bytes) -> Iterator[Row]:
        page, nodes = self._page(number, _LEAF)
        keys = []
        for at in nodes:
            begin = at + _NODE.size
            keys.append(page[begin : begin + _NODE.unpack_from(page, at)[3]])
        last = len(keys) - 1
        before = None
        for index, (at, key) in enumerate(zip(nodes, keys, strict=True)):
            follows = key >= low if before is None else key > before
            fits = follows and (high is None or key < high)
            if fits and index < last and key >= keys[index + 1]:
                # One of the two is wrong; if the next one follows the last good key, it is this one.
                fits = keys[index + 1] <= (low if before is None else before)
            if not fits:
                yield Row(key, None, f"its key is out of order in page {number}")
                continue
            before = key
            if key >= first:
                yield self._row(page, number, at, key)

    def _row(self, page: bytes, number: int, at: int, key: bytes) -> Row:
        size, flags, key_size = _node(page, at)
        begin = at + _NODE.size + key_size
        if flags == _BIG and begin + _U64.size <= len(page):
            return self._big(key, size, _U64.unpack_from(page, begin)[0])
        if flags or begin + size > len(page):
            return Row(key, None, f"it is of {size:,} bytes with flags {flags:#x} in page {number}")
        return Row(key, page[begin : begin + size])

    def _big(self, key: bytes, size: int, number: int) -> Row:
        """Read a value that has pages of its own."""
        page_bytes = self.meta.page_bytes
        pages = -(-(_HEADER.size + size) // page_bytes)
        if size > _VALUE_BYTES_MAX or not 2 <= number <= self.meta.last_page + 1 - pages:
            return Row(key, None, f"its {size:,} bytes are said to lie in page {number} of {self.meta.last_page}")
        raw = os.pread(self._fd, _HEADER.size + size, number * page_bytes)
        if len(raw) < _HEADER.size + size:
            return Row(key, None, f"its page {number} lies beyond the end of the file")
        own, _, flags, count = _OVERFLOW_HEADER.unpack_from(raw)
        if own != number or flags & ~_IN_MEMORY != _OVERFLOW or count < pages:
            return Row(key, None, f"its page {number} says that it is page {own} with flags {flags:#x}")
        return Row(key, raw[_HEADER.size :])


def _node(page: bytes, at: int) -> tuple[int, int, int]:
    """Return (low and high half joined, flags, key size) of the node at ``at``."""
    first, second, flags, key_size = _NODE.unpack_from(page, at)
    return (first | second << 16) if _LITTLE else (second | first << 16), flags, key_size
