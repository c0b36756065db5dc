"""What an uplink refuses, and how names are made."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.settings import check_name
from zfabric.uplink import naming
from zfabric.uplink.model import UplinkSettings, check_patterns


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefix", "a/b"),
        ("prefix", 3),
        ("create", "yes"),
        ("group", ""),
        ("compression", "gzip"),
        ("bandwidth", 0.0),
        ("bandwidth", "fast"),
        ("buffer_bytes", 1_000),
        ("buffer_bytes", 1.5e6),
        ("origin_headers", 1),
        ("rescan", 0.0),
        ("delivery_timeout", 0.5),
    ],
)
def test_an_option_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(errors.InvalidArgument) as caught:
        UplinkSettings(patterns=("t",), **{name: value})
    assert caught.value.name == name


@pytest.mark.parametrize("topics", [[], [""], ["a", 3], 7, ["x" * 250], ["sens[or"], ["a b*"], None])
def test_topics_are_one_pattern_or_several(topics):
    with pytest.raises(errors.InvalidArgument):
        check_patterns(topics)


def test_a_lone_pattern_is_not_taken_for_letters():
    assert check_patterns("sensor.*") == ("sensor.*",)


def test_patterns_match_whole_names_and_case_counts():
    topics = ["sensor.a", "sensor.b", "Sensor.c", "other.sensor.d", "x"]
    assert naming.matching(topics, ["sensor.*", "?"]) == ["sensor.a", "sensor.b", "x"]


def test_the_producer_at_the_hub_is_another_for_another_fabric_or_topic():
    names = {naming.identity(fabric, topic) for fabric in ("a1", "a2") for topic in (1, 2)}
    assert len(names) == 4
    for name in names:
        assert check_name("producer", name) == name


def test_a_part_of_a_mesh_has_another_producer_than_a_topic_of_a_fabric():
    names = {naming.part_identity(origin, log) for origin in ("a1", "a2") for log in (1, 2)}
    assert len(names | {naming.identity("a1", 1)}) == 5
    for name in names:
        assert check_name("producer", name) == name


@pytest.mark.parametrize(
    ("stored", "hub"),
    [({0: -1, 1: -1, 2: -1}, 4_503 % 3), ({0: 0, 1: -1, 2: -1}, 0), ({0: -1, 1: 17, 2: -1, 3: -1}, 1), ({0: -1}, 0)],
)
def test_a_part_goes_where_the_hub_has_some_of_it_and_else_where_its_number_says(stored, hub):
    assert naming.hub_partition(4_503, stored) == hub


def test_a_configuration_survives_the_arguments_of_create():
    config = TopicConfig("os", 5_000, 1 << 20, "compact,delete", 1_000, 0, 4_096)
    assert naming.options(config) == {
        "durability": "os", "retention": 5.0, "retention_bytes": 1 << 20, "cleanup": "compact,delete",
        "tombstone_retention": 1.0, "commit_interval": 0.0, "record_bytes_max": 4_096,
    }  # fmt: skip
    assert naming.options(TopicConfig())["retention"] is None
