"""Looking up host names beside a loop that must not wait for it.

libzmq looks a name up in the thread that carries all connections of a context. A name server that does not answer holds
them up for five to thirty seconds, whoever they lead to, and a name is what anybody says that he is called: in a mesh
one frame a second of a stranger with such a name took all members for failed (measured). So names are looked up here,
by two threads that begin with the first name, and libzmq is given addresses.

**Bounds.** At most 64 names wait; one more is as good as unknown. What was found is kept for a minute, and after that
until it was found anew, so a name server that is away takes nothing from those that are known; that a name leads
nowhere is kept for a second. The 256 that were wanted last are kept.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

THREADS: Final = 2
WAITING_MAX: Final = 64
KNOWN_MAX: Final = 256
KEPT_NS: Final = 60_000_000_000
NOWHERE_NS: Final = 1_000_000_000

LookUp = Callable[[str], str]
"""Returns the address of a host, "" if there is none; may take as long as it wants."""


class _Known(NamedTuple):
    address: str
    until: int


class Names:
    """What hosts' names lead to.

    Args:
        look_up: asks for one name, in a thread.

    Attributes:
        fd: becomes readable when something was found: call :meth:`found` then.
        rung: it is, or was, and nobody has looked since.
    """

    def __init__(self, look_up: LookUp | None = None) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.rung = False
        self._look_up = look_up or address_of
        self._questions: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._known: dict[str, _Known] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def address(self, host: str, now: int) -> str | None:
        """Return what a host is reached by; "" if that is nowhere, None while it is looked up.

        Args:
            host: a name or an address; an IPv6 address has brackets. now: monotonic ns.
        """
        if is_address(host):
            return host
        self._collect(now)
        known = self._known.pop(host, None)
        if known is not None:
            self._known[host] = known  # The last that was wanted.
        if known is None or known.until <= now:
            self._ask(host)
        if known is not None and (known.address or known.until > now):
            return known.address
        return None if host in self._asked else ""

    def found(self, now: int) -> None:
        """Take note of what was found, and let :attr:`fd` be silent until there is more."""
        self.rung = False  # Before the answers are looked at: a later one rings again.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        self._collect(now)

    def doubt(self, host: str) -> None:
        """Look a name up anew when it is wanted next: where it leads to nobody answers."""
        known = self._known.get(host)
        if known is not None and known.address:
            self._known[host] = _Known(known.address, 0)

    def close(self) -> None:
        """End. What is being looked up is left to its thread, which ends afterwards."""
        with self._lock:
            self._closed = True
            os.close(self.fd)
        for _ in self._threads:
            self._questions.put(None)

    def _ask(self, host: str) -> None:
        if host in self._asked or len(self._asked) >= WAITING_MAX:
            return
        self._asked.add(host)
        self._questions.put(host)
        if len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name="zfabric-names", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _collect(self, now: int) -> None:
        while not self._answers.empty():
            host, address = self._answers.get()
            self._asked.discard(host)
            before = self._known.pop(host, None)
            if not address and before is not None and before.address:
                address = before.address  # The name server may be away; whoever is there tells whether it is right.
            self._known[host] = _Known(address, now + (KEPT_NS if address else NOWHERE_NS))
            if len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # They are for the thread that waits.
        while (host := self._questions.get()) is not None:
            self._answers.put((host, self._look_up(host)))
            with self._lock:
                if not self._closed:
                    os.eventfd_write(self.fd, 1)
            self.rung = True  # Last: who sees it and looks before the write would never look again, but wake for ever.


def host_of(endpoint: str) -> str:
    """Return the host of a TCP endpoint, "" of anything else."""
    scheme, _, place = endpoint.partition("://")
    return place.rpartition(":")[0] if scheme == "tcp" else ""


def is_address(host: str) -> bool:
    """Tell whether a host needs no looking up: an IPv4 address, or an IPv6 one in brackets."""
    if host.startswith("["):
        return True
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


def address_of(host: str) -> str:
    """Look a name up; an IPv4 address is preferred, and an IPv6 one gets its brackets. "" if there is none."""
    try:
        found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    addresses = {family: str(place[0]) for family, *_, place in reversed(found)}
    if socket.AF_INET in addresses:
        return addresses[socket.AF_INET]
    return f"[{addresses[socket.AF_INET6]}]" if socket.AF_INET6 in addresses else ""
