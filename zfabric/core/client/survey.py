"""All topics as they are now: what leader 0 has, and of a mesh what every member has that is there.

A member that does not answer within a second is away: what it was known to have is part of a topic all the same. A
topic that was asked for by its name and that nobody shows yet is waited for as its readers wait, up to
``origin.UNKNOWN_NS``: a peer that has just started knows nobody. For the same reason a client that asks for all topics
waits in its first three seconds until somebody else is known (:meth:`Members.settled
<zfabric.core.client.members.Members.settled>`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric.core.client.pending import Pending, gather_all
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Metadata, MetadataIs, TopicMeta

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.core.client.origin import Origin
    from zfabric.core.client.origins import Origins

Topics = list[TopicMeta]
SILENCE_NS = 1_000_000_000
SILENCE_S = SILENCE_NS / 1e9
AGAIN_NS = 100_000_000


def survey(client: Client, names: list[str] | None, deadline_ns: int) -> Pending[Topics]:
    """Return topics (all for None) as readers see them, sorted by name, to come."""
    if client.origins is not None:
        return _of_mesh(client, client.origins, names, deadline_ns)
    found: Pending[Topics] = Pending()
    asked = _ask_own(client, names, deadline_ns)

    def answered() -> None:
        if asked.error is not None:
            found.fail(asked.error)
            return
        body: MetadataIs = asked.result().body
        client.note(body)
        found.resolve(sorted(body.topics, key=lambda meta: meta.name))

    asked.on_done(answered)
    return found


def _ask_own(client: Client, names: list[str] | None, deadline_ns: int) -> Pending[Command]:
    return client.control(Type.METADATA, Metadata(names), client.now, deadline_ns, "list of topics")


def _of_mesh(client: Client, origins: Origins, names: list[str] | None, deadline_ns: int) -> Pending[Topics]:
    whole: Pending[Topics] = Pending()

    def begin() -> None:
        fresh = client.members.fresh(client.now, deadline_ns)
        fresh.on_done(lambda: ask() if fresh.error is None else whole.fail(fresh.error))

    def ask() -> None:
        again_ns = client.now + AGAIN_NS
        if names is None and again_ns < deadline_ns and not client.members.settled(client.now):
            client.after(again_ns, begin)
            return
        origins.look()
        own = _ask_own(client, names, deadline_ns)
        soon_ns = min(deadline_ns, client.now + SILENCE_NS)
        body = Metadata(names)
        others = [
            (origin, client.requests.call(origin.endpoint, Type.METADATA, body, client.now, soon_ns, "topics", 1.0))
            for origin in origins.known()
            if origin.here and origin.endpoint
        ]
        gather_all([own, *(call for _, call in others)]).on_done(lambda: answered(own, others))

    def answered(own: Pending[Command], others: list[tuple[Origin, Pending[Command]]]) -> None:
        if own.error is not None:
            whole.fail(own.error)
            return
        client.note(own.result().body)
        found = {meta.name for meta in own.result().body.topics}.union(names or ())
        for origin, call in others:
            if call.error is None and call.result().body.fabric == origin.fabric:
                body: MetadataIs = call.result().body
                origins.take(origin, body)
                found.update(meta.name for meta in body.topics)
        hidden = [name for name in names or () if client.view(name) is None]
        if hidden:
            waited = [origins.want(name, client.now, deadline_ns) for name in hidden]
            gather_all(waited).on_done(lambda: whole.resolve(views(found)))
        else:
            whole.resolve(views(found))

    def views(found: set[str]) -> Topics:
        return [view for name in sorted(found) if (view := client.view(name)) is not None]

    begin()
    return whole
