"""Where in a batch a time begins: the last step of a search by time (see ``log.py``)."""

from __future__ import annotations

from zfabric import errors
from zfabric.model import Buffer
from zfabric.wire import batch
from zfabric.wire.batch import BatchHeader


def first_at_or_after(header: BatchHeader, payload: Buffer, timestamp: int) -> int:
    """Return the offset of the first record of a batch at or after ``timestamp``; the batch's own end if none is.

    A batch whose producer encoded it wrongly counts as a whole: its readers will be told.
    """
    try:
        columns = batch.decode_columns(header, payload)
    except errors.ProtocolViolation:
        return header.base_offset
    for distance, stamp in zip(columns.distances, columns.timestamps, strict=True):
        if stamp >= timestamp:
            return header.base_offset + distance
    return header.next_offset
