"""The leader's side of lanes (``net/lane.py``): who has come by one, and what is published there.

A lane costs whoever publishes a call of the kernel for each message, about as much as the frames that are given to
libzmq for all subscribers together, whose thread does the rest. So there are few: ``lanes_max``. With so many nobody
listens for more, and whoever comes keeps its SUB.

What the kernel does not take at once waits here, ``publish_queue`` messages of it for each lane, as with an XPUB;
beyond, messages are lost for that subscriber, whole ones, and it fetches them. One that takes nothing for seven seconds
while something waits is frozen, and its lane is closed. Nobody probes one for which nothing waits: it holds nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from zfabric.core.effects import Frames
from zfabric.net import lane

if TYPE_CHECKING:
    from zfabric.core.leader.counters import Counters
    from zfabric.settings import LeaderSettings

_log = logging.getLogger("zfabric.leader")
_CHUNK: Final = 65_536
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
        settings: lanes_max; publish_queue, of each lane; subscriptions_max, of each lane.

    Attributes:
        fd: to be polled for reading: then there is something to :meth:`attend` to.
        subscriptions: how many there are.
    """

    def __init__(self, endpoints: Iterable[str], settings: LeaderSettings, counters: Counters) -> None:
        self.subscriptions = 0
        self._most = settings.lanes_max if sys.platform == "linux" else 0
        self._queue = settings.publish_queue
        self._subscriptions_max = settings.subscriptions_max
        self._counters = counters
        self._listeners: dict[str, socket.socket | None] = {lane.place(endpoint): None for endpoint in endpoints}
        self._by_fd: dict[int, _Subscriber] = {}
        self._by_topic: dict[bytes, list[_Subscriber]] = {}
        self._epoll = select.epoll()
        self.fd = self._epoll.fileno()
        self.listen()

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
        """Take lanes wherever none are taken yet, unless there are enough."""
        if len(self._by_fd) >= self._most:
            return
        for place, listening in list(self._listeners.items()):
            if listening is not None:
                continue
            listener = lane.new()
            try:
                if not place.startswith("\0"):
                    with suppress(FileNotFoundError):
                        os.unlink(place)  # Of a leader that was killed; this one has the directory's lock.
                listener.bind(place)
                listener.listen(self._most)
            except OSError as problem:
                listener.close()
                if problem.errno != errno.EADDRINUSE:
                    _log.warning("lanes_refused place=%s problem=%s", place.lstrip("\0"), problem)
                    del self._listeners[place]
                continue
            self._listeners[place] = listener
            self._epoll.register(listener, select.EPOLLIN)

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
                if whole:
                    sent, size = way.send(whole, socket.MSG_NOSIGNAL), len(whole)
                else:
                    sent, size = way.sendmsg(parts, (), socket.MSG_NOSIGNAL), sum(map(len, parts))
                if sent < size:
                    whole = whole or b"".join(parts)
                    self._keep(subscriber, memoryview(whole)[sent:])
            except BlockingIOError:
                whole = whole or b"".join(parts)
                self._keep(subscriber, whole)
            except OSError:
                continue  # It has left: its descriptor tells.
            except BaseException:  # From a handler of signals: how much was sent is not known.
                self._drop(subscriber)
                raise
        return len(subscribers)

    def _keep(self, subscriber: _Subscriber, rest: bytes | memoryview) -> None:
        subscriber.waiting.append(rest)
        self._epoll.modify(subscriber.way, select.EPOLLIN | select.EPOLLOUT)

    def attend(self) -> None:
        """Take who comes, what they wish, and who leaves; send what had to wait."""
        for fd, events in self._epoll.poll(0):
            subscriber = self._by_fd.get(fd)
            if subscriber is None:
                self._take(fd)
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
        self.clear()
        self._withdraw()
        self._epoll.close()

    def _withdraw(self) -> None:
        for place, listener in self._listeners.items():
            if listener is not None:
                listener.close()
                self._listeners[place] = None
                if not place.startswith("\0"):
                    with suppress(FileNotFoundError):
                        os.unlink(place)

    def _take(self, fd: int) -> None:
        for listener in list(self._listeners.values()):
            if listener is None or listener.fileno() != fd:
                continue
            while len(self._by_fd) < self._most:
                try:
                    way = lane.own(listener.accept()[0])
                except BlockingIOError:
                    return
                except OSError:  # No descriptor is left, and this one would be readable for ever; a SUB serves as well.
                    break
                if not lane.ours(way):
                    way.close()
                    continue
                self._by_fd[way.fileno()] = _Subscriber(way)
                self._epoll.register(way, select.EPOLLIN)
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
            if on > 1 or (on and len(subscriber.topics) >= self._subscriptions_max):
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
                sent = subscriber.way.send(first, socket.MSG_NOSIGNAL)
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
