"""The settings of topics on the command line: what is shown, what stays, and one range wherever it is named."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import zfabric
from zfabric import errors
from zfabric.core.cluster.config import check_config
from zfabric.model import TopicConfig
from zfabric.settings import RECORD_BYTES_CEILING, LeaderSettings
from zfabric.testing import temporary_fabric

ZFABRIC = [sys.executable, "-m", "zfabric"]


def run(fabric, *arguments):
    return subprocess.run(
        [*ZFABRIC, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ZFABRIC_URL": fabric.url},
    )


def test_describe_shows_every_setting_and_alter_confirms_what_it_changed(zfabric_fabric):
    shown = run(zfabric_fabric, "topic", "create", "t").stdout.splitlines()[0]
    assert shown == (
        "t: durability fsync, retention for ever, retention-bytes all, cleanup delete, commit-interval 0 s, "
        "record-bytes-max 1,048,576 bytes"
    )
    changes = ["--retention", "3600", "--retention-bytes", "5000", "--cleanup", "compact,delete"]
    changes += ["--tombstone-retention", "60", "--commit-interval", "0.5", "--record-bytes-max", "2000"]
    altered = run(zfabric_fabric, "topic", "alter", "t", *changes).stdout
    assert altered == run(zfabric_fabric, "topic", "describe", "t").stdout
    assert altered.splitlines()[0] == (
        "t: durability fsync, retention 3600 s, retention-bytes 5,000 bytes a partition, cleanup compact,delete, "
        "tombstone-retention 60 s, commit-interval 0.5 s, record-bytes-max 2,000 bytes"
    )
    unbound = run(zfabric_fabric, "topic", "alter", "t", "--retention", "-1", "--retention-bytes", "-1").stdout
    assert "retention for ever, retention-bytes all, cleanup compact,delete" in unbound
    memory = run(zfabric_fabric, "topic", "create", "ring", "--durability", "memory").stdout
    assert "retention-bytes 64 MiB a partition" in memory


def test_the_help_of_alter_gives_no_defaults_and_that_of_create_does(zfabric_fabric):
    texts = {
        name: " ".join(run(zfabric_fabric, "topic", name, "--help").stdout.split()) for name in ("create", "alter")
    }
    assert "[default: for ever]" in texts["create"]
    assert texts["alter"].count("[default: as it is]") == 7
    assert "for ever]" not in texts["alter"]


RANGES = {
    "retention": (-5.0, "a number from 0 to 1,000,000,000,000 s, or None: for ever"),
    "retention_bytes": (-5, "an integer from 0 to 1,152,921,504,606,846,976 bytes, or None: without bound"),
    "tombstone_retention": (-1.0, "a number from 0 to 1,000,000,000,000 s"),
    "commit_interval": (4000.0, "a number from 0 to 3,600 s"),
    "record_bytes_max": (RECORD_BYTES_CEILING + 1, "an integer from 1 to 67,108,864 bytes"),
    "replicas": (17, "an integer from 1 to 16 copies"),
}
FIELDS = {
    "retention": "retention_ms",
    "tombstone_retention": "tombstone_ms",
    "commit_interval": "commit_interval_ms",
}


@pytest.mark.parametrize("option", RANGES)
def test_a_value_outside_its_range_is_told_the_same_range_everywhere_in_the_unit_of_the_option(zfabric_fabric, option):
    value, allowed = RANGES[option]
    with pytest.raises(errors.InvalidArgument) as told:
        zfabric_fabric.topics.create("t", **{option: value})
    assert (told.value.name, told.value.value, told.value.allowed) == (option, repr(value), allowed)
    done = run(zfabric_fabric, "topic", "create", "t", f"--{option.replace('_', '-')}", str(value))
    assert (done.returncode, done.stderr) == (2, f"error: {told.value}\n")
    field = FIELDS.get(option, option)
    with pytest.raises(errors.InvalidArgument) as told:
        check_config(TopicConfig(**{field: int(value * 1000) if field != option else value}))
    assert (told.value.name, told.value.allowed) == (option, allowed)


def test_a_partition_that_no_topic_can_have_is_told_the_range_of_all_topics(zfabric_fabric):
    zfabric_fabric.topics.create("t")
    with zfabric_fabric.producer() as producer, zfabric_fabric.consumer("t") as consumer:
        for call in (
            lambda: producer.send("t", b"v", partition=-1),
            lambda: zfabric_fabric.consumer("t", partitions=[-1]),
            lambda: consumer.seek(-1, 0),
            lambda: consumer.pause(10_000),
        ):
            with pytest.raises(errors.InvalidArgument) as told:
                call()
            assert told.value.allowed == "an integer from 0 to 9,999"


def test_a_leader_with_a_lower_bound_says_whose_it_is_and_how_far_it_goes(tmp_path):
    with temporary_fabric(str(tmp_path / "low")) as fabric:
        with pytest.raises(errors.InvalidArgument) as told:
            fabric.topics.create("t", record_bytes_max=RECORD_BYTES_CEILING)
        assert "from 1 to 16,777,216 bytes here: the record_bytes_max of the leader's settings" in told.value.allowed
        assert "raised to 67,108,864" in told.value.allowed
    settings = LeaderSettings(record_bytes_max=RECORD_BYTES_CEILING)
    with zfabric.connect(f"zf+file:{tmp_path / 'high'}", settings=settings) as fabric:
        fabric.topics.create("t", record_bytes_max=RECORD_BYTES_CEILING)
        with fabric.producer() as producer, fabric.consumer("t") as consumer:
            producer.send("t", bytes(RECORD_BYTES_CEILING - 1000)).result(timeout=60)
            assert [len(record.value) for record in consumer.poll(timeout=60.0)] == [RECORD_BYTES_CEILING - 1000]
