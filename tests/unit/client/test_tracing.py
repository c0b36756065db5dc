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
        ((name, trace),) = tracing.onward(context, Random(1)).items()
        assert tracing.encoded(context, Random(1)) == calls.headers({name: trace})
        assert tracing.alone(tracing.encoded(context, Random(1))) == trace
        assert tracing.valid(trace)


def test_a_trace_among_other_headers_does_not_stand_alone():
    trace = tracing.onward(None, Random(1))[tracing.HEADER]
    assert tracing.alone(calls.headers({tracing.HEADER: trace, "a": b""})) is None
    assert tracing.alone(calls.headers({tracing.HEADER: trace[1:]})) is None
    assert tracing.alone(b"") is None


def test_a_request_made_for_one_with_a_trace_that_is_none_begins_another():
    ((name, trace),) = tracing.onward(handled(b"x" * 55, tracestate=b"of that"), Random(1)).items()
    assert (name, tracing.valid(trace)) == (tracing.HEADER, True)
    assert b"x" not in trace


def test_what_others_say_of_a_trace_goes_along_as_it_is_unless_it_is_too_much():
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for state, carried in ((b"vendor=1,other=x", True), (b"x" * 512, True), (b"x" * 513, False), (b"", False)):
        onward = tracing.onward(handled(trace, tracestate=state, other=b"1"), Random(1))
        assert onward.get(tracing.STATE) == (state if carried else None)
        assert onward[tracing.HEADER][:36] == trace[:36]
        assert set(onward) <= {tracing.HEADER, tracing.STATE}


def test_the_trace_of_a_request_is_found_among_its_headers():
    trace = tracing.onward(None, Random(1))[tracing.HEADER]
    assert handled(trace).traceparent == trace
    assert handled(trace, other=b"1").traceparent == trace
