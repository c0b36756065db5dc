"""The pytest plugin gives a real fabric, and faults that it survives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import zfabric
from zfabric import testing


def test_the_fixture_is_a_working_fabric(zfabric_fabric, zfabric_url):
    zfabric_fabric.topics.create("t")
    with zfabric_fabric.producer() as producer:
        assert producer.send("t", b"v").result(timeout=60).offset == 0
    assert zfabric_fabric.url == zfabric_url


def test_a_killed_leader_is_followed_by_another(zfabric_fabric):
    zfabric_fabric.topics.create("t")
    killed = testing.kill_leader(zfabric_fabric)
    with zfabric_fabric.producer() as producer:
        assert producer.send("t", b"v").result(timeout=60).offset == 0
    assert zfabric_fabric.status()[0].pid != killed


def test_a_frozen_leader_answers_nobody_and_then_everybody(zfabric_fabric):
    zfabric_fabric.topics.create("t")
    with zfabric_fabric.producer() as producer:
        producer.send("t", b"before").result(timeout=60)
        with testing.frozen_leader(zfabric_fabric):
            delivery = producer.send("t", b"meanwhile")
            with pytest.raises(zfabric.RequestTimeout):
                delivery.result(timeout=0.2)
        assert delivery.result(timeout=60.0).offset == 1


def test_the_temporary_directory_is_removed():
    with testing.temporary_fabric() as fabric:
        fabric.topics.create("t")
        directory = fabric.url.removeprefix("zf+file:")
        assert os.path.isdir(directory)
    assert not os.path.exists(os.path.join(directory, "leader-0", "FORMAT"))


def test_loading_the_plugin_imports_nothing_heavy():
    code = "import sys, zfabric.testing.plugin; print([m for m in ('zmq', 'lmdb', 'msgspec') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
