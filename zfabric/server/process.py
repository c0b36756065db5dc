"""Facts about the leader's own process, read from /proc where there is one."""

from __future__ import annotations

import os
import resource
import sys


def resident() -> tuple[int, int]:
    """Return (resident bytes, the anonymous part of it).

    LMDB's clean pages are resident but the kernel's to take back; the anonymous part is what the process holds.
    """
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            _, all_pages, file_pages, *_ = file.read(200).split()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak, peak) if sys.platform == "darwin" else (peak << 10, peak << 10)
    page = os.sysconf("SC_PAGE_SIZE")
    return int(all_pages) * page, (int(all_pages) - int(file_pages)) * page
