"""One member, driven by hand: what it sends, and when, for what it hears."""

from itertools import pairwise
from random import Random

import msgspec
import pytest

from zfabric import errors
from zfabric.core.mesh import rules, suspicion
from zfabric.core.mesh.health import STATED_MAX
from zfabric.core.mesh.membership import Mesh
from zfabric.settings import MeshSettings
from zfabric.wire import gossip
from zfabric.wire.gossip import Codec, Member, Status, Type

SECOND = 1_000_000_000
CODEC = Codec("m")
ME = b"m" * 16


def peer(name, incarnation=1, status=Status.ALIVE, instance=1):
    return Member(name.encode() * 16, instance, incarnation, status, f"x:{name}" if status == Status.ALIVE else "")


class Driven:
    """A member that knows some others, and what it sends."""

    def __init__(self, *names, **settings):
        self.now = SECOND
        self.mesh = Mesh(
            CODEC, id=ME, instance=1, endpoint="x:m", random=Random(1), now=self.now,
            settings=MeshSettings(**{"sync_interval_ns": 86_400 * SECOND, **settings}),
        )  # fmt: skip
        self.mesh.restore([peer(name) for name in names])
        self.number = 0

    def wait(self, seconds):
        """Let time pass, ticking whenever it is due; returns what was sent meanwhile: (endpoint, message)."""
        end = self.now + int(seconds * SECOND)
        sent = []
        while (due := self.mesh.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.mesh.tick(self.now)
            sent += self.sent()
        self.now = end
        return sent

    def sent(self):
        return [(effect.endpoint, CODEC.read(effect.frame)) for effect in self.mesh.take_effects()]

    def hear(self, name, kind, body, *, instance=1, number=None):
        """Let a frame of a member arrive; returns the answers."""
        self.number += 1
        frame = CODEC.write(kind, name.encode() * 16, instance, number or self.number, body)
        self.mesh.receive(f"x:{name}", frame, self.now)
        return self.sent()

    def until(self, kind, seconds=10):
        """Wait for a message of that type; returns it."""
        for _ in range(int(seconds * 100)):
            for endpoint, message in self.wait(0.01):
                if message.type == kind:
                    return endpoint, message
        raise AssertionError(f"no {Type(kind).name}")


def news(*members):
    return [msgspec.Raw(gossip.encode(member)) for member in members]


def test_a_ping_is_answered_the_way_it_came():
    driven = Driven("a")
    [(endpoint, answer)] = driven.hear("a", Type.PING, gossip.Ping(7, ME, []))
    assert (endpoint, answer.type, answer.body.sequence, answer.body.incarnation) == ("x:a", Type.ACK, 7, 1)


def test_a_ping_that_means_another_is_not_answered():
    """A restarted process may listen where another one did."""
    assert Driven("a").hear("a", Type.PING, gossip.Ping(7, b"z" * 16, [])) == []


def test_silence_lets_others_be_asked_and_then_the_target_be_suspected():
    """SWIM, 3.1; and Lifeguard: helpers that say NACK speak for this member's own health."""
    driven = Driven("a", "b", "c", "d", "e")
    endpoint, ping = driven.until(Type.PING)
    asked = [to for to, message in driven.wait(0.5) if message.type == Type.PING_REQ]
    assert len(asked) == 3
    assert endpoint not in asked
    for helper in asked:
        driven.hear(helper[2:], Type.NACK, gossip.Nack(ping.body.sequence, []))
    driven.wait(0.5)
    assert [event.kind for event in driven.mesh.take_events()] == ["suspected"]
    assert driven.mesh.health == 0


def test_a_suspect_that_nobody_else_suspects_is_asked_again():
    """The suspicion goes with the question, so that it can refute; and it is dropped when it does."""
    names = "abcdefghijkl"  # In a round of twelve nobody is probed twice within the time.
    driven = Driven(*names)
    endpoint, ping = driven.until(Type.PING)
    low_s = suspicion.bounds(len(names) + 1, MeshSettings())[0] / SECOND
    driven.wait(1.0)
    again = [message for to, message in driven.wait(low_s + 0.1) if message.type == Type.PING and to == endpoint]
    assert [message.updates[0] for message in again] == [Member(ping.body.target, 1, 1, Status.SUSPECT, accuser=ME)]
    driven.hear(endpoint[2:], Type.ACK, gossip.Ack(again[0].body.sequence, 1, news(peer(endpoint[2:], 2))))
    assert driven.mesh.member(ping.body.target).status == Status.ALIVE
    later = [to for to, message in driven.wait(low_s) if message.type == Type.PING]
    assert endpoint not in later


def test_helpers_that_say_nothing_speak_against_this_member():
    driven = Driven("a", "b", "c", "d", "e")
    driven.until(Type.PING)
    driven.wait(1.0)
    assert driven.mesh.health == 3


def test_an_answered_probe_measures_the_round_trip():
    driven = Driven("a")
    _, ping = driven.until(Type.PING)
    driven.now += 3_000_000
    driven.hear("a", Type.ACK, gossip.Ack(ping.body.sequence, 1, []))
    assert 3_000_000 <= driven.mesh.round_trip_ns(b"a" * 16) <= 13_000_000


def test_a_round_trip_that_was_long_once_is_forgotten_with_the_first_short_one():
    """The first probe made a connection: it says little of the way, and a short one cannot be by chance."""
    driven = Driven("a")
    for took_ms, least_ms in ((400, 400), (3, 3), (203, 53)):
        _, ping = driven.until(Type.PING)
        driven.now += took_ms * 1_000_000
        driven.hear("a", Type.ACK, gossip.Ack(ping.body.sequence, 1, []))
        assert least_ms <= driven.mesh.round_trip_ns(b"a" * 16) / 1e6 <= least_ms + 15


def test_a_helper_pings_and_passes_the_answer_on():
    driven = Driven("a", "b")
    [(to, ping)] = driven.hear("a", Type.PING_REQ, gossip.PingReq(7, b"b" * 16, "x:b", []))
    assert (to, ping.type) == ("x:b", Type.PING)
    answers = driven.hear("b", Type.ACK, gossip.Ack(ping.body.sequence, 1, []))
    assert [(to, m.type, m.body.sequence) for to, m in answers] == [("x:a", Type.ACK, 7)]


def test_a_helper_says_no_before_the_asker_gives_up():
    driven = Driven("a", "b")
    driven.hear("a", Type.PING_REQ, gossip.PingReq(7, b"b" * 16, "x:b", []))
    answers = [(to, m.body.sequence) for to, m in driven.wait(0.41) if m.type == Type.NACK]
    assert answers == [("x:a", 7)]


def test_only_members_are_pinged_for_others():
    """Nobody shall use a member to knock at any address."""
    driven = Driven("a", "b")
    [(to, answer)] = driven.hear("a", Type.PING_REQ, gossip.PingReq(7, b"b" * 16, "10.0.0.1:22", []))
    assert (to, answer.type) == ("x:a", Type.NACK)
    assert driven.mesh.counters.relays_refused == 1


def test_a_suspected_member_refutes_with_a_higher_incarnation_and_says_so_first():
    driven = Driven("a")
    claim = Member(ME, 1, 1, Status.SUSPECT, accuser=b"z" * 16)
    [(_, answer)] = driven.hear("a", Type.PING, gossip.Ping(7, ME, news(claim)))
    assert answer.updates[0] == driven.mesh.me
    assert driven.mesh.me.incarnation == 2
    assert driven.mesh.health == 1


def test_who_is_suspected_hears_it_first():
    """Lifeguard's buddy system."""
    driven = Driven("a", "b")
    claim = peer("a", status=Status.SUSPECT)
    driven.hear("b", Type.GOSSIP, gossip.Gossip(news(claim)))
    [(_, answer)] = driven.hear("a", Type.PING, gossip.Ping(7, ME, []))
    assert (answer.updates[0].id, answer.updates[0].status) == (b"a" * 16, Status.SUSPECT)


def test_a_wake_up_that_comes_too_late_blames_nobody():
    driven = Driven("a", "b", "c", "d", "e")
    driven.until(Type.PING)
    driven.now += 60 * SECOND
    driven.mesh.tick(driven.now)
    assert driven.mesh.take_events() == []
    assert driven.mesh.counters.pauses == 1
    assert driven.mesh.health == 1


def test_a_suspect_gets_the_time_that_this_member_stood_still():
    """It could not be heard meanwhile: its refutation may be the next frame that is read."""
    driven = Driven("a", "b")
    driven.hear("b", Type.GOSSIP, gossip.Gossip(news(peer("a", status=Status.SUSPECT))))
    slept = suspicion.bounds(3, MeshSettings())[1] + SECOND
    driven.now += slept
    driven.mesh.tick(driven.now)
    assert driven.mesh.counters.pauses == 1
    assert driven.mesh.member(b"a" * 16).status == Status.SUSPECT
    driven.wait(slept / SECOND)
    assert driven.mesh.member(b"a" * 16).status == Status.FAILED


def test_a_stranger_is_answered_with_one_small_frame_and_not_believed():
    driven = Driven("a")
    me = peer("z")
    answers = driven.hear("z", Type.PUSH_PULL, gossip.PushPull(7, 0, me, 1, bytes(8)))
    assert [(to, m.type, m.body.answers) for to, m in answers] == [("x:z", Type.PUSH_PULL, 7)]
    assert driven.hear("z", Type.GOSSIP, gossip.Gossip(news(me, peer("y"))))[0][1].type == Type.ACK
    assert driven.hear("z", Type.STATE, gossip.State(99, me, 1, [0], False, news(peer("y")))) == []
    assert [member.id for member in driven.mesh.members()] == [b"a" * 16]


def test_a_flood_of_strangers_is_answered_a_hundred_times_a_second():
    """Each answer is a connection to an address that a stranger has named. Members are answered as ever."""
    driven = Driven("a")
    answered = []
    for second in range(3):
        driven.now += SECOND
        for number in range(1, 500):
            me = Member(number.to_bytes(16, "big"), 1, 1, Status.ALIVE, f"x:{number}")
            frame = CODEC.write(Type.PUSH_PULL, me.id, 1, second + 1, gossip.PushPull(7, 0, me, 1, bytes(8)))
            driven.mesh.receive(f"x:s{number}", frame, driven.now)
        answered.append(len(driven.sent()))
        [(_, answer)] = driven.hear("a", Type.PING, gossip.Ping(7, ME, []))
        assert answer.type == Type.ACK
    assert answered == [100] * 3
    assert driven.mesh.counters.strangers == 3 * 399


def test_strangers_of_one_connection_leave_answers_for_others():
    """One that asks five hundred times a second would else keep newcomers out, that ask once and then wait."""
    driven = Driven("a")
    answered = []
    for number in range(1, 502):
        me = Member(number.to_bytes(16, "big"), 1, 1, Status.ALIVE, f"x:{number}")
        frame = CODEC.write(Type.PUSH_PULL, me.id, 1, 1, gossip.PushPull(7, 0, me, 1, bytes(8)))
        driven.mesh.receive("x:flood" if number < 501 else "x:newcomer", frame, driven.now)
        answered += [endpoint for endpoint, _ in driven.sent()]
    assert answered == ["x:1", "x:2", "x:3", "x:4", "x:501"]
    assert driven.mesh.counters.strangers == 496


def test_a_number_proves_one_stranger():
    """Whoever has read one could else fill the room that is kept for those that come in person."""
    driven = Driven("a")
    [(_, question)] = driven.hear("z", Type.PUSH_PULL, gossip.PushPull(7, 0, peer("z"), 1, bytes(8)))
    for name in "zyx":
        driven.hear(name, Type.STATE, gossip.State(question.body.sequence, peer(name), 1, [], False, []))
    assert sorted(member.id for member in driven.mesh.members()) == [b"a" * 16, b"z" * 16]
    assert [driven.mesh.heard(name * 16) for name in (b"a", b"z")] == [False, True]


def test_claims_of_its_own_id_from_elsewhere_are_answered_as_seldom_as_those_of_strangers():
    """Each answer makes a connection to an address that somebody has named."""
    driven = Driven("a")
    answered = []
    for number in range(500):
        claim = Member(ME, 2, 1, Status.ALIVE, f"x:{number}")
        body = gossip.PushPull(7, 0, claim, 1, bytes(8))
        answered += [sent for sent in driven.hear("m", Type.PUSH_PULL, body, instance=2) if sent[0] != "x:a"]
    assert len(answered) == 4
    assert driven.mesh.counters.collisions == 500


def test_nobody_takes_a_member_to_the_highest_incarnation_in_steps():
    """There it could refute nothing any more. A large step is followed at once, and then not again for a while."""
    driven = Driven("a")
    driven.now += rules.JUMP_NS

    def claim(incarnation):
        lie = Member(ME, 1, incarnation, Status.SUSPECT, accuser=b"a" * 16)
        driven.hear("a", Type.GOSSIP, gossip.Gossip(news(lie)))
        return driven.mesh.me.incarnation

    step = rules.INCARNATION_STEP_MAX
    followed = claim(step)
    assert followed == step + 1
    for _ in range(1_000):
        driven.now += rules.JUMP_NS // 1_000 - 1
        assert claim(followed + step) == followed
    assert claim(followed + 5) == followed + 6
    assert driven.mesh.counters.incarnations_refused == 1_000
    driven.now += rules.JUMP_NS
    assert claim(followed + step) == followed + step + 1


def test_of_a_state_that_will_not_be_taken_nothing_is_decoded(monkeypatch):
    """Of a stranger, or played back: a frame of 64 KiB holds a thousand members, and whoever sees one can repeat it."""
    driven = Driven("a")
    codec = Codec("m")
    monkeypatch.setattr(driven.mesh, "_codec", codec)
    decoded = []
    monkeypatch.setattr(codec, "news", lambda body: decoded.append(body) or [] if type(body) is gossip.State else [])

    def hear(name, number, answers=0):
        body = gossip.State(answers, peer(name), 1, [0], False, news(peer("x"), peer("y")))
        frame = CODEC.write(Type.STATE, name.encode() * 16, 1, number, body)
        driven.mesh.receive(f"x:{name}", frame, driven.now)
        return len(decoded)

    assert hear("z", 5) == 0
    assert driven.mesh.counters.strangers == 1
    assert hear("a", 5) == 1
    assert hear("a", 5) == 1
    assert driven.mesh.counters.replayed == 1
    driven.sent()
    [(_, answer)] = driven.hear("z", Type.PUSH_PULL, gossip.PushPull(7, 0, peer("z"), 1, bytes(8)))
    assert hear("z", 6, answers=answer.body.sequence) == 2, "a stranger that has proven itself is listened to"


def test_a_stranger_with_the_id_of_a_member_hears_what_is_known_of_that():
    """It may have been started anew with a clock behind: so it learns above which incarnation it has to begin."""
    driven = Driven("a")
    driven.hear("a", Type.GOSSIP, gossip.Gossip(news(peer("a", 50))))
    body = gossip.PushPull(7, 0, peer("a", 3, instance=2), 1, bytes(8))
    answers = driven.hear("a", Type.PUSH_PULL, body, instance=2)
    assert [(to, message.type) for to, message in answers] == [("x:a", Type.PUSH_PULL), ("x:a", Type.GOSSIP)]
    assert answers[1][1].updates == [peer("a", 50)]
    [(_, ack)] = driven.hear("a", Type.PING, gossip.Ping(7, ME, []), instance=2)
    assert ack.updates == [peer("a", 50)]


def test_who_has_more_to_tell_is_asked_again_a_second_later():
    driven = Driven("a", probe_interval_ns=100 * SECOND)
    driven.hear("a", Type.STATE, gossip.State(0, peer("a"), 1, [], True, []))
    assert [message.type for _, message in driven.wait(0.9)] == []
    assert [(to, message.type) for to, message in driven.wait(0.2)] == [("x:a", Type.PUSH_PULL)]


def test_with_one_that_was_taken_for_failed_and_speaks_all_is_compared():
    """A partition may have healed: its side has news of its own."""
    driven = Driven("a", "b")
    driven.hear("b", Type.GOSSIP, gossip.Gossip(news(peer("a", status=Status.FAILED))))
    assert driven.mesh.member(b"a" * 16).status == Status.FAILED
    sent = driven.hear("a", Type.GOSSIP, gossip.Gossip(news(peer("a", 2))))
    assert ("x:a", Type.PUSH_PULL) in [(to, message.type) for to, message in sent]


def test_a_stranger_that_repeats_our_number_becomes_a_member():
    driven = Driven("a")
    me = peer("z")
    [(_, answer)] = driven.hear("z", Type.PUSH_PULL, gossip.PushPull(7, 0, me, 1, bytes(8)))
    body = gossip.State(answer.body.sequence, me, 1, [0], False, [])
    [(to, state)] = driven.hear("z", Type.STATE, body)
    assert (to, state.type) == ("x:z", Type.STATE)
    assert {member.id for member in state.updates} >= {b"a" * 16}
    assert [event.kind for event in driven.mesh.take_events()] == ["joined"]


def test_who_asks_for_the_whole_table_again_and_again_is_told_to_ask_later():
    """A question of 150 bytes can have a megabyte for an answer. Newcomers get in all the same, and learn it later."""
    driven = Driven("a")
    driven.mesh.restore([Member(number.to_bytes(16, "big"), 1, 1, 0, f"x:{number}") for number in range(1, 5_001)])

    def ask(name, answers=0):
        return driven.hear(name, Type.PUSH_PULL, gossip.PushPull(7, answers, peer(name), 1, bytes(8)))

    answers = [ask("a") for _ in range(100)]
    told = [sum(len(message.updates) for _, message in answer) for answer in answers]
    assert told[0] == 5_001
    assert sum(told) <= STATED_MAX
    assert told[-1] == 0
    [(_, last)] = answers[-1]
    assert last.body.more
    assert driven.mesh.counters.put_off == told.count(0) > 50
    [(_, number)] = ask("z")
    assert number.type == Type.PUSH_PULL, "it is a stranger"
    body = gossip.State(number.body.sequence, peer("z"), 1, [0], False, [])
    [(_, answer)] = driven.hear("z", Type.STATE, body)
    assert answer.body.more
    assert driven.mesh.member(b"z" * 16) is not None
    driven.wait(0.11)
    assert sum(len(message.updates) for _, message in ask("z")) > 4_000, "soon again, but not all of it at once"


def test_equal_tables_cost_two_small_frames():
    driven = Driven("a", "b", "c")
    mine = 0
    for member in (driven.mesh.me, *driven.mesh.members()):
        mine ^= gossip.fingerprint(member)
    body = gossip.PushPull(7, 0, peer("a"), 1, gossip.pack_hashes([mine]))
    [(_, answer)] = driven.hear("a", Type.PUSH_PULL, body)
    assert (answer.updates, answer.body.want) == ([], [])


def test_the_same_frame_is_taken_once():
    driven = Driven("a")
    assert driven.hear("a", Type.PING, gossip.Ping(7, ME, []), number=50) != []
    assert driven.hear("a", Type.PING, gossip.Ping(7, ME, []), number=50) == []
    assert driven.mesh.counters.replayed == 1


def test_failed_members_are_forgotten_after_their_time():
    driven = Driven("a", "b", failed_keep_ns=100 * SECOND, left_keep_ns=50 * SECOND)
    driven.hear("b", Type.GOSSIP, gossip.Gossip(news(peer("a", status=Status.FAILED))))
    driven.wait(99)
    assert driven.mesh.member(b"a" * 16).status == Status.FAILED
    driven.wait(2)
    assert driven.mesh.member(b"a" * 16) is None
    assert "reaped" in [event.kind for event in driven.mesh.take_events()]


def test_a_member_that_left_is_forgotten_sooner():
    driven = Driven("a", "b", failed_keep_ns=100 * SECOND, left_keep_ns=50 * SECOND)
    driven.hear("a", Type.GOSSIP, gossip.Gossip(news(peer("a", status=Status.LEFT))))
    assert [event.kind for event in driven.mesh.take_events()] == ["left"]
    driven.wait(51)
    assert driven.mesh.member(b"a" * 16) is None


def test_leaving_ends_though_nobody_answers():
    driven = Driven("a", "b")
    driven.mesh.leave(driven.now)
    sent = driven.wait(4)
    assert {update.status for _, m in sent for update in m.updates if update.id == ME} == {Status.LEFT}
    assert driven.mesh.left
    assert driven.mesh.next_deadline() is None
    assert driven.hear("a", Type.PING, gossip.Ping(7, ME, [])) == []


def test_seeds_are_tried_for_ever_but_ever_less_often():
    driven = Driven()
    driven.mesh.join(["x:s"], driven.now)
    times = []
    for second in range(300):
        times += [second for to, m in [*driven.sent(), *driven.wait(1)] if (to, m.type) == ("x:s", Type.PUSH_PULL)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == sorted(gaps)
    assert 50 <= gaps[-1] <= 60
    assert len(times) >= 8


def test_a_seed_that_is_this_member_is_given_up():
    driven = Driven()
    driven.mesh.join(["alias:m"], driven.now)
    [effect] = driven.mesh.take_effects()
    driven.mesh.receive("alias:m", effect.frame, driven.now)
    assert driven.mesh.counters.echoes == 1
    assert driven.wait(300) == []


def test_two_that_bear_one_id_and_know_nobody_else_both_hear_of_it():
    """A copied directory: whoever asks is answered, and an answer is not."""
    driven = Driven()
    other = Member(ME, 2, 1, Status.ALIVE, "x:other")
    buckets = gossip.buckets_for(1)
    hashes = gossip.pack_hashes([0] * buckets)
    [(endpoint, answer)] = [
        sent for sent in driven.hear("m", Type.PUSH_PULL, gossip.PushPull(7, 0, other, buckets, hashes), instance=2)
        if sent[1].type == Type.PUSH_PULL
    ]  # fmt: skip
    assert (endpoint, answer.body.answers, answer.body.me.endpoint) == ("x:other", 7, "x:m")
    answered = driven.hear("m", Type.PUSH_PULL, gossip.PushPull(8, 1, other, buckets, hashes), instance=2)
    assert [sent for sent in answered if sent[1].type == Type.PUSH_PULL] == []
    assert driven.mesh.counters.collisions == 2


def test_a_clock_that_stands_still_or_jumps_ahead_hurts_nobody():
    """Bad input: clock jumps. A monotonic clock cannot go back, but it may leap over days of suspend."""
    driven = Driven("a", "b", "c")
    for leap in (0, 1, 86_400 * SECOND, 0, 5 * 86_400 * SECOND):
        driven.now += leap
        driven.mesh.tick(driven.now)
        driven.hear("a", Type.PING, gossip.Ping(7, ME, []))
    assert all(member.status <= Status.SUSPECT for member in driven.mesh.members())


def test_events_that_nobody_takes_are_bounded():
    driven = Driven("a", members_max=100_000)
    for start in range(0, 12_000, 100):
        members = [Member(n.to_bytes(16, "big"), 1, 1, Status.ALIVE, "x:q") for n in range(start + 1, start + 41)]
        driven.hear("a", Type.GOSSIP, gossip.Gossip(news(*members)))
        failed = [Member(m.id, 1, 1, Status.FAILED) for m in members]
        for incarnation in (2, 4):
            driven.hear("a", Type.GOSSIP, gossip.Gossip(news(*failed)))
            back = [msgspec.structs.replace(m, incarnation=incarnation) for m in members]
            driven.hear("a", Type.GOSSIP, gossip.Gossip(news(*back)))
            failed = [msgspec.structs.replace(m, incarnation=incarnation) for m in failed]
    events = driven.mesh.take_events()
    assert len(events) == 10_000
    assert events[-1].kind == "lost"
    assert driven.mesh.counters.events_dropped > 0
    assert driven.mesh.counters.news_dropped >= 0


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("id", {"id": b"short"}),
        ("id", {"id": bytes(16)}),
        ("endpoint", {"endpoint": ""}),
        ("endpoint", {"endpoint": "a b"}),
        ("endpoint", {"endpoint": "x" * 129}),
        ("incarnation", {"incarnation": 0}),
        ("incarnation", {"incarnation": 1 << 60}),
        ("metadata", {"metadata": bytes(1_025)}),
    ],
)
def test_wrong_arguments_are_refused_by_their_names(name, changes):
    arguments = {"id": ME, "instance": 1, "endpoint": "x:m", "random": Random(1), "now": 1, **changes}
    with pytest.raises(errors.InvalidArgument) as caught:
        Mesh(CODEC, **arguments)
    assert caught.value.name == name


