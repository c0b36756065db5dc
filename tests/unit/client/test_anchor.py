"""An observer of a mesh: through whom it sees it, and when through somebody else."""

from __future__ import annotations

from random import Random

from tests.unit.client.wire import SECOND, Wire
from zfabric import errors
from zfabric.core.client.anchor import Observed
from zfabric.core.client.client import Client
from zfabric.wire.card import Card, fitting
from zfabric.wire.gossip import Status
from zfabric.wire.membership import MemberIs, MembersAre
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Metadata

A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


class Observing(Wire):
    """An observer of mesh m; members that are up answer MEMBERS with what ``meshes`` says, and list each other."""

    def __init__(self, *seeds, up=(A, B, C), listed=(A, B, C)):
        super().__init__()
        self.client = Client(
            seeds[0], "zf+peer://m", "a", Random(1), software="test", locate=False, mesh=True,
            observed=Observed("m", seeds),
        )  # fmt: skip
        self.up = set(up)
        self.listed = listed
        self.meshes = {}

    def _take(self, effect):
        before = len(self.sent)
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

    def asked_at(self, kind):
        return [self.opened[-1] for _, command in self.sent if command.type == kind]


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
