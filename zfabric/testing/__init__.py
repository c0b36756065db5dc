"""Help for users' own tests: a real fabric in a temporary directory, and faults on demand.

For whole fabrics in virtual time see :mod:`zfabric.testing.simulation`.

With pytest, the fixtures ``zfabric_url`` and ``zfabric_fabric`` come with the package (``zfabric/testing/plugin.py``).
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zfabric import errors

if TYPE_CHECKING:
    from zfabric.sync.fabric import Fabric

GRACE_MS = 100


@contextmanager
def temporary_fabric(directory: str | None = None) -> Iterator[Fabric]:
    """Yield an embedded fabric in ``directory``, or in a temporary one that is removed afterwards.

    Its leader ends 100 ms after the last client has left, so nothing stays behind.
    """
    from zfabric.settings import LeaderSettings
    from zfabric.sync.fabric import connect

    with tempfile.TemporaryDirectory(prefix="zfabric-", ignore_cleanup_errors=True) as temporary:
        url = f"zf+file:{directory or os.path.join(temporary, 'data')}"
        with connect(url, settings=LeaderSettings(grace_ms=GRACE_MS)) as fabric:
            yield fabric


def kill_leader(fabric: Fabric, leader: int = 0) -> int:
    """Kill a leader process with SIGKILL, as a crash would; returns its process id.

    Producers and consumers of an embedded fabric start another by themselves and go on.
    """
    pid = _process(fabric, leader)
    os.kill(pid, signal.SIGKILL)
    return pid


@contextmanager
def frozen_leader(fabric: Fabric, leader: int = 0) -> Iterator[int]:
    """Stop a leader process (SIGSTOP) while the block runs; yields its process id.

    Nobody is answered meanwhile. After about three seconds clients give their connections up; when the leader goes on
    they connect again, and lose nothing.
    """
    pid = _process(fabric, leader)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def _process(fabric: Fabric, leader: int) -> int:
    pid = next(info.pid for info in fabric.status() if info.id == leader)
    if pid == os.getpid():
        raise errors.NotSupported(
            what="stopping a leader", where="with leader='thread', in the process that runs the test",
            instead="run the application as a process of its own and kill that",
        )  # fmt: skip
    return pid
