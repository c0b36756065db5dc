"""Errors cross the wire by number, and processes by pickle."""

import pickle
import re
from pathlib import Path

import pytest

import zfabric
from zfabric.errors import StorageFull, ZFabricError, from_wire

CODES = {
    "ZFabricError": 1,
    "InvalidArgument": 2,
    "NotSupported": 3,
    "ConfigurationError": 4,
    "RecordTooLarge": 5,
    "UnknownTopic": 6,
    "UnknownPartition": 7,
    "AlreadyExists": 8,
    "NotFound": 9,
    "Closed": 10,
    "Forked": 11,
    "BufferFull": 12,
    "Unreachable": 20,
    "RequestTimeout": 21,
    "DeliveryTimeout": 22,
    "DeliveryError": 23,
    "NotLeader": 24,
    "Draining": 25,
    "LeaderFailed": 26,
    "DeserializerFailed": 27,
    "OutOfOrderSequence": 30,
    "UnknownProducer": 31,
    "ProducerFenced": 32,
    "OffsetOutOfRange": 33,
    "CorruptBatch": 34,
    "LimitExceeded": 35,
    "CorruptRow": 36,
    "UplinkFenced": 37,
    "SourceRewound": 38,
    "LogRewound": 39,
    "ProtocolViolation": 40,
    "UnsupportedVersion": 41,
    "CorruptFrame": 42,
    "StorageFull": 50,
    "StorageFailed": 51,
    "DirectoryLocked": 52,
    "DirectoryFormat": 53,
    "DirectoryDamaged": 54,
    "PortInUse": 55,
    "InsecureListen": 56,
    "DirectoryUnusable": 57,
    "BadInput": 60,
    "WrongMesh": 70,
    "NobodyHeard": 71,
    "WrongFabric": 85,
    "LogsDiverged": 86,
    "OriginAway": 87,
    "ServiceUnavailable": 90,
    "UnknownMethod": 91,
    "Overloaded": 92,
    "ServiceDraining": 93,
    "DeadlineExceeded": 94,
    "CalleeLost": 95,
    "RemoteError": 96,
    "WrongInstance": 97,
    "StreamStalled": 98,
    "WouldDeadlock": 99,
}
"""Numbers that were given once: an older or newer side knows the errors by them."""
FULL = StorageFull(directory="/d", free=1, reserve=2)


def kinds():
    """Return all classes of errors that there are."""
    found = [ZFabricError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__.startswith("zfabric.")]


def test_a_number_once_given_stays_with_its_error():
    """Numbers on the wire are never reused."""
    assert {kind.__name__: kind.code for kind in kinds()} == CODES
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_is_found_under_the_name_that_a_traceback_shows(kind):
    """Which file it is written in is nobody's business."""
    assert kind.__module__ == "zfabric.errors"
    assert kind.__name__ in zfabric.errors.__all__
    assert getattr(zfabric.errors, kind.__name__) is kind


def test_an_error_that_the_readme_names_is_at_the_top_of_the_package():
    """Who writes ``except zfabric.UnknownMethod`` would learn that it is not when the error comes."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    named = {kind.__name__ for kind in kinds() if re.search(rf"`(zfabric\.)?{kind.__name__}\b", text)}
    assert len(named) > 10
    assert named <= set(zfabric.__all__)
    assert all(hasattr(zfabric, name) for name in zfabric.__all__)


@pytest.mark.parametrize("again", [pickle.loads(pickle.dumps(FULL)), from_wire(FULL.code, FULL.values)])
def test_an_error_is_the_same_on_the_other_side(again):
    """Class, attributes and text."""
    assert type(again) is StorageFull
    assert (again.directory, again.free, again.reserve, str(again)) == ("/d", 1, 2, str(FULL))


@pytest.mark.parametrize(("offset", "parted", "place"), [(1, None, 4), (12, None, 9), (8, 6, 6), (8, 2, 4)], ids=str)
def test_what_stops_a_reader_says_where_it_can_go_on(offset, parted, place):
    bounds = {"topic": "t", "partition": 0, "offset": offset, "start": 4, "end": 9}
    error = zfabric.errors.OffsetOutOfRange(**bounds)
    if parted is not None:
        error = zfabric.errors.LogRewound(**bounds, parted=parted, problem="p")
    assert error.next_offset == place
