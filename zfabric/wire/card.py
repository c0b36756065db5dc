"""What a member of a mesh tells everybody about itself: the metadata of its gossip.

A card is a msgpack array of at most 1,024 bytes, because every member keeps everybody's. It is a hint: whoever wants
to be sure asks the member. Fields are in order; a reader ignores those after the ones it knows and takes defaults for
missing ones. What does not fit is left out and ``more`` is set: the member's own METADATA and MEMBERS tell the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import xxhash
from msgspec import Meta

from zfabric.model import Buffer
from zfabric.settings import MESH_METADATA_BYTES_MAX, NAME_BYTES_MAX

_Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
_Text = Annotated[str, Meta(max_length=100)]
_Endpoint = Annotated[str, Meta(max_length=128)]
_U63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_T = TypeVar("_T")
_U16 = Annotated[int, Meta(ge=0, le=(1 << 16) - 1)]

Kind = Literal["node", "peer", "embedded"]
DRAINING: Final = 1
"""Flag of a :class:`ServiceCard`: it finishes what it has and wants nothing new."""


class TopicCard(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A topic that the member leads partitions of, or keeps copies of.

    Attributes:
        name: of the topic. partitions: how many are led there. end: sum of their end offsets, as of some seconds ago.
        epoch: the leader epoch. kept: how many copies of others' partitions there are.
    """

    name: _Name
    partitions: _U16 = 1
    end: _U63 = 0
    epoch: _U63 = 0
    kept: _U16 = 0


GROUP_PREFIX: Final = "__group__."
"""Begins the name of a :class:`ServiceCard` that is none: a member of a consumer group (``core/client/share.py``)."""


class ServiceCard(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An instance of a service that can be reached through the member's machine.

    Attributes:
        name, version: of the service. endpoint: where the instance takes requests.
        instance: number of the instance, drawn at its start. weight: share of requests that it wants, in percent of
            a full instance's. flags: :data:`DRAINING`. host, zone: the instance's machine and where that is, or "".
    """

    name: _Name
    version: _Text
    endpoint: _Endpoint
    instance: _U63
    weight: _U16 = 100
    flags: _U16 = 0
    host: _Text = ""
    zone: _Text = ""


class Card(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One member.

    Attributes:
        kind: ``"node"``, ``"peer"`` or ``"embedded"``. host: name of its machine. zone: where that is, or "".
        fabric: id of the fabric whose leader 0 it is. publish: where that leader publishes. software: name and version.
        load: percent of one core that the leader process uses, as of some seconds ago.
        topics, services: led and offered there. more: some of them are left out here.
    """

    kind: Kind = "node"
    host: _Text = ""
    zone: _Text = ""
    fabric: _Text = ""
    publish: _Endpoint = ""
    software: _Text = ""
    load: _U16 = 0
    topics: list[TopicCard] = []
    services: list[ServiceCard] = []
    more: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Card).decode


def member_of(fabric: str) -> bytes:
    """Return the id of the member whose card may name this fabric: so nobody else can take its place."""
    return xxhash.xxh3_128_digest(fabric.encode())


def fitting(card: Card) -> bytes:
    """Encode a card, leaving out topics, then services, from the end, until it fits; sets ``more`` if any are."""
    data = _encode(card)
    topics, services = card.topics, card.services
    while len(data) > MESH_METADATA_BYTES_MAX:
        assert topics or services, "the fixed part of a card always fits"
        if topics:
            topics = _fewer(topics)
        else:
            services = _fewer(services)
        data = _encode(msgspec.structs.replace(card, topics=topics, services=services, more=True))
    return data


def _fewer(entries: Sequence[_T]) -> list[_T]:
    return list(entries[: len(entries) * 7 // 8])


def read(metadata: Buffer) -> Card | None:
    """Decode a member's metadata; None if it is no card: whoever wrote that is of another version, or lies.

    Nor is it one if a text in it is not printable: it could say anything to the terminal that shows it.
    """
    if len(metadata) > MESH_METADATA_BYTES_MAX:
        return None
    try:
        card = _decode(metadata)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: text that is no UTF-8.
        return None
    texts = [card.host, card.zone, card.fabric, card.publish, card.software, *(topic.name for topic in card.topics)]
    for service in card.services:
        texts += (service.name, service.version, service.endpoint)
    return card if all(map(str.isprintable, texts)) else None
