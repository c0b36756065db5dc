"""A node for each file of tests, and somebody else who works on it during each test."""

from __future__ import annotations

import pytest

from tests.security.attack import MIB, Bystander, Node

GROWTH = 200 * MIB
"""Anonymous memory that a leader may hold above its start. Attacks here send several times that."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """One real node with one leader."""
    entry = Node(tmp_path_factory.mktemp("node"))
    yield entry
    entry.stop()


@pytest.fixture
def others(node):
    """Somebody else's work, which goes on during the test and after it; then the leader is the same, and not fat."""
    worker = Bystander(node, "others")
    try:
        worker.progress(5)
        yield worker
        worker.progress(20)
    finally:
        worker.close()
    assert node.same(), node.log.read_text()[-3_000:]
    assert node.memory() < node.base + GROWTH
