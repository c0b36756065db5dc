"""What a client refuses of an answer that its decoder took."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.core.client import answers
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type


def listed(asked, entries, *, more=False):
    """Judge an answer to LIST_GROUPS."""
    parts = [messages.Committed(name, partition, 0, 0, 0) for partition, name in entries]
    return answers.check(
        Type.LIST_GROUPS, asked, Command(Type.COMMITTED_ARE, 0, 1, messages.CommittedAre(parts, more), ())
    )


@pytest.mark.parametrize(
    ("entries", "more"),
    [
        ([(2, "b")], True),
        ([(1, "z")], False),
        ([(3, "a"), (3, "a")], False),
        ([(4, "a"), (3, "a")], False),
        ([], True),
    ],
    ids=["what was told already", "a place before", "one entry twice", "out of order", "more, and nothing of it"],
)
def test_a_list_of_groups_that_does_not_go_on_is_refused(entries, more):
    """Who follows it would ask for ever."""
    refused = listed(messages.ListGroups("", 2, "b"), entries, more=more)
    assert isinstance(refused, errors.ProtocolViolation)


def test_a_list_of_one_group_holds_no_other():
    assert listed(messages.ListGroups("a"), [(1, "a"), (2, "a")], more=True) is None
    assert isinstance(listed(messages.ListGroups("a"), [(1, "b")]), errors.ProtocolViolation)
