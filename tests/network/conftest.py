"""What tests on wires share."""

from __future__ import annotations

import pytest

from tests.network.namespaces import Machine, require


@pytest.fixture
def machine():
    """A machine of its own, for one test."""
    require()
    with Machine() as made:
        yield made
