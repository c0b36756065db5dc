"""Keepers from the command line: what they have, and how it is read when the origin is gone."""

from __future__ import annotations

import json

import zfabric
from tests.process.leaders import PATIENCE_S, LeaderProcess
from tests.process.test_cli_refusals import run
from tests.process.test_keepers import SETTINGS, copies, until

TOPIC = "sensor.x"


def test_what_a_keeper_has_is_shown_at_the_origin_and_read_when_that_is_gone(tmp_path):
    with (
        LeaderProcess(str(tmp_path / "o"), SETTINGS) as origin,
        LeaderProcess(str(tmp_path / "k"), SETTINGS, keep=("sensor.*",), follow=(origin.endpoint,)) as keeper,
    ):
        with zfabric.connect(origin.url, timeout=PATIENCE_S) as fabric, fabric.producer(acks="all") as producer:
            fabric.topics.create(TOPIC, replicas=2)
            for value in (b"one", b"two"):
                producer.send(TOPIC, value).result(timeout=PATIENCE_S)
            (confirmed,) = fabric.topics.describe(TOPIC).partitions[0].keepers
        told = run("topic", "describe", TOPIC, "--url", origin.url).stdout.decode()
        assert f"{confirmed} has 2" in told
        document = json.loads(run("topic", "describe", TOPIC, "--url", origin.url, "--json").stdout)
        assert document["partitions"][0]["keepers"] == {confirmed: 2}
        until(lambda: [copy.end_offset for copy in copies(keeper)] == [2])
        origin.kill()
        for arguments in (("consume", TOPIC), ("consume", TOPIC, "--partition", "0")):
            done = run(*arguments, "--url", keeper.url)
            assert (done.returncode, done.stdout) == (1, b"")
            assert b"role=client&seed=HOST:PORT" in done.stderr
        seed = keeper.url.removeprefix("zf://")
        done = run("consume", TOPIC, "--url", f"zf+peer://plant?role=client&seed={seed}")
        assert (done.returncode, done.stdout.split()) == (0, [b"one", b"two"])


def test_whose_a_partition_of_a_mesh_is_stands_beside_it(tmp_path):
    url = f"zf+peer://plant?beacon=0&data={tmp_path / 'p'}"
    done = run("topic", "create", TOPIC, "--url", url)
    assert done.returncode == 0
    heading, row = done.stdout.decode().splitlines()[1:]
    assert heading.split()[-2:] == ["origin", "online"]
    with zfabric.connect(url, timeout=PATIENCE_S) as fabric:
        (part,) = fabric.topics.describe(TOPIC).partitions
    assert row.split()[-2:] == [part.origin, "True"]
