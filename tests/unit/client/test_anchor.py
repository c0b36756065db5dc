"""An observer of a mesh: through whom it sees it, and when through somebody else."""

from __future__ import annotations

from random import Random

from tests.unit.client.wire import SECOND, Wire
from zfabric import errors
from zfabric.core.client.anchor import NOBODY, Observed
from zfabric.core.client.client import Client
from zfabric.model import TopicConfig
from zfabric.wire.card import Card, fitting
from zfabric.wire.gossip import Status
from zfabric.wire.membership import MemberIs, MembersAre
from zfabric.wire.messages import Type
from zfabric.wire.metadata import DeleteTopic, Metadata, TopicIs, TopicMeta

DELETE, META = DeleteTopic("t"), TopicMeta("t", 1, TopicConfig(), [])
A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


class Observing(Wire):
    """An observer of mesh m; members that are up answer MEMBERS with what ``meshes`` says, and list each other."""

    def __init__(self, *seeds, up=(A, B, C), listed=(A, B, C)):
        super().__init__()
        self.client = Client(
            Observed("m", seeds).name, "zf+peer://m", "a", Random(1), software="test", locate=not seeds, mesh=True,
            observed=Observed("m", seeds),
        )  # fmt: skip
        self.up = set(up)
        self.listed = listed
        self.meshes = {}
        self.whither = {}

    def _take(self, effect):
        before = len(self.sent)
        self.whither.setdefault(effect.session, self.sessions.get(effect.session))
        super()._take(effect)
        for session, command in self.sent[before:]:
            if command.type == Type.MEMBERS:
                at = self.sessions[session]
                members = [
                    MemberIs(bytes([n]) * 16, Status.ALIVE, 1, endpoint, fitting(Card(fabric="")), 0, 0)
                    for n, endpoint in enumerate(self.listed, 1)
                ]
                me = bytes([self.listed.index(at) + 1]) * 16 if at in self.listed else b"\xff" * 16
                body = MembersAre(len(at) + ord(at[6]), 1, self.meshes.get(at, "m"), me, members, False, [])
                self.tell(session, Type.MEMBERS_ARE, command, body)

    def fresh(self):
        pending = self.client.members.fresh(self.now, self.now + 10 * SECOND)
        self.step()
        return pending

    def asked(self, kind):
        return [command for _, command in self.sent if command.type == kind]

    def sent_at(self, endpoint):
        """Return what was sent to an endpoint."""
        return [(session, command) for session, command in self.sent if self.whither[session] == endpoint]


def test_the_first_seed_that_answers_is_the_anchor_and_nothing_else_is_tried():
    wire = Observing(A, B)
    assert wire.fresh().error is None
    wire.pass_time(5)
    assert (wire.client.anchor.endpoint, wire.client.anchor.moves) == (A, 0)
    assert set(wire.opened) == {A}


def test_a_silent_seed_is_given_up_after_a_second():
    wire = Observing(A, B, up=(B,))
    pending = wire.fresh()
    wire.pass_time(0.9)
    assert wire.opened == [A]
    wire.pass_time(0.3)
    assert wire.client.anchor.endpoint == B
    assert pending.done
    assert pending.error is None


def test_members_that_were_learnt_are_candidates_when_the_seed_is_gone():
    """What waits for an answer goes to the next one."""
    wire = Observing(A)
    wire.client.members.use(wire.now)
    wire.pass_time(2)
    wire.up = {C}
    wire.lose()
    pending = wire.client.control(Type.METADATA, Metadata([]), wire.now, wire.now + 20 * SECOND, "metadata")
    wire.pass_time(4)
    assert wire.client.anchor.endpoint == C
    assert pending.done
    assert pending.error is None


def test_an_anchor_that_is_back_in_time_is_kept():
    wire = Observing(A, B)
    wire.client.members.use(wire.now)
    wire.pass_time(2)
    wire.up = {B}
    wire.lose()
    wire.pass_time(0.5)
    wire.up = {A, B}
    wire.lose()
    wire.pass_time(5)
    assert (wire.client.anchor.endpoint, wire.client.anchor.moves) == (A, 0)


def test_one_of_another_mesh_is_passed_over():
    wire = Observing(A, B)
    wire.meshes = {A: "other"}
    pending = wire.fresh()
    wire.pass_time(1)
    assert pending.done
    assert pending.error is None
    assert wire.client.anchor.endpoint == B
    assert wire.client.anchor.wrong is None


def test_a_keeper_without_a_mesh_may_be_looked_at():
    wire = Observing(A)
    wire.meshes = {A: ""}
    pending = wire.fresh()
    assert pending.done
    assert pending.error is None


def test_when_all_are_of_other_meshes_whoever_waits_is_told_and_nothing_else_is_asked():
    wire = Observing(A, B)
    wire.meshes = {A: "other", B: "another"}
    asked = wire.client.control(Type.CREATE_TOPIC, Metadata([]), wire.now, wire.now + 10 * SECOND, "topic")
    wire.pass_time(1)
    assert isinstance(asked.error, errors.WrongMesh)
    assert (asked.error.mesh, asked.error.found, asked.error.endpoint) == ("m", "another", B)
    assert {command.type for _, command in wire.sent} == {Type.MEMBERS}
    wire.meshes = {}
    assert wire.fresh().error is None, "each question begins with all of them again"


