"""Connections that come and go, and what is not answered."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import BOOT, MS, SECOND, Wire, endpoint
from zfabric import errors
from zfabric.core.client.requests import HELLO_PATIENCE_NS, PATIENCE_NS
from zfabric.wire import messages
from zfabric.wire.messages import Type
from zfabric.wire.replication import Follow, Followed, Held


@pytest.fixture
def wire():
    return Wire()


def ask(wire, at=BOOT, seconds=60.0):
    return wire.client.requests.call(
        at, Type.GET_OFFSETS, messages.GetOffsets("g", [1]), wire.now, wire.now + int(seconds * SECOND), "it", seconds
    )


def reply(wire, command):
    return wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre([messages.Committed("g", 1, 4, 0, 4)]))


def test_nothing_is_sent_before_the_welcome(wire):
    wire.up.clear()
    pending = ask(wire)
    wire.step()
    assert (wire.opened, wire.sent, wire.client.requests.connected(BOOT)) == ([BOOT], [], False)
    wire.up.add(BOOT)
    wire.pass_time(HELLO_PATIENCE_NS / SECOND + 2)
    [command] = [command for _, command in wire.sent]
    reply(wire, command)
    assert pending.result().body.parts[0].offset == 4


def test_a_new_session_repeats_all_that_is_not_answered_in_the_order_in_which_it_was_made(wire):
    pendings = [ask(wire) for _ in range(4)]
    sent = wire.step()
    reply(wire, sent[1])
    wire.lose()
    wire.pass_time(0.05)
    again = [command.request for _, command in wire.sent[4:]]
    assert again == [sent[at].request for at in (0, 2, 3)]
    for _, command in wire.sent[4:]:
        reply(wire, command)
    assert all(pending.done for pending in pendings)


def test_an_answer_that_comes_twice_or_on_a_session_that_is_over_is_ignored(wire):
    pending = ask(wire)
    [command] = wire.step()
    old = wire.session_of(command)
    wire.lose()
    wire.tell(old, Type.DONE, command, messages.Empty())
    assert not pending.done
    wire.pass_time(0.05)
    again = wire.sent[-1][1]
    reply(wire, again)
    wire.answer(again, Type.DONE, messages.Empty())
    assert pending.result().type == Type.COMMITTED_ARE


def test_a_silent_leader_gets_a_new_session_after_the_patience_of_a_request(wire):
    ask(wire)
    wire.step()
    wire.pass_time(PATIENCE_NS / SECOND - 0.1)
    assert wire.opened == [BOOT]
    wire.pass_time(1.5)
    assert (wire.opened, len(wire.sent)) == ([BOOT, BOOT], 2)


def hold(wire, held_s=60.0, seconds=300.0):
    return wire.client.requests.call(
        BOOT, Type.FOLLOW, Follow("f", "k", 1, 60_000, 0, 0, 0, []), wire.now, wire.now + int(seconds * SECOND), "it",
        seconds, held_ns=int(held_s * SECOND),
    )  # fmt: skip


def test_a_leader_that_has_said_held_may_be_silent_for_longer(wire):
    hold(wire)
    [command] = wire.step()
    wire.answer(command, Type.HELD, Held(0))
    wire.pass_time(59.0)
    assert wire.opened == [BOOT]
    wire.pass_time(2.5)
    assert wire.opened == [BOOT, BOOT]
    wire.pass_time(PATIENCE_NS / SECOND + 1.5)
    assert len(wire.opened) == 3, "the new session has heard nothing of it"


def test_a_leader_that_says_held_unasked_gets_no_more_time(wire):
    pending = ask(wire, seconds=4.0)
    [command] = wire.step()
    wire.answer(command, Type.HELD, Held(1 << 20))
    wire.pass_time(5.1)
    assert isinstance(pending.error, errors.RequestTimeout)


def test_an_answer_that_was_announced_has_the_time_that_its_bytes_take_on_the_slowest_link(wire):
    pending = hold(wire, held_s=5.0, seconds=10.0)
    [command] = wire.step()
    wire.answer(command, Type.HELD, Held(1 << 20))
    wire.pass_time(50.0)
    assert (wire.opened, pending.done) == ([BOOT], False)
    wire.answer(command, Type.FOLLOWED, Followed("f", 1, 0, 0, []), b"")
    assert pending.result().body.fabric == "f"


def test_the_pause_before_a_session_grows_and_starts_again_with_a_welcome(wire):
    ask(wire)
    wire.step()
    wire.up.clear()
    wire.lose()
    wire.pass_time(60.0)
    tries = len(wire.opened)
    assert 10 < tries < 25
    wire.up.add(BOOT)
    wire.pass_time(5.0)
    wire.lose()
    wire.pass_time(0.03)
    assert wire.client.requests.connected(BOOT)


def test_however_often_a_connection_ends_the_next_session_comes_within_four_tenths_of_a_second(wire):
    """A leader that is killed again and again at its start may accept connections, and end them."""
    ask(wire)
    wire.step()
    wire.up.clear()
    for _ in range(50):
        tries = len(wire.opened)
        wire.lose()
        wire.pass_time(0.4)
        assert len(wire.opened) == tries + 1


def test_time_that_is_up_says_whether_anybody_ever_answered(wire):
    wire.up.clear()
    never = ask(wire, seconds=2.0)
    wire.pass_time(2.1)
    with pytest.raises(errors.Unreachable):
        never.result()
    wire.up.add(BOOT)
    wire.pass_time(4.0)
    late = ask(wire, seconds=2.0)
    wire.pass_time(2.1)
    with pytest.raises(errors.RequestTimeout):
        late.result()
    assert not wire.client.requests.outstanding()


def test_a_name_that_leads_nowhere_is_said_to_until_a_session_ends_in_another_way(wire):
    wire.up.clear()
    host = BOOT.partition("://")[2].rpartition(":")[0]
    for nowhere in (True, False):
        asked = ask(wire, seconds=1.0)
        wire.step()
        [session] = [number for number, at in wire.sessions.items() if at == BOOT]
        wire.client.lost(session, wire.now, nowhere=nowhere)
        wire.pass_time(1.1)
        assert isinstance(asked.error, errors.Unreachable)
        assert (f"no address of the host {host!r}" in str(asked.error)) == nowhere
        assert ("zfabric serve" in str(asked.error)) != nowhere
    assert wire.client.requests.sessions, "it is tried again all the time"


def test_a_goodbye_ends_the_session_and_the_next_one_repeats(wire):
    ask(wire)
    [command] = wire.step()
    wire.tell(wire.session_of(command), Type.GOODBYE, command, messages.Empty())
    wire.pass_time(0.05)
    assert (wire.opened, len(wire.sent)) == ([BOOT, BOOT], 2)


def test_garbage_fails_the_request_that_it_answers_and_no_other(wire):
    first, second = ask(wire), ask(wire)
    one, two = wire.step()
    frame = bytearray(messages.command(Type.COMMITTED_ARE, one.request, messages.CommittedAre([])))
    frame[-1] = 0xC1
    wire.client.receive(wire.session_of(one), [bytes(frame)], wire.now)
    assert isinstance(first.error, errors.ProtocolViolation)
    reply(wire, two)
    assert second.result()


def test_an_answer_of_another_type_is_a_violation_for_whoever_asked(wire):
    pending = ask(wire)
    [command] = wire.step()
    wire.answer(command, Type.DONE, messages.Empty())
    assert isinstance(pending.error, errors.ProtocolViolation)


def test_a_leader_that_speaks_no_known_version_tells_all_who_wait(wire):
    wire.up.clear()
    pending = ask(wire)
    wire.step()
    [session] = wire.sessions
    refusal = errors.UnsupportedVersion(version=1, lowest=7, highest=9)
    wire.client.receive(session, [messages.failure(2, refusal)], wire.now)
    assert isinstance(pending.error, errors.UnsupportedVersion)


def test_a_mode_that_cannot_find_a_leader_tells_all_who_wait_and_what_they_ask_then_is_kept():
    wire = Wire(locate=True)
    wire.up.clear()
    first = ask(wire)
    second = []
    first.on_done(lambda: second.append(ask(wire)))
    wire.step()
    assert wire.located == 1
    wire.client.requests.fail_all(errors.DirectoryLocked(directory="d", pid=1))
    assert isinstance(first.error, errors.DirectoryLocked)
    assert (second[0].done, wire.client.requests.outstanding()) == (False, True)


def test_an_embedded_client_asks_where_a_leader_is_as_long_as_it_has_none():
    wire = Wire(locate=True)
    wire.up.clear()
    ask(wire)
    wire.pass_time(1.05)
    assert 5 <= wire.located <= 7
    wire.up.add(BOOT)
    wire.pass_time(5.0)
    before = wire.located
    wire.pass_time(3.0)
    assert wire.located == before


def test_what_was_withdrawn_is_not_repeated(wire):
    ask(wire)
    [command] = wire.step()
    wire.client.requests.withdraw(command.request)
    wire.lose()
    wire.pass_time(1.0)
    assert len(wire.sent) == 1


def test_what_is_not_answered_moves_with_its_leader_in_order_even_if_two_change_places():
    wire = Wire(leaders=3)
    one = [ask(wire, endpoint(1)) for _ in range(3)]
    two = ask(wire, endpoint(2))
    sent = wire.step()
    wire.client.requests.move({endpoint(1): endpoint(2), endpoint(2): endpoint(1)}, wire.now)
    again = wire.step()
    assert [command.request for command in again] == [command.request for command in sent]
    assert [wire.sessions[session] for session, _ in wire.sent[4:]] == [endpoint(2)] * 3 + [endpoint(1)]
    for command in again:
        reply(wire, command)
    assert all(pending.done for pending in [*one, two])
    assert len(wire.sessions) == 2


def test_deadlines_are_met_to_the_scan_and_never_spin(wire):
    pendings = [ask(wire, seconds=seconds) for seconds in (0.0, 0.0001, 0.5, 1.7)]
    wire.step()
    for _ in range(300):
        wire.now = max(wire.now + MS // 100, min(wire.client.next_deadline() or 0, wire.now + 20 * MS))
        wire.step()
    assert [pending.done for pending in pendings] == [True] * 4


def looks_within(requests, end):
    """Tick whenever that is wanted; returns when."""
    looks = []
    while (due := requests.next_deadline()) < end:
        requests.tick(due)
        looks.append(due)
    return looks


def test_many_connections_are_looked_at_together_however_they_were_opened():
    """Else one with a question open at each of many would hardly leave a pause between two looks."""
    wire = Wire(50)
    for number in range(50):
        ask(wire, endpoint(number))
        wire.pass_time(0.03)
    looks = looks_within(wire.client.requests, wire.now + 3 * SECOND)
    assert 1 <= len(looks) <= 3
    assert all((look - looks[0]) % SECOND == 0 for look in looks)


def test_who_has_said_held_is_not_looked_at_before_it_may_be_silent_for_too_long(wire):
    hold(wire, held_s=60.0)
    [command] = wire.step()
    wire.answer(command, Type.HELD, Held(0))
    assert len(looks_within(wire.client.requests, wire.now + 50 * SECOND)) == 1
    wire.now += 40 * SECOND
    ask(wire)  # To this the bare patience applies.
    wire.step()
    wire.pass_time(PATIENCE_NS / SECOND - 0.1)
    assert len(wire.opened) == 1
    wire.pass_time(1.5)
    assert len(wire.opened) == 2
