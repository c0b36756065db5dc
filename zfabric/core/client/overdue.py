"""What is said of whoever has not answered when the time is up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from zfabric import errors

if TYPE_CHECKING:
    from zfabric.core.client.connection import Connection

LOSSES: Final = 2
"""Of one connection; fewer may have been by chance."""


def nowhere(host: str) -> str:
    """Return what there is to say of a host whose name leads nowhere: nothing can be started there."""
    return f"no address of the host {host[:100]!r} was found; is that its name?"


def overdue(connection: Connection | None, url: str, what: str, seconds: float) -> errors.ZFabricError:
    """Return RequestTimeout, or Unreachable if the connection's other side has never answered anything.

    Args:
        url: where the connection leads to. what: was asked for, as errors name it. seconds: that were given.
    """
    if connection is None or connection.welcomed:
        return errors.RequestTimeout(what=what, seconds=seconds)
    if connection.nowhere:
        return errors.Unreachable(url=url, seconds=seconds, detail=nowhere(_host(connection)))
    return errors.Unreachable(url=url, seconds=seconds)


def silent(connection: Connection | None, url: str) -> str:
    """Return what there is to say of a fabric that has told of no service yet."""
    why = "is it running?" if connection is None or not connection.nowhere else nowhere(_host(connection))
    return f"{url} has not answered, so none is known; {why}"


def hindrance(connections: Iterable[Connection]) -> str:
    """Return what there is to say of the connections on which something is not answered; "" if nothing stands out."""
    for connection in connections:
        if not connection.waiting or connection.away:
            continue
        if connection.nowhere:
            return nowhere(_host(connection))
        if connection.pace.losses >= LOSSES:
            lost = f"connections to {connection.endpoint} are lost one after another before an answer comes"
            return f"{lost}: the link may be bad, or too slow, or lose large packets (tcp_mtu_probing helps)"
        if not connection.ready:
            return f"there is no connection to {connection.endpoint}"
    return ""


def _host(connection: Connection) -> str:
    return connection.nowhere.partition("://")[2].rpartition(":")[0]
