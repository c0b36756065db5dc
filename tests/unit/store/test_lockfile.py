"""Locks on files: who holds one, and what a fork or a look does to it."""

import os
import subprocess
import sys

from zfabric.store import lockfile


def in_child(action):
    """Return what ``action`` returns (a bool) in a forked child."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            status = int(bool(action()))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1)
    return bool(status)


def test_an_exclusive_lock_is_held_once(tmp_path):
    path = str(tmp_path / "lock")
    with lockfile.take_exclusive(path):
        assert lockfile.take_exclusive(path) is None
        assert lockfile.try_exclusive(path) is None
        assert lockfile.try_shared(path) is None
    lockfile.take_exclusive(path).close()


def test_shared_locks_are_held_together(tmp_path):
    path = str(tmp_path / "lock")
    with lockfile.try_shared(path), lockfile.try_shared(path):
        assert lockfile.try_exclusive(path) is None
    lockfile.try_exclusive(path).close()


def test_the_holder_says_who_it_is_while_it_holds(tmp_path):
    path = str(tmp_path / "lock")
    assert lockfile.read_holder(path) is None
    lock = lockfile.take_exclusive(path)
    assert lockfile.read_holder(path) == b""
    lock.write(b"a long content\n")
    lock.write(b"me\n")
    assert lockfile.read_holder(path) == b"me"
    lock.close()
    assert lockfile.read_holder(path) is None


def test_the_next_holder_does_not_appear_as_the_last_one(tmp_path):
    path = str(tmp_path / "lock")
    with lockfile.take_exclusive(path) as lock:
        lock.write(b"first\n")
    with lockfile.take_exclusive(path):
        assert lockfile.read_holder(path) == b""


def test_giving_a_lock_back_needs_no_disk_space(tmp_path):
    """On a full disk the next holder must be able to say who it is."""
    path = tmp_path / "lock"
    with lockfile.take_exclusive(str(path)) as lock:
        lock.write(b"first\n")
    assert path.stat().st_size == len(b"first\n")


def test_a_look_does_not_keep_anybody_from_leading(tmp_path):
    """A look takes the lock shared for an instant; the attempt waits for it instead of failing."""
    path = str(tmp_path / "lock")
    held, begin = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            look = lockfile.try_shared(path)
            os.write(held[1], b"x")
            os.read(begin[0], 1)
            look.close()
        finally:
            os._exit(0)
    os.read(held[0], 1)
    # The look ends only while the attempt is under way: it is told to by the first pause.
    pauses = []

    def pause(seconds):
        if not pauses:
            os.write(begin[1], b"x")
            os.waitpid(pid, 0)
        pauses.append(seconds)

    original, lockfile.time.sleep = lockfile.time.sleep, pause
    try:
        lock = lockfile.take_exclusive(path)
    finally:
        lockfile.time.sleep = original
    assert pauses
    lock.close()


def test_a_forked_child_neither_keeps_nor_ends_a_lock(tmp_path):
    path = str(tmp_path / "lock")
    lock = lockfile.take_exclusive(path)
    assert in_child(lambda: lock.closed)
    assert in_child(lambda: lock.close() is None)
    assert in_child(lambda: lockfile.take_exclusive(path) is None)
    ready, end = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(end[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.close()
    again = lockfile.take_exclusive(path)
    assert again is not None
    again.close()
    os.write(end[1], b"x")
    os.waitpid(pid, 0)


def test_a_program_started_by_the_holder_does_not_keep_the_lock(tmp_path):
    path = str(tmp_path / "lock")
    lock = lockfile.take_exclusive(path)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, close_fds=False
    )
    lock.close()
    again = lockfile.take_exclusive(path)
    child.communicate(b"\n")
    assert again is not None
    again.close()


def test_a_killed_holder_leaves_nothing_to_clean_up(tmp_path):
    path = str(tmp_path / "lock")
    program = "import os, sys; from zfabric.store import lockfile\n"
    program += "lock = lockfile.take_exclusive(sys.argv[1]); lock.write(b'dead'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, path]).returncode == -9
    assert lockfile.read_holder(path) is None
    lockfile.take_exclusive(path).close()
