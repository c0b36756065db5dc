"""Bodies of the commands between a keeper and the leaders that it follows, laid out like those in ``messages.py``.

A **keeper** is a fabric that holds copies of partitions which another fabric, their **origin**, leads. It pulls:

========  ===========================================================================================================
FOLLOW    keeper to leader: what do you have beyond these offsets? Answered at once if there is something, else held
          until there is, or for ``wait_ms``; a newer FOLLOW of the same connection has the held one answered. An
          offset in it says as well that all below it is on the keeper's disk: that is what ``acks="all"`` waits for.
FOLLOWED  the answer: parts with news, then one frame with all their batches, as in FETCHED. Batches are stamped with
          the ids of the fabric that was asked, which is the origin or another keeper of it.
HELD      ahead of the answer: your question has arrived, so nobody needs to ask again. Said once it was held for a
          second, and before an answer of more than 64 KiB, whose size it tells: on a slow link that takes its time.
          FETCH is answered so, too.
SHARE     what groups have committed at a keeper: the receiver takes what is ahead of what it has.
OFFER     a fabric that others cannot reach says over a connection that it opened itself: here I am, ask me. Repeated
          every few seconds, as reconnects are invisible. From then on *commands run in reverse on that connection*:
          the receiver sends HELLO, METADATA, FOLLOW, SHARE and FETCH down it, and gets the answers up it.
========  ===========================================================================================================

Committed offsets are merged, never replaced: ``resets`` counts how often somebody has set the group back on purpose,
and the larger pair (resets, offset) wins; a deletion counts as one more. So merging twice, or in another order, gives
the same.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from zfabric.model import TopicConfig
from zfabric.settings import FETCHED_BYTES_MAX, FOLLOW_WAIT_MS_MAX, GROUP_BYTES_MAX, SHARED_OFFSETS_MAX
from zfabric.wire.body import ASKED, Body, Count, Id, Signed

_Fabric = Annotated[str, Meta(max_length=100)]
_SHARED = Meta(max_length=SHARED_OFFSETS_MAX)


class KeptPlace(Body, frozen=True):
    """A copy of a partition: its id here, whose it is, its number and id there, and the leader that holds it here.

    ``config``: the topic's settings there; None if they are those that the topic has here.
    """

    id: Id
    origin: _Fabric
    number: Id
    leader: Id
    source: Id
    config: TopicConfig | None = None


class SharedOffset(Body, frozen=True):
    """What a group has committed in a partition, and when (ms since 1970, of the clock of whoever took it).

    ``deleted``: the group was, then. ``epoch`` and ``append_time`` are those of the batch before ``offset``, if it is
    there: a log that has another one there has nothing to do with it.
    """

    partition: Id
    group: Annotated[str, Meta(min_length=1, max_length=GROUP_BYTES_MAX)]
    resets: Count
    offset: Count
    timestamp: Signed
    deleted: bool = False
    epoch: Count = 0
    append_time: Signed = 0


class FollowPart(Body, frozen=True):
    """What a keeper has of a partition: all below ``offset``.

    ``epoch`` and ``append_time`` (ms) are those of its last batch, so that the leader sees whether it is the one that
    it has itself; 0 and 0 where the keeper has none.
    """

    partition: Id
    offset: Count
    epoch: Count = 0
    append_time: Signed = 0


class Follow(Body, frozen=True):
    """Ask ``fabric`` for what is new; ``keeper`` is the asking one's id.

    ``run`` and ``since`` are those of the last answer, ``version`` the assignment that it told: another one is news.
    Batches come in frames of at most ``part_bytes``, 0: in one. ``held``: HELD is wanted.
    """

    fabric: _Fabric
    keeper: _Fabric
    max_bytes: Count
    wait_ms: Annotated[int, Meta(ge=0, le=FOLLOW_WAIT_MS_MAX)]
    run: Count
    since: Count
    version: Count
    parts: Annotated[list[FollowPart], ASKED]
    part_bytes: Count = 0
    held: bool = False


class FollowedPart(Body, frozen=True):
    """News of one partition: the log's bounds, and ``length`` bytes of batches; or an error (code, values)."""

    partition: Id
    start_offset: Count
    end_offset: Count
    length: Count
    failure: tuple[Id, dict[str, str | int | float | None]] | None = None


class Followed(Body, frozen=True):
    """Answer to FOLLOW: who answers, what its topics' version is, the parts with news, and commits after ``since``.

    ``signs``: this leader says HELD to who wants it.
    """

    fabric: _Fabric
    run: Count
    since: Count
    version: Count
    parts: Annotated[list[FollowedPart], ASKED]
    commits: Annotated[list[SharedOffset], _SHARED] = msgspec.field(default_factory=list)
    signs: bool = False


class Held(Body, frozen=True):
    """A FOLLOW, or FETCH, has arrived, and what follows is an answer of so many ``bytes``; 0: not yet."""

    bytes: Annotated[int, Meta(ge=0, le=FETCHED_BYTES_MAX)]


class Share(Body, frozen=True):
    """Take what is ahead of yours; ``fabric`` is the one that is meant."""

    fabric: _Fabric
    commits: Annotated[list[SharedOffset], _SHARED]


class Offer(Body, frozen=True):
    """Ask me over this connection: ``fabric`` is who I am."""

    fabric: _Fabric


class AdoptedTopic(Body, frozen=True):
    """A topic of an origin, with (number, id) of its partitions there."""

    name: Annotated[str, Meta(max_length=1_000)]
    config: TopicConfig
    partitions: Annotated[list[tuple[Id, Id]], ASKED]


class Adopt(Body, frozen=True):
    """Within one process, from the follower to the controller: keep these, and let go of those (ids here)."""

    origin: _Fabric
    topics: list[AdoptedTopic]
    drop: list[Id] = msgspec.field(default_factory=list)
