"""The trace that requests carry."""

from __future__ import annotations

from random import Random

from zfabric.core.client import tracing
from zfabric.core.client.job import Job, Method
from zfabric.wire import calls


def handled(trace, **others):
    """A request under way that came with a trace."""
    method = Method("m", None, idempotent=False, stream=False)
    return Job(b"peer", 1, method, b"", calls.headers({tracing.HEADER: trace, **others}), None)


def test_headers_that_are_only_a_trace_are_encoded_as_all_headers_are():
    for context in (None, handled(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")):
        trace = tracing.onward(context, Random(1))
        assert tracing.encoded(context, Random(1)) == calls.headers({tracing.HEADER: trace})
        assert tracing.alone(tracing.encoded(context, Random(1))) == trace
        assert tracing.valid(trace)


def test_a_trace_among_other_headers_does_not_stand_alone():
    trace = tracing.onward(None, Random(1))
    assert tracing.alone(calls.headers({tracing.HEADER: trace, "a": b""})) is None
    assert tracing.alone(calls.headers({tracing.HEADER: trace[1:]})) is None
    assert tracing.alone(b"") is None


def test_a_request_made_for_one_with_a_trace_that_is_none_begins_another():
    context = handled(b"x" * 55)
    assert tracing.valid(tracing.onward(context, Random(1)))
    assert b"x" not in tracing.onward(context, Random(1))


def test_the_trace_of_a_request_is_found_among_its_headers():
    trace = tracing.onward(None, Random(1))
    assert handled(trace).traceparent == trace
    assert handled(trace, other=b"1").traceparent == trace
