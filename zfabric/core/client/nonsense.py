"""Who talks nonsense to an instance: such a caller is answered for a while, then not listened to any more."""

from __future__ import annotations

from typing import Final

NONSENSE_MAX: Final = 1_000
TALKERS_MAX: Final = 100_000


class Nonsense:
    """How often each caller has talked it."""

    def __init__(self) -> None:
        self._times: dict[bytes, int] = {}

    def enough(self, peer: bytes) -> bool:
        """Whether a caller has talked it ``NONSENSE_MAX`` times: to answer each time would be what a flood is for."""
        return self._times.get(peer, 0) >= NONSENSE_MAX

    def heard(self, peer: bytes) -> None:
        """A caller has talked nonsense."""
        if len(self._times) >= TALKERS_MAX:
            self._times.clear()
        self._times[peer] = self._times.get(peer, 0) + 1
