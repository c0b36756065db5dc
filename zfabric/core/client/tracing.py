"""What a request hands on to those that its handler makes: the trace it belongs to, and the time that is left.

The trace is W3C's ``traceparent``: 00, the trace (16 bytes), the caller's span (8 bytes), flags, in hexadecimal digits.
A request carries that of the context it is made in, with a span of its own, or begins a new trace. ``tracestate``, what
others have to say of that trace, goes along as it is if it has no more than the 512 bytes that all have to carry.
"""

from __future__ import annotations

import re
from binascii import hexlify
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from zfabric.wire import calls

if TYPE_CHECKING:
    from random import Random

    from zfabric.core.client.job import Job

HEADER: Final = "traceparent"
STATE: Final = "tracestate"
STATE_BYTES_MAX: Final = 512
_FORM: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


ALONE: Final = b"\x81\xab" + HEADER.encode() + b"\xc4\x37"
"""What comes before a traceparent's 55 bytes in headers (msgpack) that are nothing else, as nearly all are."""
ALONE_BYTES: Final = len(ALONE) + 55
_BEGUN: Final = ALONE + b"00-"


current: ContextVar[Job | None] = ContextVar("zfabric_request", default=None)
"""The request being handled."""


def alone(headers: bytes) -> bytes | None:
    """Return what stands as traceparent in encoded headers that are nothing else; None for other headers."""
    return headers[-55:] if len(headers) == ALONE_BYTES and headers.startswith(ALONE) else None


def valid(traceparent: bytes) -> bool:
    """Tell whether a header is one."""
    return _FORM.fullmatch(traceparent) is not None


def onward(context: Job | None, random: Random) -> dict[str, bytes]:
    """Return the headers of a request that is made in ``context``."""
    before = b"" if context is None else context.traceparent
    if context is None or not valid(before):
        return {HEADER: encoded(None, random)[len(ALONE) :]}
    here = {HEADER: b"%b-%016x-%b" % (before[:35], random.getrandbits(64) | 1, before[53:])}
    if alone(context.headers) is None:
        state = calls.read_headers(context.headers).get(STATE, b"")
        if 0 < len(state) <= STATE_BYTES_MAX:
            here[STATE] = state
    return here


def encoded(context: Job | None, random: Random) -> bytes:
    """Return the headers of a request that is made in ``context`` and has no others, encoded as all headers are."""
    if context is not None:
        return calls.headers(onward(context, random))
    # Neither part is 0 but once in 2**63 requests, and then the trace is only not followed.
    digits = hexlify(random.getrandbits(192).to_bytes(24))
    return b"".join((_BEGUN, digits[:32], b"-", digits[32:], b"-01"))
