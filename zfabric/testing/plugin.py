"""The pytest plugin: fixtures only, and nothing imported before one is used, since every user's pytest loads this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zfabric.sync.fabric import Fabric


@pytest.fixture
def zfabric_url(tmp_path: Path) -> str:
    """URL of an embedded fabric in this test's temporary directory; whoever connects first starts it."""
    return f"zf+file:{tmp_path / 'zfabric-data'}"


@pytest.fixture
def zfabric_fabric(tmp_path: Path) -> Iterator[Fabric]:
    """A connected embedded fabric in this test's temporary directory."""
    from zfabric.testing import temporary_fabric

    with temporary_fabric(str(tmp_path / "zfabric-data")) as fabric:
        yield fabric
