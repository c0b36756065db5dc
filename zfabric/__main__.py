"""``python -m zfabric`` is ``zfabric``."""

from __future__ import annotations

from zfabric.cli import run

if __name__ == "__main__":
    run()
