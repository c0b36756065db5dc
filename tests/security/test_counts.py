"""What an operator sees of an attack: who is connected now, and that something is refused."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack

from tests.security.attack import packed, stranger, until
from zfabric.wire.messages import Type


def told(node):
    """How many refused requests the log tells of, line by line."""
    return [int(count) for count in re.findall(rb"WARNING .*requests_refused count=(\d+)", node.log.read_bytes())]


def test_the_connections_that_are_counted_are_those_that_there_are(node):
    """Whoever has gone is counted no more, whether it shook hands or never did."""
    before = node.status().clients
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(stranger(node.port)).hello()
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", node.port))) for _ in range(200)]
        assert until(lambda: node.status().clients >= before + 220)
        for connection in silent:
            connection.close()
        assert until(lambda: before + 20 <= node.status().clients < before + 220)
    assert until(lambda: node.status().clients <= before)


def test_many_refusals_are_a_line_in_the_log_and_not_one_each(node):
    with stranger(node.port) as attacker:
        assert attacker.hello()
        for _ in range(5_000):
            attacker.say(packed(Type.PRODUCE, b""))
        assert until(lambda: told(node))
    assert sum(told(node)) >= 100
    assert len(told(node)) < 10
