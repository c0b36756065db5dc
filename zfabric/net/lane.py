"""Lanes: what a leader publishes goes straight to a subscriber on the same machine.

Through a PUB and a SUB, a message wakes three threads one after the other: libzmq's at the sender, libzmq's at the
receiver, and the one that waits for it. A stream of Unix domain sockets wakes only the last: a plain message takes
0.45 of the time at 2,000 a second, and 0.56 at 200 (measured, medians).

**Finding it.** Every SUB subscribes to ``ASKED`` first, and a leader publishes to it, once, where it takes lanes: at an
abstract address, whose name is random, and so nobody else's on this machine nor on any other. If the SUB can connect
there it goes on by that lane, and is closed. So a SUB does all the waiting for a leader, and a lane is nothing that
anybody has to rely on: from another machine, network namespace or user, or beyond the leader's ``lanes_max``, there
is none. Nor is there where the SUB leads to a port that is not one of the leader's: whoever has put a proxy in between
wants it there. Both sides take nobody but processes of the user who ran the leader when it began (``SO_PEERCRED``).

**What is said.** The subscriber: a byte, 1 for on and 0 for off, and the topic, which has four bytes. The leader: the
topic, the bytes of the second part, and of a third part and one (``u32``, 0 where there is none), then those parts. As
with a SUB, a message may be missing, whole, where the subscriber was too slow, and the end of the stream is the end.
The version of all this is the last letter of ``ASKED``.

A forked child has copies of both sides' sockets, and would hold them open: it closes them.
"""

from __future__ import annotations

import os
import re
import socket
import weakref
from struct import Struct
from typing import Final

import zmq

from zfabric.core.effects import Frames
from zfabric.net.session import ASKED, VIEW_MIN, Part, Session, Subscription
from zfabric.wire import messages

HEAD: Final = Struct(f"<{messages.PARTITION.size}sII")
WISH: Final = Struct(f"<B{messages.PARTITION.size}s")
NONE: Final = b"-"
"""In place of a name where no lane is taken now."""
_NAME: Final = re.compile(rb"zfabric-[0-9a-f]{32}")
"""Nothing else is connected to: whoever publishes could name what listens here for others."""
KERNEL_BYTES: Final = 1 << 20
"""Asked for what is under way in a lane. The kernel gives up to twice as much, within ``net.core.wmem_max``."""
_CHUNK: Final = 32_768
_CREDENTIALS: Final = Struct("=3i")
_IN: Final = int(zmq.POLLIN)
_OUT: Final = int(zmq.POLLOUT)
_BOTH: Final = int(zmq.POLLIN | zmq.POLLOUT)
_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def new() -> socket.socket:
    """Return an unconnected socket for a lane; OSError without a descriptor."""
    return own(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))


def own(made: socket.socket) -> socket.socket:
    """Return a socket that this module looks after; it never waits, and holds as much as it may."""
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    _open.add(made)
    return made


def user(connected: socket.socket) -> int:
    """Return whose process is at the other end: its effective user when it connected, or began to listen."""
    asked = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    found: int = _CREDENTIALS.unpack(asked)[1]
    return found


def reach(name: bytes) -> socket.socket | None:
    """Return a connection to the leader that takes lanes at ``name``; None if there is none for this process."""
    tried: socket.socket | None = None
    try:
        tried = new()
        tried.connect(b"\0" + name)
        if user(tried) == os.geteuid():
            return tried
    except OSError:  # It is elsewhere, has enough, or is asked by so many at once; or no descriptor is left.
        pass
    if tried is not None:
        tried.close()
    return None


