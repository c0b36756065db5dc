"""What a service manager is told: the datagrams of sd_notify(3), without its library.

``READY=1`` once all leaders serve, ``STOPPING=1`` when they begin to drain, and, if the manager has a watchdog,
``WATCHDOG=1`` at half its interval for as long as the caller finds that all is well. Nothing is sent, and nothing
fails, where there is no manager.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger("zfabric.supervisor")


class Manager:
    """The service manager that started this process, if one did.

    Attributes:
        interval_s: seconds after which its watchdog ends a service that is silent; 0 without a watchdog.
        ping_at: when :meth:`ping` is due next (monotonic s); None without a watchdog.
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.interval_s = _interval_s() if address else 0.0
        self.ping_at: float | None = 0.0 if self.interval_s else None

    def ready(self) -> None:
        """The service can be used."""
        self._say(b"READY=1")

    def stopping(self) -> None:
        """The service ends: it drains, and is not to be started again for that."""
        self._say(b"STOPPING=1")

    def ping(self, now: float, *, fine: bool) -> None:
        """Reassure the watchdog if that is due and all is well; being silent asks it to end us."""
        if self.ping_at is None or now < self.ping_at:
            return
        self.ping_at = now + self.interval_s / 2
        if fine:
            self._say(b"WATCHDOG=1")

    def _say(self, message: bytes) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.sendto(message, self._address)
        except OSError as error:
            log.warning("notify_failed said=%s problem=%s", message.decode(), error)


def _interval_s() -> float:
    """Return the watchdog's interval; 0 if there is none, or if it is meant for another process."""
    digits, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not digits.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(digits) / 1e6
