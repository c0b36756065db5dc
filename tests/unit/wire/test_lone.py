"""A batch of one plain record is sealed in one step, and is what it would be otherwise."""

from hypothesis import given
from hypothesis import strategies as st

from zfabric.wire import batch, lone

WORDS = st.integers(0, 2**32 - 1)


@given(
    value=st.binary(max_size=300), timestamp=st.integers(-(1 << 60), 1 << 60), producer=st.integers(0, 2**64 - 1),
    epoch=WORDS, sequence=st.integers(0, 2**63 - 1), partition=WORDS,
)  # fmt: skip
def test_a_lone_record_becomes_the_same_bytes_as_any_batch(value, timestamp, producer, epoch, sequence, partition):
    header, payload = batch.seal(
        batch.encode_columns(0, None, [value], None), codec=0, flags=0, count=1, base_timestamp=timestamp,
        max_timestamp=timestamp, producer_id=producer, producer_epoch=0, base_sequence=0, last_sequence=0, partition=0,
    )  # fmt: skip
    whole = batch.renumber(header, epoch, sequence, sequence, partition), payload
    assert lone.seal(value, timestamp, producer, epoch, sequence, partition) == whole
