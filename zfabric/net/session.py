"""One socket of a client with one connection, or one that listens: sends and receives whole messages without waiting.

An exception between two frames leaves half a message behind: :mod:`zfabric.net.ports` gives the session up then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, cast

import zmq

from zfabric.core import effects
from zfabric.net import sockets
from zfabric.wire.batch import HEADER_BYTES, SHORT, SHORT_AT

VIEW_MIN: Final = 32_768
"""Bytes from which a received frame is handed on in place, as a memoryview, rather than copied."""

# Plain integers: an enum member costs pyzmq a conversion at each call.
_EVENTS: Final = int(zmq.EVENTS)
_IN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_RCVMORE: Final = int(zmq.RCVMORE)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
ASKED: Final = b"lane1"
"""What a subscriber subscribes to first; longer than any partition's id."""

Part = bytes | memoryview


class Change(Enum):
    """What became of a session's connection. NOWHERE: there was none, as no address of its host was found."""

    CONNECTED = "connected"
    LOST = "lost"
    NOWHERE = "nowhere"


Incoming = tuple[int, list[Part] | Change | str | bytes]
"""A session, and the parts of one message, or what became of its connection.

Of a listening session also its endpoint, once it is bound, and the routing id of a peer that cannot be sent to.
"""


class Session:
    """A socket, with the methods of it that are called for each message.

    Attributes:
        number: as the core knows it. endpoint: where to. listening: others connect to it. connected: it can be used.
        alone_bytes: of a first part that is known to be the only one; 0: none is.
        socket_fd, monitor_fd: descriptors to poll. waiting: messages that could not be sent yet. over: it has ended.
    """

    __slots__ = (
        "_recv",
        "_recv_bytes",
        "_send",
        "alone_bytes",
        "connected",
        "endpoint",
        "get",
        "listening",
        "monitor",
        "monitor_fd",
        "monitor_get",
        "number",
        "over",
        "socket",
        "socket_fd",
        "waiting",
    )

    def __init__(
        self,
        number: int,
        endpoint: str,
        socket: sockets.Socket,
        monitor: sockets.Socket | None,
        alone_bytes: int = 0,
    ) -> None:
        self.alone_bytes = alone_bytes
        self.socket = socket
        self.monitor = monitor
        self.get = cast("Callable[[int], int]", socket.get)
        self._recv = cast("Callable[[int, bool], zmq.Frame]", socket.recv)
        self._recv_bytes = cast("Callable[[int], bytes]", socket.recv)
        # Of the class below zmq.Socket, whose own send adds options for draft sockets at the cost of half a send.
        self._send = cast("Callable[[object, int], None]", super(zmq.Socket, socket).send)
        self.start(number, endpoint, self.get(zmq.FD))
        self.listening = monitor is None
        self.connected = self.listening
        if monitor is not None:
            self.monitor_get = cast("Callable[[int], int]", monitor.get)
            self.monitor_fd = self.monitor_get(zmq.FD)

    def start(self, number: int, endpoint: str, fd: int) -> None:
        """Begin with what sessions of all kinds have."""
        self.number = number
        self.endpoint = endpoint
        self.socket_fd = fd
        self.monitor_fd = -1
        self.waiting: deque[effects.Frames] = deque()
        self.listening = self.over = False

    def read(self) -> list[Part] | None:
        """Return the parts of one message; None if there is none."""
        recv = self._recv
        try:
            if self.alone_bytes:
                first = self._recv_bytes(_NOBLOCK)  # A third of the time of a frame, which knows whether more follows.
                if len(first) >= self.alone_bytes or not self.get(_RCVMORE):
                    return [first]
                frame = recv(_NOBLOCK, False)
                parts: list[Part] = [first, frame.bytes if len(frame) < VIEW_MIN else frame.buffer]
            elif self.listening:
                # Before what a listening one receives is a routing id: small, and never the last.
                peer = self._recv_bytes(_NOBLOCK)
                frame = recv(_NOBLOCK, False)
                parts = [peer, frame.bytes if len(frame) < VIEW_MIN else frame.buffer]
            else:
                frame = recv(_NOBLOCK, False)
                parts = [frame.bytes if len(frame) < VIEW_MIN else frame.buffer]
        except zmq.Again:
            return None
        while frame.more:
            frame = recv(_NOBLOCK, False)
            parts.append(frame.bytes if len(frame) < VIEW_MIN else frame.buffer)
        return parts

    def write(self, frames: effects.Frames) -> bool:
        """Send one message; False if the queue is full, or the peer that the first frame names is not there.

        A frame after the first is always taken.
        """
        send = self._send
        try:
            if len(frames) == 1:
                (last,) = frames
            else:
                *before, last = frames
                for frame in before:
                    send(frame, _MORE)
            send(last, _NOBLOCK)
        except zmq.ZMQError as problem:
            if problem.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        return True


