"""What the machine of ``test_log_model.py`` feeds to a leader: stores to run on, topics, batches and their numbers."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import NamedTuple

from hypothesis import strategies as st

from tests.model.log_model import Op, Producer
from zfabric.model import TopicConfig
from zfabric.settings import MIB, LeaderSettings
from zfabric.sim.disk import SimDisk
from zfabric.store.volume import Volume
from zfabric.wire import batch, messages

SETTINGS = LeaderSettings(map_bytes=MIB, disk_reserve_bytes=0, maintenance_ms=500, head_ms=50)
WALL = 1_700_000_000_000
MS = 1_000_000
DAY_MS = 86_400_000

NAMES = st.sampled_from(["a", "b", "c"])
GROUPS = st.sampled_from(["g", "h"])
PICK = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 4])
"""Which partition or topic: mostly the same, so that its history becomes long."""
PLACE = st.integers(0, 1 << 16)
PRODUCERS = st.sampled_from([1, 1, 1, 2])
VALUES = st.one_of(
    st.none(),
    st.builds(lambda fill, size: b"%c" % fill * size, st.integers(65, 90), st.sampled_from([0, 1, 30, 900, 5000])),
)
KEYS = st.sampled_from([None, b"", b"k1", b"k2", b"k3"])
TIMES = st.integers(-3000, 3000)
ROWS = st.lists(st.tuples(TIMES, KEYS, VALUES), min_size=1, max_size=4).map(tuple)
ACTIONS = st.sampled_from(
    ["next"] * 6
    + ["repeat", "old", "gap", "epoch", "stale epoch", "stale epoch", "overlap", "sparse", "sparse repeat", "anonymous"]
)
CONFIGS = st.builds(
    lambda durability, cleanup, retention_ms, retention_bytes, tombstone_ms, interval: TopicConfig(
        durability=durability,
        cleanup="delete" if durability == "memory" else cleanup,
        retention_ms=retention_ms,
        retention_bytes=retention_bytes,
        tombstone_ms=tombstone_ms,
        commit_interval_ms=interval if durability == "fsync" else 0,
    ),
    st.sampled_from(["fsync", "fsync", "os", "os", "memory"]),
    st.sampled_from(["delete", "delete", "compact", "compact,delete"]),
    st.sampled_from([-1, -1, 5000]),
    st.sampled_from([-1, -1, 0, 2000, 9000]),
    st.sampled_from([0, 3000]),
    st.sampled_from([0, 0, 0, 200]),
)


class OnLmdb:
    """A store on a real directory."""

    def __init__(self):
        self.place = tempfile.mkdtemp(prefix="zfabric-model-")
        self.store = Volume.open(self.place + "/volume", SETTINGS)

    def commits(self):
        return self.store.stats().commits

    def again(self, *, power_cut, rng):
        self.store.close()
        if power_cut:
            path = self.place + "/volume/journal"
            os.truncate(path, rng.randint(0, os.path.getsize(path)))
        self.store = Volume.open(self.place + "/volume", SETTINGS)

    def end(self):
        self.store.close()
        shutil.rmtree(self.place)


class OnSimDisk:
    """A simulated one."""

    def __init__(self):
        self.store = SimDisk()

    def commits(self):
        return self.store.commits

    def again(self, *, power_cut, rng):
        (self.store.crash if power_cut else self.store.kill)(rng)

    def end(self):
        pass


class Numbers(NamedTuple):
    """Epoch, first and last sequence of a batch, and whether they are the application's own."""

    epoch: int
    first: int
    last: int
    sparse: bool = False


def numbers_of(known: Producer | None, action: str, count: int) -> Numbers:
    """Return the numbers of a batch of ``count`` records, or fewer, by which a producer does what ``action`` says."""
    known = known or Producer()
    epoch, following = known.epoch, known.last + 1
    after = Numbers(epoch, following, following + count - 1)
    kept = [sent for sent in known.batches if sent.sparse == (action == "sparse repeat")]
    sent = kept[count % len(kept)] if kept else None
    jump = known.sparse_last + 3
    table = {
        "repeat": Numbers(epoch, sent.first, sent.last) if sent else after,
        "sparse repeat": Numbers(epoch, sent.first, sent.last, sparse=True) if sent else after,
        "old": Numbers(epoch, 0, 0),
        "gap": Numbers(epoch, following + 1, following + count),
        "epoch": Numbers(epoch + 1, 0, count - 1),
        "stale epoch": after._replace(epoch=max(epoch - 1, 0)),
        "overlap": Numbers(epoch, following - 1, following) if following else after,
        "sparse": Numbers(epoch, jump, jump + count + 1, sparse=True),
        "anonymous": Numbers(0, 0, count - 1),
    }
    return table.get(action, after)


def produce_command(partition, producer, numbers, rows, wall_ms) -> tuple[Op, messages.Produce]:
    """Return the batch for the model and for the leader; it has as many records as its numbers ask for."""
    epoch, first, last, sparse = numbers
    rows = rows[: last - first + 1] if sparse else [rows[place % len(rows)] for place in range(last - first + 1)]
    times = [wall_ms + row[0] for row in rows]
    payload = batch.encode_columns(
        [time - min(times) for time in times], [row[1] for row in rows], [row[2] for row in rows], None
    )
    header, payload = batch.seal(
        payload, codec=0, flags=batch.SPARSE if sparse else 0, count=len(rows), base_timestamp=min(times),
        max_timestamp=max(times), producer_id=producer, producer_epoch=epoch, base_sequence=first,
        last_sequence=last, partition=partition,
    )  # fmt: skip
    stored = tuple((time, row[1], row[2]) for time, row in zip(times, rows, strict=True))
    op = Op(partition, producer, epoch, first, last, sparse, stored, len(header) + len(payload))
    return op, messages.Produce(header, payload, payload)
