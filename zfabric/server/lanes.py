"""The leader's side of lanes (``net/lane.py``): who has come by one, and what is published there.

A lane costs whoever publishes a call of the kernel for each message, about as much as the frames that are given to
libzmq for all subscribers together, whose thread does the rest. So there are few: ``lanes_max``. With so many nobody
listens for more, and whoever comes keeps its SUB.

What the kernel does not take at once waits here, ``publish_queue`` messages of it for each lane, as with an XPUB;
beyond, messages are lost for that subscriber, whole ones, and it fetches them. One that takes nothing for seven seconds
while something waits is frozen, and its lane is closed. Nobody probes one for which nothing waits: all that it holds is
its place, and what the kernel has taken.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from zfabric.core.effects import Frames
from zfabric.net import lane
from zfabric.settings import PARTITIONS_MAX

if TYPE_CHECKING:
    from zfabric.core.leader.counters import Counters
    from zfabric.settings import LeaderSettings

_log = logging.getLogger("zfabric.leader")
_QUIETLY: Final = int(socket.MSG_NOSIGNAL)
_CHUNK: Final = 4_096
_ACCEPTED_MAX: Final = 32
"""Processes of others that are turned away in one go."""
IN_PLACE_MIN: Final = 32_768
"""Bytes from which a payload is not copied before it is sent."""
STUCK_NS: Final = 7_000_000_000
"""As long as a SUB that does not answer is kept."""
_READ: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class _Subscriber:
    """One lane: its socket, its topics, and what waits to be sent there."""

    __slots__ = ("said", "seen", "seen_ns", "taken", "topics", "waiting", "way")

    def __init__(self, way: socket.socket) -> None:
        self.way = way
        self.topics: set[bytes] = set()
        self.waiting: deque[bytes | memoryview] = deque()
        self.said = b""  # The beginning of what it wishes next.
        self.taken = 0  # Times that it took something of what waits,
        self.seen = -1  # how many of them were seen, and
        self.seen_ns = 0  # when that was new, or nothing waited.


class Lanes:
    """All lanes of one leader.

    Args:
        endpoints: where it publishes, as it is bound.
        settings: lanes_max; publish_queue, of each lane; subscriptions_max, of all lanes.

    Attributes:
        fd: to be polled for reading: then there is something to :meth:`attend` to.
        subscriptions: how many there are.
    """

    def __init__(self, endpoints: Iterable[str], settings: LeaderSettings, counters: Counters) -> None:
        self.subscriptions = 0
        self._most = settings.lanes_max
        self._queue = settings.publish_queue
        self._subscriptions_max = settings.subscriptions_max
        self._counters = counters
        self._name = f"zfabric-{os.urandom(16).hex()}".encode()
        self._ports = [endpoint.rpartition(":")[2].encode() for endpoint in endpoints if endpoint.startswith("tcp://")]
        self._user = os.geteuid()
        self._listener: socket.socket | None = None
        self._by_fd: dict[int, _Subscriber] = {}
        self._by_topic: dict[bytes, list[_Subscriber]] = {}
        self._epoll = select.epoll()
        self.fd = self._epoll.fileno()
        self.listen()

    @property
    def told(self) -> bytes:
        """What is told to who asks for a lane."""
        return b" ".join((lane.NONE if self._listener is None else self._name, *self._ports))

    def look(self, now: int) -> None:
        """Close lanes of those who take nothing, and take others again; to be called now and then (monotonic ns)."""
        for subscriber in list(self._by_fd.values()):
            if not subscriber.waiting or subscriber.taken != subscriber.seen:
                subscriber.seen, subscriber.seen_ns = subscriber.taken, now
            elif now - subscriber.seen_ns > STUCK_NS:
                _log.warning("lane_closed problem=%s", "a subscriber takes nothing")
                self._drop(subscriber)
        self.listen()

    def listen(self) -> None:
        """Take lanes, unless there are enough, or no descriptor is left."""
        if self._listener is not None or len(self._by_fd) >= self._most:
            return
        listener: socket.socket | None = None
        try:
            listener = lane.new()
            listener.bind(b"\0" + self._name)
            listener.listen(self._most)
            self._epoll.register(listener, select.EPOLLIN)
        except OSError:  # Tried again at the next look.
            if listener is not None:
                listener.close()
            return
        self._listener = listener

    def publish(self, frames: Frames) -> int:
        """Send a message to whoever has subscribed to its first frame; returns how many have."""
        subscribers = self._by_topic.get(frames[0])
        if subscribers is None:
            return 0
        third = frames[2] if len(frames) > 2 else None
        head = lane.HEAD.pack(frames[0], len(frames[1]), 0 if third is None else len(third) + 1)
        parts = (head, *frames[1:])
        whole = b"" if third is not None and len(third) >= IN_PLACE_MIN else b"".join(parts)
        for subscriber in subscribers:
            if subscriber.waiting:
                if len(subscriber.waiting) < self._queue:
                    whole = whole or b"".join(parts)
                    subscriber.waiting.append(whole)
                continue
            way = subscriber.way
            try:
                size = len(whole) or sum(map(len, parts))
                try:
                    sent = way.send(whole, _QUIETLY) if whole else way.sendmsg(parts, (), _QUIETLY)
                except BlockingIOError:
                    sent = 0
                if sent < size:
                    whole = whole or b"".join(parts)
                    self._keep(subscriber, memoryview(whole)[sent:])
            except OSError:
                continue  # It has left: its descriptor tells.
            except BaseException:  # From a handler of signals: how much was sent is not known.
                self._drop(subscriber)
                raise
        return len(subscribers)

    def _keep(self, subscriber: _Subscriber, rest: memoryview) -> None:
        subscriber.seen = -1  # Since now.
        subscriber.waiting.append(rest)
        self._epoll.modify(subscriber.way, select.EPOLLIN | select.EPOLLOUT)

    def attend(self) -> None:
        """Take who comes, what they wish, and who leaves; send what had to wait."""
        for fd, events in self._epoll.poll(0):
            subscriber = self._by_fd.get(fd)
            if subscriber is None:
                self._take()
                continue
            if events & select.EPOLLOUT:
                self._send(subscriber)
            if events & _READ:
                self._hear(subscriber)

    def clear(self) -> None:
        """Close all lanes, and free what waits for them, however much."""
        for subscriber in list(self._by_fd.values()):
            self._drop(subscriber)

    def close(self) -> None:
        """Close all lanes, and take none."""
        self._most = 0
        self.clear()
        self._withdraw()
        self._epoll.close()

    def _withdraw(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._epoll.unregister(listener)
            listener.close()

    def _take(self) -> None:
        listener = self._listener
        if listener is None:
            return
        for _ in range(_ACCEPTED_MAX):
            try:
                way = lane.own(listener.accept()[0])
            except BlockingIOError:
                return
            except OSError:  # No descriptor is left, and this one would be readable for ever; a SUB serves as well.
                self._withdraw()
                return
            if lane.user(way) != self._user:
                way.close()
                continue
            self._by_fd[way.fileno()] = _Subscriber(way)
            self._epoll.register(way, select.EPOLLIN)
            if len(self._by_fd) >= self._most:
                self._withdraw()
                return

    def _hear(self, subscriber: _Subscriber) -> None:
        try:
            said = subscriber.way.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._drop(subscriber)
            return
        said = subscriber.said + said
        whole = len(said) // lane.WISH.size * lane.WISH.size
        subscriber.said = said[whole:]
        for on, topic in lane.WISH.iter_unpack(memoryview(said)[:whole]):
            many = len(subscriber.topics) >= PARTITIONS_MAX or self.subscriptions >= self._subscriptions_max
            if on > 1 or (on and many and topic not in subscriber.topics):
                self._counters.errors += 1
                _log.warning("lane_closed problem=%s", "garbage" if on > 1 else "too many subscriptions")
                self._drop(subscriber)
                return
            self._change(subscriber, topic, on=bool(on))

    def _change(self, subscriber: _Subscriber, topic: bytes, *, on: bool) -> None:
        if (topic in subscriber.topics) == on:
            return
        # Anew, rather than changed: whoever publishes may be in the middle of it.
        others = [other for other in self._by_topic.pop(topic, ()) if other is not subscriber]
        if on:
            subscriber.topics.add(topic)
            others.append(subscriber)
            self.subscriptions += 1
        else:
            subscriber.topics.remove(topic)
            self.subscriptions -= 1
        if others:
            self._by_topic[topic] = others

    def _send(self, subscriber: _Subscriber) -> None:
        waiting = subscriber.waiting
        while waiting:
            first = waiting[0]
            try:
                sent = subscriber.way.send(first, _QUIETLY)
            except BlockingIOError:
                return
            except OSError:
                waiting.clear()
                break
            subscriber.taken += 1
            if sent < len(first):
                waiting[0] = memoryview(first)[sent:]
                return
            waiting.popleft()
        self._epoll.modify(subscriber.way, select.EPOLLIN)

    def _drop(self, subscriber: _Subscriber) -> None:
        for topic in list(subscriber.topics):
            self._change(subscriber, topic, on=False)
        del self._by_fd[subscriber.way.fileno()]
        self._epoll.unregister(subscriber.way)
        subscriber.way.close()
        subscriber.waiting.clear()
        self.listen()
