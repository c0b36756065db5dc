"""Which groups have committed lately, in order: what a keeper is told of the partitions that it follows.

The rows are the truth (``groups.py``); this is a list of their names with the version at which each changed last, kept
in memory. A partition's rows are read once, when somebody begins to follow it. So "what changed after version v" costs
what changed, and a restart, which begins another list, tells everything once more: merging it again does no harm.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress

from zfabric import errors
from zfabric.core.leader import groups
from zfabric.core.transaction import Transaction
from zfabric.settings import SHARED_OFFSETS_MAX
from zfabric.wire.replication import SharedOffset


class Commits:
    """Committed offsets of followed partitions.

    Attributes:
        version: of the newest change.
    """

    def __init__(self) -> None:
        self.version = 0
        self._loaded: set[int] = set()
        self._changed: OrderedDict[tuple[int, str], tuple[int, groups.GroupRow]] = OrderedDict()

    def load(self, partitions: set[int], txn: Transaction) -> None:
        """Read the rows of partitions that nobody has followed before."""
        for partition_id in sorted(partitions - self._loaded):
            self._loaded.add(partition_id)
            for group in groups.names(partition_id, txn, deleted=True):
                with suppress(errors.CorruptRow):  # Whoever asks for this group's offset is told.
                    row = groups.known(partition_id, group, txn)
                    if row is not None:
                        self._note(partition_id, group, row)

    def note(self, partition_id: int, group: str, row: groups.GroupRow) -> bool:
        """A group has committed in a partition, or was deleted; tells whether somebody follows it."""
        if partition_id not in self._loaded:
            return False
        self._note(partition_id, group, row)
        return True

    def _note(self, partition_id: int, group: str, row: groups.GroupRow) -> None:
        self.version += 1
        self._changed[partition_id, group] = (self.version, row)
        self._changed.move_to_end((partition_id, group))

    def drop(self, partition_id: int) -> None:
        """The partition is gone."""
        if partition_id in self._loaded:
            self._loaded.discard(partition_id)
            for entry in [entry for entry in self._changed if entry[0] == partition_id]:
                del self._changed[entry]

    def forget(self) -> None:
        """A turn was given up: read all rows again when they are needed, under versions that nobody has seen."""
        self._loaded.clear()
        self._changed.clear()

    def after(self, version: int, partitions: set[int]) -> tuple[list[SharedOffset], int]:
        """Return what changed in ``partitions`` after ``version``, at most a thousand entries, and the version then."""
        newer = []
        for (partition_id, group), (changed, row) in reversed(self._changed.items()):
            if changed <= version:
                break
            newer.append((changed, partition_id, group, row))
        found: list[SharedOffset] = []
        for changed, partition_id, group, row in reversed(newer):
            if partition_id in partitions:
                if len(found) == SHARED_OFFSETS_MAX:
                    return found, version
                found.append(row.shared(partition_id, group))
            version = changed
        return found, version
