"""Batches cut for a slow link: the same records in smaller batches, which cover the same offsets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client.test_producer import whole
from zfabric.uplink.cutting import parts
from zfabric.wire.received import RecordBatch

VALUES = st.lists(st.one_of(st.none(), st.binary(max_size=60)), min_size=1, max_size=30)


@given(VALUES, st.data(), st.integers(1, 400))
def test_the_parts_are_the_batch(values, data, bytes_max):
    """Also of a compacted one, whose offsets have gaps, and of one whose front was delivered before."""
    count = len(values)
    keys = data.draw(st.one_of(st.none(), st.just([b"k%d" % at for at in range(count)])))
    gaps = data.draw(st.one_of(st.none(), st.lists(st.integers(1, 9), min_size=count, max_size=count)))
    offsets = None if gaps is None else [7 + sum(gaps[:at]) for at in range(count)]
    made = whole(values, keys=keys, base=7, sequences=offsets, headers=[{"h": b"%d" % at} for at in range(count)])
    batch = RecordBatch(made.topic, made.partition, made.header, made._payload, data.draw(st.integers(0, count - 1)))
    found = parts(batch, bytes_max)
    assert [record for part in found for record in part.records()] == batch.records()
    assert [offset for part in found for offset in part.offsets] == list(batch.offsets)
    assert found[0].offsets[0] == batch.offsets[0]
    assert all(part.header.next_offset == following.header.base_offset for part, following in pairwise(found))
    assert found[-1].header.next_offset == batch.header.next_offset


def test_a_part_has_at_most_so_many_bytes_or_one_record():
    batch = whole([bytes(size) for size in (10, 10, 10, 500, 10, 10)])
    sizes = [[len(value) for value in part.values] for part in parts(batch, 60)]
    assert sizes == [[10, 10], [10], [500], [10, 10]]
    assert sum(part.header.payload_length for part in parts(batch, 60)) <= batch.header.payload_length
    assert parts(batch, None) == [batch]
    assert parts(batch, batch.header.raw_length) == [batch]
