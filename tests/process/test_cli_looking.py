"""Commands that look at a mesh from a machine that is no member of it."""

from __future__ import annotations

import pytest

import zfabric
from tests.process.test_cli_refusals import run
from tests.process.test_peers import PATIENCE_S, here, peers, until

__all__ = ["peers"]


@pytest.fixture
def member(peers):
    """A member of a mesh that is heard here, with one record."""
    fabric = peers.add("a", beacon=True)
    fabric.topics.create("heat")
    with fabric.producer() as producer:
        producer.send("heat", b"71.5").result(PATIENCE_S)
    return fabric


def test_who_has_no_directory_looks_through_a_member_that_is_heard_and_makes_none(peers, member):
    done = run("topic", "list", "--url", peers.url("new"))
    assert (done.returncode, done.stdout.split()) == (0, [b"topic", b"heat"])
    done = run("consume", "heat", "--url", peers.url("new"))
    assert (done.returncode, done.stdout) == (0, b"71.5\n")
    assert not (peers.directory / "new").exists()


def test_who_writes_becomes_a_member_and_makes_its_directory(peers, member):
    done = run("produce", "heat", "--url", peers.url("new"), stdin=b"71.6\n")
    assert (done.returncode, done.stderr) == (0, b"1 record acknowledged\n")
    assert (peers.directory / "new").exists()
    done = run("consume", "heat", "--url", peers.url("new"))
    assert sorted(done.stdout.split()) == [b"71.5", b"71.6"]


def test_a_client_needs_no_seed_where_a_member_is_heard(peers, member):
    with zfabric.connect(f"zf+peer://{peers.mesh}?role=client", timeout=PATIENCE_S) as client:
        assert [shown.endpoint for shown in client.members()] == [here(member)]
        assert [record.value for record in client.consumer("heat").poll(timeout=PATIENCE_S)] == [b"71.5"]


def test_a_client_that_hears_nobody_is_told_what_to_do(peers):
    with (
        zfabric.connect(f"zf+peer://{peers.mesh}-2?role=client", timeout=PATIENCE_S) as client,
        pytest.raises(zfabric.errors.NobodyHeard),
    ):
        client.members()


def test_a_seed_is_asked_where_nobody_can_be_heard(peers, member):
    seed = here(member).removeprefix("tcp://")
    until(lambda: member.topics.list() == ["heat"])
    done = run("consume", "heat", "--url", f"{peers.url('new')}&beacon=0&seed={seed}")
    assert (done.returncode, done.stdout) == (0, b"71.5\n")
    assert not (peers.directory / "new").exists()


def test_where_nobody_is_it_is_said_what_to_do(tmp_path):
    done = run("topic", "list", "--url", f"zf+peer://nobody?data={tmp_path / 'new'}&beacon=0")
    assert done.returncode == 4
    assert b"&seed=HOST:PORT" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("parameter", "named"), [("seed=nonsense", b"seed='nonsense'"), ("advertise=a/b", b"advertise='a/b'")]
)
def test_what_is_wrong_with_a_url_is_named_as_it_was_written(tmp_path, parameter, named):
    done = run("topic", "create", "x", "--url", f"zf+peer://m?data={tmp_path / 'p'}&beacon=0&{parameter}")
    assert done.returncode == 2
    assert named in done.stderr
    assert b"--" not in done.stderr
