"""Wrong types and values at every public call of the SDK: a typed error that names the argument and what is allowed."""

from __future__ import annotations

from datetime import datetime

import pytest

import zfabric
from zfabric import errors
from zfabric.testing import temporary_fabric

NAN, INFINITY = float("nan"), float("inf")
JUNK = {
    "None": None, "True": True, "text": "some text", "empty": "", "bytes": b"some bytes", "-1": -1, "zero": 0,
    "2**70": 1 << 70, "-2**70": -(1 << 70), "nan": NAN, "inf": INFINITY, "-inf": -INFINITY, "1.5": 1.5, "list": [[]],
    "dict": {"a": 1}, "object": object(), "long": "x" * 300, "surrogate": "\ud800", "nul": "a\0b", "function": print,
}  # fmt: skip

CALLS = {
    # name of the argument: (the call, which of the above are allowed)
    "connect url": (lambda f, c, p, v: zfabric.connect(v), ("None", "empty")),
    "connect timeout": (lambda f, c, p, v: zfabric.connect(f.url, timeout=v), ("1.5",)),
    "connect settings": (lambda f, c, p, v: zfabric.connect(f.url, settings=v), ("None",)),
    "topics.create name": (lambda f, c, p, v: f.topics.create(v), ()),
    "topics.create partitions": (lambda f, c, p, v: f.topics.create("x", partitions=v), ()),
    "topics.create durability": (lambda f, c, p, v: f.topics.create("x", durability=v), ()),
    "topics.create retention": (lambda f, c, p, v: f.topics.create("x", retention=v), ("None", "zero", "1.5")),
    "topics.create retention_bytes": (lambda f, c, p, v: f.topics.create("x", retention_bytes=v), ("None", "zero")),
    "topics.create cleanup": (lambda f, c, p, v: f.topics.create("x", cleanup=v), ()),
    "topics.create tombstone_retention": (
        lambda f, c, p, v: f.topics.create("x", tombstone_retention=v),
        ("zero", "1.5"),
    ),
    "topics.create commit_interval": (lambda f, c, p, v: f.topics.create("x", commit_interval=v), ("zero", "1.5")),
    "topics.create record_bytes_max": (lambda f, c, p, v: f.topics.create("x", record_bytes_max=v), ()),
    "topics.create replicas": (lambda f, c, p, v: f.topics.create("x", replicas=v), ()),
    "topics.create if_absent": (lambda f, c, p, v: f.topics.create("x", if_absent=v), ("True",)),
    "topics.describe name": (lambda f, c, p, v: f.topics.describe(v), ()),
    "topics.delete name": (lambda f, c, p, v: f.topics.delete(v), ()),
    "topics.alter name": (lambda f, c, p, v: f.topics.alter(v), ()),
    "topics.alter partitions": (lambda f, c, p, v: f.topics.alter("t", partitions=v), ("None",)),
    "topics.alter retention": (lambda f, c, p, v: f.topics.alter("t", retention=v), ("None", "zero", "1.5")),
    "topics.alter cleanup": (lambda f, c, p, v: f.topics.alter("t", cleanup=v), ()),
    "topics.alter durability": (lambda f, c, p, v: f.topics.alter("t", durability=v), ()),
    "groups.describe group": (lambda f, c, p, v: f.groups.describe(v), ("None",)),
    "groups.delete group": (lambda f, c, p, v: f.groups.delete(v), ()),
    "groups.reset group": (lambda f, c, p, v: f.groups.reset(v, "t", to="earliest"), ()),
    "groups.reset topic": (lambda f, c, p, v: f.groups.reset("g", v, to="earliest"), ()),
    "groups.reset to": (lambda f, c, p, v: f.groups.reset("g", "t", to=v), ("zero",)),
    "groups.reset partitions": (
        lambda f, c, p, v: f.groups.reset("g", "t", to="earliest", partitions=v),
        ("None", "bytes"),
    ),
    "producer name": (lambda f, c, p, v: f.producer(name=v), ("None",)),
    "producer acks": (lambda f, c, p, v: f.producer(acks=v), ()),
    "producer linger": (lambda f, c, p, v: f.producer(linger=v), ("zero", "1.5")),
    "producer batch_bytes": (lambda f, c, p, v: f.producer(batch_bytes=v), ()),
    "producer buffer_bytes": (lambda f, c, p, v: f.producer(buffer_bytes=v), ()),
    "producer compression": (lambda f, c, p, v: f.producer(compression=v), ()),
    "producer delivery_timeout": (lambda f, c, p, v: f.producer(delivery_timeout=v), ("1.5",)),
    "producer block": (lambda f, c, p, v: f.producer(block=v), ("True",)),
    "producer serializer": (lambda f, c, p, v: f.producer(serializer=v), ("None", "function")),
    "consumer topic": (lambda f, c, p, v: f.consumer(v), ()),
    "consumer group": (lambda f, c, p, v: f.consumer("t", group=v), ("None",)),
    "consumer start": (lambda f, c, p, v: f.consumer("t", start=v), ("zero",)),
    "consumer partitions": (lambda f, c, p, v: f.consumer("t", partitions=v), ("None", "bytes")),
    "consumer partitions of": (lambda f, c, p, v: f.consumer("t", partitions=[v]), ("zero",)),
    "consumer missing": (lambda f, c, p, v: f.consumer("t", missing=v), ("None",)),
    "consumer buffer_bytes": (lambda f, c, p, v: f.consumer("t", buffer_bytes=v), ()),
    "consumer deserializer": (lambda f, c, p, v: f.consumer("t", deserializer=v), ("None", "function")),
    "send topic": (lambda f, c, p, v: p.send(v, b"v"), ()),
    "send value": (lambda f, c, p, v: p.send("t", v), ("None", "bytes")),
    "send key": (lambda f, c, p, v: p.send("t", b"v", key=v), ("None", "bytes")),
    "send headers": (lambda f, c, p, v: p.send("t", b"v", headers=v), ("None",)),
    "send header name": (
        lambda f, c, p, v: p.send("t", b"v", headers={v: b"1"}),
        ("text", "empty", "long", "nul", "list", "dict"),
    ),
    "send header value": (lambda f, c, p, v: p.send("t", b"v", headers={"a": v}), ("bytes",)),
    "send partition": (lambda f, c, p, v: p.send("t", b"v", partition=v), ("None", "zero")),
    "send timestamp": (lambda f, c, p, v: p.send("t", b"v", timestamp=v), ("None", "zero", "-1")),
    "send sequence": (lambda f, c, p, v: p.send("t", b"v", partition=0, sequence=v), ("None",)),
    "send on_delivery": (lambda f, c, p, v: p.send("t", b"v", on_delivery=v), ("None", "function")),
    "result timeout": (lambda f, c, p, v: p.send("t", b"v").result(timeout=v), ("None", "1.5", "zero")),
    "send_many topic": (lambda f, c, p, v: p.send_many(v, [b"v"]), ()),
    "send_many values": (lambda f, c, p, v: p.send_many("t", v), ("empty",)),
    "send_many values of": (lambda f, c, p, v: p.send_many("t", [b"v", v]), ("None", "bytes")),
    "send_many keys": (lambda f, c, p, v: p.send_many("t", [b"v"], v), ("None",)),
    "send_many keys of": (lambda f, c, p, v: p.send_many("t", [b"v"], [v]), ("None", "bytes")),
    "send_many timestamp": (lambda f, c, p, v: p.send_many("t", [b"v"], timestamp=v), ("None", "zero", "-1")),
    "service version": (lambda f, c, p, v: f.service("s", version=v), ("text", "empty", "nul")),
    "service method": (lambda f, c, p, v: f.service("s").method(v), ()),
    "service handler": (lambda f, c, p, v: f.service("s").method("m")(v), ("function",)),
    "service middleware": (lambda f, c, p, v: f.service("s").middleware(v), ("function",)),
    "request middleware": (lambda f, c, p, v: f.middleware(v), ("function",)),
    "request method": (lambda f, c, p, v: f.request(v, b"v", timeout=0.01), ()),
    "request headers": (lambda f, c, p, v: f.request("s.m", b"v", headers=v, timeout=0.01), ("None", "empty", "zero")),
    "request version": (lambda f, c, p, v: f.request("s.m", b"v", version=v, timeout=0.01), ("text", "empty", "nul")),
    "request traceback": (
        lambda f, c, p, v: f.request("s.m", b"v", traceback=v, timeout=0.01),
        ("True", "None", "zero", "empty"),
    ),
    "stream version": (lambda f, c, p, v: f.stream("s.m", b"v", version=v), ("text", "empty", "nul")),
    "notify headers": (lambda f, c, p, v: f.notify("s.m", b"v", headers=v), ("None", "empty", "zero")),
    "flush timeout": (lambda f, c, p, v: p.flush(timeout=v), ("None", "1.5", "zero")),
    "producer.close timeout": (lambda f, c, p, v: f.producer().close(v), ("None", "1.5", "zero")),
    "poll max_records": (lambda f, c, p, v: c.poll(v, timeout=0), ()),
    "poll timeout": (lambda f, c, p, v: c.poll(timeout=v), ("zero", "1.5")),
    "poll_batches max_batches": (lambda f, c, p, v: c.poll_batches(v, timeout=0), ()),
    "poll_batches timeout": (lambda f, c, p, v: c.poll_batches(timeout=v), ("zero", "1.5")),
    "commit offsets": (lambda f, c, p, v: c.commit(v), ("None",)),
    "commit partition": (lambda f, c, p, v: c.commit({v: 0}), ("zero", "list", "dict")),
    "commit offset": (lambda f, c, p, v: c.commit({0: v}), ("zero",)),
    "seek partition": (lambda f, c, p, v: c.seek(v, 0), ("zero",)),
    "seek offset": (lambda f, c, p, v: c.seek(0, v), ("zero",)),
    "pause partition": (lambda f, c, p, v: c.pause(v), ("zero",)),
    "resume partition": (lambda f, c, p, v: c.resume(v), ("zero",)),
}