class Lane(Session):
    """A subscription without a SUB.

    Its descriptor is readable as long as anything is there, so nobody has to look for more before polling; what was
    received together is handed out one by one.

    Args:
        way: from :func:`reach`. frame_max: bytes of the largest part. unfit: gets the endpoint of a leader that did
            not take at once what was subscribed: whoever polls here would not be told when it takes more.
    """

    __slots__ = ("_at", "_data", "_frame_max", "_long", "_long_bytes", "_unfit", "_way", "_wishes")

    def __init__(self, number: int, endpoint: str, way: socket.socket, frame_max: int, unfit: set[str]) -> None:
        self._way = way
        self.start(number, endpoint, way.fileno())
        self.connected = True
        self.get = self._events
        self._frame_max = frame_max
        self._unfit = unfit
        self._data = b""
        self._at = 0
        self._long: bytearray | None = None  # A message that is longer than what is received at once, and
        self._long_bytes = 0  # how much of it is there.
        self._wishes = bytearray()

    def subscribe(self, topic: bytes, *, on: bool) -> None:
        """Begin or end to receive what is published under ``topic``."""
        self._wishes += WISH.pack(on, topic)
        if not self.waiting:
            self.waiting.append((self._wishes,))

    def write(self, frames: Frames) -> bool:
        """Tell the leader all that has changed, at once: it may be a lot; False, and over, if it does not take it."""
        try:
            self.over = self._way.send(self._wishes, socket.MSG_NOSIGNAL) < len(self._wishes)
        except BlockingIOError:
            self.over = True
        except OSError:  # The leader has left.
            self._wishes.clear()
            return True
        if self.over:
            self._unfit.add(self.endpoint)
        self._wishes.clear()
        return not self.over

    def read(self) -> list[Part] | None:
        """Return the parts of one message; None if there is none, or no more: see :attr:`over`."""
        if self.over:
            return None
        if self._long is not None:
            return self._read_long(self._long)
        data, at = self._data, self._at
        while True:
            left = len(data) - at
            if left >= HEAD.size:
                topic, second, third = HEAD.unpack_from(data, at)
                whole = HEAD.size + second + max(0, third - 1)
                if whole <= left:
                    begin = at + HEAD.size
                    middle = begin + second
                    self._data, self._at = data, at + whole
                    if third:
                        return [topic, data[begin:middle], data[middle : at + whole]]
                    return [topic, data[begin:middle]]
                if second > self._frame_max or third - 1 > self._frame_max:
                    self.over = True
                    return None
                if whole > _CHUNK:
                    self._long = bytearray(whole)
                    self._long[:left] = data[at:]
                    self._data, self._at, self._long_bytes = b"", 0, left
                    return self._read_long(self._long)
            more = self._receive()
            if not more:
                self._data, self._at = data, at
                return None
            data, at = data[at:] + more if left else more, 0

    def _receive(self) -> bytes:
        """Return what has come; nothing if that is nothing, or the end."""
        try:
            more = self._way.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            more = b""
        self.over = not more
        return more

    def _read_long(self, long: bytearray) -> list[Part] | None:
        with memoryview(long) as room:
            while self._long_bytes < len(long):
                try:
                    got = self._way.recv_into(room[self._long_bytes :])
                except BlockingIOError:
                    return None
                except OSError:
                    got = 0
                if not got:
                    self.over = True
                    return None
                self._long_bytes += got
        self._long = None
        topic, second, third = HEAD.unpack_from(long)
        middle = HEAD.size + second
        parts: list[Part] = [topic, bytes(long[HEAD.size : middle])]
        if third:
            last = memoryview(long).toreadonly()[middle:]
            parts.append(last if len(last) >= VIEW_MIN else bytes(last))
        return parts

    def _events(self, what: int) -> int:
        """As EVENTS of a socket: whether a whole message, or the end, has come, and whether one can be sent."""
        if self.over:
            return _IN
        data, at = self._data, self._at
        if len(data) - at < HEAD.size:
            return _OUT
        _, second, third = HEAD.unpack_from(data, at)
        return _BOTH if HEAD.size + second + max(0, third - 1) <= len(data) - at else _OUT

    def close(self) -> None:
        """End it."""
        self._way.close()


class Finder:
    """Finds lanes for one client.

    Args:
        frame_max: bytes of the largest part.
    """

    def __init__(self, frame_max: int) -> None:
        self._frame_max = frame_max
        self._unfit: set[str] = set()

    def instead_of(self, found: Subscription, parts: list[Part]) -> Lane | None:
        """Return a lane to take the place of a subscription; None if there is none.

        Args:
            parts: the first message of its leader. If it is not published to ``ASKED`` that one knows no lanes; else it
                tells the name, and the ports where the leader publishes.
        """
        topics, found.topics = found.topics or (), None
        name, *ports = bytes(parts[-1]).split(b" ")
        kind, _, where = found.endpoint.partition("://")
        direct = kind == "ipc" or where.rpartition(":")[2].encode() in ports
        wanted = parts[0] == ASKED and direct and _NAME.fullmatch(name) and found.endpoint not in self._unfit
        way = reach(name) if wanted else None
        if way is None:
            return None
        lane = Lane(found.number, found.endpoint, way, self._frame_max, self._unfit)
        for topic in topics:
            lane.subscribe(topic, on=True)
        return lane


def _close_copies() -> None:
    for copy in list(_open):
        copy.close()


os.register_at_fork(after_in_child=_close_copies)
