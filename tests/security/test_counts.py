"""What an operator sees of an attack: who is connected now, and that something is refused."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack

import zfabric
from tests.security.attack import packed, stranger, until
from zfabric.wire.messages import Type


def told(node):
    """How many refused requests the log tells of, line by line."""
    return [int(count) for count in re.findall(rb"WARNING .*requests_refused count=(\d+)", node.log.read_bytes())]


def test_the_connections_that_are_counted_are_those_that_there_are(node):
    """Whoever has gone is counted no more, whether it shook hands or never did."""
    with zfabric.connect(node.url, timeout=60) as fabric:

        def there():
            return fabric.status()[0].clients

        assert until(lambda: there() == 1)  # Those who looked before have gone.
        with ExitStack() as others:
            for _ in range(20):
                others.enter_context(stranger(node.port)).hello()
            assert until(lambda: there() == 21)

            def counted():
                """Whether two hundred more are; again, if those were hung up before somebody looked."""
                with ExitStack() as silent:
                    for _ in range(200):
                        silent.enter_context(socket.create_connection(("127.0.0.1", node.port)))
                    return until(lambda: there() == 221, 2.0)

            assert until(counted)
            assert until(lambda: there() == 21)
        assert until(lambda: there() == 1)


def test_many_refusals_are_a_line_in_the_log_and_not_one_each(node):
    with stranger(node.port) as attacker:
        assert attacker.hello()
        for _ in range(5_000):
            attacker.say(packed(Type.PRODUCE, b""))
        assert until(lambda: sum(told(node)) >= 100)
    assert len(told(node)) < 10
