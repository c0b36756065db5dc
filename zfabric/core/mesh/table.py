"""The other members as this one knows them, bounded, and the order in which they are probed.

**Bounds.** At most ``members_max`` members: a full table first forgets who failed or left longest ago, then refuses.
The last tenth is for members that have proven themselves to this one in person (by repeating a number that it made
up), so that a flood of forged members, of which it only hears, does not keep an honest newcomer out. Metadata beyond
``metadata_bytes_max`` in total is dropped, the member is not. Refusals are counted.

**Order.** SWIM, section 4.3: every member is probed once in each round, in an order that is random in each round. So
the time to the next probe of a given member is bounded (two rounds), and nobody is probed by everybody at once.

**Hearsay.** Members that somebody made up answer nobody. Ten real ones among 5,000 of those would hardly ever probe,
help or tell each other (measured: no failure was found within 300 s). So it is counted how many fail that this one has
never heard itself: each is a doubt, and each that is heard at last one less. While there are some, every other probe
goes to one that was heard, helpers are such members, and so are two of three that are told news. A full table forgets
those first of whom it only heard.

**Replays.** The numbers of the last 64 frames of each member that this one has heard are kept as a bit mask below the
highest (as IPsec does, RFC 4303, 3.4.3): a frame is taken once, and not at all if it is older. The first frame of a
member begins such a window, in which all before it have been seen: it had sent them as a stranger. In a mesh without a
key numbers prove nothing, and whoever forges one frame with a high one would silence that member for good: there what
is older than the window is taken.

**Hashes** for comparisons are kept up with each change: asking for them costs the same, however large the table is,
and whoever asks again and again holds nobody up.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric.core.mesh.ring import Ring
from zfabric.settings import MeshSettings
from zfabric.wire import gossip
from zfabric.wire.gossip import Member, Status

if TYPE_CHECKING:
    from random import Random

_SUSPECT = int(Status.SUSPECT)
_WINDOW = 64
_MASK = (1 << _WINDOW) - 1
DOUBT_MAX: Final = 8
_DOUBTED: Final = 4
_TRIES: Final = 64


class Table:
    """All members but this one.

    Attributes:
        members: by their ids; to read. live: how many are alive or suspected.
        evicted: who was forgotten to make room, until somebody takes note.
        doubt: 0 to ``DOUBT_MAX``: how much speaks for it that members are made up.
        refused: members that found no room. stripped: metadata that found none.
    """

    def __init__(self, settings: MeshSettings, random: Random, *, keyed: bool = True) -> None:
        self.live = 0
        self.evicted: list[Member] = []
        self.doubt = 0
        self.refused = 0
        self.stripped = 0
        self._settings = settings
        self._random = random
        self._keyed = keyed
        self.members: dict[bytes, Member] = {}
        self._ring = Ring(random)
        self._heard = Ring(random)
        self._turn = False
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
        """Return the ids of those that have failed; while some may be made up, of those that were heard, if any are."""
        failed = [gone for gone in self._ended if self.members[gone].status == Status.FAILED]
        return (self._doubts and [gone for gone in failed if gone in self._windows]) or failed

    def heard(self, member: bytes) -> bool:
        """Tell whether a frame of a member's present instance has come in: it is not known by hearsay alone."""
        return member in self._windows

    @property
    def _doubts(self) -> bool:
        return self.doubt >= _DOUBTED and len(self._heard) > 0

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
            gone = self._least(proven=proven)
            if gone is None:
                self.refused += 1
                return False
            self.evicted.append(self.members[gone])
            self.remove(gone)
        member = self._within(member, 0)
        self.members[member.id] = member
        self._hashes[member.id[0]] ^= gossip.fingerprint(member)
        self._ring.add(member.id)
        self._metadata_bytes += len(member.metadata)
        self.live += 1
        return True

    def _least(self, *, proven: bool) -> bytes | None:
        """Return whom to forget for a newcomer; one that lives only if it is hearsay, and the newcomer is not."""
        if self._ended:
            return next((gone for gone in self._ended if gone not in self._windows), next(iter(self._ended)))
        order = self._ring.order
        tries = (order[self._random.randrange(len(order))] for _ in range(_TRIES if proven else 0))
        return next((known for known in tries if known not in self._windows), None)

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
        self._ring = Ring(self._random, list(self.members))
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
            if member.status == Status.FAILED and member.id not in self._windows:
                self.doubt = min(DOUBT_MAX, self.doubt + 1)
        elif lives and not lived:
            self.live += 1
            del self._ended[member.id]
        if member.instance != before.instance:
            self._unhear(member.id)

    def _unhear(self, member: bytes) -> None:
        if self._windows.pop(member, None) is not None:
            self._heard.remove(member)

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
        self._unhear(member)
        self._ring.remove(member)

    def fresh(self, member: bytes, number: int) -> bool:
        """Note the number of a frame of a member; tells whether it was not seen before."""
        window = self._windows.get(member, 0)
        if not window:
            self._heard.add(member)
            self.doubt = max(0, self.doubt - 1)
            window = number << _WINDOW | (_MASK - 1 if self._keyed else 0)
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
        self._turn = not self._turn
        ring = self._heard if self._turn and self._doubts else self._ring
        return self._alive(ring) or (self._alive(self._ring) if ring is self._heard else None)

    def _alive(self, ring: Ring) -> Member | None:
        for _ in range(len(ring)):
            member = self.members[ring.step()]
            if member.status <= Status.SUSPECT:
                return member
        return None

    def pick(self, count: int, besides: bytes = b"", *, helpers: bool = False) -> list[Member]:
        """Return up to ``count`` different live members at random, without ``besides``; ``helpers`` must answer."""
        chosen: dict[bytes, Member] = {}
        if self._doubts:
            share = count if helpers or (count == 1 and self._random.random() < 0.5) else count - (count + 2) // 3
            self._draw(chosen, share, self._heard.order, besides)
        self._draw(chosen, count, self._ring.order, besides)
        return list(chosen.values())

    def _draw(self, chosen: dict[bytes, Member], count: int, order: list[bytes], besides: bytes) -> None:
        """Add live members at random until there are so many."""
        for _ in range(3 * count + 8 if len(order) > 4 * count else 0):
            if len(chosen) >= count:
                return
            member = self.members[order[int(self._random.random() * len(order))]]
            if member.status <= Status.SUSPECT and member.id != besides:
                chosen[member.id] = member
        if len(chosen) < count:
            left = [m for m in map(self.members.__getitem__, order) if m.status <= Status.SUSPECT and m.id != besides]
            left = [member for member in left if member.id not in chosen]
            wanted = min(count - len(chosen), len(left))
            chosen.update((member.id, member) for member in self._random.sample(left, wanted))
