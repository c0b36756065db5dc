"""A keeper follows the members of its mesh that lead what it keeps."""

from __future__ import annotations

import pytest

from zfabric.core.leader.sightings import Sightings
from zfabric.wire import card
from zfabric.wire.gossip import Status
from zfabric.wire.membership import MemberIs

ME, OTHER = b"m" * 16, b"o" * 16


class Told:
    def __init__(self):
        self.endpoints = []

    def learn(self, endpoint):
        if endpoint not in self.endpoints:
            self.endpoints.append(endpoint)

    def forget(self, endpoint):
        self.endpoints.remove(endpoint)


def member(*topics, id=OTHER, status=Status.ALIVE, endpoint="tcp://o:1", more=False):
    metadata = card.fitting(card.Card(topics=[card.TopicCard(name) for name in topics], more=more))
    return MemberIs(id, int(status), 1, endpoint, metadata)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def sightings(told):
    return Sightings(["sensor.*"], told)


def test_a_member_that_leads_what_is_kept_is_followed_and_no_other(sightings, told):
    others = [member("other", id=b"a" * 16, endpoint="tcp://a:1"), member("sensor.x", id=ME, endpoint="tcp://me:1")]
    sightings.take([member("other", "sensor.x"), *others], ME)
    assert told.endpoints == ["tcp://o:1"]


def test_a_member_whose_card_has_no_room_for_all_topics_may_lead_one(sightings, told):
    sightings.take([member(more=True)], ME)
    assert told.endpoints == ["tcp://o:1"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.LEFT, 4])
def test_a_member_that_is_away_is_followed_again_when_it_is_back_wherever(sightings, told, status):
    sightings.take([member("sensor.x")], ME)
    sightings.take([member("sensor.x", status=status)], ME)
    assert told.endpoints == []
    sightings.take([member("sensor.x", endpoint="tcp://o:2")], ME)
    assert told.endpoints == ["tcp://o:2"]


def test_what_is_no_card_is_nobody_to_follow(sightings, told):
    sightings.take([MemberIs(OTHER, 0, 1, "tcp://o:1", b"\xc1")], ME)
    assert told.endpoints == []


@pytest.mark.parametrize("endpoint", ["offer:f", "ipc:///tmp/x", "inproc://x", "@00", "", "x"])
def test_a_member_at_what_is_no_address_of_the_network_is_not_followed(sightings, told, endpoint):
    sightings.take([member("sensor.x", endpoint=endpoint)], ME)
    sightings.take([member("sensor.x", endpoint=endpoint, status=Status.LEFT)], ME)
    assert told.endpoints == []


def test_what_is_followed_without_the_mesh_is_followed_whatever_the_mesh_says(told):
    told.learn("tcp://o:1")
    sightings = Sightings(["sensor.*"], told, ["tcp://o:1"])
    sightings.take([member("sensor.x")], ME)
    sightings.take([member("sensor.x", status=Status.FAILED)], ME)
    assert told.endpoints == ["tcp://o:1"]


def test_an_endpoint_of_two_members_is_followed_while_one_of_them_is_there(sightings, told):
    sightings.take([member("sensor.x"), member("sensor.x", id=b"p" * 16)], ME)
    sightings.take([member("sensor.x", status=Status.LEFT)], ME)
    assert told.endpoints == ["tcp://o:1"]
    sightings.take([member("sensor.x", id=b"p" * 16, status=Status.LEFT)], ME)
    assert told.endpoints == []
