"""Reading an LMDB data file by its bytes, before LMDB maps it.

LMDB maps its file and trusts it: a page that the file does not have is SIGBUS, which no ``except`` catches. So the
length is compared with the newest meta page first. The comparison alone would cry wolf: a page taken at the end of the
file and given back within one transaction is counted in ``last_pgno`` but never written (2 % of the commits of a
random workload leave such a file [measured]). LMDB writes such a page before it reads it, so it is harmless if, and
only if, it is free. A short file is therefore sound when all pages beyond its end are in the list of free pages; that
list is a small B-tree, which is walked here with bounded reads.

Layout (LMDB 0.9, data version 1, 64 bit, native byte order)::

    page     pgno u64 | pad u16 | flags u16 | lower u16, upper u16  (or overflow pages u32) | ...
    meta     page header | magic u32 | version u32 | address u64 | map size u64 | free tree | main tree
             | last page u64 | transaction u64
    tree     page size (in the free tree) u32 | flags u16 | depth u16 | branch pages u64 | leaf pages u64
             | overflow pages u64 | entries u64 | root page u64
    node     low u16 | high u16 | flags u16 | key size u16 | key | data
    free     key: transaction u64; data: count u64, count page numbers u64
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_HEADER: Final = struct.Struct("=QHHHH")
_META: Final = struct.Struct("=IIQQ IHHQQQQQ IHHQQQQQ QQ")
_NODE: Final = struct.Struct("=HHHH")
_U64: Final = struct.Struct("=Q")
_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_OVERFLOW: Final = 0x04
_BIG: Final = 0x01
_NO_PAGE: Final = (1 << 64) - 1
_DEPTH_MAX: Final = 32
_PAGE_SIZES: Final = frozenset(1 << n for n in range(8, 17))


class Damaged(Exception):
    """The file is not what LMDB wrote; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Meta:
    """The newest valid meta page.

    Attributes:
        page_bytes: size of a page. last_page: number of the last page ever taken.
        transaction: number of the last commit. free_root: root page of the free tree, or None when it is empty.
        main_root, main_depth, rows: the same of the main tree, how many levels it has, and how many rows.
    """

    page_bytes: int
    last_page: int
    transaction: int
    free_root: int | None
    main_root: int | None = None
    main_depth: int = 0
    rows: int = 0

    @property
    def need_bytes(self) -> int:
        """How long the file is when every page was written."""
        return (self.last_page + 1) * self.page_bytes


def read_meta(fd: int) -> Meta:
    """Return the newest of the two meta pages.

    Raises:
        Damaged: neither is valid.
    """
    return max(read_metas(fd), key=lambda meta: meta.transaction)


def read_metas(fd: int) -> list[Meta]:
    """Return the valid ones of the two meta pages.

    Raises:
        Damaged: neither is valid.
    """
    first = _meta_at(fd, 0)
    sizes = [first.page_bytes] if first is not None else sorted(_PAGE_SIZES)
    metas = [first, *(_meta_at(fd, size) for size in sizes)]
    found = [meta for meta in metas if meta is not None]
    if not found:
        raise Damaged("data.mdb has no valid meta page")
    return found


def check_length(fd: int) -> Meta:
    """Return the newest meta page of a file that has every page LMDB may read.

    Raises:
        Damaged: it was cut, or the meta pages are gone.
    """
    meta = read_meta(fd)
    size = os.fstat(fd).st_size  # After the meta page: a leader at work makes the file longer, then says so there.
    if size < meta.need_bytes:
        first = size // meta.page_bytes
        missing = meta.last_page + 1 - first
        if sum(page >= first for part in free_pages(fd, meta) for page in part) < missing:
            raise Damaged(f"data.mdb has {size:,} bytes of {meta.need_bytes:,}: the file was cut")
    return meta


def count_free(fd: int, meta: Meta) -> int:
    """Return how many pages are free, without reading their numbers."""
    return sum(_U64.unpack_from(data)[0] for data in _entries(fd, meta, whole=False))


