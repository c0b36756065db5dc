"""What members of a mesh know of each other, in virtual time: the result of gossip, without its messages.

Every 200 ms each peer's leader that is awake hears the present word of each other one that is awake and reaches it.
Of one that it has not heard of for two seconds it believes that it has failed. That is what ``core/mesh`` comes to on a
network of a few members; how it does is simulated in ``sim/mesh.py``. Here it feeds the rosters of whole peers, for the
sake of the clients that read them.
"""

from __future__ import annotations

from collections.abc import Sequence

from zfabric.sim.network import Network
from zfabric.sim.process import Process
from zfabric.sim.world import MILLISECOND, SECOND, World
from zfabric.wire.gossip import Member, Status

INTERVAL_NS = 200 * MILLISECOND
SILENCE_NS = 2 * SECOND


class Hearsay:
    """Carries what the members say of themselves from roster to roster."""

    def __init__(self, world: World, network: Network, members: Sequence[Process]) -> None:
        self._world = world
        self._network = network
        self._members = members
        self._heard: dict[tuple[str, str], tuple[int, Member]] = {}
        self._starts: dict[str, int] = {}
        world.after(INTERVAL_NS, self._round)

    def _round(self) -> None:
        for listener in self._members:
            if not listener.awake:
                continue
            if self._starts.get(listener.name) != listener.starts:  # It knows nothing when it is started again.
                self._starts[listener.name] = listener.starts
                for other in self._members:
                    self._heard.pop((listener.name, other.name), None)
            for speaker in self._members:
                if speaker is not listener:
                    self._listen(listener, speaker)
        self._world.after(INTERVAL_NS, self._round)

    def _listen(self, listener: Process, speaker: Process) -> None:
        assert listener.roster is not None
        now, key = self._world.now, (listener.name, speaker.name)
        reached = speaker.awake and not self._network.apart(speaker.name, listener.name)
        before = self._heard.get(key)
        if reached:
            assert speaker.roster is not None
            said = Member(
                speaker.roster.me,
                speaker.starts,
                speaker.starts,
                Status.ALIVE,
                speaker.endpoint,
                0,
                bytes(speaker.roster.metadata),
            )
            self._heard[key] = now, said
            if before is not None and before[1].id != said.id:  # A new disk at the same place: who was there is gone.
                self._fail(listener, before[1])
            if before is None or before[1] != said:
                listener.roster.note(said)
        elif before is not None and before[1].status == Status.ALIVE and now - before[0] > SILENCE_NS:
            self._heard[key] = before[0], self._fail(listener, before[1])

    @staticmethod
    def _fail(listener: Process, member: Member) -> Member:
        assert listener.roster is not None
        failed = Member(
            member.id, member.instance, member.incarnation, Status.FAILED, member.endpoint, 0, member.metadata
        )
        listener.roster.note(failed)
        return failed
