"""The record batch on the wire."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.wire import batch, codecs, messages
from zfabric.wire.received import RecordBatch


def make(values=(b"a", b"b"), *, codec=0, keys=None, base=1000, partition=7, flags=0, offsets=None, count=None):
    payload = batch.encode_columns(0, keys, list(values), None, offsets)
    return batch.seal(
        payload,
        codec=codec,
        flags=flags,
        count=len(values) if count is None else count,
        base_timestamp=base,
        max_timestamp=base,
        producer_id=5,
        producer_epoch=1,
        base_sequence=10,
        last_sequence=10 + len(values) - 1,
        partition=partition,
    )


def test_the_bytes_of_layout_1_never_change():
    header, payload = make()
    stamped = batch.stamp(header, 7, 3, 2, 42, 1234)
    assert payload.hex() == "9400c092c40161c40162c0"
    assert stamped.hex() == GOLDEN


GOLDEN = (
    "f1010000020000000b0000000b000000e803000000000000e8030000000000000500000000000000010000000a000000"
    "000000000b000000000000004f7776810700000003000000020000002a00000000000000d2040000000000005a6dccb8"
)


def test_what_was_read_in_another_log_says_where_and_what_comes_before_it():
    raw, payload = batch.seal(
        b"\xc0", codec=0, flags=batch.SPARSE, count=1, base_timestamp=5, max_timestamp=5, producer_id=9,
        producer_epoch=1, base_sequence=42, last_sequence=42, partition=3, read=(7, 1_000), after=40,
    )  # fmt: skip
    assert raw[64:].hex() == "0300000007000000010000002a00000000000000e80300000000000000000000"
    header = batch.parse(raw)
    batch.check_produced(header, payload, 100)
    assert (header.leader_epoch, header.append_time, header.base_offset) == (7, 1_000, 42)


def test_a_header_has_96_bytes():
    assert batch.HEADER_BYTES == len(make()[0]) == 96


@pytest.mark.parametrize("codec", [codecs.NONE, codecs.LZ4, codecs.ZSTD])
def test_what_is_encoded_is_decoded(codec):
    values = [b"x" * 100] * 50
    header, payload = make(values, codec=codec)
    parsed = batch.parse(header)
    batch.check_produced(parsed, payload, 1 << 20)
    assert parsed.codec == codec
    columns = batch.decode_columns(parsed, payload)
    assert (columns.values, columns.timestamps) == (values, [1000] * 50)


def test_records_of_a_batch_carry_place_and_time():
    header, payload = make(keys=[b"k", None])
    stamped = batch.parse(batch.stamp(header, 7, 3, 2, 42, 1234))
    first, second = RecordBatch("t", 1, stamped, payload).records()
    assert first == ("t", 1, 42, 1000, b"k", b"a", {})
    assert (second.offset, second.key) == (43, None)


@given(st.integers(0, 96 * 8 + 11 * 8 - 1))
def test_any_flipped_bit_is_damage(bit):
    """I10: damage is an error, never other bytes."""
    header, payload = make()
    raw = bytearray(batch.stamp(header, 7, 3, 2, 42, 1234) + payload)
    raw[bit // 8] ^= 1 << bit % 8
    head, body = bytes(raw[:96]), bytes(raw[96:])
    assert batch.damage(head, body, batch.parse(head), 7, 42)


def test_a_batch_in_the_wrong_place_is_damage():
    header, payload = make()
    stamped = batch.stamp(header, 7, 3, 2, 42, 1234)
    assert batch.damage(stamped, payload, batch.parse(stamped), 7, 42) == ""
    assert batch.damage(stamped, payload, batch.parse(stamped), 8, 42)
    assert batch.damage(stamped, payload, batch.parse(stamped), 7, 43)


WRONG = {
    "magic": 0xF0,
    "format": 2,
    "codec": 9,
    "flags": 4,
    "records": 0,
    "payload_length": 5,
    "raw_length": 1 << 31,
    "base_timestamp": 1 << 61,
    "max_timestamp": 0,
    "last_sequence": 99,
}


@pytest.mark.parametrize("field", WRONG)
def test_a_field_out_of_range_is_a_violation(field):
    header, payload = make()
    with pytest.raises(errors.ProtocolViolation):
        batch.check_produced(batch.parse(header)._replace(**{field: WRONG[field]}), payload, 1 << 20)


def test_a_payload_that_changed_on_its_way_is_refused():
    header, payload = make()
    with pytest.raises(errors.CorruptFrame):
        batch.check_produced(batch.parse(header), payload[:-1] + b"\x01", 1 << 20)


@pytest.mark.parametrize("codec", [codecs.LZ4, codecs.ZSTD])
def test_a_bomb_is_an_error_and_no_memory(codec):
    bomb = codecs.compress(codec, bytes(50 << 20))
    with pytest.raises(errors.ProtocolViolation):
        codecs.decompress(codec, bomb, 1000)
    with pytest.raises(errors.ProtocolViolation):
        codecs.decompress(codec, b"garbage" * 10, 1000)


def test_a_producer_that_lied_about_its_count_is_found_by_the_reader():
    header, payload = make(count=3)
    with pytest.raises(errors.CorruptBatch) as found:
        RecordBatch("t", 0, batch.parse(batch.stamp(header, 7, 3, 3, 42, 1)), payload).records()
    assert (found.value.offset, found.value.next_offset) == (42, 45)


@given(st.binary(max_size=300))
def test_random_payloads_raise_nothing_but_violations(data):
    header = batch.parse(make()[0])._replace(raw_length=len(data), payload_length=len(data))
    with contextlib.suppress(errors.ProtocolViolation):
        assert batch.decode_columns(header, data)


@given(st.binary(max_size=400))
def test_random_blobs_raise_nothing_but_violations(data):
    with contextlib.suppress(errors.ProtocolViolation):
        assert all(len(raw) == 96 for _, raw, _ in batch.split(data))


@given(st.lists(st.binary(max_size=100), max_size=4))
def test_random_messages_raise_nothing_but_violations(frames):
    with contextlib.suppress(errors.ProtocolViolation, errors.UnsupportedVersion):
        assert messages.read(frames).type


@given(st.sampled_from(sorted(messages.BODIES)), st.binary(max_size=100))
def test_random_bodies_raise_nothing_but_violations(kind, body):
    frame = messages.COMMAND.pack(messages.SIGNATURE, 1, kind, 0, 9) + body
    with contextlib.suppress(errors.ProtocolViolation):
        assert messages.read([frame]).request == 9


def test_another_version_is_named():
    frame = messages.COMMAND.pack(messages.SIGNATURE, 9, messages.Type.HELLO, 0, 4)
    with pytest.raises(errors.UnsupportedVersion) as refused:
        messages.read([frame])
    assert (refused.value.version, refused.value.highest) == (9, messages.VERSION)
    assert messages.request_id(frame) == 4


def test_errors_cross_the_wire_as_what_they_are():
    told = errors.OffsetOutOfRange(topic="t", partition=1, offset=9, start=0, end=5)
    body = messages.read([messages.failure(3, told)]).body
    again = errors.from_wire(body.code, body.values)
    assert (type(again), again.end, str(again)) == (errors.OffsetOutOfRange, 5, str(told))
    assert isinstance(errors.from_wire(9999, {}), errors.ZFabricError)
