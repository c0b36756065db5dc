"""``python -m zfabric`` is ``zfabric``."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the ``zfabric`` script: Ctrl-C ends it quietly, also while it is still being loaded."""
    try:
        from zfabric.cli import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
