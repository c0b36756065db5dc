"""Lines as ``zfabric produce`` takes them."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.cli.lines import LineTooLong, parse, pieces


class Trickle(io.BytesIO):
    """A file that gives what it has in pieces of a few bytes, as a pipe may."""

    def __init__(self, content, step):
        super().__init__(content)
        self.step = step

    def read1(self, size=-1):
        return super().read1(min(size, self.step))


def read(content, step=3, limit=1000):
    return [
        (piece.first + at, line)
        for piece in pieces(Trickle(content, step), "f", limit)
        for at, line in enumerate(piece.lines)
    ]


@given(content=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\0"])).map(b"".join), step=st.integers(1, 20))
def test_lines_and_their_numbers_do_not_depend_on_how_they_arrive(content, step):
    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert read(content, step) == list(enumerate(expected, 1))


def test_a_line_is_there_as_soon_as_it_was_read():
    assert next(pieces(Trickle(b"one\ntwo\n", 4), "f", 10)).lines == [b"one"]


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("content", [b"a\nbb\ntoolong\nc\n", b"a\nbb\ntoolong"])
def test_a_line_beyond_the_bound_is_named_after_all_before_it(content, step):
    seen = []

    def take():
        for piece in pieces(Trickle(content, step), "f", 5):
            seen.extend(piece.lines)

    with pytest.raises(LineTooLong) as raised:
        take()
    assert (seen, raised.value.source, raised.value.line) == ([b"a", b"bb"], "f", 3)


def test_a_line_without_end_is_held_only_up_to_the_bound():
    class Endless(io.RawIOBase):
        given = 0

        def read1(self, size=-1):
            self.given += size
            return bytes(size)

    file = Endless()
    with pytest.raises(LineTooLong):
        list(pieces(file, "f", 1 << 20))
    assert file.given <= 2 << 20


def test_an_object_has_text_or_any_bytes():
    assert parse(b'{"value": "\xc3\xa9", "key": "k"}', "f", 1)[:2] == ("é".encode(), b"k")
    assert parse(b'{"value_base64": "/w==", "key_base64": "AA=="}', "f", 1)[:2] == (b"\xff", b"\0")
    fields = parse(b'{"value": null, "headers": {"a": "1"}, "headers_base64": {"b": "/w=="}}', "f", 1)
    assert (fields.value, fields.headers) == (None, {"a": b"1", "b": b"\xff"})


def test_what_consume_prints_is_taken():
    line = {"topic": "t", "partition": 2, "offset": 9, "timestamp": 7, "key": None, "value": "v", "headers": {}}
    assert parse(json.dumps(line).encode(), "f", 1) == (b"v", None, None, 2, 7)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"value": 1}',
        b'{"value": "a", "vale": "b"}',
        b'{"value": "a", "value_base64": "YQ=="}',
        b'{"value": "a", "key": "k", "key_base64": "YQ=="}',
        b'{"value_base64": "@"}',
        b'{"value": "a", "partition": true}',
        b'{"value": "a", "timestamp": 1.5}',
        b'{"value": "a", "headers": {"h": 1}}',
        b'{"value": "\xff"}',
        b'{"value": "\\ud800"}',
        b'{"value": "a"} {"value": "b"}',
        b"[" * 100_000,
    ],
)
def test_a_bad_line_is_named_with_what_is_allowed(line):
    with pytest.raises(errors.BadInput) as raised:
        parse(line, "some file", 1234)
    assert (raised.value.source, raised.value.line) == ("some file", 1234)
    assert "value_base64" in str(raised.value)


@given(line=st.binary(max_size=200))
def test_no_line_makes_another_error(line):
    try:
        told = parse(line, "f", 1)
    except errors.BadInput as error:
        told = (error.source, error.line)
    assert told == ("f", 1) or isinstance(told, type(parse(b"{}", "f", 1)))
