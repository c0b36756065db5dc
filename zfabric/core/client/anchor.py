"""A mesh as somebody sees it who is no member: through one member, the *anchor*, and through another when that ends.

The anchor is asked for the table of members and for whatever leader 0 is asked for; what readers read they read at its
origin, the anchor's own records as well. So it may be any member, and another one at any time.

Rules:

- An anchor that has no session for a second, while something waits for it, is given up for the next candidate: members
  that are connected, the seeds in turn, then the members that were last seen to live. What waits goes to the next one;
  it may all be repeated.
- Nothing but MEMBERS is asked of an anchor before it has said which mesh it is in. One of another mesh is refused, and
  the next candidate taken. When all are of other meshes, or silent, whoever waits gets WrongMesh; the next question
  begins with them all again. A fabric without a mesh is its own only member, and may be looked at: a keeper.

- Whoever reads is connected to members anyway, of many origins to their keepers alone. So the anchor needs no
  connection of its own: it is asked over the one to the same member if there is one, and else a connected member
  becomes the anchor, once nothing waits for the present one. What ends such a session is treated as above.

What is for the anchor is sent to a name instead of an endpoint (:attr:`Anchor.name`), because it is not what is for the
same member as an origin: only what is for any member goes on to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zfabric import errors
from zfabric.core.client.pending import Pending
from zfabric.core.client.repeating import persist
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.members import Known
    from zfabric.wire.metadata import MetadataIs

PATIENCE_NS: Final = 1_000_000_000
CANDIDATES_MAX: Final = 256
HEARD_MAX: Final = 32
NOBODY: Final = ""
"""Stands for the endpoint of an anchor while no member is known at all: no connection is made."""


class Observed(NamedTuple):
    """What an observer is given: the mesh's name, and endpoints of some members; none if the shell looks for them."""

    mesh: str
    seeds: Sequence[str]

    @property
    def name(self) -> str:
        """What the anchor's connection is called."""
        return f"mesh {self.mesh}"


