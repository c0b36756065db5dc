"""Outgoing connections of gossip: one DEALER for each endpoint spoken to lately, a bounded number of them.

A frame is sent at once, or waits a little while its connection is made; what has waited for two seconds is dropped with
its link, since gossip that old is worth nothing and nobody seems to be there. A link that was not used for ten seconds
is closed: an open one costs both sides a heartbeat a second, a new one about a millisecond, and in a mesh of any size
each member speaks to about one other a second. Beyond ``LINKS_MAX`` one goes that brought nothing so far, else the
one used longest ago: whoever claims to be at a hundred places a second takes no link from those that are there.

The sockets live in a context of their own, with a thread of its own. Names are looked up beside it (``net/names.py``):
a frame for a name that is not known yet is held like one whose connection is being made.

**Edge-triggered descriptors** (see ``net/ports.py``): after every operation on a socket it is read until it is empty,
here as there. All descriptors are in one epoll object, so that a leader's poll watches one descriptor, however many
links there are.

**A flood** over a link, from whoever is at its other end, ends in that one's own queues: a call of
:meth:`Links.receive` returns ``RECEIVED_BYTES`` and a frame at the most, a link after the other, and what is left is
told by :attr:`Links.pending`.
"""

from __future__ import annotations

import select
from collections import deque
from typing import Final

import zmq

from zfabric.net import sockets
from zfabric.net.names import Names, host_of

LINKS_MAX: Final = 32
IDLE_NS: Final = 10_000_000_000
WAIT_NS: Final = 2_000_000_000
WAITING_MAX: Final = 32
"""Frames that wait for one connection."""
RECEIVED_BYTES: Final = 256 << 10
RECEIVED_MAX: Final = 256
"""Frames returned at once, at the most: those that are not one frame count as well."""
_LAST_WORDS_MS: Final = 200


class _Link:
    __slots__ = ("endpoint", "fd", "heard", "socket", "used_ns", "waiting", "waits_ns")

    def __init__(self, endpoint: str, socket: sockets.Socket, now: int) -> None:
        self.endpoint = endpoint
        self.socket = socket
        fd = socket.get(zmq.FD)
        assert isinstance(fd, int), "descriptors are numbers"
        self.fd = fd
        self.heard = False
        self.used_ns = now
        self.waits_ns = 0
        self.waiting: deque[bytes] = deque()


