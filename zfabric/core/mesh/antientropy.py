"""Comparing all that two members know, in a few messages when little differs.

Memberlist sends both whole tables in each exchange, which costs each member bytes that grow with the mesh. Here the
first message holds hashes of the table in buckets of about 16 members; only members of buckets that differ
follow. Two equal tables of 5,000 members cost 3 KB an exchange instead of 1 MB.

An exchange is also how strangers meet: its number, drawn at random, is repeated by who answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric.wire import gossip
from zfabric.wire.gossip import Member, State, Status

if TYPE_CHECKING:
    from random import Random

EXCHANGES_MAX: Final = 1_024
EXCHANGE_NS: Final = 10_000_000_000
STATE_FRAMES_MAX: Final = 16
"""Frames of one answer: a megabyte. What is left out still differs in the next exchange."""
_ROOM: Final = 60 << 10


class Exchanges:
    """PUSH_PULLs sent in the last ten seconds, by their sequences; the oldest go when there are too many."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._asked: dict[int, tuple[int, str]] = {}

    def ask(self, endpoint: str, now: int) -> int:
        """Return a fresh sequence for an exchange with whoever listens at ``endpoint``."""
        while self._asked:
            first = next(iter(self._asked))
            if self._asked[first][0] > now and len(self._asked) < EXCHANGES_MAX:
                break
            del self._asked[first]
        sequence = self._random.getrandbits(62) + 1
        self._asked[sequence] = now + EXCHANGE_NS, endpoint
        return sequence

    def answered(self, sequence: int, now: int) -> str | None:
        """Return at which endpoint an exchange was asked for; None if it was not, or too long ago."""
        expires, endpoint = self._asked.get(sequence, (0, ""))
        return endpoint if expires > now else None

    def take(self, sequence: int) -> str:
        """Forget an exchange and return its endpoint; empty if there is none."""
        return self._asked.pop(sequence, (0, ""))[1]


def differing(theirs: Sequence[int], mine: Sequence[int]) -> list[int]:
    """Return the numbers of the buckets that differ."""
    return [number for number, (one, other) in enumerate(zip(theirs, mine, strict=True)) if one != other]


def state_frames(
    me: Member, members: Iterable[Member], answers: int, buckets: int, numbers: Sequence[int], receiver: bytes,
    *, want: bool, known: dict[bytes, int] | None,
) -> Iterator[State]:  # fmt: skip
    """Make the answer: members of the buckets ``numbers``, without those that the receiver is ``known`` to have.

    What is known of the receiver itself is in it if it does not count as alive. With ``want`` the last frame asks for
    the receiver's members of the same buckets.
    """
    wanted, have = set(numbers), known or {}
    chosen: list[bytes] = []
    for member in members:
        if member.id[0] & (buckets - 1) not in wanted and (member.id != receiver or member.status == Status.ALIVE):
            continue
        if member.status == Status.ALIVE and have.get(member.id) == member.incarnation:
            continue
        if member.status == Status.SUSPECT:
            chosen.append(gossip.encode(msgspec.structs.replace(member, status=Status.ALIVE, accuser=gossip.NOBODY)))
        chosen.append(gossip.encode(member))
    frames = list(_packed(chosen))
    more = len(frames) > STATE_FRAMES_MAX
    del frames[STATE_FRAMES_MAX:]
    for number, frame in enumerate(frames):
        last = number == len(frames) - 1
        asks = list(numbers) if want and last else []
        yield State(answers, me, buckets, asks, more and last, [msgspec.Raw(update) for update in frame])


def _packed(updates: Iterable[bytes]) -> Iterator[list[bytes]]:
    frame: list[bytes] = []
    room = _ROOM
    for update in updates:
        if len(update) > room or len(frame) == gossip.STATE_MEMBERS_MAX:
            yield frame
            frame, room = [], _ROOM
        frame.append(update)
        room -= len(update)
    yield frame
