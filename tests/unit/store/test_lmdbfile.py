"""Reading LMDB's file by its bytes agrees with LMDB, and never reads beyond the file."""

import os
import random
import sys

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfabric.store import lmdbfile


@pytest.fixture
def env(tmp_path):
    with lmdb.open(str(tmp_path), map_size=1 << 28, sync=False) as env:
        yield env


def opened(env):
    return os.open(os.path.join(env.path(), "data.mdb"), os.O_RDONLY)


def free_tree_pages(fd, meta):
    """Branch, leaf and overflow pages of the free tree, from the newest meta page (they take turns)."""
    raw = os.pread(fd, lmdbfile._META.size, (meta.transaction & 1) * meta.page_bytes + lmdbfile._HEADER.size)
    return sum(lmdbfile._META.unpack(raw)[7:10])


def churn(env, rng, commits):
    """Random turns with values inside pages and in pages of their own; yields after each commit."""
    for _ in range(commits):
        with env.begin(write=True) as txn:
            for _ in range(rng.randrange(1, 40)):
                key = b"%03d" % rng.randrange(60)
                if rng.random() < 0.5:
                    txn.put(key, bytes(rng.choice([10, 500, 3000, 20_000, 300_000])))
                else:
                    txn.delete(key)
        yield


def test_the_meta_page_is_the_one_that_lmdb_uses(env):
    fd = opened(env)
    for _ in churn(env, random.Random(1), 30):
        meta, info = lmdbfile.read_meta(fd), env.info()
        assert (meta.last_page, meta.transaction) == (info["last_pgno"], info["last_txnid"])
        assert meta.page_bytes == env.stat()["psize"]
    os.close(fd)


def test_used_and_free_pages_add_up(env):
    """Two meta pages, the main tree, the free tree, and the free pages are all there is."""
    fd = opened(env)
    for _ in churn(env, random.Random(2), 50):
        meta = lmdbfile.read_meta(fd)
        free = [page for part in lmdbfile.free_pages(fd, meta) for page in part]
        stat = env.stat()
        used = 2 + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        assert len(free) == len(set(free)) == lmdbfile.count_free(fd, meta)
        assert all(2 <= page <= meta.last_page for page in free)
        assert used + free_tree_pages(fd, meta) + len(free) == meta.last_page + 1
    os.close(fd)


def test_a_large_free_list_is_read_whole(env):
    """Its entries then have pages of their own."""
    with env.begin(write=True) as txn:
        for number in range(200):
            txn.put(b"%d" % number, bytes(200_000))
    with env.begin(write=True) as txn:
        for number in range(200):
            txn.delete(b"%d" % number)
    fd = opened(env)
    meta = lmdbfile.read_meta(fd)
    free = {page for part in lmdbfile.free_pages(fd, meta) for page in part}
    assert len(free) == lmdbfile.count_free(fd, meta) >= 200 * 200_000 // meta.page_bytes
    os.close(fd)


def test_a_sound_file_may_be_shorter_than_its_last_page(tmp_path):
    """LMDB never writes a page that was taken at the end and given back within one transaction."""
    short = 0
    for seed in range(20):
        with lmdb.open(str(tmp_path / str(seed)), map_size=1 << 28, sync=False) as env:
            fd = opened(env)
            for _ in churn(env, random.Random(seed), 30):
                meta = lmdbfile.check_length(fd)
                short += os.fstat(fd).st_size < meta.need_bytes
            os.close(fd)
    assert short > 0


def test_every_cut_of_a_used_page_is_found(env):
    for _ in churn(env, random.Random(3), 20):
        pass
    with env.begin(write=True) as txn:
        txn.put(b"last", bytes(100_000))
    fd = os.open(os.path.join(env.path(), "data.mdb"), os.O_RDWR)
    meta = lmdbfile.read_meta(fd)
    free = {page for part in lmdbfile.free_pages(fd, meta) for page in part}
    size = os.fstat(fd).st_size
    env.close()
    for length in range(size - 1, 0, -1021):
        os.ftruncate(fd, length)
        lost = range(length // meta.page_bytes, meta.last_page + 1)
        if set(lost) <= free:
            continue
        with pytest.raises(lmdbfile.Damaged):
            lmdbfile.check_length(fd)
    os.close(fd)


def test_a_last_page_beyond_all_files_is_damage(env):
    fd = os.open(os.path.join(env.path(), "data.mdb"), os.O_RDWR)
    env.close()
    for number in ((1 << 64) - 1, 1 << 63, 1 << 40, 1000):
        for page in (0, 4096):
            os.pwrite(fd, number.to_bytes(8, sys.byteorder), page + lmdbfile._HEADER.size + 120)
        with pytest.raises(lmdbfile.Damaged):
            lmdbfile.check_length(fd)
    os.close(fd)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_raises_damaged_and_nothing_else(tmp_path_factory, data):
    """Bounded reads: no loop, no memory beyond the file, no other exception, whatever the bytes are."""
    place = tmp_path_factory.mktemp("lmdb")
    with lmdb.open(str(place), map_size=1 << 24, sync=False) as env:
        for _ in churn(env, random.Random(data.draw(st.integers(0, 5))), 5):
            pass
    path = place / "data.mdb"
    content = bytearray(path.read_bytes()[: 200 * 4096])
    for _ in range(data.draw(st.integers(1, 5))):
        begin = data.draw(st.integers(0, min(len(content), 40 * 4096) - 8))
        content[begin : begin + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        meta = lmdbfile.check_length(fd)
        lmdbfile.count_free(fd, meta)
        for _ in lmdbfile.free_pages(fd, meta):
            pass
    except lmdbfile.Damaged:
        pass
    finally:
        os.close(fd)


@given(content=st.binary(max_size=300))
def test_noise_is_damaged(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lmdb") / "data.mdb"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(lmdbfile.Damaged):
            lmdbfile.check_length(fd)
    finally:
        os.close(fd)
