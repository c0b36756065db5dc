"""Lines that run in reverse: who is asked over which connection."""

from __future__ import annotations

from zfabric.core.effects import OpenSession, Reply, Send
from zfabric.core.leader import offers
from zfabric.core.leader.offers import Offers


class Followed(dict):
    """Stands for a follower: what can be asked, in order."""

    def learn(self, endpoint):
        self[endpoint] = True

    def forget(self, endpoint):
        self.pop(endpoint, None)


def test_a_fabric_is_asked_over_the_connection_that_offered_it_last():
    followed = Followed()
    lines = Offers(followed)
    assert lines.take(b"old", "f") == []
    assert lines.perform(OpenSession(1, "offer:f")) is None
    assert lines.take(b"new", "f") == [1]
    assert list(followed) == ["offer:f"]
    lines.perform(OpenSession(2, "offer:f"))
    assert lines.perform(Send(2, (b"x",))) == Reply(b"new", (b"x",))
    assert lines.gone(b"old") == []
    assert list(followed) == ["offer:f"]
    assert lines.gone(b"new") == [2]
    assert list(followed) == []


def test_a_connection_offers_one_fabric_however_many_it_names():
    followed = Followed()
    lines = Offers(followed)
    for number in range(1_000):
        lines.take(b"peer", f"f{number}")
        assert list(followed) == [f"offer:f{number}"]
    lines.perform(OpenSession(1, "offer:f999"))
    assert lines.take(b"peer", "another") == [1]
    assert lines.perform(OpenSession(2, "offer:f999")) == 2


def test_no_more_lines_are_known_than_there_may_be(monkeypatch):
    monkeypatch.setattr(offers, "OFFERS_MAX", 3)
    followed = Followed()
    lines = Offers(followed)
    for number in range(3):
        lines.take(b"%d" % number, f"f{number}")
    lines.perform(OpenSession(7, "offer:f1"))
    lines.take(b"0", "f0")
    assert lines.take(b"3", "f3") == [7]
    assert sorted(followed) == ["offer:f0", "offer:f2", "offer:f3"]
