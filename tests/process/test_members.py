"""Who is there, as a client of a real leader sees it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, LeaderProcess
from tests.process.test_sdk import until
from zfabric import aio, errors
from zfabric.settings import LeaderSettings
from zfabric.wire.card import ServiceCard
from zfabric.wire.membership import Announce
from zfabric.wire.messages import Type


def test_an_embedded_fabric_has_one_member_itself(zfabric_fabric):
    zfabric_fabric.topics.create("t", partitions=2)
    [member] = zfabric_fabric.members()
    assert (member.state, member.kind, member.local, member.round_trip) == ("alive", "embedded", True, None)
    assert (member.host, len(member.id)) == (os.uname().nodename, 32)
    [topic] = until(lambda: zfabric_fabric.members()[0].topics)
    assert (topic.name, topic.partitions) == ("t", 2)


def test_a_node_is_the_same_member_after_a_restart(tmp_path):
    with LeaderProcess(str(tmp_path / "data"), LeaderSettings()) as leader:
        with zfabric.connect(leader.url, timeout=PATIENCE_S) as fabric:
            [before] = fabric.members()
            leader.kill()
            leader.again()
            [after] = fabric.members()
        assert (after.id, after.fabric, after.kind) == (before.id, before.fabric, "node")
        assert after.since > before.since
        assert after.endpoint == leader.url.replace("zf://", "tcp://")


def test_what_is_announced_is_there_until_its_lease_ends(zfabric_fabric):
    """Services come to the table by ANNOUNCE; this is what the SDK of services will send."""
    service = ServiceCard("greeter", "1.2", "tcp://127.0.0.1:9", 77)

    def announced():
        """What is there after it; nothing if the lease is over before somebody looks."""
        zfabric_fabric.ask(Type.ANNOUNCE, Announce(service, 2_000), "announcement")
        return zfabric_fabric.members()[0].services

    [offered] = until(announced)
    assert (offered.name, offered.version, offered.endpoint, offered.instance) == (
        "greeter", "1.2", "tcp://127.0.0.1:9", 77,
    )  # fmt: skip
    assert until(lambda: zfabric_fabric.members()[0].services == [])


def test_a_service_with_an_impossible_name_is_refused(zfabric_fabric):
    with pytest.raises(errors.InvalidArgument):
        zfabric_fabric.ask(Type.ANNOUNCE, Announce(ServiceCard("../x", "1", "tcp://h:1", 1), 100), "it")


def test_a_service_cannot_pass_for_a_member_of_a_group(zfabric_fabric):
    """Nobody would see it, and peers would give it a share of a topic."""
    with pytest.raises(errors.InvalidArgument, match="__group__"):
        zfabric_fabric.service("__group__.0123456789abcdef")


def test_a_fabric_without_a_mesh_says_so(zfabric_fabric):
    assert [member.mesh for member in zfabric_fabric.members()] == [""]
    command = [sys.executable, "-m", "zfabric", "peers", "--url", zfabric_fabric.url]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("no mesh")


async def test_the_asynchronous_sdk_sees_the_same(zfabric_fabric):
    async with aio.connect(zfabric_fabric.url) as fabric:
        assert [member.id for member in await fabric.members()] == [zfabric_fabric.members()[0].id]


def test_a_leader_that_does_not_answer_is_unreachable(tmp_path):
    with LeaderProcess(str(tmp_path / "data"), LeaderSettings()) as leader:
        leader.kill()
        with zfabric.connect(leader.url, timeout=0.5) as fabric, pytest.raises(errors.Unreachable):
            fabric.members()
