"""A batch of one plain record is sealed and stamped in one step, and is what it would be otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric.wire import batch, lone

TIMES = st.integers(-(1 << 60), 1 << 60)
WORDS = st.integers(0, 2**32 - 1)


@given(
    value=st.binary(max_size=300), timestamp=TIMES, producer=st.integers(0, 2**64 - 1), epoch=WORDS,
    sequence=st.integers(0, 2**63 - 1), partition=WORDS, place=st.tuples(WORDS, st.integers(0, 2**64 - 1), TIMES),
)  # fmt: skip
def test_a_lone_record_becomes_the_same_bytes_as_any_batch(
    value, timestamp, producer, epoch, sequence, partition, place
):
    header, payload = batch.seal(
        batch.encode_columns(0, None, [value], None), codec=0, flags=0, count=1, base_timestamp=timestamp,
        max_timestamp=timestamp, producer_id=producer, producer_epoch=0, base_sequence=0, last_sequence=0, partition=0,
    )  # fmt: skip
    whole = batch.renumber(header, epoch, sequence, sequence, partition), payload
    assert lone.seal(value, timestamp, producer, epoch, sequence, partition) == whole
    assert lone.sealed_bytes(len(value)) == sum(map(len, whole))
    leader_epoch, offset, append_time = place
    stamped = batch.stamp(whole[0], partition, leader_epoch, 1, offset, append_time)
    assert lone.stamp(value, timestamp, producer, epoch, sequence, partition, *place) == (stamped, payload)


@pytest.mark.parametrize("size", [0, 255, 256, 65_535])
def test_the_size_of_a_sealed_record_is_known_before(size):
    assert lone.sealed_bytes(size) == sum(map(len, lone.seal(bytes(size), 0, 1, 0, 0, 1)))
