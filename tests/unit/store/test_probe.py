"""What a commit costs, and the evidence on whether a disk keeps what it acknowledges."""

import os

import pytest

from zfabric.store.probe import DiskFacts, judge, probe_disk, read_facts

EXT4 = {"filesystem": "ext4", "options": ("rw", "relatime")}


def test_a_probe_measures_and_leaves_nothing_behind(tmp_path):
    report = probe_disk(tmp_path, seconds=0.0)
    for latency in (report.commit, report.flush, report.write):
        assert latency.samples == 5
        assert 0 < latency.p50_us <= latency.p99_us
    assert report.honours_fsync in ("likely", "doubtful", "unknown")
    assert report.reasons
    assert os.listdir(tmp_path) == []


def test_a_probe_takes_no_more_samples_than_asked(tmp_path):
    assert probe_disk(tmp_path, seconds=60.0, samples_max=7).commit.samples == 7


def test_a_probe_of_an_absent_directory_fails(tmp_path):
    with pytest.raises(OSError):
        probe_disk(tmp_path / "absent")


@pytest.mark.parametrize(
    ("facts", "flush_us", "verdict"),
    [
        (DiskFacts(filesystem="tmpfs"), 1000.0, "doubtful"),
        (DiskFacts(filesystem="ext4", options=("rw", "nobarrier"), device="sda"), 9000.0, "doubtful"),
        (DiskFacts(filesystem="ext4", options=("barrier=0",), device="sda"), 9000.0, "doubtful"),
        (DiskFacts(filesystem="nfs4"), 1000.0, "unknown"),
        (DiskFacts(filesystem="fuse.sshfs"), 1000.0, "unknown"),
        (DiskFacts(**EXT4), 1000.0, "unknown"),
        (DiskFacts(**EXT4, device="vda", rotational=True, write_cache="write back"), 90.0, "unknown"),
        (DiskFacts(**EXT4, device="loop0", rotational=False, write_cache="write back"), 900.0, "unknown"),
        (DiskFacts(**EXT4, device="nvme0n1", rotational=False, write_cache="write through"), 5.0, "likely"),
        (DiskFacts(**EXT4, device="nvme0n1", rotational=False, write_cache="write back"), 5.0, "doubtful"),
        (DiskFacts(**EXT4, device="nvme0n1", rotational=False, write_cache="write back"), 500.0, "likely"),
        (DiskFacts(**EXT4, device="sda", rotational=True, write_cache="write back"), 100.0, "doubtful"),
        (DiskFacts(**EXT4, device="sda", rotational=True, write_cache="write back"), 8000.0, "likely"),
        (DiskFacts(**EXT4, device="sda", rotational=None, write_cache=""), 8000.0, "unknown"),
        (DiskFacts(), 8000.0, "unknown"),
    ],
)
def test_the_verdict_follows_the_evidence(facts, flush_us, verdict):
    found, reasons = judge(facts, flush_us)
    assert found == verdict
    assert all(reasons)


@pytest.fixture
def root(tmp_path):
    """A machine with /data on the first partition of sda, and a file system in memory below it."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "20 1 8:9 / / rw,noatime shared:1 - xfs none rw,attr2\n"
        "21 20 8:1 / /data rw,relatime shared:2 - ext4 none rw,nobarrier\n"
        "22 21 0:40 / /data/in\\040memory rw - tmpfs tmpfs rw,size=1k\n"
        "nonsense\n"
    )
    disk = tmp_path / "sys/devices/pci/block/sda"
    (disk / "queue").mkdir(parents=True)
    (disk / "sda1").mkdir()
    (disk / "queue/rotational").write_text("0\n")
    (disk / "queue/write_cache").write_text("write back\n")
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    os.symlink(disk / "sda1", tmp_path / "sys/dev/block/8:1")
    return str(tmp_path)


def test_facts_are_those_of_the_nearest_mount_and_of_the_whole_disk(root):
    assert read_facts("/data/deep/down", root=root) == DiskFacts(
        filesystem="ext4",
        options=("rw", "relatime", "nobarrier"),
        device="sda",
        rotational=False,
        write_cache="write back",
    )


def test_a_mount_point_may_contain_blanks(root):
    assert read_facts("/data/in memory/x", root=root).filesystem == "tmpfs"


def test_a_name_that_only_begins_like_a_mount_is_elsewhere(root):
    facts = read_facts("/database", root=root)
    assert facts.filesystem == "xfs"
    assert facts.device == ""


def test_facts_are_empty_where_the_system_tells_nothing(tmp_path):
    assert read_facts("/data", root=str(tmp_path)) == DiskFacts()
