"""How long the tests that search at random go on: ``ZFABRIC_TEST_SCALE``, a factor, 1 by default."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("ZFABRIC_TEST_SCALE", "1"))


def scaled(count: int) -> int:
    """Return a count of cycles, states or examples, times the factor, at least 1."""
    return max(1, round(count * SCALE))
