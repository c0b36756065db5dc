"""What a machine wants done, performed by its shell after the commit, in order.

A leader replies and publishes; a client opens, closes and fills sessions. An effect is plain data: the simulator
performs the same ones on its own network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

Frames = Sequence[Any]
"""Parts of a message: bytes, or buffers that the shell passes on without looking inside."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Send ``frames`` to the client behind ``peer`` (a routing id); silently dropped if it has left."""

    peer: bytes
    frames: Frames


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Send ``frames`` to whoever subscribed to their first one."""

    frames: Frames


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Connect a new socket to ``endpoint``: for requests, or for subscriptions.

    ``alert``: the other side is noticed to be gone within a second, rather than within four. ``slow``: within sixteen,
    as heartbeats wait behind what is on its way. ``alone_bytes``: what is received with a first part of so many bytes
    is taken for whole, so nobody has to ask for another part, which would be taken for a message; 0: nothing is.
    """

    session: int
    endpoint: str
    subscribe: bool = False
    alert: bool = False
    slow: bool = False
    alone_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Drop a session's socket and whatever waits in it."""

    session: int


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send ``frames`` on a session; a struct, which is made without a step of Python's: there is one a request."""

    session: int
    frames: Frames


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Begin (or end) to receive what is published under ``topic``."""

    session: int
    topic: bytes
    on: bool = True


@dataclass(frozen=True, slots=True)
class Listen:
    """Open a socket that others connect to, at ``endpoint``; a port ``*`` is one that is free.

    What it receives, and what is sent on it, begins with the routing id of the other side.
    """

    session: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class Locate:
    """Ask the mode where the leaders are now; it may have to start one."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """Send one frame of gossip to whoever listens at ``endpoint``, or answer the way that it came; it may be lost."""

    endpoint: str
    frame: bytes


LeaderEffect = Reply | Publish
ClientEffect = OpenSession | CloseSession | Listen | Send | Subscribe | Locate