class Anchor:
    """The anchor of one client; a machine without sessions of its own.

    Attributes:
        mesh: that is meant. name: that the anchor is asked by. endpoint: of the present anchor.
        sure: it has said that it is of that mesh. wrong: what was found instead, since one was sure.
        moves: how often another one was taken.
    """

    def __init__(self, client: Client, observed: Observed) -> None:
        self.mesh = observed.mesh
        self.name = observed.name
        self.endpoint = ""
        self.sure = False
        self.moves = 0
        self._client = client
        self._seeds = list(dict.fromkeys(observed.seeds))
        self._tried: set[str] = set()
        self._missed_ns: int | None = None
        self.wrong: errors.WrongMesh | None = None
        client.bootstrap = self.name
        client.machines.append(self)
        self._take(self._seeds[0] if self._seeds else NOBODY, 0)

    def ask(self, kind: int, body: Any, now: int, deadline_ns: int, what: str) -> Pending[Command]:
        """Ask the anchor, whoever that is by then, once it is sure that it is one."""
        client = self._client
        answer: Pending[Command] = Pending()

        def ask() -> None:
            asked = persist(client, where, 0, kind, body, client.now, deadline_ns, what)
            self.tick(client.now)  # From now on it is missed, if it is not there.
            asked.on_done(lambda: _relay(asked, answer))

        def where() -> str | None:
            return self.name if self.sure or kind == Type.MEMBERS else None

        client.now = max(client.now, now)
        if self.sure or kind == Type.MEMBERS:
            ask()
        else:
            known = client.members.fresh(client.now, deadline_ns)
            known.on_done(lambda: ask() if known.error is None else answer.fail(known.error))
        return answer

    def hear(self, endpoints: Sequence[str], now: int) -> None:
        """Take members that the shell has found: candidates like seeds, the first ones."""
        self._seeds += [endpoint for endpoint in endpoints if endpoint not in self._seeds][
            : HEARD_MAX - len(self._seeds)
        ]
        if self.endpoint == NOBODY and self._seeds:
            self._take(self._seeds[0], now)

    def check(self, mesh: str, now: int) -> bool:
        """Take the name of the mesh that the anchor is in; tells whether another one is to be asked instead.

        If not, and it is still not :attr:`sure`, then nobody is left.
        """
        self.sure = mesh in (self.mesh, "")
        if self.sure:
            self._tried.clear()
            self.wrong = None
            return False
        self.wrong = errors.WrongMesh(mesh=self.mesh, found=mesh, endpoint=self.endpoint)
        moved = self._move(now)
        if not moved:
            self._tried.clear()
        return moved

    def settle(self, now: int) -> None:
        """The table is known: be content with the connections that there are anyway, if one of them will do."""
        requests = self._client.requests
        alone = len(requests.sessions) < 2
        if alone or not self.sure or requests.lent(self.name) or requests.waited_for(self.name):
            return
        connected = [member for member in self._living() if requests.connected(member.endpoint)]
        same = next((member.endpoint for member in connected if member.local), None)
        if same is not None:
            self.endpoint = same
            requests.lead(self.name, same, now)
        elif connected:
            self.moves += 1
            self._take(self._client.random.choice(connected).endpoint, now)

    def note(self, body: MetadataIs) -> None:
        """Take the anchor's metadata. What it leads is read as any other origin's."""
        before, self._client.addresses = self._client.addresses, {address.id: address for address in body.leaders}
        self._client.places += before != self._client.addresses
        if self._client.origins is not None:
            self._client.origins.note_own(body)

    # As a machine of the client.

    def tick(self, now: int) -> None:
        """Give the anchor up if it has been away for long enough."""
        requests = self._client.requests
        if requests.connected(self.name) or not requests.waited_for(self.name):
            self._missed_ns = None
        elif self._missed_ns is None:
            self._missed_ns = now
        elif now - self._missed_ns >= PATIENCE_NS:
            if not self._move(now):
                self._tried.clear()
                self._move(now)
            self._missed_ns = now

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        return None if self._missed_ns is None else self._missed_ns + PATIENCE_NS

    def busy(self) -> bool:
        """It is not: it attends to what others ask."""
        return False

    def received(self, session: int, frames: Sequence[Any], now: int) -> bool:
        """Nothing comes here: it has no session."""
        return False

    def connected(self, session: int, now: int) -> None:
        """No session of its own is connected."""

    def lost(self, session: int, now: int) -> None:
        """No session of its own ends."""

    def reconnected(self, now: int) -> None:
        """A connection was lost; if it was the anchor's, it is missed from now on."""
        self.tick(now)

    # Candidates.

    def _move(self, now: int) -> bool:
        """Take the next candidate that was not tried since an anchor answered; tells whether there is one."""
        self._tried.add(self.endpoint)
        living = [member.endpoint for member in self._living()]
        connected = [endpoint for endpoint in living if self._client.requests.connected(endpoint)]
        candidates = dict.fromkeys([*connected, *self._seeds, *living[:CANDIDATES_MAX]])
        for endpoint in candidates:
            if endpoint not in self._tried and endpoint.startswith(("tcp://", "sim://")):
                self.moves += 1
                self._take(endpoint, now)
                return True
        return False

    def _living(self) -> list[Known]:
        return [member for member in self._client.members.all() if member.living]

    def _take(self, endpoint: str, now: int) -> None:
        self.endpoint = endpoint
        self.sure = False
        self._client.addresses.clear()
        self._client.host = endpoint.partition("://")[2].rpartition(":")[0]
        if self._client.origins is not None:
            self._client.origins.forget_own()
        self._client.requests.lead(self.name, endpoint, now)


def _relay(asked: Pending[Command], answer: Pending[Command]) -> None:
    if asked.error is None:
        answer.resolve(asked.result())
    else:
        answer.fail(asked.error)
