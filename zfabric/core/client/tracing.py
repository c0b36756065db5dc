"""What a request hands on to those that its handler makes: the trace it belongs to, and the time that is left.

The trace is W3C's ``traceparent``: 00, the trace (16 bytes), the caller's span (8 bytes), flags, in hexadecimal digits.
A request carries that of the context it is made in, with a span of its own, or begins a new trace.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from random import Random

    from zfabric.core.client.job import Job

HEADER: Final = "traceparent"
_FORM: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


_ALONE: Final = b"\x81\xab" + HEADER.encode() + b"\xc4\x37"
"""What comes before a traceparent's 55 bytes in headers (msgpack) that are nothing else, as nearly all are."""
_ALONE_BYTES: Final = len(_ALONE) + 55


class Context(NamedTuple):
    """Of the request being handled: its trace as it came, valid or not, and its deadline (monotonic ns, or None)."""

    traceparent: bytes
    deadline_ns: int | None
    job: Job | None = None


current: ContextVar[Context | None] = ContextVar("zfabric_request", default=None)


def encoded(traceparent: bytes) -> bytes:
    """Encode headers that are nothing but a valid traceparent, as :func:`zfabric.wire.calls.headers` does."""
    return _ALONE + traceparent


def alone(headers: bytes) -> bytes | None:
    """Return what stands as traceparent in encoded headers that are nothing else; None for other headers."""
    return headers[-55:] if len(headers) == _ALONE_BYTES and headers.startswith(_ALONE) else None


def valid(traceparent: bytes) -> bool:
    """Tell whether a header is one."""
    return _FORM.fullmatch(traceparent) is not None


def onward(context: Context | None, random: Random) -> bytes:
    """Return the header of a request that is made in ``context``."""
    if context is not None and valid(context.traceparent):
        before = context.traceparent
        return b"%b-%016x-%b" % (before[:35], random.getrandbits(64) | 1, before[53:])
    # Neither part is 0 but once in 2**63 requests, and then the trace is only not followed.
    number = random.getrandbits(192).to_bytes(24).hex()
    return f"00-{number[:32]}-{number[32:]}-01".encode()
