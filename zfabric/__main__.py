"""``python -m zfabric`` is ``zfabric``."""

from __future__ import annotations

import sys

from zfabric.cli import main

if __name__ == "__main__":
    sys.exit(main())
