"""The members of the last run."""

from __future__ import annotations

import os

import pytest

from zfabric.store import meshfile
from zfabric.wire.gossip import Member, Status

MEMBERS = [Member(bytes([number]) * 16, 5, 9, Status.ALIVE, f"tcp://h:{number}", 1, b"\x90") for number in (1, 2)]


def test_members_are_read_back_for_the_same_mesh_alone(tmp_path):
    path = str(tmp_path / "members")
    meshfile.store(path, "m", MEMBERS)
    assert meshfile.load(path, "m") == MEMBERS
    assert meshfile.load(path, "other") == []
    assert meshfile.mesh_of(path) == "m"
    meshfile.store(path, "m", MEMBERS[:1])
    assert meshfile.load(path, "m") == MEMBERS[:1]
    assert os.listdir(tmp_path) == ["members"]


def test_a_file_that_is_not_there_is_as_good_as_none(tmp_path):
    assert meshfile.load(str(tmp_path / "members"), "m") == []
    assert not meshfile.mesh_of(str(tmp_path / "members"))


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_a_damaged_file_is_as_good_as_none(tmp_path, cut):
    path = tmp_path / "members"
    meshfile.store(str(path), "m", MEMBERS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1 - cut])
    assert meshfile.load(str(path), "m") == []
    path.write_bytes(b"\xc1" + whole)
    assert meshfile.load(str(path), "m") == []


def test_the_format_is_these_bytes(tmp_path):
    path = tmp_path / "members"
    meshfile.store(str(path), "m", MEMBERS[:1])
    assert path.read_bytes().hex() == (
        "9301a16d9198c410010101010101010101010101010101010509"
        "00a97463703a2f2f683a3101c40190c41000000000000000000000000000000000"
    )


@pytest.mark.parametrize("endpoint", ["", "@00"])
def test_a_member_that_can_not_be_spoken_to_is_not_read_back(tmp_path, endpoint):
    path = str(tmp_path / "members")
    meshfile.store(path, "m", [Member(b"x" * 16, 5, 9, Status.ALIVE, endpoint)])
    assert meshfile.load(path, "m") == []