def test_a_flood_of_members_that_come_and_fail_leaves_nothing_behind():
    """Each makes room for the next: whoever is forgotten so is told of, and no timer remembers it."""
    driven = Driven("a", members_max=50)
    known = {b"a" * 16}
    idle = len(driven.mesh._timers)
    for number in range(5_000):
        forged = Member((number + 1).to_bytes(16, "little"), 1, 1, Status.ALIVE, "x:forged", 1, b"m")
        suspect = msgspec.structs.replace(forged, status=Status.SUSPECT, accuser=b"a" * 16)
        ended = msgspec.structs.replace(forged, status=[Status.FAILED, Status.LEFT][number % 2])
        claims = [forged, suspect, ended][: 1 + 2 * (number > 0)]
        driven.hear("a", Type.GOSSIP, gossip.Gossip(news(*claims)))
        for event in driven.mesh.take_events():
            if event.kind == "joined":
                known.add(event.member.id)
            elif event.kind == "reaped":
                known.remove(event.member.id)
    assert known == {member.id for member in driven.mesh.members()}
    assert len(known) <= 50
    assert len(driven.mesh._timers) <= idle + 4 * 50 + 64


def test_a_member_that_moves_tells_everybody_where_it_is_now():
    """The same instance with a higher incarnation: an update, no collision."""
    driven = Driven("a")
    before = driven.mesh.me
    driven.mesh.update(b"card", driven.now, "x:elsewhere")
    me = driven.mesh.me
    assert (me.endpoint, me.metadata, me.incarnation) == ("x:elsewhere", b"card", before.incarnation + 1)
    news = [update for _, sent in driven.wait(2) for update in sent.updates if update.id == ME]
    assert rules.decide(before, news[0]) == rules.Verdict.UPDATE
    assert news[0].endpoint == "x:elsewhere"
    driven.mesh.update(b"card", driven.now)
    assert driven.mesh.me == me
    with pytest.raises(errors.InvalidArgument):
        driven.mesh.update(b"card", driven.now, "no endpoint")


