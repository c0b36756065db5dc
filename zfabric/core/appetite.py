"""How much one asks for at a time over a link of unknown speed: what comes in a second or two.

It begins with 128 KiB and is doubled while full answers come within a second, up to a most, and halved when one takes
longer than two. Until the link has shown that it is fast, answers are wanted in parts, each a sign of life: heartbeats
wait behind what is on its way, so a batch on a slow link would look like death.
"""

from __future__ import annotations

from typing import Final

FIRST_BYTES: Final = 128 << 10
LEAST_BYTES: Final = 64 << 10
PART_BYTES: Final = 64 << 10
QUICK_NS: Final = 1_000_000_000
SLOW_NS: Final = 2_000_000_000


class Appetite:
    """What to ask one source for.

    Attributes:
        bytes: of the next question. most: asked for on a fast link.
    """

    __slots__ = ("bytes", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = FIRST_BYTES

    @property
    def part_bytes(self) -> int:
        """Bytes of the frames that an answer should have; 0 if it may be one."""
        return PART_BYTES if self.bytes < self.most else 0

    def answered(self, asked: int, took_ns: int, came: int) -> None:
        """A question for ``asked`` bytes was answered at once, and ``came`` bytes took so long."""
        if took_ns > SLOW_NS:
            self.bytes = max(asked // 2, LEAST_BYTES)
        elif took_ns < QUICK_NS and came >= asked // 2:
            self.bytes = min(asked * 2, self.most)

    def failed(self, asked: int) -> None:
        """No answer came: perhaps it is another link now."""
        self.bytes = min(asked, FIRST_BYTES)