class Links:
    """All links of one process.

    Args:
        frame_max: bytes of the largest frame received. names: to look up hosts with.

    Attributes:
        fd: becomes readable when :meth:`receive` has something to do.
        dropped: frames that were not sent. misshapen: messages received that were not one frame.
    """

    def __init__(self, frame_max: int, names: Names | None = None) -> None:
        self.dropped = 0
        self.misshapen = 0
        self._context = sockets.context()
        self._frame_max = frame_max
        self._epoll = select.epoll()
        self.fd = self._epoll.fileno()
        self._links: dict[str, _Link] = {}
        self._by_fd: dict[int, _Link] = {}
        self._received: list[tuple[str, bytes]] = []
        self._room = RECEIVED_BYTES
        self._unread: dict[_Link, None] = {}
        self._names = names or Names()
        self._epoll.register(self._names.fd, select.EPOLLIN)
        self._held: dict[str, tuple[int, deque[bytes]]] = {}
        self._now = 0

    def __len__(self) -> int:
        return len(self._links)

    def send(self, endpoint: str, frame: bytes, now: int) -> None:
        """Send one frame; whether it arrives nobody knows."""
        self._now = now
        link = self._links.pop(endpoint, None)
        if link is None:
            place = self._place(endpoint, now)
            if place is None:
                self._hold(endpoint, frame, now)
                return
            while len(self._links) >= LINKS_MAX:
                links = self._links.values()
                self._shut(next((link for link in links if not link.heard), next(iter(links))))
            link = self._open(endpoint, place, now)
            if link is None:
                self.dropped += 1
                return
        self._links[endpoint] = link
        link.used_ns = now
        if not link.waiting:
            link.waits_ns = now
        elif len(link.waiting) >= WAITING_MAX:
            link.waiting.popleft()
            self.dropped += 1
        link.waiting.append(frame)
        self._work(link)

    @property
    def pending(self) -> bool:
        """Whether :meth:`receive` has more to return than its descriptor tells."""
        return bool(self._received or self._unread)

    def receive(self) -> list[tuple[str, bytes]]:
        """Return what came: the endpoint of the link, and the frame."""
        for fd, _ in self._epoll.poll(0):
            if fd == self._names.fd:
                self._release()
                continue
            link = self._by_fd.get(fd)
            if link is not None:
                self._unread[link] = None
        for link in list(self._unread):
            if self._room <= 0:
                break
            self._work(link)
        received, self._received = self._received, []
        self._room = RECEIVED_BYTES
        return received

    def tick(self, now: int) -> None:
        """Close what is idle, and what leads nowhere. Once a second will do."""
        for link in list(self._links.values()):
            lost = link.waiting and now - link.waits_ns > WAIT_NS
            if lost:
                self._names.doubt(host_of(link.endpoint))
            if lost or now - link.used_ns > IDLE_NS:
                self._shut(link)
        for endpoint, (since, frames) in list(self._held.items()):
            if now - since > WAIT_NS:
                self.dropped += len(frames)
                del self._held[endpoint]

    def clear(self) -> None:
        """Close all links: frees whatever others have filled their queues with."""
        for link in list(self._links.values()):
            self._shut(link)
        self._held.clear()

    def close(self) -> None:
        """Close all, giving the last frames a moment to leave."""
        for link in self._links.values():
            link.socket.close(linger=_LAST_WORDS_MS)
        self._links.clear()
        self._unread.clear()
        self._by_fd.clear()
        self._held.clear()
        self._epoll.close()
        self._names.close()
        self._context.term()

    def _place(self, endpoint: str, now: int) -> str | None:
        """Return where an endpoint is, with an address; "" if that is nowhere, None while its name is looked up."""
        host = host_of(endpoint)
        if not host:
            return ""
        address = self._names.address(host, now)
        return f"tcp://{address}:{endpoint.rpartition(':')[2]}" if address else address

    def _hold(self, endpoint: str, frame: bytes, now: int) -> None:
        """Keep a frame until a name was looked up, or for too long."""
        if endpoint not in self._held and len(self._held) >= LINKS_MAX:
            self.dropped += 1
            return
        _, frames = self._held.setdefault(endpoint, (now, deque()))
        if len(frames) >= WAITING_MAX:
            frames.popleft()
            self.dropped += 1
        frames.append(frame)

    def _release(self) -> None:
        """Send what was held for names that were found; what is held for others waits on."""
        self._names.found(self._now)
        held, self._held = self._held, {}
        for endpoint, (since, frames) in held.items():
            for frame in frames:
                self.send(endpoint, frame, since)

    def _open(self, endpoint: str, place: str, now: int) -> _Link | None:
        socket = None
        if not place:
            return None
        try:
            socket = sockets.link(self._context, self._frame_max)
            sockets.connect(socket, place, patient=True)
        except zmq.ZMQError:  # It is no endpoint, or there are no descriptors left.
            if socket is not None:
                socket.close(linger=0)
            return None
        link = _Link(endpoint, socket, now)
        self._by_fd[link.fd] = link
        self._epoll.register(link.fd, select.EPOLLIN)
        return link

    def _shut(self, link: _Link) -> None:
        self.dropped += len(link.waiting)
        del self._links[link.endpoint]
        self._unread.pop(link, None)
        del self._by_fd[link.fd]
        self._epoll.unregister(link.fd)
        link.socket.close(linger=0)

    def _work(self, link: _Link) -> None:
        """Read what came and send what waits, until neither goes on, or there is no room for more."""
        socket = link.socket
        self._unread.pop(link, None)
        while True:
            ready = socket.get(zmq.EVENTS)
            assert isinstance(ready, int), "events are a number"
            if ready & zmq.POLLIN and self._room > 0:
                parts = socket.recv_multipart(zmq.NOBLOCK)
                link.heard = True
                self._room -= max(RECEIVED_BYTES // RECEIVED_MAX, sum(map(len, parts)))
                if len(parts) == 1:
                    self._received.append((link.endpoint, parts[0]))
                else:
                    self.misshapen += 1
            elif ready & zmq.POLLOUT and link.waiting:
                try:
                    socket.send(link.waiting[0], zmq.NOBLOCK)
                except zmq.Again:
                    break
                link.waiting.popleft()
            else:
                break
        if ready & zmq.POLLIN:
            self._unread[link] = None  # Behind the others.