def test_at_the_end_of_their_ranges_incarnation_and_version_are_still_read_by_others():
    """A member whose words nobody could decode would fail at once, and for good."""
    driven = Driven("a")
    last = msgspec.structs.replace(
        driven.mesh.me, incarnation=gossip.INCARNATION_MAX, version=gossip.VERSION_MAX, metadata=b"card"
    )
    driven.mesh._voice.renew(last, driven.now)
    driven.mesh.update(b"new card", driven.now)
    told = [update for _, sent in driven.wait(2) for update in sent.updates if update.id == ME]
    assert {(update.incarnation, update.version, update.metadata) for update in told} == {
        (gossip.INCARNATION_MAX, 1, b"new card")
    }


def test_a_member_goes_and_tells_who_was_lied_to_about_it():
    """An ACK tells which incarnation of the asker the answerer knows: far from the right one it was made up."""
    driven = Driven("a")
    for number, (heard, asked) in enumerate([(1, 0), (2, 0), (1 << 30, 1), (0, 1)]):
        driven.wait(2 * number)
        sent = driven.hear("a", Type.ACK, gossip.Ack(7, heard, []))
        assert [message.type for _, message in sent] == [Type.PUSH_PULL] * asked


def test_metadata_that_is_too_large_is_refused_and_changes_nothing():
    driven = Driven("a")
    with pytest.raises(errors.InvalidArgument):
        driven.mesh.update(bytes(1_025), driven.now)
    assert driven.mesh.me.metadata == b""


def test_too_many_seeds_are_refused():
    driven = Driven()
    with pytest.raises(errors.InvalidArgument):
        driven.mesh.join([f"x:{number}" for number in range(65)], driven.now)


@pytest.mark.parametrize("endpoint", ["@zz", "@00", "", "a b"])
def test_what_a_beacon_says_that_is_no_endpoint_is_not_spoken_to(endpoint):
    driven = Driven()
    driven.mesh.meet(endpoint, driven.now)
    assert driven.mesh.take_effects() == []
    driven.mesh.meet("x:a", driven.now)
    assert [effect.endpoint for effect in driven.mesh.take_effects()] == ["x:a"]
