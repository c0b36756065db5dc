"""Commands between callers and instances: their bytes, what is refused, and that the rest comes back as it was sent."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.settings import CALL_BYTES_MAX
from zfabric.wire import calls
from zfabric.wire.messages import Failure

FULL = errors.Overloaded(service="s", running=1, concurrency=1, queued=2, limit=2)

GOLDEN = {
    "REQUEST": (
        lambda: calls.request(60, 9, 7, 1_000_000, b"s.m", b"\x80", b"body", flags=1, window=8),
        ["7a66013c010000000900000000000000070000000000000040420f00000000000300010000000800732e6d80626f6479"],
    ),
    "NOTIFY": (
        lambda: calls.request(62, 9, 0, 0, b"s.m", b"", b""),
        ["7a66013e00000000090000000000000000000000000000000000000000000000030000000000" + "0000732e6d"],
    ),
    "REPLY": (lambda: calls.reply(9, b"ok", 1), ["7a66013d0100000009000000000000006f6b"]),
    "CHUNK": (lambda: calls.chunk(9, 3, b"ok", 2), ["7a66013f020000000900000000000000030000006f6b"]),
    "CANCEL": (lambda: calls.bare(calls.CANCEL, 9), ["7a660140000000000900000000000000"]),
    "CREDIT": (lambda: calls.credit(9, 4), ["7a66014200000000090000000000000004000000"]),
    "REFUSED": (
        lambda: calls.failure(calls.REFUSED, 9, errors.ServiceDraining(service="s")),
        ["7a660143000000000900000000000000925d81a773657276696365a173"],
    ),
    "FAILED": (
        lambda: calls.failure(calls.FAILED, 9, errors.NotFound(kind="k", name="n"), 1),
        ["7a660141010000000900000000000000920982a46b696e64a16ba46e616d65a16e"],
    ),
    "PING": (lambda: calls.bare(calls.PING, 9), ["7a660144000000000900000000000000"]),
    "PONG": (lambda: calls.pong(9, 7, draining=True), ["7a660145000000000900000000000000070000000000000001"]),
    "FAREWELL": (lambda: calls.bare(calls.FAREWELL, 0), ["7a660146000000000000000000000000"]),
    "GOODBYE": (lambda: calls.bare(calls.GOODBYE, 0), ["7a660147000000000000000000000000"]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_command_is_these_bytes(name):
    encode, expected = GOLDEN[name]
    assert [bytes(frame).hex() for frame in encode()] == expected


def test_every_command_has_its_bytes_written_down():
    assert set(GOLDEN) == {kind.name for kind in calls.Call}


def test_the_short_way_reads_what_the_long_one_does():
    frames = calls.request(calls.REQUEST, 9, 7, 10, b"s.m", b"\x80", b"body")
    asked = calls.read_asked(frames)
    assert calls.read_plain([b"peer", *frames]) == (9, 7, 10, b"s.m", b"\x80", b"body")
    assert (asked.number, asked.instance, asked.remaining_us, asked.body) == (9, 7, 10, b"body")
    assert calls.read_reply(calls.reply(9, b"ok", 1)) == (1, 9, b"ok")


@pytest.mark.parametrize(
    "frames",
    [
        calls.request(calls.NOTIFY, 9, 0, 0, b"s.m", b"", b""),
        calls.request(calls.REQUEST, 9, 0, 0, b"s.m", b"", b"", flags=1, window=8),
        calls.request(calls.REQUEST, 9, 0, 0, b"s.m", b"", b"x" * (calls.INLINE_BYTES + 1)),
        [calls.request(calls.REQUEST, 9, 0, 0, b"s.m", b"", b"")[0][:-1]],
        [calls.request(calls.REQUEST, 9, 0, 0, b"s.m", b"", b"")[0][:20]],
        calls.bare(calls.PING, 9),
    ],
)
def test_the_short_way_leaves_what_is_not_plain_to_the_long_one(frames):
    assert calls.read_plain([b"peer", *frames]) is None
    assert calls.read_reply(frames) is None


@given(
    method=st.text(min_size=1, max_size=50),
    headers=st.dictionaries(st.text(max_size=20), st.binary(max_size=20), max_size=5),
    body=st.binary(max_size=calls.INLINE_BYTES * 2),
    stream=st.booleans(),
    remaining=st.integers(0, (1 << 64) - 1),
)
def test_a_request_comes_back_as_it_was_sent(method, headers, body, stream, remaining):
    frames = calls.request(
        calls.REQUEST, 5, 6, remaining, method.encode(), calls.headers(headers), body, flags=stream, window=8
    )
    assert len(frames) == (1 if len(body) <= calls.INLINE_BYTES else 2)
    asked = calls.read_asked(frames)
    assert asked[:7] == (calls.REQUEST, stream, 5, 6, remaining, 8, method)
    assert (calls.read_headers(asked.headers), bytes(asked.body)) == (headers, body)


@given(body=st.binary(max_size=calls.INLINE_BYTES * 2), place=st.integers(0, (1 << 32) - 1))
def test_answers_come_back_as_they_were_sent(body, place):
    answer = calls.read_answered(calls.reply(5, body, 1))
    assert (answer.type, answer.flags, answer.number, bytes(answer.body)) == (calls.REPLY, 1, 5, body)
    chunk = calls.read_answered(calls.chunk(5, place, body, calls.FLAG_END))
    assert (chunk.type, chunk.flags, chunk.value, bytes(chunk.body)) == (calls.CHUNK, 2, place, body)
    assert calls.read_answered(calls.failure(calls.REFUSED, 5, FULL)).failure == Failure(FULL.code, FULL.values)
    assert calls.read_answered(calls.pong(5, place, draining=True))[4::2] == (place, True)


@pytest.mark.parametrize("size", [calls.PART_BYTES, calls.PART_BYTES + 1, 3 * calls.PART_BYTES + 7, CALL_BYTES_MAX])
def test_a_large_body_goes_in_parts_of_a_bounded_size(size):
    """Each that is complete shows that the other side is alive."""
    body = random.Random(size).randbytes(size)
    request = calls.request(calls.REQUEST, 9, 0, 0, b"s.m", b"", body)
    assert request == calls.plain_request(9, 0, 0, b"s.m", b"", body)
    reply, chunk = calls.reply(9, bytearray(body)), calls.chunk(9, 1, body)
    assert [b"peer", *reply] == calls.reply_to(b"peer", 9, body, 0)
    for frames in (request, reply, chunk):
        assert max(map(len, frames)) <= calls.PART_BYTES
        assert len(frames) == 1 + -(-size // calls.PART_BYTES)
    assert calls.read_asked(request).body == calls.read_answered(reply).body == calls.read_answered(chunk).body == body


GOOD = calls.request(calls.REQUEST, 9, 0, 0, b"s.m", b"\x80", b"x")[0]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [GOOD[:15]],
        [b"xx" + GOOD[2:]],
        [GOOD[:30]],
        [GOOD[:4] + b"\x02" + GOOD[5:]],
        [GOOD[:4] + b"\x01" + GOOD[5:]],
        [GOOD, b"a second body"],
        [GOOD[:32] + b"\xff\xff" + GOOD[34:]],
        [GOOD[:34] + b"\xff\xff\xff\xff" + GOOD[38:]],
        [GOOD[:40] + b"\xff\xfe\xfd" + GOOD[43:]],
        calls.reply(9, b""),
        [calls.credit(9, 1)[0][:-1]],
        [calls.bare(calls.PING, 1)[0] + b"x"],
        [calls.bare(calls.CANCEL, 1)[0], b""],
    ],
)
def test_what_no_caller_sends_is_refused(frames):
    with pytest.raises(errors.ProtocolViolation):
        calls.read_asked(frames)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [GOOD],
        [b"x" * 16],
        [calls.reply(9, b"")[0][:4] + b"\x02" + bytes(11)],
        [*calls.reply(9, b"x"), b"y"],
        [*calls.reply(9, b""), *[bytes(CALL_BYTES_MAX // 2)] * 2, b"x"],
        [*calls.reply(9, b""), *[b""] * calls.PARTS_MAX],
        [calls.chunk(9, 1, b"")[0][:-1]],
        [calls.failure(calls.FAILED, 9, FULL)[0][:-1]],
        [calls.failure(calls.FAILED, 9, FULL)[0], b""],
        [calls.pong(9, 1, draining=False)[0] + b"x"],
        [calls.bare(calls.GOODBYE, 0)[0] + b"x"],
    ],
)
def test_what_no_instance_sends_is_refused(frames):
    with pytest.raises(errors.ProtocolViolation):
        calls.read_answered(frames)


def test_another_version_is_told_apart_from_garbage():
    for read in (calls.read_asked, calls.read_answered):
        with pytest.raises(errors.UnsupportedVersion):
            read([GOOD[:2] + b"\x09" + GOOD[3:]])


@pytest.mark.parametrize("data", [b"\xc1", b"\x81\xa1a\xa1b", b"\x81\x01\xc4\x01x", b"\x90"])
def test_headers_that_are_none_are_refused(data):
    with pytest.raises(errors.ProtocolViolation):
        calls.read_headers(data)


@pytest.mark.parametrize("ceiling", [None, "x", -1, 0.5])
def test_an_error_of_a_peer_is_an_error_whatever_its_values_are(ceiling):
    values = {"size": 1, "topic": "t", "limit": 1, "ceiling": ceiling}
    assert isinstance(errors.from_wire(errors.RecordTooLarge.code, values), errors.ZFabricError)


def test_values_of_an_error_arrive_as_what_a_caller_can_read():
    error = errors.NotFound(kind="caf\udce9", name=b"eve\xff")
    error.values |= {"long": "x" * 30_000, "truth": True, "large": 2**70, "object": object()}
    answer = calls.read_answered(calls.failure(calls.FAILED, 1, error))
    assert answer.failure.values == {
        "kind": "caf\\udce9",
        "name": "eve\\xff",
        "long": "x" * calls.FAILURE_TEXT_MAX,
        "truth": 1,
        "large": "<int>",
        "object": "<object>",
    }


@pytest.mark.parametrize("size", [0, 1, calls.INLINE_BYTES, calls.INLINE_BYTES + 1, 3 * calls.PART_BYTES])
def test_a_first_frame_of_an_answer_that_is_long_has_none_behind_it(size):
    body = b"x" * size
    for frames in (calls.reply(9, body), calls.chunk(9, 0, body), calls.reply_to(b"peer", 9, body, 1)[1:]):
        assert len(frames) == 1 or len(frames[0]) < calls.ALONE_BYTES
