"""What a member says: its own record, its frames with their numbers, and the news that they carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric.core.effects import Datagram
from zfabric.core.mesh.antientropy import Exchanges, state_frames
from zfabric.core.mesh.dissemination import Queue, transmit_limit
from zfabric.core.mesh.events import Counters
from zfabric.core.mesh.health import STATED_MAX, STATED_NS, Allowance
from zfabric.core.mesh.table import Table
from zfabric.core.mesh.timers import Timers
from zfabric.settings import MeshSettings
from zfabric.wire import gossip
from zfabric.wire.gossip import Codec, Member, Status, Type

if TYPE_CHECKING:
    from random import Random

ROOM: Final = gossip.SMALL_BYTES_MAX - gossip.OVERHEAD_BYTES - 48
"""Bytes of news in a small frame, beside its own fields."""
_GOSSIP_ROOM: Final = gossip.GOSSIP_BYTES_MAX - gossip.OVERHEAD_BYTES - 16


class Voice:
    """The sending half of a member.

    Attributes:
        me: this member as others should know it. queue: news to pass on. exchanges: PUSH_PULLs under way.
        effects: what is to be sent. leaving: it says good-bye. left: it has said it, and says nothing more.
    """

    def __init__(
        self, codec: Codec, me: Member, table: Table, timers: Timers, counters: Counters, settings: MeshSettings,
        random: Random, now: int,
    ) -> None:  # fmt: skip
        self.me = me
        self.queue = Queue()
        self.exchanges = Exchanges(random)
        self.effects: list[Datagram] = []
        self.leaving = False
        self.left = False
        self._codec = codec
        self._table = table
        self._timers = timers
        self._counters = counters
        self._settings = settings
        self._random = random
        self._stated = Allowance(STATED_MAX, STATED_NS)
        self._number = 0
        self._gossip_at = 0
        self._gossip_last = now - settings.gossip_interval_ns
        self.queue.put_own(gossip.encode(me))

    def sequence(self) -> int:
        """Return a number that nobody can guess: whoever repeats it has read what it was sent in."""
        return self._random.getrandbits(62) + 1

    def news(self, room: int, receiver: Member | None) -> list[msgspec.Raw]:
        """Return news that fit ``room`` bytes; first what the receiver should know of itself (the buddy system)."""
        buddy = []
        if receiver is not None and receiver.status != Status.ALIVE:
            buddy.append(gossip.encode(receiver))
            room -= len(buddy[0])
        queued = self.queue.take(room, self._limit(), gossip.UPDATES_MAX - 1)
        return [msgspec.Raw(update) for update in (*buddy, *queued)]

    def _limit(self) -> int:
        return transmit_limit(self._settings.retransmit_factor, self._table.live + 1)

    def send(self, endpoint: str, kind: int, body: gossip.Body) -> None:
        """Send a frame."""
        self._number += 1
        frame = self._codec.write(kind, self.me.id, self.me.instance, self._number, body)
        self._counters.sent += 1
        self._counters.sent_bytes += len(frame)
        self.effects.append(Datagram(endpoint, frame))

    def ping(self, target: Member, sequence: int) -> None:
        """Send a PING."""
        self.send(target.endpoint, Type.PING, gossip.Ping(sequence, target.id, self.news(ROOM, target)))

    def gossip(self, endpoints: Sequence[str], news: list[bytes]) -> None:
        """Send news, if there are any, and nothing else."""
        body = gossip.Gossip([msgspec.Raw(update) for update in news])
        for endpoint in endpoints if news else ():
            self.send(endpoint, Type.GOSSIP, body)

    def push_pull(self, endpoint: str, answers: int, now: int) -> None:
        """Begin to compare all that both know; ``answers`` is a stranger's number, or 0."""
        if self.leaving:
            return
        sequence = self.exchanges.ask(endpoint, now)
        buckets = gossip.buckets_for(self._table.live + 1)
        packed = gossip.pack_hashes(self.hashes(buckets))
        self.send(endpoint, Type.PUSH_PULL, gossip.PushPull(sequence, answers, self.me, buckets, packed))

    def hashes(self, buckets: int) -> list[int]:
        """Return the hashes of all that is known, this member included."""
        return self._table.hashes(buckets, self.me)

    def state(
        self, endpoint: str, answers: int, buckets: int, numbers: list[int], receiver: bytes, now: int,
        *, want: bool = False, known: dict[bytes, int] | None = None,
    ) -> None:  # fmt: skip
        """Send what is known of some buckets; see :func:`~zfabric.core.mesh.antientropy.state_frames`.

        A small question can ask for a megabyte. Where too much was told lately, the answer is to ask again.
        """
        size = len(self._table) * (2 if numbers else 1)
        if not self._stated.allow(now, size):
            self._counters.put_off += 1
            self.send(endpoint, Type.STATE, gossip.State(answers, self.me, buckets, [], True, []))
            return
        for body in state_frames(self.me, self._table, answers, buckets, numbers, receiver, want=want, known=known):
            self.send(endpoint, Type.STATE, body)

    def spread(self, claim: Member, now: int) -> None:
        """Pass news on, with what is sent anyway and in rounds of GOSSIP."""
        self.queue.put(claim.id, gossip.encode(claim))
        self.hurry(now)

    def renew(self, me: Member, now: int) -> None:
        """Tell everybody of a new form of this member itself."""
        self.me = me
        self.queue.put_own(gossip.encode(me))
        self.hurry(now)

    def hurry(self, now: int) -> None:
        """Let a round of GOSSIP begin as soon as one may."""
        if not self._gossip_at:
            self._gossip_at = max(now, self._gossip_last + self._settings.gossip_interval_ns)
            self._timers.add(self._gossip_at, self._on_round)

    def _on_round(self, now: int, _: bytes) -> None:
        self._gossip_at, self._gossip_last = 0, now
        if self.left:
            return
        others = self._table.pick(self._settings.gossip_fanout) if self._table.live else []
        if len(others) > 1 and self.queue.fits(_GOSSIP_ROOM, gossip.UPDATES_MAX):
            # All hear the same words, which are put together once.
            self.gossip([other.endpoint for other in others], self.queue.take_all(self._limit(), len(others)))
        else:
            for other in others:
                self.gossip([other.endpoint], self.queue.take(_GOSSIP_ROOM, self._limit(), gossip.UPDATES_MAX))
        if self._table.live and len(self.queue):
            self.hurry(now)
        if self.leaving and not (self.queue.own_waits and self._table.live):
            self.left = True
