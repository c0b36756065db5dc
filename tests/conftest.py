"""What holds for all tests that draw their examples: none has a time limit of its own, as the machine may be busy.

Hypothesis's 200 ms for an example would fail a test by chance wherever others use the same cores.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
