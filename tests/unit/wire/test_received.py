"""Batches as a consumer gets them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.wire import batch, codecs
from zfabric.wire.crc import crc32c
from zfabric.wire.received import RecordBatch, alone, lone, stamp_of

BASE = 1_000
ENTRIES = st.none() | st.binary(max_size=3)
HEADERS = st.none() | st.dictionaries(st.text(max_size=2), st.binary(max_size=2), max_size=2)


def column(entries, most=2):
    """Entries that all records share, or one for each."""
    return entries | st.lists(entries, max_size=most)


def made(payload, *, count=1, codec=0, flags=0, layout=batch.COLUMNAR):
    """Return the header and the payload of a batch at offset 40 of partition id 3."""
    header, payload = batch.seal(
        payload, codec=codec, flags=flags, count=count, base_timestamp=BASE, max_timestamp=BASE, producer_id=0,
        producer_epoch=0, base_sequence=0, last_sequence=count, partition=3,
    )  # fmt: skip
    return batch.parse(batch.stamp(header, 3, 1, max(count, 1), 40, 600))._replace(format=layout), payload


def by_columns(header, payload):
    """Return the records as the columns have them."""
    whole = RecordBatch("t", 5, header, payload)
    rows = zip(whole.offsets, whole.timestamps, whole.keys, whole.values, whole.headers, strict=True)
    return [("t", 5, *row) for row in rows]


@given(
    column(st.integers(-5, 5)), column(ENTRIES), column(ENTRIES), column(HEADERS), st.integers(0, 2),
    st.sampled_from([0, batch.SPARSE, batch.COMPACTED, 4]), st.sampled_from([codecs.NONE, codecs.NONE, codecs.LZ4, 9]),
    st.sampled_from([batch.COLUMNAR, batch.COLUMNAR, 2]),
)  # fmt: skip
def test_a_record_that_is_alone_is_the_one_that_the_columns_have(deltas, keys, values, headers, count, flags, codec,
                                                                 layout):  # fmt: skip
    distances = [0] * count if flags == batch.COMPACTED else None
    payload = batch.encode_columns(deltas, keys, values, headers, distances)
    header, payload = made(payload, count=count, codec=codec if codec == codecs.LZ4 else 0, flags=flags, layout=layout)
    header = header._replace(codec=codec if codec == 9 else header.codec)
    record = alone("t", 5, header, payload)
    if record is not None:
        assert [record] == by_columns(header, payload)
        return
    plain = (count, flags & ~batch.SPARSE, header.codec, layout) == (1, 0, 0, batch.COLUMNAR)
    lists = [column for column in (deltas, keys, values, headers) if isinstance(column, list)]
    assert not plain or any(len(column) != 1 for column in lists)


@pytest.mark.parametrize("flags", [0, batch.SPARSE])
@pytest.mark.parametrize(
    "columns",
    [(0, None, [b"v"], None), ([2], [b"k"], [None], [{"a": b"1"}]), (-1, b"k", b"v", {}), (1, None, None, [None])],
)
def test_a_record_as_producers_send_it_is_found_alone(columns, flags):
    header, payload = made(batch.encode_columns(*columns), flags=flags)
    record = alone("t", 5, header, payload)
    assert record is not None
    assert [record] == RecordBatch("t", 5, header, payload).records() == by_columns(header, payload)


@given(st.binary(max_size=20))
def test_what_is_no_record_is_left_to_who_says_so(payload):
    header, payload = made(payload)
    record = alone("t", 5, header, payload)
    if record is None:
        with pytest.raises(errors.CorruptBatch):
            RecordBatch("t", 5, header, payload).records()
    else:
        assert [record] == by_columns(header, payload)


def test_a_batch_of_a_size_that_is_refused_is_none_of_a_record():
    header, payload = made(batch.encode_columns(0, None, [b"v"], None))
    assert alone("t", 5, header._replace(raw_length=batch.RAW_BYTES_MAX + 1), payload) is None


# A publication that is expected.

FORMS = [
    (0, None, [b"v"], None),
    ([2], [b"k"], [None], [{"a": b"1"}]),
    (-1, b"k", b"v", {}),
    (0, None, [b"a", b"b"], None),
]


def sealed(payload, *, count=1, flags=0, codec=0, offset=40):
    """Return the stamped header, and the payload, of a batch of partition id 3 in epoch 2."""
    header, payload = batch.seal(
        payload, codec=codec, flags=flags, count=count, base_timestamp=BASE, max_timestamp=BASE, producer_id=7,
        producer_epoch=1, base_sequence=4, last_sequence=4, partition=3,
    )  # fmt: skip
    return batch.stamp(header, 3, 2, count, offset, 600), payload


@pytest.mark.parametrize("flags", [0, batch.SPARSE])
@pytest.mark.parametrize("columns", FORMS[:3])
def test_a_record_that_is_expected_is_found_as_it_comes(columns, flags):
    raw, payload = sealed(batch.encode_columns(*columns), flags=flags)
    found = lone([b"", raw, payload], stamp_of(3, 2), 40, "t", 5)
    assert found == (RecordBatch("t", 5, batch.parse(raw), payload).records()[0], 600)


def resealed(raw):
    """Return a header with the checksum that it should have."""
    return raw[:92] + crc32c(raw[:92]).to_bytes(4, "little")


@pytest.mark.parametrize(
    "fields",
    [{"magic": 0xF2}, {"format": 2}, {"codec": 1}, {"flags": batch.COMPACTED}, {"flags": 4}, {"records": 2},
     {"records": 0}, {"payload_length": 10}, {"raw_length": 10}, {"payload_crc": 1}, {"partition": 4},
     {"leader_epoch": 1}, {"leader_epoch": 3}, {"span": 2}, {"span": 0}, {"base_offset": 39}, {"base_offset": 41},
     {"raw_length": batch.RAW_BYTES_MAX + 1}, {"payload_length": 10, "raw_length": 10}],
)  # fmt: skip
def test_a_record_whose_header_says_anything_else_is_not_the_expected_one(fields):
    raw, payload = sealed(batch.encode_columns(*FORMS[0]))
    assert lone([b"", raw, payload], stamp_of(3, 2), 40, "t", 5) is not None
    other = resealed(batch.HEADER.pack(*batch.parse(raw)._replace(**fields)))
    assert lone([b"", other, payload], stamp_of(3, 2), 40, "t", 5) is None


@given(st.integers(0, 95), st.integers(1, 255))
def test_a_damaged_header_is_not_the_expected_one(at, mask):
    raw, payload = sealed(batch.encode_columns(*FORMS[0]))
    damaged = raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]
    assert lone([b"", damaged, payload], stamp_of(3, 2), 40, "t", 5) is None


@given(st.integers(0, 7), st.integers(1, 255))
def test_a_damaged_payload_is_not_the_expected_one(at, mask):
    raw, payload = sealed(batch.encode_columns(*FORMS[0]))
    damaged = payload[:at] + bytes([payload[at] ^ mask]) + payload[at + 1 :]
    assert lone([b"", raw, damaged], stamp_of(3, 2), 40, "t", 5) is None


@given(
    st.sampled_from(FORMS) | st.tuples(column(st.integers(-2, 2)), column(ENTRIES), column(ENTRIES), column(HEADERS)),
    st.sampled_from([1, 1, 2]), st.sampled_from([0, 0, 2, 1]), st.sampled_from([0, 0, 1]),
    st.lists(st.tuples(st.integers(0, 91), st.integers(0, 255)), max_size=2), st.booleans(), st.integers(-1, 200),
)  # fmt: skip
def test_what_is_found_as_expected_is_whole_and_what_its_columns_say(columns, count, flags, codec, edits, seal, flip):
    """Whatever a header claims, with a right checksum or without, and whatever befell the payload."""
    raw, payload = sealed(batch.encode_columns(*columns), count=count, flags=flags, codec=codec)
    edited = bytearray(raw)
    for at, value in edits:
        edited[at] = value
    raw = resealed(bytes(edited)) if seal else bytes(edited)
    if 0 <= flip < len(payload):
        payload = payload[:flip] + bytes([payload[flip] ^ 1]) + payload[flip + 1 :]
    header = batch.parse(raw)
    found = lone([b"", raw, payload], stamp_of(3, 2), 40, "t", 5)
    if found is not None:
        assert batch.damage(raw, payload, header, 3, 40) == ""
        assert (header.leader_epoch, header.next_offset) == (2, 41)
        assert found == (RecordBatch("t", 5, header, payload).records()[0], header.append_time)
        assert [found[0]] == by_columns(header, payload)