@pytest.fixture(scope="module")
def fabric():
    """One fabric with a topic, for all."""
    with temporary_fabric() as entry:
        entry.topics.create("t")
        yield entry


@pytest.fixture(scope="module")
def consumer(fabric):
    """Of a group."""
    return fabric.consumer("t", group="g")


@pytest.mark.parametrize("where", CALLS)
def test_a_wrong_argument_is_refused_by_name(fabric, consumer, where):
    """And the objects go on working."""
    call, allowed = CALLS[where]
    producer = fabric.producer()
    for name in sorted(set(JUNK) - set(allowed)):
        value = JUNK[name]
        kinds = (errors.InvalidArgument, *((errors.ConfigurationError,) if where == "connect url" else ()))
        with pytest.raises(errors.ZFabricError) as refused:
            call(fabric, consumer, producer, value)
        assert isinstance(refused.value, kinds), name
        if isinstance(refused.value, errors.InvalidArgument):
            assert refused.value.name, name
            assert refused.value.allowed, name
    offset = producer.send("t", b"still fine").result(timeout=60).offset
    with fabric.consumer("t", start=offset) as reader:
        assert [record.value for record in reader.poll(timeout=10)] == [b"still fine"]
    producer.close()
    assert consumer.assignment == [0]


PLACES = {
    "start": lambda f, c, place: f.consumer("t", start=place),
    "offset": lambda f, c, place: c.seek(0, place),
    "to": lambda f, c, place: f.groups.reset("g", "t", to=place),
}


@pytest.mark.parametrize("place", [datetime(1, 1, 1), "0001-01-01", "yesterday", -1], ids=str)  # noqa: DTZ001
@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_be_is_refused_under_the_name_of_the_argument(fabric, consumer, name, place):
    """Also a local time whose UTC is in no year."""
    with pytest.raises(errors.InvalidArgument) as refused:
        PLACES[name](fabric, consumer, place)
    assert refused.value.name == name


def test_a_closed_consumer_and_one_of_all_partitions_say_so(fabric):
    with fabric.consumer("t", group="h") as reader:
        for change in (lambda: reader.add(0, 0), lambda: reader.remove(0)):
            with pytest.raises(errors.InvalidArgument) as refused:
                change()
            assert refused.value.name == "partitions"
    for call in (reader.poll, lambda: reader.seek(0, 0), reader.commit, reader.open):
        with pytest.raises(errors.Closed):
            call()
