"""Placement: which mode a URL asks for, and how its leaders are found or started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.modes import url as _url

if TYPE_CHECKING:
    from zfabric.modes.embedded import Embedded
    from zfabric.modes.node import Node
    from zfabric.modes.peerurl import PeerOptions
    from zfabric.settings import LeaderSettings


def _misplaced(name: str, value: object) -> errors.InvalidArgument:
    from zfabric.modes.peerurl import PeerOptions

    allowed = "only with a URL zf+peer://MESH" + (", or of a directory" if name == "leader" else "")
    if name not in PeerOptions.__annotations__:
        known = ", ".join(sorted(PeerOptions.__annotations__))
        allowed = f"url, timeout, settings, and with a URL zf+peer://MESH {known}"
    return errors.InvalidArgument(name=name[:100], value=repr(value)[:100], allowed=allowed)


def attach(
    url: str | None, settings: LeaderSettings | None, options: PeerOptions, *, timeout: float = 10.0
) -> tuple[str, Embedded | Node]:
    """Return (the URL as errors name it, its mode).

    Args:
        settings: for a leader that this process may have to start (embedded).
        options: keywords of a peer; of a directory ``leader`` alone.
        timeout: seconds to wait for an ending leader.

    Raises:
        InvalidArgument: there are such keywords, and the URL is of no peer.
    """
    text = _url.text_of(url)
    if text.startswith("zf+peer:"):
        from zfabric.modes import peer, peerurl

        peers = peerurl.parse(text, options)
        if peers.client:
            return text, peer.Observer(peers)
        return text, peer.Peer(peers, settings, timeout=timeout)
    target = _url.parse(url)
    for name, value in options.items():
        if target.mode != "embedded" or name != "leader":
            raise _misplaced(name, value)
    if target.mode == "embedded":
        from zfabric.modes.embedded import Embedded

        leader = _url.placement(options["leader"]) if "leader" in options else target.leader
        return target.url, Embedded(target, settings, timeout=timeout, leader=leader)
    from zfabric.modes.node import Node

    return target.url, Node(target)
