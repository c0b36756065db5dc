"""What holds for all tests.

None that draws its examples has a time limit of its own, as the machine may be busy: hypothesis's 200 ms for an example
would fail a test by chance wherever others use the same cores. And each run draws the same ones, so that a run that
fails is about what was changed; with a ``ZFABRIC_TEST_SCALE`` of its own a run searches elsewhere.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.scale import SCALE

# Who is started in the background of a shell ignores Ctrl-C, and so does all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=SCALE == 1.0
)
settings.load_profile("patient")


@pytest.fixture
def unmeasured(monkeypatch):
    """Let processes of this test not be measured for coverage.

    That takes memory and modules in them, and keeps a lock for ever where an exception of a signal handler strikes it.
    """
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)
