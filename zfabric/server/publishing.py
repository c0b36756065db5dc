"""What a leader publishes, and who has subscribed to it: at its XPUB, and by lanes on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

import zmq

from zfabric.core.effects import Frames
from zfabric.net import sockets
from zfabric.net.session import ASKED
from zfabric.server.lanes import IN_PLACE_MIN, Lanes
from zfabric.wire import batch, messages

if TYPE_CHECKING:
    from zfabric.core.leader.counters import Counters
    from zfabric.settings import LeaderSettings

log = logging.getLogger("zfabric.leader")

BATCH_FRAMES: Final = 3
"""Frames of a published batch: partition id, header, payload; a HEAD beacon has fewer."""
_ASKED: Final = b"\x01" + ASKED
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


class Publishing:
    """One XPUB, its subscriptions, and lanes.

    Args:
        endpoints: where it listens.

    Attributes:
        socket: to be polled, and told by :meth:`take_subscriptions`. lanes: to be polled and told as well.
    """

    def __init__(
        self, context: sockets.Context, settings: LeaderSettings, counters: Counters, endpoints: Sequence[str]
    ) -> None:
        self._subscriptions = 0
        self._context = context
        self._settings = settings
        self._counters = counters
        self._endpoints = endpoints
        self._listeners: dict[bytes, int] = {}
        self.socket = self._new()
        bound = [sockets.bind(self.socket, endpoint) for endpoint in endpoints]
        self.lanes = Lanes(bound, settings, counters)

    @property
    def subscriptions(self) -> int:
        """How many there are."""
        return self._subscriptions + self.lanes.subscriptions

    def _new(self) -> sockets.Socket:
        socket = sockets.xpub(self._context, self._settings.frame_bytes_max, self._settings.publish_queue)
        # Three of these cost a quarter of a send_multipart; see net/ports.py.
        self._send = cast("Callable[[object, int], None]", super(zmq.Socket, socket).send)
        return socket

    def publish(self, frames: Frames) -> None:
        """Send a batch or a HEAD to whoever has subscribed to its first frame."""
        near = self.lanes.publish(frames)
        *before, last = frames
        if len(last) >= IN_PLACE_MIN:
            self.socket.send_multipart(frames, _NOBLOCK, copy=False)
        else:
            send = self._send
            for frame in before:
                send(frame, _MORE)
            send(last, _NOBLOCK)
        listeners = near + self._listeners.get(frames[0], 0)
        if listeners and len(frames) == BATCH_FRAMES:
            self._counters.records_out += listeners * batch.record_count(frames[1])
            self._counters.bytes_out += listeners * (batch.HEADER_BYTES + len(last))

    def take_subscriptions(self) -> bool:
        """Take what subscribers say, up to a turn's bound; tells whether there are too many, and all have to go.

        A subscription is approved for any partition id there can be: the leader may be about to get it. What is not
        four bytes long could never match anything that is published here. One peer may say the same again and again,
        and libzmq tells its leaving only once: the count runs away, and then everybody subscribes anew.
        """
        for _ in range(self._settings.turn_messages):
            try:
                event = self.socket.recv(_NOBLOCK)
            except zmq.Again:
                return False
            topic = event[1:]
            if event == _ASKED:  # Its pipe alone is told.
                sockets.approve(self.socket, ASKED)
                self.socket.send_multipart((ASKED, self.lanes.told), _NOBLOCK)
                sockets.withdraw(self.socket, ASKED)
                continue
            if len(topic) != messages.PARTITION.size:
                self._counters.errors += event[:1] != b"\x00"
                continue
            if event[:1] == b"\x01":
                if self._subscriptions >= self._settings.subscriptions_max:
                    log.warning("subscriptions_exceeded count=%d dropped=%s", self._subscriptions, "all subscribers")
                    return True
                sockets.approve(self.socket, topic)
                self._subscriptions += 1
                self._listeners[topic] = self._listeners.get(topic, 0) + 1
            elif event[:1] == b"\x00":
                sockets.withdraw(self.socket, topic)
                self._subscriptions = max(0, self._subscriptions - 1)
                left = self._listeners.pop(topic, 0) - 1
                if left > 0:
                    self._listeners[topic] = left
        return False

    def drop(self, patience_ns: int) -> None:
        """Close all connections and listen with a new socket: frees what waits for them, however much."""
        self._subscriptions = 0
        self._listeners.clear()
        self.lanes.clear()
        self.socket.close(linger=0)
        self.socket = sockets.bind_again(self._new, self._endpoints, patience_ns)

    def close(self) -> None:
        """Give the last messages a second to leave; those that the kernel has taken of a lane's arrive."""
        self.lanes.close()
        self.socket.close()
