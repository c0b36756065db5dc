"""Asking a leader again and again, while its error is a passing one and there is time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from zfabric import errors
from zfabric.core.client.pending import Pending
from zfabric.wire.messages import Command

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

RETRY_NS: Final = 20_000_000
RETRY_MAX_NS: Final = 200_000_000
AWAY_NS: Final = 500_000_000
AWAY: Final = "the member that leads this is away"


def persist(
    client: Client,
    where: Callable[[], str | None],
    leader: int,
    kind: int,
    body: Any,
    now: int,
    deadline_ns: int,
    what: str,
    *,
    topic: str | None = None,
) -> Pending[Command]:
    """Return an answer to come.

    Args:
        where: gives the endpoint to ask, None while nobody knows it: an origin that was not seen for a while.
        leader: whose endpoint that is. what: is asked for, as errors name it.
        topic: whose partitions it is about: the result is UnknownTopic if it turns out to be gone.
    """
    pending: Pending[Command] = Pending()
    seconds = max((deadline_ns - now) / 1e9, 0.0)
    pause_ns = RETRY_NS

    def attempt() -> None:
        endpoint = where()
        if endpoint is not None:
            asked = client.requests.call(endpoint, kind, body, client.now, deadline_ns, what, seconds)
            asked.on_done(lambda: judge(asked))
        elif client.now + AWAY_NS < deadline_ns:
            client.after(client.now + AWAY_NS, again)
        else:
            pending.fail(errors.Unreachable(url=client.url, seconds=seconds, detail=AWAY))

    def again() -> None:
        if topic is not None and client.view(topic) is None:
            pending.fail(errors.UnknownTopic(topic=topic))
        else:
            attempt()

    def judge(asked: Pending[Command]) -> None:
        nonlocal pause_ns
        error = asked.error
        if error is None:
            pending.resolve(asked.result())
        elif isinstance(error, errors.Unreachable) and client.now + pause_ns >= deadline_ns:
            pending.fail(errors.Unreachable(url=client.url, seconds=seconds, detail=error.values.get("detail")))
        elif (
            getattr(error, "retriable", False)
            and not isinstance(error, errors.RequestTimeout | errors.LeaderFailed | errors.StorageFull)
            and client.now + pause_ns < deadline_ns
        ):
            if isinstance(error, errors.NotLeader):
                if topic is None:
                    client.refresh_leaders()
                else:
                    client.refresh(topic, client.now, leader)
            client.after(client.now + pause_ns, again)
            pause_ns = min(pause_ns * 2, RETRY_MAX_NS)
        else:
            pending.fail(error)

    client.now = max(client.now, now)
    attempt()
    return pending