class Subscription(Session):
    """One with a publisher at the other end, which says first by what else it can be heard (``net/lane.py``).

    Attributes:
        topics: what was subscribed before it was connected.
    """

    __slots__ = ("topics",)

    def __init__(self, number: int, endpoint: str, socket: sockets.Socket, monitor: sockets.Socket) -> None:
        super().__init__(number, endpoint, socket, monitor)
        self.topics: dict[bytes, None] | None = {}
        socket.set(zmq.SUBSCRIBE, ASKED)

    def subscribe(self, topic: bytes, *, on: bool) -> None:
        """Begin or end to receive what is published under ``topic``."""
        self.socket.set(zmq.SUBSCRIBE if on else zmq.UNSUBSCRIBE, topic)
        if self.topics is None:
            return
        if on:
            self.topics[topic] = None
        else:
            self.topics.pop(topic, None)

    def read(self) -> list[Part] | None:
        """Return the parts of one message; None if there is none.

        Whatever is published has a second part, and a third and last one behind a batch's header. So none has to be
        asked, but that of a long batch, which is not to be copied: that takes a third of the time of a frame. A
        publisher that sends others has two taken for one that is nobody's, and no more.
        """
        recv = self._recv_bytes
        try:
            first = recv(_NOBLOCK)
            second = recv(_NOBLOCK)
            if len(second) == HEADER_BYTES:
                if second[SHORT_AT] == SHORT:
                    return [first, second, recv(_NOBLOCK)]
            elif not self.get(_RCVMORE):
                return [first, second]
            frame = self._recv(_NOBLOCK, False)
        except zmq.Again:
            return None
        parts: list[Part] = [first, second, frame.bytes if len(frame) < VIEW_MIN else frame.buffer]
        while frame.more:
            frame = self._recv(_NOBLOCK, False)
            parts.append(frame.bytes if len(frame) < VIEW_MIN else frame.buffer)
        return parts


def received(router: sockets.Socket, *, look: bool) -> list[zmq.Frame]:
    """Return the frames of one message for a leader, none if there is none, which a ``look`` finds without a try.

    As recv_multipart, which asks the socket after each frame whether there are more.
    """
    if look and not cast("int", router.get(_EVENTS)) & _IN:
        return []
    recv = cast("Callable[[int, bool], zmq.Frame]", router.recv)
    try:
        frame = recv(_NOBLOCK, False)
    except zmq.Again:
        return []
    frames = [frame]
    while frame.more:
        frames.append(frame := recv(_NOBLOCK, False))
    return frames


def connecting(wanted: effects.OpenSession, socket: sockets.Socket, monitor: sockets.Socket) -> Session:
    """Return a session of the kind that is wanted."""
    if wanted.subscribe:
        return Subscription(wanted.session, wanted.endpoint, socket, monitor)
    return Session(wanted.session, wanted.endpoint, socket, monitor, wanted.alone_bytes)
