"""What an agenda tells without a look at everybody, against a look at everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.core.client.client import Client


def next_deadline(client: Client) -> int | None:
    """Return when a client wants its tick; nobody in it may want one earlier than its agenda knows of."""
    told_ns = client.next_deadline()
    for reader in client.readers:
        for chore in reader.chores():
            due_ns, planned_ns = chore.next_deadline(), chore.planned_ns
            assert due_ns is None or (planned_ns is not None and planned_ns <= due_ns), (
                f"{type(chore).__name__} of {reader.topic!r} is due at {due_ns} and has not told: {planned_ns}"
            )
    return told_ns
