"""What a member tells everybody about itself, byte by byte."""

from __future__ import annotations

import pytest

from zfabric.settings import MESH_METADATA_BYTES_MAX
from zfabric.wire import card as cards
from zfabric.wire.card import Card, ServiceCard, TopicCard

WHOLE = Card(
    "node", "h", "z", "f", "tcp://h:2", "zf", 3, [TopicCard("t", 2, 9, 1)], [ServiceCard("s", "1", "tcp://h:1", 7)]
)
GOLDEN = (
    "9aa46e6f6465a168a17aa166a97463703a2f2f683a32a27a66039195a174020901009198a173a131a97463703a2f2f683a31076400a0a0c2"
)


def test_a_card_is_these_bytes():
    assert cards.fitting(WHOLE).hex() == GOLDEN
    assert cards.read(bytes.fromhex(GOLDEN)) == WHOLE


def test_topics_are_left_out_before_services_and_the_card_says_so():
    topics = [TopicCard(f"topic-{number}", 4, 1 << 40, 3) for number in range(100)]
    services = [ServiceCard(f"service-{number}", "1.0", "tcp://10.0.0.1:7000", number) for number in range(10)]
    data = cards.fitting(Card(topics=topics, services=services))
    told = cards.read(data)
    assert len(data) <= MESH_METADATA_BYTES_MAX
    assert told.more
    assert told.services == services
    assert 0 < len(told.topics) < 100
    assert told.topics == topics[: len(told.topics)]


def test_services_are_left_out_when_they_alone_do_not_fit():
    services = [ServiceCard(f"service-{number}", "1.0", "tcp://10.0.0.1:7000", number) for number in range(60)]
    told = cards.read(cards.fitting(Card(topics=[TopicCard("t")], services=services)))
    assert told.topics == []
    assert told.services == services[: len(told.services)]
    assert (told.more, 10 < len(told.services) < 60) == (True, True)


def test_the_fixed_part_of_a_card_always_fits():
    """The longest host, zone, endpoint and so on, in four bytes a character."""
    text = "\U0001f600" * 100
    data = cards.fitting(Card("embedded", text[:80], "z" * 100, "f" * 16, "e" * 128, "s" * 100, 65_535))
    assert len(data) <= MESH_METADATA_BYTES_MAX


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\xc1",
        b"x" * 64,
        b"\x80",
        bytes.fromhex("91a3786666"),
        b"\x91" * 1024,
        b"\xdd\xff\xff\xff\xff",
        bytes.fromhex("91a4ff656572"),
        bytes.fromhex("92a470656572a11b"),
        bytes.fromhex("92a470656572a3e280ae"),
    ],
)
def test_what_is_no_card_is_none(metadata):
    assert cards.read(metadata) is None


def test_fields_of_a_newer_version_are_ignored_and_missing_ones_take_their_defaults():
    assert cards.read(bytes.fromhex("9b" + GOLDEN[2:] + "01")) == WHOLE
    assert cards.read(bytes.fromhex("91a470656572")) == Card("peer")
