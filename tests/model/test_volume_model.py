"""The volume on real LMDB and the simulated disk behave like one dictionary, and so like each other.

Every step is done to all three through the transaction protocol. The map is tiny, so turns meet MapFull and are
repeated on a larger one, with the journal replayed first, as a leader does it.
"""

import random
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zfabric.settings import MIB, LeaderSettings
from zfabric.sim.disk import SimDisk
from zfabric.store.volume import MapFull, Volume

SETTINGS = LeaderSettings(map_bytes=MIB, disk_reserve_bytes=0)
KEYS = st.one_of(st.sampled_from([b"a", b"b", b"b\0", b"c", b"\xff" * 511]), st.binary(min_size=1, max_size=3))
VALUES = st.one_of(
    st.binary(max_size=20),
    st.builds(lambda fill, size: bytes([fill]) * size, st.integers(0, 255), st.integers(0, 60_000)),
)


class Volumes(RuleBasedStateMachine):
    @initialize()
    def create(self):
        self.place = tempfile.mkdtemp(prefix="zfabric-model-")
        self.volume = Volume.open(self.place + "/volume", SETTINGS)
        self.disk = SimDisk()
        self.rng = random.Random(0)
        self.committed = {}
        self.current = {}
        self.turn = []
        self.entries = []
        self.replayed = True

    def teardown(self):
        self.volume.close()
        shutil.rmtree(self.place)

    # A leader's turn, twice.

    def change(self, key, value):
        """Put (or delete, with None) everywhere; repeat the turn on a larger map when it is full."""
        self.turn.append((key, value))
        wanted = self.current.get(key) is not None if value is None else True
        assert self.apply(self.disk, key, value) == wanted
        try:
            assert self.apply(self.volume, key, value) == wanted
        except MapFull:
            self.repeat_turn()
        if value is None:
            self.current.pop(key, None)
        else:
            self.current[key] = value

    @staticmethod
    def apply(store, key, value):
        txn = store.write()
        return txn.delete(key) if value is None else txn.put(key, value)

    def repeat_turn(self):
        while True:
            self.volume.abandon()
            self.volume.grow()
            assert list(self.volume.journaled()) == self.entries
            try:
                for key, value in self.turn:
                    self.apply(self.volume, key, value)
                return
            except MapFull:
                continue

    @rule(key=KEYS, value=VALUES)
    def put(self, key, value):
        self.change(key, value)

    @rule(key=KEYS)
    def delete(self, key):
        self.change(key, None)

    @rule(base=st.integers(0, 20), value=VALUES)
    def put_many(self, base, value):
        for number in range(base, base + 10):
            self.change(b"many %02d" % number, value)

    @rule(entry=st.binary(min_size=1, max_size=100))
    def journal(self, entry):
        self.volume.journal(entry)
        self.disk.journal([entry[:1], memoryview(entry)[1:]])
        self.entries.append(entry)

    @rule()
    def take_journal(self):
        assert list(self.volume.journaled()) == list(self.disk.journaled()) == self.entries
        self.replayed = True

    # Ends of a turn.

    @precondition(lambda self: self.replayed)
    @rule()
    def commit(self):
        assert self.volume.writing == self.disk.writing
        commits = self.volume.stats().commits, self.disk.commits
        while True:
            try:
                self.volume.commit()
                break
            except MapFull:
                self.repeat_turn()
        self.disk.commit()
        wrote = self.volume.stats().commits - commits[0]
        assert self.disk.commits - commits[1] == wrote
        if wrote:
            self.entries.clear()
        self.committed = dict(self.current)
        self.turn.clear()

    def lose_turn(self):
        self.current = dict(self.committed)
        self.turn.clear()
        self.replayed = not self.entries

    @rule()
    def abandon(self):
        writing = self.volume.writing
        self.volume.abandon()
        self.disk.abandon()
        if writing:
            self.lose_turn()

    @rule()
    def reopen(self):
        self.volume.close()
        self.volume = Volume.open(self.place + "/volume", SETTINGS)
        self.disk.kill(self.rng)
        self.lose_turn()

    @rule()
    def crash(self):
        """All commits were synced, so a power cut takes no more than the end of the journal."""
        self.disk.crash(self.rng)
        kept = list(self.disk.journaled())
        assert kept == self.entries[: len(kept)]
        self.disk._journal[:] = self.entries
        self.disk._replay_due = bool(self.entries)
        self.volume.close()
        self.volume = Volume.open(self.place + "/volume", SETTINGS)
        self.lose_turn()

    # What is seen.

    @rule(key=KEYS)
    def walk(self, key):
        for store in (self.volume, self.disk):
            with store.read() as txn:
                assert self.forward(txn, key) == [item for item in sorted(self.current.items()) if item[0] >= key]
                assert self.backward(txn, key) == [item for item in sorted(self.current.items()) if item[0] < key][::-1]

    @staticmethod
    def forward(txn, key):
        cursor, found = txn.cursor(), []
        there = cursor.set_range(key)
        while there:
            found.append((bytes(cursor.key()), bytes(cursor.value())))
            there = cursor.next()
        return found

    @staticmethod
    def backward(txn, key):
        cursor, found = txn.cursor(), []
        there = cursor.prev() if cursor.set_range(key) else cursor.last()
        while there:
            found.append((bytes(cursor.key()), bytes(cursor.value())))
            there = cursor.prev()
        return found

    @rule(key=KEYS)
    def delete_forward(self, key):
        """Retention's pattern: step through with a cursor, delete what it stands on, step on."""
        doomed = [name for name in sorted(self.current) if name >= key][:5]
        for name in doomed:
            self.change(name, None)
        for store in (self.volume, self.disk):
            with store.read() as txn:
                cursor = txn.cursor()
                following = sorted(name for name in self.current if name >= key)
                assert cursor.set_range(key) == bool(following)
                if following:
                    assert bytes(cursor.key()) == following[0]

    @invariant()
    def all_three_hold_the_same(self):
        items = sorted(self.current.items())
        assert self.disk.items() == items
        with self.volume.read() as txn:
            assert self.forward(txn, b"") == items
            for key in (b"a", b"b", b"absent"):
                found = txn.get(key)
                assert (None if found is None else bytes(found)) == self.current.get(key)


Volumes.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestVolumes = Volumes.TestCase
