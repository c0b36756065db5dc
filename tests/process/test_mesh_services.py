"""Services in a mesh: found through any member, asked directly."""

from __future__ import annotations

import contextlib

import pytest

import zfabric
from tests.process.meshes import MemberProcess, agree
from tests.process.test_sdk import until
from zfabric import errors

PATIENCE_S = 60.0
MANY = 40
"""Services at one member: more than fit its card."""


@pytest.fixture
def pair(tmp_path):
    """Two members of a mesh that know each other."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(MemberProcess(str(tmp_path / "0")))
        second = stack.enter_context(MemberProcess(str(tmp_path / "1"), seeds=[first]))
        assert agree([first, second])
        yield first, second


def offer(fabric, name, reply):
    service = fabric.service(name)

    @service.method("get", idempotent=True)
    def get(request):
        return reply

    service.start()
    return service


def answered(fabric, name):
    try:
        return fabric.request(f"{name}.get", timeout=5.0)
    except (errors.ServiceUnavailable, errors.RequestTimeout):
        return None


def test_a_service_is_found_through_another_member_and_asked_without_it(pair):
    """Its own member may even be killed: gossip informs, the connection decides."""
    first, second = pair
    with zfabric.connect(first.url, timeout=PATIENCE_S) as offering:
        service = offer(offering, "users", b"here")
        assert until(lambda: answered(second.fabric, "users") == b"here", PATIENCE_S)
        first.kill()
        second.freeze()
        assert second.fabric.request("users.get", timeout=PATIENCE_S) == b"here"
        second.thaw()
        assert until(lambda: service.stats()["methods"]["get"]["calls"] >= 2)
        first.again()


def test_instances_at_several_members_are_one_service(pair):
    first, second = pair
    offer(first.fabric, "users", b"first")
    offer(second.fabric, "users", b"second")
    seen = set()

    def both():
        seen.add(answered(second.fabric, "users"))
        return seen >= {b"first", b"second"}

    assert until(both, PATIENCE_S)
    assert until(lambda: len(first.fabric.services("users")) == 2, PATIENCE_S)


def test_services_that_do_not_fit_a_card_are_found_all_the_same(pair):
    first, second = pair
    for number in range(MANY):
        first.fabric.service(f"service-{number}", concurrency=1).start()
    assert until(lambda: any(member.more for member in second.fabric.members()), PATIENCE_S)
    for number in (0, MANY - 1):
        assert until(lambda number=number: healthy(second.fabric, number), PATIENCE_S)


def test_a_list_of_services_has_those_that_do_not_fit_a_card_whoever_asks_first(pair):
    """Of a client that has just come, and of one that knows the members already. One member's silence is no error."""
    first, second = pair
    services = [offer(first.fabric, f"service-{number:02}", b"") for number in range(MANY)]
    assert until(lambda: any(member.more for member in second.fabric.members()), PATIENCE_S)
    with zfabric.connect(second.url, timeout=PATIENCE_S) as fabric:
        assert len(fabric.services()) == MANY
        assert [found.service for found in fabric.services("service-39")] == ["service-39"]
    with zfabric.connect(second.url, timeout=PATIENCE_S) as fabric:
        assert len(fabric.members()) == 2
        assert len(fabric.services()) == MANY
    first.freeze()
    with zfabric.connect(second.url, timeout=PATIENCE_S) as fabric:
        assert len(fabric.services()) < MANY, "what its card shows"
    first.thaw()
    for service in services:
        service.stop()


def healthy(fabric, number):
    try:
        return fabric.request(f"service-{number}.health", timeout=5.0) == b"ok"
    except (errors.ServiceUnavailable, errors.RequestTimeout):
        return False


def test_the_first_request_of_a_peer_waits_until_it_has_found_the_mesh(tmp_path):
    """Its leader is still starting when it asks."""
    with MemberProcess(str(tmp_path / "0")) as member:
        offer(member.fabric, "users", b"here")
        seed = member.endpoint.removeprefix("tcp://")
        peer = f"zf+peer://m?data={tmp_path / 'late'}&seed={seed}&beacon=0"
        with zfabric.connect(peer, timeout=PATIENCE_S) as late:
            assert late.request("users.get") == b"here"
