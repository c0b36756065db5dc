"""Whatever a power cut or a kill may leave of a real leader's files, nothing that was acknowledged is lost.

A leader process runs under a recorder (``recorder.c``) while a client notes what it was told and when. From the
recording ``replay.py`` builds states of the disk, and ``check.py`` opens each with the real volume and machines.
``ZFABRIC_TEST_SCALE`` multiplies the number of states.
"""

from __future__ import annotations

import os
import random
import tempfile

import pytest

from tests.crash import campaign, replay
from tests.crash.campaign import find_problems
from tests.crash.check import SETTINGS
from tests.crash.workload import History, Workload
from tests.process.leaders import LeaderProcess, compile_library
from tests.scale import scaled

HERE = os.path.dirname(__file__)
SEED = 20_261_125
JOURNAL_PAUSE_S = 1.2

# How LMDB may be opened wrongly; the campaign has to notice.
UNSYNCED = """
import sys
import lmdb
from zfabric.store import engine
proper = lmdb.open
engine.lmdb.open = lambda path, **options: proper(path, **{**options, "metasync": False, "sync": %r})
from zfabric.server.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    return compile_library(os.path.join(HERE, "recorder.c"), str(tmp_path_factory.mktemp("recorder") / "recorder.so"))


def record(recorder, place, seed, *, program=("-m", "zfabric.server"), steps=60):
    """Return the calls and the history of a leader that makes topics, is killed half-way, and ends in order."""
    root, log = place / "root", place / "recording"
    root.mkdir()
    environment = {"ZFABRIC_RECORD": str(log), "ZFABRIC_RECORD_ROOT": str(root)}
    data = str(root / "data")
    with LeaderProcess(data, SETTINGS, preload=recorder, environment=environment, program=program) as leader:
        workload = Workload(leader, seed)
        workload.make_topics()
        workload.run(steps)
        workload.idle(JOURNAL_PAUSE_S)
        workload.send(["cached"], 10)
        leader.kill()
        leader.again()
        workload.run(steps)
        workload.close()
        assert leader.stop() == 0
    return replay.read(str(log)), workload.history


@pytest.fixture(scope="module")
def recording(recorder, tmp_path_factory):
    return record(recorder, tmp_path_factory.mktemp("crash"), SEED)


@pytest.fixture
def place():
    """A directory for one state after the other, in memory where there is such: flushes cost nothing there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="zfabric-crash-", dir=memory) as directory:
        yield os.path.join(directory, "state")


def test_no_crash_loses_or_alters_what_was_acknowledged(recording, place):
    """I1, I8, I9, over all of the recording: directory, topics, commits, journal, restart, retention, end."""
    calls, history = recording
    assert find_problems(calls, history, scaled(1700), SEED, place) == []


def test_a_power_cut_during_creation_leaves_a_directory_that_opens(recording, place):
    """Nothing was promised yet, and nothing half made is in the way."""
    calls, history = recording
    assert find_problems(calls[:60], history, scaled(300), SEED, place) == []


def finds_losses(calls, history, place):
    """Tell whether acknowledged records are missing in some state of a few hundred; of thousands, if few can be read.

    All findings count: of states that cannot be read there are many, a dozen lines each, and in those of early moments
    nothing was acknowledged yet.
    """
    rounds = (find_problems(calls, history, 400, SEED + at, place, most=100_000) for at in range(20))
    return any("were acknowledged" in problem for found in rounds for problem in found)


@pytest.mark.parametrize("sync", [True, False], ids=["metasync=False", "sync=False"])
def test_a_leader_that_syncs_too_little_is_caught(recorder, tmp_path, place, sync):
    """The campaign can fail: without one of the two flushes of a commit, acknowledged records are lost."""
    calls, history = record(recorder, tmp_path, SEED, program=("-c", UNSYNCED % sync), steps=20)
    assert finds_losses(calls, history, place)


def test_an_acknowledgement_before_its_flush_is_caught(recording, place):
    """The same for an answer that is sent a moment too early: before the call that it should have waited for."""
    calls, history = recording
    flushes = [call.began for call in calls if call.kind == "S" and call.path.endswith("data.mdb")]
    early = History(history.sent, {}, history.made, history.committed)
    for topic, acked in history.acked.items():
        early.acked[topic] = {}
        for offset, at in acked.items():
            before = [began for began in flushes if history.sent[topic][offset % (1 << 20)] < began < at]
            early.acked[topic][offset] = before[-1] if before else at
    assert finds_losses(calls, early, place)


def test_a_state_that_kills_its_reader_is_a_finding_with_what_it_said(recording, place, monkeypatch, capfd):
    """And nothing of it reaches the terminal, where it would look like a failure of the run."""
    calls, history = recording

    def die(*arguments, **named):
        os.write(2, b"last words\n")
        os.abort()

    monkeypatch.setattr(campaign, "problems", die)
    (found,) = find_problems(calls, history, 1, SEED, place)
    assert all(text in found for text in ("status -6", "last words", "Fatal Python error: Aborted"))
    assert capfd.readouterr() == ("", "")


def test_the_replayer_keeps_what_was_flushed_and_any_part_of_the_rest():
    """A file of two blocks, flushed, then both overwritten: four states, or more with sectors."""
    call = replay.Call("C", False, "f", b"", 0, 0, 0)
    old = call._replace(kind="W", data=b"a" * 8192)
    new = [call._replace(kind="W", data=b"b" * 4096, place=place) for place in (0, 4096)]
    disk = replay.Disk()
    for step in (call, old, call._replace(kind="S"), call._replace(kind="S", path=""), *new):
        disk.play(step)
    rng = random.Random(1)
    seen = {disk.state(None, rng, power_cut=True, size=4096)["f"] for _ in range(200)}
    assert seen == {first * 4096 + second * 4096 for first in (b"a", b"b") for second in (b"a", b"b")}
    assert disk.state(None, rng, power_cut=False, size=4096)["f"] == b"b" * 8192


def test_the_final_state_is_what_is_on_the_disk(recorder, tmp_path):
    """The recording is complete: played to its end, it gives the very files."""
    calls, _ = record(recorder, tmp_path, SEED + 1, steps=5)
    disk = replay.Disk()
    for call in calls:
        disk.play(call)
    played = disk.state(None, random.Random(1), power_cut=False, size=4096)
    names = {path for path, content in played.items() if content is not None and "lock" not in path.lower()}
    assert {"data/leader-0/data.mdb", "data/leader-0/journal", "data/FORMAT"} <= names
    for path in names:
        assert (tmp_path / "root" / path).read_bytes() == played[path]
