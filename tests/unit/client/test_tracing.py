"""The trace that requests carry."""

from __future__ import annotations

from random import Random

from zfabric.core.client import tracing
from zfabric.wire import calls


def test_headers_that_are_only_a_trace_are_encoded_as_all_headers_are():
    trace = tracing.onward(None, Random(1))
    assert tracing.encoded(trace) == calls.headers({tracing.HEADER: trace})
    assert tracing.alone(tracing.encoded(trace)) == trace


def test_a_trace_among_other_headers_does_not_stand_alone():
    trace = tracing.onward(None, Random(1))
    assert tracing.alone(calls.headers({tracing.HEADER: trace, "a": b""})) is None
    assert tracing.alone(calls.headers({tracing.HEADER: trace[1:]})) is None
    assert tracing.alone(b"") is None


def test_a_request_made_for_one_with_a_trace_that_is_none_begins_another():
    context = tracing.Context(b"x" * 55, None)
    assert tracing.valid(tracing.onward(context, Random(1)))
    assert b"x" not in tracing.onward(context, Random(1))
