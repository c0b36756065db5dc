"""A leader that is killed at any moment loses nothing that it acknowledged."""

import os
import random
import signal

import pytest

from zfabric.settings import MIB, LeaderSettings
from zfabric.store.volume import MapFull, Volume

CYCLES = 60
SETTINGS = LeaderSettings(map_bytes=MIB, disk_reserve_bytes=0)


def replay(volume):
    """Put journaled records back, skipping what the log has, as a leader does."""
    txn = volume.write()
    for entry in volume.journaled():
        key, value = entry[:8], entry[8:]
        if txn.get(key) is None:
            txn.put(key, value)


def record(number):
    return number.to_bytes(8, "big"), b"%d" % number * random.Random(number).choice([1, 10, 1000])


def lead(path, begin, acks):
    """Append records for ever: most with durability "os", some with "fsync"; acknowledge each through a pipe."""
    with Volume.open(path, SETTINGS) as volume:
        replay(volume)
        number = begin
        while True:
            key, value = record(number)
            try:
                volume.write().put(key, value)
                if number % 7 == 0:
                    volume.commit()
            except MapFull:
                volume.abandon()
                volume.grow()
                replay(volume)
                continue
            if number % 7:
                volume.journal([key, value])
            os.write(acks, key)
            number += 1


def run_and_kill(path, begin, acks_wanted):
    """Return the number after the last acknowledged record of a leader that is killed after some acks."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            lead(path, begin, writing)
        finally:
            os._exit(1)
    os.close(writing)
    seen = b""
    while len(seen) < 8 * acks_wanted:
        part = os.read(reading, 8)
        assert part, "the leader ended by itself"
        seen += part
    os.kill(pid, signal.SIGKILL)
    while part := os.read(reading, 65536):
        seen += part
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return int.from_bytes(seen[-8:], "big") + 1


@pytest.mark.parametrize("seed", [1, 2])
def test_acknowledged_records_survive_kill(tmp_path, seed):
    """Durability "fsync" and "os" alike; and what was never sent does not appear."""
    rng = random.Random(seed)
    path = str(tmp_path / "volume")
    end = 1
    for _ in range(CYCLES):
        acknowledged = run_and_kill(path, end, rng.randrange(1, 60))
        with Volume.open(path, SETTINGS) as volume:
            replay(volume)
            volume.commit()
            assert volume.journal_bytes == 0
            with volume.read() as txn:
                end = acknowledged
                while (found := txn.get(record(end)[0])) is not None:
                    # At most the one that was under way when it was killed.
                    assert bytes(found) == record(end)[1]
                    assert end == acknowledged
                    end += 1
                for number in range(1, end):
                    key, value = record(number)
                    assert bytes(txn.get(key)) == value