def free_pages(fd: int, meta: Meta) -> Iterator[tuple[int, ...]]:
    """Yield the numbers of free pages, one entry of the free tree at a time."""
    for data in _entries(fd, meta, whole=True):
        (count,) = _U64.unpack_from(data)
        if (count + 1) * _U64.size > len(data):
            raise Damaged("data.mdb: an entry of the free list is longer than its page")
        yield struct.unpack_from(f"={count}Q", data, _U64.size)


def _meta_at(fd: int, place: int) -> Meta | None:
    raw = os.pread(fd, _META.size, place + _HEADER.size)
    if len(raw) < _META.size or sys.maxsize < 1 << 32:
        return None
    magic, version, _, _, page_bytes, *trees, last_page, transaction = _META.unpack(raw)
    if magic != _MAGIC or version != _DATA_VERSION or page_bytes not in _PAGE_SIZES:
        return None
    free_root, main_depth, rows, main_root = trees[6], trees[9], trees[13], trees[14]
    return Meta(
        page_bytes=page_bytes,
        last_page=last_page,
        transaction=transaction,
        free_root=None if free_root == _NO_PAGE else free_root,
        main_root=None if main_root == _NO_PAGE else main_root,
        main_depth=main_depth,
        rows=rows,
    )


def _entries(fd: int, meta: Meta, *, whole: bool) -> Iterator[bytes]:
    """Walk the free tree; each page is read once, none beyond the end of the file."""
    if meta.free_root is None:
        return
    seen = 0
    stack = [(meta.free_root, 0)]
    while stack:
        number, depth = stack.pop()
        seen += 1
        if depth > _DEPTH_MAX or seen > meta.last_page:
            raise Damaged("data.mdb: the free list runs in a circle")
        page = _page(fd, meta, number, 1)
        _, _, flags, lower, _ = _HEADER.unpack_from(page)
        if lower > meta.page_bytes or not flags & (_BRANCH | _LEAF):
            raise Damaged(f"data.mdb: page {number} of the free list is not a tree page")
        for index in range((lower - _HEADER.size) // 2):
            at = int.from_bytes(page[_HEADER.size + 2 * index : _HEADER.size + 2 * index + 2], sys.byteorder)
            if at + _NODE.size > meta.page_bytes:
                raise Damaged(f"data.mdb: page {number} of the free list points beyond itself")
            if flags & _BRANCH:
                stack.append((_child(page, at), depth + 1))
            else:
                yield _data(fd, meta, page, at, whole=whole)


def _node(page: bytes, at: int) -> tuple[int, int, int]:
    """Return (low and high half joined, flags, key size) of the node at ``at``."""
    first, second, flags, key_size = _NODE.unpack_from(page, at)
    low, high = (first, second) if sys.byteorder == "little" else (second, first)
    return low | high << 16, flags, key_size


def _child(page: bytes, at: int) -> int:
    """Return the page a branch node points to; its high part lies where a leaf keeps flags."""
    joined, flags, _ = _node(page, at)
    return joined | flags << 32


def _data(fd: int, meta: Meta, page: bytes, at: int, *, whole: bool) -> bytes:
    size, flags, key_size = _node(page, at)
    begin = at + _NODE.size + key_size
    if not flags & _BIG:
        data = page[begin : begin + size]
    else:
        number = _U64.unpack(page[begin : begin + _U64.size])[0]
        pages = (_HEADER.size + size + meta.page_bytes - 1) // meta.page_bytes if whole else 1
        body = _page(fd, meta, number, pages)
        if not _HEADER.unpack_from(body)[2] & _OVERFLOW:
            raise Damaged(f"data.mdb: page {number} of the free list is not an overflow page")
        data = body[_HEADER.size : _HEADER.size + size]
    if len(data) < _U64.size:
        raise Damaged("data.mdb: an entry of the free list is cut")
    return data


def _page(fd: int, meta: Meta, number: int, pages: int) -> bytes:
    end = (number + pages) * meta.page_bytes
    if number + pages > meta.last_page + 1 or end > os.fstat(fd).st_size:
        raise Damaged(f"data.mdb: page {number} of the free list is not in the file")
    raw = os.pread(fd, pages * meta.page_bytes, number * meta.page_bytes)
    assert len(raw) == pages * meta.page_bytes
    return raw
