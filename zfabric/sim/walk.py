"""What an agenda tells without a look at everybody, against a look at everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.core.client.agenda import Chore
    from zfabric.core.client.client import Client
    from zfabric.core.client.requests import Requests


def next_deadline(client: Client) -> int | None:
    """Return when a client wants its tick; nobody in it may want one earlier than it knows of."""
    told_ns = client.next_deadline()
    check(client.requests)
    for producer in client.producers:
        for route in producer.sender.routes.values():
            forgotten = [box.number for box in route.outboxes if not (box.idle or box in producer.sender.busy)]
            assert not forgotten, f"partitions {forgotten} of {route.topic!r} hold something, and nobody looks at them"
    for reader in client.readers:
        for chore in reader.chores():
            _compare(chore, reader.topic)
    return told_ns


def check(requests: Requests) -> None:
    """See that no connection wants a tick earlier than its agenda, which was just asked, knows of."""
    for connection in requests.connections.values():
        _compare(connection, connection.endpoint)


def _compare(chore: Chore, of: str) -> None:
    due_ns, planned_ns = chore.next_deadline(), chore.planned_ns
    assert due_ns is None or (planned_ns is not None and planned_ns <= due_ns), (
        f"{type(chore).__name__} of {of!r} is due at {due_ns} and has not told: {planned_ns}"
    )