def test_one_that_is_wrong_and_one_that_is_silent_make_the_wrong_one_the_error():
    wire = Observing(A, B, up=(A,))
    wire.meshes = {A: "other"}
    pending = wire.fresh()
    wire.pass_time(12)
    assert isinstance(pending.error, errors.WrongMesh)
    assert pending.error.endpoint == A


def test_a_single_seed_is_tried_until_it_is_back():
    wire = Observing(A, up=())
    pending = wire.fresh()
    wire.pass_time(5)
    assert not pending.done
    wire.up = {A}
    wire.pass_time(4)
    assert pending.done
    assert pending.error is None


def call(wire, at):
    """Be connected to a member for another reason, as whoever reads what it leads is."""
    wire.client.requests.call(at, Type.METADATA, Metadata([]), wire.now, wire.now + 60 * SECOND, "metadata", 60.0)
    wire.step()


def delete(wire):
    """Ask the anchor for something that is not answered at once."""
    pending = wire.client.control(Type.DELETE_TOPIC, DELETE, wire.now, wire.now + 60 * SECOND, "topic")
    wire.step()
    return pending


def deleted(wire):
    wire.answer(wire.asked(Type.DELETE_TOPIC)[-1], Type.TOPIC_IS, TopicIs(META))


def test_an_anchor_that_somebody_is_connected_to_anyway_has_no_connection_of_its_own():
    wire = Observing(A, B)
    wire.client.members.use(wire.now)
    wire.step()
    call(wire, A)
    assert wire.client.requests.sessions == [A, A]
    wire.pass_time(3)
    assert wire.client.requests.sessions == [A]
    assert sorted(wire.sessions.values()) == [A], "it is closed"
    before = len(wire.asked(Type.MEMBERS))
    wire.pass_time(3)
    assert len(wire.asked(Type.MEMBERS)) >= before + 2
    assert wire.client.anchor.moves == 0


def test_a_connected_member_becomes_the_anchor_in_place_of_one_that_nobody_else_needs():
    """So a consumer that came in through a member that is no keeper has no more connections than keepers."""
    wire = Observing(A)
    wire.client.members.use(wire.now)
    wire.pass_time(2)
    call(wire, C)
    wire.pass_time(2)
    assert (wire.client.anchor.endpoint, wire.client.anchor.moves) == (C, 1)
    assert wire.client.requests.sessions == [C]
    assert wire.fresh().error is None
    assert wire.client.members.mesh == "m"


def test_the_anchor_stays_where_it_is_while_something_waits_for_it():
    wire = Observing(A)
    wire.client.members.use(wire.now)
    wire.pass_time(2)
    asked = delete(wire)
    call(wire, C)
    wire.pass_time(3)
    assert wire.client.requests.sessions == [A, C]
    deleted(wire)
    assert asked.error is None
    wire.pass_time(3)
    assert wire.client.requests.sessions == [C]


def test_what_was_asked_over_a_shared_connection_goes_to_another_member_when_that_one_is_gone():
    """And what was asked of that very member stays its own."""
    wire = Observing(A, B)
    wire.client.members.use(wire.now)
    call(wire, A)
    wire.pass_time(3)
    asked = delete(wire)
    wire.client.requests.call(A, Type.DELETE_TOPIC, DELETE, wire.now, wire.now + 60 * SECOND, "topic", 60.0)
    wire.step()
    wire.up = {B, C}
    wire.lose()
    wire.pass_time(4)
    assert wire.client.anchor.endpoint == B
    assert [command.type for _, command in wire.sent_at(B) if command.type != Type.MEMBERS] == [Type.DELETE_TOPIC]
    deleted(wire)
    assert asked.error is None
    assert wire.client.requests.waited_for(A)


def test_an_anchor_on_a_shared_connection_has_its_own_again_when_that_is_left():
    """The origin has moved; the anchor is not to fail for that."""
    wire = Observing(A)
    wire.client.members.use(wire.now)
    call(wire, A)
    wire.pass_time(3)
    asked = delete(wire)
    wire.client.requests.leave(A)
    wire.step()
    assert wire.client.requests.sessions == [A]
    deleted(wire)
    assert asked.error is None


def test_a_connected_member_that_is_of_another_mesh_by_now_is_no_anchor():
    wire = Observing(A)
    wire.client.members.use(wire.now)
    wire.pass_time(2)
    wire.meshes = {C: "other"}
    call(wire, C)
    wire.pass_time(3)
    assert wire.fresh().error is None
    assert wire.client.members.mesh == "m"
    asked = delete(wire)
    wire.pass_time(1)
    assert not asked.done
    assert Type.DELETE_TOPIC not in {command.type for _, command in wire.sent_at(C)}


def test_without_a_seed_the_shell_is_asked_and_the_first_that_it_finds_is_the_anchor():
    """What waits meanwhile goes there; the others are candidates for later."""
    wire = Observing()
    pending = wire.fresh()
    wire.pass_time(3.0)
    assert (pending.done, wire.client.anchor.endpoint) == (False, NOBODY)
    assert wire.located > 3, "the shell is asked again and again"
    wire.client.anchor.hear([B, C], wire.now)
    wire.pass_time(0.1)
    assert (pending.error, wire.client.anchor.endpoint) == (None, B)
    located = wire.located
    wire.up.discard(B)
    wire.lose(B)
    wire.fresh()
    wire.pass_time(3.0)
    assert wire.client.anchor.endpoint in (A, C)
    wire.pass_time(3.0)
    assert wire.located - located < 20, "nobody is looked for while there is somebody"
