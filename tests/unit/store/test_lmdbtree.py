"""Reading LMDB's rows by its bytes agrees with LMDB, and goes on behind whatever is damaged."""

import os
import random

import lmdb
import pytest

from zfabric.store import lmdbfile
from zfabric.store.lmdbtree import Hole, Row, Tree


@pytest.fixture
def filled(tmp_path):
    """A file with rows inside pages and in pages of their own, three levels deep; yields (path, the rows)."""
    rng = random.Random(3)
    wanted = {}
    with lmdb.open(str(tmp_path), map_size=1 << 28, sync=False) as env:
        for _ in range(6):
            with env.begin(write=True) as txn:
                for _ in range(1500):
                    key = b"%06d" % rng.randrange(5000)
                    if rng.random() < 0.2:
                        txn.delete(key)
                        wanted.pop(key, None)
                    else:
                        wanted[key] = rng.randbytes(rng.choice([0, 40, 300, 1500, 9000]))
                        txn.put(key, wanted[key])
        assert env.stat()["depth"] == 3
    return tmp_path / "data.mdb", wanted


def opened(path):
    fd = os.open(path, os.O_RDONLY)
    return fd, Tree(fd, lmdbfile.read_meta(fd))


def test_all_rows_are_read_in_order(filled):
    fd, tree = opened(filled[0])
    assert list(tree.rows()) == [Row(key, value) for key, value in sorted(filled[1].items())]
    assert tree.meta.rows == len(filled[1])
    os.close(fd)


def test_rows_are_found_at_before_and_after_any_key(filled):
    fd, tree = opened(filled[0])
    ordered = sorted(filled[1])
    for number in range(0, 5001, 7):
        key = b"%06d" % number
        before = [known for known in ordered if known <= key]
        after = [known for known in ordered if known >= key]
        floor, first = tree.floor(key), next(tree.rows(key), None)
        assert (floor and floor.key) == (before[-1] if before else None)
        assert (first and first.key) == (after[0] if after else None)
        assert (tree.find(key) is not None) == (key in filled[1])
    os.close(fd)


def test_an_empty_tree_has_no_rows(tmp_path):
    with lmdb.open(str(tmp_path), map_size=1 << 20), open(tmp_path / "data.mdb", "rb") as file:
        tree = Tree(file.fileno(), lmdbfile.read_meta(file.fileno()))
        assert list(tree.rows()) == []
        assert tree.find(b"x") is tree.floor(b"x") is tree.first(b"") is None


@pytest.mark.parametrize("seed", range(60))
def test_what_is_not_reported_damaged_is_as_it_was_or_differs_in_bytes_alone(filled, seed):
    """Flip bits in any page but the meta pages: every row comes back, or lies in a hole, or says why it does not.

    LMDB has no checksum, so bytes of a key or a value may differ; that is for checksums above to find.
    """
    path, wanted = filled
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(20):
        page = rng.randrange(2, len(content) // 4096) * 4096
        # Half of the flips hit headers and pointers, where there is structure.
        content[page + (rng.randrange(16, 4096) if rng.random() < 0.5 else rng.randrange(40))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    fd, tree = opened(path)
    found = list(tree.rows())
    os.close(fd)
    rows = [entry for entry in found if isinstance(entry, Row)]
    holes = [entry for entry in found if isinstance(entry, Hole)]
    whole = {row.key for row in rows}
    lost = [key for key in wanted if key not in whole and not any(covers(hole, key) for hole in holes)]
    strange = [row for row in rows if row.key not in wanted or row.value is None]
    # A key that is lost without a hole has changed its bytes, or its page lost entries, which the count shows.
    assert not lost or strange or len(rows) != tree.meta.rows
    assert all(row.value is not None or row.problem for row in rows)


def covers(hole, key):
    return hole.low <= key and (hole.high is None or key < hole.high)


def test_a_cut_file_is_read_up_to_the_cut_and_further(filled):
    path, wanted = filled
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    fd, tree = opened(path)
    found = list(tree.rows())
    os.close(fd)
    good = {row.key: row.value for row in found if isinstance(row, Row) and row.value is not None}
    assert 0 < len(good) < len(wanted)
    assert good.items() <= wanted.items()
    for key in wanted.keys() - good.keys():
        assert any(covers(e, key) if isinstance(e, Hole) else e.key == key for e in found)
