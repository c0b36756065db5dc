"""Streams of services: how far an instance is ahead of its reader, and how long it waits for one."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S
from tests.process.test_sdk import until
from zfabric import errors
from zfabric.settings import CALL_BYTES_MAX, STREAM_BYTES


def test_a_stream_is_ahead_of_its_reader_by_so_many_bytes_only(zfabric_fabric):
    """The window alone would let eight of the largest chunks wait, of each stream."""
    half = STREAM_BYTES // 2
    given = []
    service = zfabric_fabric.service("s")

    @service.method("large")
    def large(request):
        for number in range(12):
            given.append(number)
            yield bytes([number]) * half

    with service, zfabric.connect(zfabric_fabric.url) as caller, caller.stream("s.large") as stream:
        assert next(stream) == bytes(half)
        assert until(lambda: len(given) == 3, PATIENCE_S)
        time.sleep(0.1)
        assert len(given) == 3
        assert [chunk[0] for chunk in stream] == list(range(1, 12))


def test_a_chunk_may_be_larger_than_what_a_stream_is_ahead_by(zfabric_fabric):
    service = zfabric_fabric.service("s")

    @service.method("largest")
    def largest(request):
        for number in range(4):
            yield bytes([number]) * CALL_BYTES_MAX

    with service, zfabric.connect(zfabric_fabric.url) as caller, caller.stream("s.largest") as stream:
        assert [(len(chunk), chunk[0]) for chunk in stream] == [(CALL_BYTES_MAX, number) for number in range(4)]


def test_a_stream_that_nobody_takes_frees_its_worker_and_says_so_on_both_sides(zfabric_fabric):
    service = zfabric_fabric.service("s", concurrency=1, patience=1.0)
    ended = threading.Event()

    @service.method("endless")
    def endless(request):
        try:
            while True:
                yield b"chunk"
        finally:
            ended.set()

    @service.method("quick")
    def quick(request):
        return b"done"

    with service, zfabric.connect(zfabric_fabric.url) as caller, caller.stream("s.endless") as stream:
        assert next(stream) == b"chunk"
        assert ended.wait(PATIENCE_S)
        assert zfabric_fabric.request("s.quick", timeout=PATIENCE_S) == b"done"
        with pytest.raises(errors.StreamStalled) as stalled:
            list(stream)
        assert (stalled.value.chunks, stalled.value.seconds) == (8, 1.0)
        assert (service.stats()["stalled"], service.stats()["failures"]) == (1, 1)


def endless(request):
    while not request.cancelled:
        yield b"chunk"


def test_one_caller_s_streams_leave_workers_to_others(zfabric_fabric):
    """Three of four workers, by default; its next stream begins when one of those has ended."""
    service = zfabric_fabric.service("s", concurrency=4)

    service.method("endless")(endless)

    @service.method("quick")
    def quick(request):
        return b"done"

    with service, zfabric.connect(zfabric_fabric.url) as greedy, zfabric.connect(zfabric_fabric.url) as other:
        streams = [greedy.stream("s.endless") for _ in range(3)]
        for stream in streams:
            assert next(stream) == b"chunk"
        with pytest.raises(errors.RequestTimeout):
            next(greedy.stream("s.endless", timeout=0.5))
        assert other.request("s.quick", timeout=PATIENCE_S) == b"done"
        assert greedy.request("s.quick", timeout=PATIENCE_S) == b"done"
        assert next(other.stream("s.endless")) == b"chunk"
        for stream in streams:
            stream.close()
        assert next(greedy.stream("s.endless", timeout=PATIENCE_S)) == b"chunk"


def test_streams_of_all_callers_leave_a_worker_to_what_is_no_stream(zfabric_fabric):
    service = zfabric_fabric.service("s", concurrency=3)
    service.method("endless")(endless)
    service.method("quick")(lambda request: b"done")
    with service, ExitStack() as callers:
        several = [callers.enter_context(zfabric.connect(zfabric_fabric.url)) for _ in range(3)]
        streams = [caller.stream("s.endless") for caller in several[:2]]
        assert [next(stream) for stream in streams] == [b"chunk"] * 2
        third = several[2].stream("s.endless")
        for caller in several:
            assert caller.request("s.quick", timeout=PATIENCE_S) == b"done"
        assert service.stats()["running"] == 2
        streams[0].close()
        assert next(third) == b"chunk"


def test_streams_of_one_caller_are_bounded_as_the_service_says(zfabric_fabric):
    with pytest.raises(errors.InvalidArgument):
        zfabric_fabric.service("s", streams=0)
    service = zfabric_fabric.service("s", concurrency=2, streams=1)

    service.method("endless")(endless)
    with service, zfabric.connect(zfabric_fabric.url) as caller:
        first = caller.stream("s.endless")
        assert next(first) == b"chunk"
        with pytest.raises(errors.RequestTimeout):
            next(caller.stream("s.endless", timeout=0.5))
        assert service.stats()["running"] == 1
        first.close()
