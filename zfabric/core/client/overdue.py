"""What is said of whoever has not answered when the time is up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors

if TYPE_CHECKING:
    from zfabric.core.client.connection import Connection


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


def _host(connection: Connection) -> str:
    return connection.nowhere.partition("://")[2].rpartition(":")[0]
