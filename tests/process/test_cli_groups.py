"""Offsets on the command line: where reading begins, what a group has committed, and what is clamped."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ZFABRIC = [sys.executable, "-m", "zfabric"]
KEPT = 3
"""Records in partition 0; partition 1 has ten times as many, partition 2 has none."""


@pytest.fixture
def uneven(zfabric_fabric):
    """A fabric with a topic whose partitions are of different lengths."""
    zfabric_fabric.topics.create("t", partitions=3)
    with zfabric_fabric.producer() as producer:
        for partition, count in ((0, KEPT), (1, 10 * KEPT)):
            for number in range(count):
                producer.send("t", b"%d-%d" % (partition, number), partition=partition)
    return zfabric_fabric


def run(fabric, *arguments):
    return subprocess.run(
        [*ZFABRIC, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ZFABRIC_URL": fabric.url},
    )


def offsets(fabric):
    return {entry.partition: entry.offset for entry in fabric.groups.describe("g")}


def test_consume_begins_where_a_partition_has_no_such_offset_at_its_nearest(uneven):
    done = run(uneven, "consume", "t", "--from", "20")
    assert done.returncode == 0
    assert done.stdout.split() == [f"1-{number}" for number in range(20, 30)]
    assert done.stderr.splitlines() == [
        "offset 20: partition 0 has 0 to 3: 3 is taken",
        "offset 20: partition 2 has 0 to 0: 0 is taken",
    ]


def test_consume_leaves_what_its_group_has_committed(uneven):
    uneven.groups.reset("g", "t", to=28, partitions=[1])
    done = run(uneven, "consume", "t", "--from", "2", "--group", "g")
    assert sorted(done.stdout.split()) == ["0-2", "1-28", "1-29"]
    assert done.stderr.splitlines() == ["offset 2: partition 2 has 0 to 0: 0 is taken"]
    assert offsets(uneven) == {0: 3, 1: 30, 2: 0}


def test_reset_takes_the_nearest_offset_and_says_so(uneven):
    done = run(uneven, "group", "reset", "g", "t", "--to", "20", "--json")
    assert [row["offset"] for row in json.loads(done.stdout)] == [3, 20, 0]
    assert done.stderr.count("is taken") == 2
    assert offsets(uneven) == {0: 3, 1: 20, 2: 0}


@pytest.mark.parametrize(("place", "offset"), [("7", 7), ("latest", 30), ("2000-01-01", 0)])
def test_reset_of_some_partitions_leaves_the_others(uneven, place, offset):
    uneven.groups.reset("g", "t", to="earliest")
    done = run(uneven, "group", "reset", "g", "t", "--to", place, "--partition", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert offsets(uneven) == {0: 0, 1: offset, 2: 0}


@pytest.mark.parametrize("command", [("consume", "t"), ("group", "reset", "g", "t", "--to", "1")])
def test_a_partition_that_the_topic_does_not_have_is_not_found(uneven, command):
    for number in ("3", "-1"):
        done = run(uneven, *command, "--partition", number)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"topic 't' has no partition {number}; allowed: 0 to 2" in done.stderr
