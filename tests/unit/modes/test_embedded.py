"""What a client of an embedded fabric does before there is a leader."""

from __future__ import annotations

import os
import subprocess

import pytest

from zfabric import errors
from zfabric.modes import url
from zfabric.modes.embedded import Embedded
from zfabric.store.directory import DataDirectory


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def mode(tmp_path):
    made = Embedded(url.parse(f"zf+file://{tmp_path}/data"))
    yield made
    made.close()


def test_a_leader_that_may_not_be_started_costs_no_descriptors(mode, tmp_path):
    directory = DataDirectory.check(tmp_path / "data")
    for number in range(2):
        os.makedirs(directory.volume_path(number))
    before = descriptors()
    for _ in range(5):
        with pytest.raises(errors.DirectoryFormat):
            mode.locate()
    assert descriptors() <= before


def test_a_leader_that_cannot_be_started_costs_no_descriptors(mode, monkeypatch):
    def run(*_, **__):
        raise BlockingIOError(11, "no more processes")

    monkeypatch.setattr(subprocess, "run", run)
    before = descriptors()
    for _ in range(5):
        with pytest.raises(errors.ZFabricError):
            mode.locate()
    assert descriptors() <= before
