"""Real peers of which one has removed what a group still wants: all others are read, in every way to read."""

import asyncio
import json
import subprocess
import sys

import pytest

import zfabric
from tests.process.test_peers import PATIENCE_S, Peers, here, until
from zfabric import aio, errors


@pytest.fixture(scope="module")
def aged(tmp_path_factory):
    """Three peers; the group's next record of the first one is gone."""
    peers = Peers(tmp_path_factory.mktemp("aged"))
    try:
        first = peers.add("a")
        first.topics.create("t", retention_bytes=20_000)
        second, _ = peers.add("b"), peers.add("c")
        peers.meet()
        with first.producer(batch_bytes=2_000) as producer:
            producer.send("t", b"early").result(PATIENCE_S)
            for group in ("sync", "aio", "cli", "cli-json"):
                with first.consumer("t", group=group) as consumer:
                    assert consumer.poll(1, timeout=PATIENCE_S)
                    consumer.commit(dict.fromkeys(consumer.position, 0))
            for number in range(500):
                producer.send("t", b"%0200d" % number)
            producer.flush()
            until(lambda: first.topics.describe("t").partitions[0].start_offset > 0)
        with second.producer() as producer:
            producer.send_many("t", [b"1", b"2", b"3"])
            producer.flush()
        until(lambda: all(len(fabric.topics.describe("t").partitions) == 2 for fabric in peers.fabrics))
        yield peers
    finally:
        peers.close()


def origin_of(peers, error):
    return next(part.origin for part in peers.fabrics[0].topics.describe("t").partitions if part.partition == error)


def check(peers, told, values):
    [error] = told
    assert error.origin == origin_of(peers, error.partition)
    assert error.offset < error.start
    assert values[:3] == [b"1", b"2", b"3"]
    assert values[3].startswith(b"0000")


def test_a_loop_over_records_is_left_once_and_goes_on_with_the_others(aged):
    told, values = [], []
    with aged.fabrics[2].consumer("t", group="sync") as consumer:
        while len(values) < 4:
            try:
                for record in consumer:
                    values.append(record.value)
                    if len(values) == 3 and told:
                        consumer.seek(told[0].partition, told[0].next_offset)
                    if len(values) > 3:
                        break
            except errors.OffsetOutOfRange as error:
                told.append(error)
                if len(values) == 3:
                    consumer.seek(error.partition, error.start)
    check(aged, told, values)


def test_a_coroutine_that_polls_is_told_once_and_goes_on_with_the_others(aged):
    async def read():
        told, values = [], []
        async with (
            aio.connect(aged.url("c"), beacon=False, timeout=PATIENCE_S) as fabric,
            fabric.consumer("t", group="aio") as consumer,
        ):
            while not (told and len(values) == 3):
                try:
                    values += [record.value for record in await consumer.poll(timeout=1.0)]
                except errors.OffsetOutOfRange as error:
                    told.append(error)
            for _ in range(3):
                assert await consumer.poll(timeout=0.3) == []
            assert list(consumer.problems) == [told[0].partition]
            await consumer.seek(told[0].partition, "earliest")
            while len(values) < 4:
                values += [record.value for record in await consumer.poll(1, timeout=1.0)]
        return told, values

    check(aged, *asyncio.run(read()))


@pytest.mark.parametrize(("group", "options"), [("cli", []), ("cli-json", ["--format", "json"])])
def test_the_command_prints_what_the_others_have_and_says_in_the_end_that_one_was_left_out(aged, group, options):
    seed = here(aged.fabrics[0]).removeprefix("tcp://")
    url = f"zf+peer://{aged.mesh}?role=client&seed={seed}&beacon=0"
    done = subprocess.run(
        [sys.executable, "-m", "zfabric", "consume", "t", "--group", group, "--url", url, *options],
        capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    values = [json.loads(line)["value"].encode() for line in lines] if options else lines
    assert (done.returncode, values) == (1, [b"1", b"2", b"3"])
    assert done.stderr.count(b"error: topic 't' partition") == 1
    assert b" of origin " in done.stderr


def test_of_one_fabric_with_several_partitions_one_keeps_none_of_the_others_waiting(tmp_path):
    with zfabric.connect(f"zf+file:{tmp_path}") as fabric:
        fabric.topics.create("t", partitions=2, retention_bytes=20_000)
        with fabric.producer(batch_bytes=2_000) as producer, fabric.consumer("t", group="g") as consumer:
            producer.send("t", b"0", partition=0).result(PATIENCE_S)
            producer.send("t", b"1", partition=1).result(PATIENCE_S)
            consumer.commit({0: 0, 1: 0})
            for number in range(500):
                producer.send("t", b"%0200d" % number, partition=0)
            producer.flush()
            until(lambda: fabric.topics.describe("t").partitions[0].start_offset > 0)
        with fabric.consumer("t", group="g") as consumer:
            told, values = [], []
            while not (told and values):
                try:
                    values += consumer.poll(timeout=1.0)
                except errors.OffsetOutOfRange as error:
                    told.append(error)
            assert ([record.value for record in values], consumer.poll(timeout=0.2)) == ([b"1"], [])
            assert (len(told), told[0].partition, told[0].origin) == (1, 0, "")
            assert "partition 0: offset 0 is outside" in str(told[0])
