"""Taking the directory: the first thing that a leader does, and the last one of those that come too late.

When a leader dies, each of its clients starts another. All but one of these end here, before they have loaded what a
leader is made of, which is most of what starting one costs; the one that leads has the machine for itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from zfabric.store.directory import DataDirectory

if TYPE_CHECKING:
    from zfabric.modes.options import LeaderOptions
    from zfabric.store.directory import Mode


def hold(options: LeaderOptions, stack: ExitStack) -> DataDirectory:
    """Return the data directory, which is this process's now until ``stack`` ends; a supervisor holds that of a node.

    Raises:
        ZFabricError: the directory is led by somebody else, or is none. OSError: the system refuses it.
    """
    directory = DataDirectory.create_or_check(options.data)
    if options.embedded:
        stack.enter_context(directory.lock(*_holder(options)))
        directory.clean_run()
        stack.callback(directory.drop_run)
    return directory


def _holder(options: LeaderOptions) -> tuple[Mode, str]:
    """Return what the directory's lock says of this process."""
    if options.peer is None:
        return "embedded", options.listen
    from zfabric.server.peering import holder_url

    return "peer", holder_url(options)
