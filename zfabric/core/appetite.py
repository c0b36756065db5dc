"""How much one asks for at a time over a link of unknown speed: what comes in a second or two.

It begins with 128 KiB and is doubled while full answers come within a second, up to a most, and halved when one takes
longer than two. Until the link has shown that it is fast, answers are wanted in parts, each a sign of life: heartbeats
wait behind what is on its way, so a batch on a slow link would look like death.

A link is slow for half a minute after an answer has taken longer than two seconds, or until a large one comes within
one.
"""

from __future__ import annotations

from typing import Final

FIRST_BYTES: Final = 128 << 10
LEAST_BYTES: Final = 64 << 10
PART_BYTES: Final = 64 << 10
QUICK_NS: Final = 1_000_000_000
SLOW_NS: Final = 2_000_000_000
REMEMBERED_NS: Final = 30_000_000_000


class Appetite:
    """What to ask one source for.

    Attributes:
        bytes: of the next question. most: asked for on a fast link.
    """

    __slots__ = ("_slow_until_ns", "bytes", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = FIRST_BYTES
        self._slow_until_ns = 0

    @property
    def part_bytes(self) -> int:
        """Bytes of the frames that an answer should have; 0 if it may be one."""
        return PART_BYTES if self.bytes < self.most else 0

    def is_slow(self, now: int) -> bool:
        """Tell whether the link is slow at ``now`` (monotonic ns)."""
        return now < self._slow_until_ns

    def answered(self, asked: int, took_ns: int, came: int, now: int) -> None:
        """A question for ``asked`` bytes was answered at once, and ``came`` bytes took so long."""
        if came >= LEAST_BYTES:
            self._slow_until_ns = now + REMEMBERED_NS if took_ns > SLOW_NS else 0
        if took_ns > SLOW_NS:
            self.bytes = max(asked // 2, LEAST_BYTES)
        elif took_ns < QUICK_NS and came >= asked // 2:
            self.bytes = min(asked * 2, self.most)

    def failed(self, asked: int) -> None:
        """No answer came: perhaps it is another link now."""
        self.bytes = min(asked, FIRST_BYTES)
