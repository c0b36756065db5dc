"""Bodies of the commands about the members of a mesh, laid out like those in ``messages.py``.

Clients ask their leader 0 who is in the mesh and who offers which service (MEMBERS), and instances of services say
there that they exist (ANNOUNCE). What members say to each other is another protocol: ``gossip.py``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from zfabric.settings import MEMBERS_TOLD_MAX, MESH_METADATA_BYTES_MAX, SERVICES_MAX
from zfabric.wire.body import Body, Count, Text
from zfabric.wire.card import ServiceCard


class Members(Body, frozen=True):
    """Ask leader 0 which members of its mesh it knows, and which services they offer.

    ``run`` and ``since`` are those of the last answer: then only what changed after it is told. 0 and 0 ask for all.
    """

    run: Count = 0
    since: Count = 0


class MemberIs(Body, frozen=True):
    """One member as the asked one sees it.

    ``id`` has 16 bytes; ``status`` is a :class:`~zfabric.wire.gossip.Status`, or 4 where the member is forgotten;
    ``metadata`` is a :mod:`card <zfabric.wire.card>`, or whatever the member sent as one; ``round_trip_us`` is 0 where
    it was not measured; ``since_ms`` is when the status began, or another process took its place (ms since 1970, of
    the asked one's clock); ``instance`` is the number of that process, 0 where it is forgotten.
    """

    id: Annotated[bytes, Meta(max_length=16)]
    status: Annotated[int, Meta(ge=0, le=4)]
    incarnation: Count
    endpoint: Text
    metadata: Annotated[bytes, Meta(max_length=MESH_METADATA_BYTES_MAX)]
    round_trip_us: Count = 0
    since_ms: Count = 0
    instance: Count = 0


class MembersAre(Body, frozen=True):
    """Answer to MEMBERS.

    ``run`` and ``version`` are for the next question; with another ``run`` than the asked one this is a new table, and
    what was known before is void. ``more``: ask again at once, from ``version`` on. ``mesh``: its name, "" without
    one. ``me``: id of the asked member. ``services``: all instances that have announced themselves there, told each
    time that one of them changed (else None).
    """

    run: Count
    version: Count
    mesh: Text
    me: Annotated[bytes, Meta(max_length=16)]
    members: Annotated[list[MemberIs], Meta(max_length=MEMBERS_TOLD_MAX)]
    more: bool = False
    services: Annotated[list[ServiceCard], Meta(max_length=SERVICES_MAX)] | None = None


class Announce(Body, frozen=True):
    """An instance of a service says that it is there, for the next ``lease_ms``; 0: it has ended.

    Repeated by the instance about every third of that time, and whenever something changes.
    """

    service: ServiceCard
    lease_ms: Annotated[int, Meta(ge=0, le=60_000)]
