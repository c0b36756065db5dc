"""The other members as this one knows them, bounded, and the order in which they are probed.

**Bounds.** At most ``members_max`` members: a full table first forgets who failed or left longest ago, then refuses.
The last tenth is for members that have proven themselves to this one in person (by repeating a number that it made
up), so that a flood of forged members, of which it only hears, does not keep an honest newcomer out. Metadata beyond
``metadata_bytes_max`` in total is dropped, the member is not. Refusals are counted.

**Order.** SWIM, section 4.3: every member is probed once in each round, in an order that is random in each round. So
the time to the next probe of a given member is bounded (two rounds), and nobody is probed by everybody at once. The
shuffle is done one step at a time; a newcomer gets a random place in what is left of the round.

**Replays.** The numbers of the last 64 frames of each member that this one has heard are kept as a bit mask below the
highest (as IPsec does, RFC 4303, 3.4.3): a frame is taken once, and not at all if it is older. Frames of a member not
yet heard begin such a window. In a mesh without a key numbers prove nothing, and whoever forges one frame with a high
one would silence that member for good: there what is older than the window is taken.

**Hashes** for comparisons are kept up with each change: asking for them costs the same, however large the table is,
and whoever asks again and again holds nobody up.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from zfabric.settings import MeshSettings
from zfabric.wire import gossip
from zfabric.wire.gossip import Member, Status

if TYPE_CHECKING:
    from random import Random

_SUSPECT = int(Status.SUSPECT)
_WINDOW = 64
_MASK = (1 << _WINDOW) - 1


class Table:
    """All members but this one.

    Attributes:
        members: by their ids; to read. live: how many are alive or suspected.
        evicted: who was forgotten to make room, until somebody takes note.
        refused: members that found no room. stripped: metadata that found none.
    """

    def __init__(self, settings: MeshSettings, random: Random, *, keyed: bool = True) -> None:
        self.live = 0
        self.evicted: list[Member] = []
        self.refused = 0
        self.stripped = 0
        self._settings = settings
        self._random = random
        self._keyed = keyed
        self.members: dict[bytes, Member] = {}
        self._order: list[bytes] = []
        self._next = 0
        self._ended: dict[bytes, int] = {}
        self._windows: dict[bytes, int] = {}
        self._metadata_bytes = 0
        self._hashes = array("Q", bytes(8 * gossip.BUCKETS_MAX))

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def get(self, member: bytes) -> Member | None:
        """Return what is known of a member."""
        return self.members.get(member)

    def ended_at(self, member: bytes) -> int | None:
        """Return when (monotonic ns) a member failed or left; None if it has not."""
        return self._ended.get(member)

    def failed(self) -> list[bytes]:
        """Return the ids of those that have failed."""
        return [gone for gone in self._ended if self.members[gone].status == Status.FAILED]

    def hashes(self, buckets: int, also: Member) -> list[int]:
        """Return the hashes of this table and one more member in so many buckets, a power of two up to 256."""
        hashes = gossip.fold(self._hashes, buckets)
        hashes[also.id[0] & (buckets - 1)] ^= gossip.fingerprint(also)
        return hashes

    # Changes.

    def add(self, member: Member, *, proven: bool) -> bool:
        """Take a new member; tells whether there was room."""
        most = self._settings.members_max
        if len(self.members) >= (most if proven else most - most // 10):
            if not self._ended:
                self.refused += 1
                return False
            gone = next(iter(self._ended))
            self.evicted.append(self.members[gone])
            self.remove(gone)
        member = self._within(member, 0)
        self.members[member.id] = member
        self._hashes[member.id[0]] ^= gossip.fingerprint(member)
        self._order.append(member.id)
        self._metadata_bytes += len(member.metadata)
        self.live += 1
        return True

    def fill(self, members: list[Member]) -> None:
        """Take members of an earlier run that are not known yet, all that find room."""
        most = self._settings.members_max - self._settings.members_max // 10
        size = sum([len(member.metadata) for member in members])
        if self.members or len(members) > most or size > self._settings.metadata_bytes_max:
            for member in members:
                if member.id not in self.members:
                    self.add(member, proven=False)
            return
        self.members = {member.id: member for member in members}
        for member in self.members.values():
            self._hashes[member.id[0]] ^= gossip.fingerprint(member)
        self._order = list(self.members)
        self._metadata_bytes = sum([len(member.metadata) for member in self.members.values()])
        self.live = len(self.members)

    def put(self, member: Member, now: int) -> None:
        """Replace what is known of a member."""
        before = self.members[member.id]
        if member.metadata is not before.metadata:
            member = self._within(member, len(before.metadata))
            self._metadata_bytes += len(member.metadata) - len(before.metadata)
        self.members[member.id] = member
        lives, lived = member.status <= _SUSPECT, before.status <= _SUSPECT
        if (lives, member.incarnation, member.instance) != (lived, before.incarnation, before.instance):
            self._hashes[member.id[0]] ^= gossip.fingerprint(before) ^ gossip.fingerprint(member)
        if not lives and lived:
            self.live -= 1
            self._ended[member.id] = now
        elif lives and not lived:
            self.live += 1
            del self._ended[member.id]
        if member.instance != before.instance:
            self._windows.pop(member.id, None)

    def _within(self, member: Member, released: int) -> Member:
        if self._metadata_bytes - released + len(member.metadata) <= self._settings.metadata_bytes_max:
            return member
        self.stripped += 1
        return msgspec.structs.replace(member, metadata=b"", version=0)

    def remove(self, member: bytes) -> None:
        """Forget a member."""
        gone = self.members.pop(member)
        self._hashes[member[0]] ^= gossip.fingerprint(gone)
        self._metadata_bytes -= len(gone.metadata)
        self.live -= gone.status <= Status.SUSPECT
        self._ended.pop(member, None)
        self._windows.pop(member, None)
        place = self._order.index(member)
        del self._order[place]
        self._next -= place < self._next

    def fresh(self, member: bytes, number: int) -> bool:
        """Note the number of a frame of a member; tells whether it was not seen before."""
        window = self._windows.get(member, 0)
        highest, mask = window >> _WINDOW, window & _MASK
        if number > highest:
            mask = (mask << min(_WINDOW, number - highest) | 1) & _MASK
            highest = number
        else:
            bit = highest - number
            if bit >= _WINDOW:
                return not self._keyed
            if mask >> bit & 1:
                return False
            mask |= 1 << bit
        self._windows[member] = highest << _WINDOW | mask
        return True

    def seen(self, member: bytes, number: int) -> bool:
        """Tell whether :meth:`fresh` would refuse the number of a frame of a member."""
        window = self._windows.get(member, 0)
        back = (window >> _WINDOW) - number
        return self._keyed if back >= _WINDOW else back >= 0 and bool(window >> back & 1)

    # Choice.

    def next_target(self) -> Member | None:
        """Return whom to probe next."""
        order = self._order
        for _ in range(len(order)):
            if self._next >= len(order):
                self._next = 0
            other = self._random.randrange(self._next, len(order))
            order[self._next], order[other] = order[other], order[self._next]
            member = self.members[order[self._next]]
            self._next += 1
            if member.status <= Status.SUSPECT:
                return member
        return None

    def pick(self, count: int, besides: bytes = b"") -> list[Member]:
        """Return up to ``count`` different live members at random, without ``besides``."""
        order = self._order
        chosen: dict[bytes, Member] = {}
        for _ in range(3 * count + 8 if len(order) > 4 * count else 0):
            member = self.members[order[int(self._random.random() * len(order))]]
            if member.status <= Status.SUSPECT and member.id != besides:
                chosen[member.id] = member
                if len(chosen) == count:
                    return list(chosen.values())
        live = [m for m in self.members.values() if m.status <= Status.SUSPECT and m.id != besides]
        return live if len(live) <= count else self._random.sample(live, count)
