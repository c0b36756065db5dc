"""What members announce beyond their cards: when they are asked for it, and how long somebody waits for all of it."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import SECOND, Wire
from zfabric.core.client.completion import WHOLE_NS, Completion
from zfabric.core.client.members import Known
from zfabric.wire.card import Card, ServiceCard
from zfabric.wire.gossip import Status
from zfabric.wire.membership import MembersAre
from zfabric.wire.messages import Type

SERVICES = [ServiceCard(f"s{number}", "1", "tcp://h:9", number + 1) for number in range(3)]
HERE, SILENT = "tcp://h:1", "tcp://h:99"


@pytest.fixture
def wire():
    return Wire()


def known(number, endpoint=HERE, *, more=True):
    return Known(bytes([number]) * 16, Status.ALIVE, 1, endpoint, Card(host="h", more=more), 0, 0, local=False)


def asked(wire):
    return [command for _, command in wire.sent if command.type == Type.MEMBERS]


def test_all_is_known_when_every_member_with_a_full_card_has_answered(wire):
    told = []
    completion = Completion(wire.client, 5 * SECOND, lambda: told.append(True))
    members = [known(1), known(2, more=False)]
    assert completion.services(members[0], wire.now) == []
    whole = [completion.whole(members, wire.now) for _ in range(2)]
    wire.step()
    assert len(asked(wire)) == 1, "one question for all who wait"
    assert not any(pending.done for pending in whole)
    wire.answer(asked(wire)[0], Type.MEMBERS_ARE, MembersAre(5, 1, "m", b"\1" * 16, [], services=SERVICES))
    assert all(pending.done for pending in whole)
    assert told == [True]
    assert completion.services(members[0], wire.now) == SERVICES


def test_nobody_waits_where_all_cards_are_whole(wire):
    completion = Completion(wire.client, 5 * SECOND, list)
    assert completion.whole([known(1, more=False)], wire.now).done


def test_a_member_that_is_silent_is_waited_for_for_a_second(wire):
    completion = Completion(wire.client, 5 * SECOND, list)
    pending = completion.whole([known(1, SILENT)], wire.now)
    wire.pass_time(WHOLE_NS / SECOND - 0.1)
    assert not pending.done
    wire.pass_time(0.2)
    assert pending.done
