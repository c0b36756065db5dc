"""Placement: which mode a URL asks for, and how its leaders are found or started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric.modes import url as _url

if TYPE_CHECKING:
    from zfabric.modes.embedded import Embedded
    from zfabric.modes.node import Node
    from zfabric.settings import LeaderSettings


def attach(
    url: str | None, settings: LeaderSettings | None = None, *, timeout: float = 10.0
) -> tuple[str, Embedded | Node]:
    """Return (the URL as errors name it, its mode).

    Args:
        settings: for a leader that this process may have to start (embedded).
        timeout: seconds to wait for an ending leader.
    """
    target = _url.parse(url)
    if target.mode == "embedded":
        from zfabric.modes.embedded import Embedded

        return target.url, Embedded(target, settings, timeout=timeout)
    from zfabric.modes.node import Node

    return target.url, Node(target)
