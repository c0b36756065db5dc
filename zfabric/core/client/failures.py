"""What a producer could not deliver and nobody was told of yet: what its flush will raise."""

from __future__ import annotations

from zfabric import errors
from zfabric.core.client.outbox import OutBatch

LISTED_MAX = 100


class Failures:
    """Batches that failed since the last :meth:`take`: the first hundred, and how many records there were beyond."""

    def __init__(self) -> None:
        self._batches: list[OutBatch] = []
        self._unlisted = 0

    def add(self, batch: OutBatch) -> None:
        """Note a batch that was given up; its ``error`` says why."""
        if len(self._batches) < LISTED_MAX:
            self._batches.append(batch)
        else:
            self._unlisted += batch.count

    def take(self) -> errors.DeliveryError | None:
        """Return them as one error naming topics and partitions, None if there are none, and forget them.

        A record does not count whose delivery was asked for its result, or had an ``on_delivery``: somebody was told.
        """
        batches, self._batches = self._batches, []
        untold, self._unlisted = self._unlisted, 0
        listed = []
        for batch in batches:
            count = batch.count - len(batch.told or ())
            if count:
                untold += count
                listed.append(f"{batch.topic} [{batch.partition}]: {count:,}, {batch.error}")
        if not untold:
            return None
        error = errors.DeliveryError(records=untold, detail="; ".join(listed) or "too many to list")
        error.__cause__ = batches[0].error
        return error
