"""Callers of a service that do not read what they are sent: others are served, and what they are owed is bounded."""

from __future__ import annotations

import threading

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S
from tests.process.test_hostile_services import strangers
from tests.process.test_sdk import until
from zfabric.core.client.unread import CALLER_BYTES
from zfabric.wire import calls

MIB = 1 << 20
REQUESTS = 60


@pytest.fixture
def service(zfabric_fabric):
    service = zfabric_fabric.service("s")

    @service.method("large")
    def large(request):
        return bytes(MIB)

    with service:
        yield service


def ask(service, caller, number):
    caller.send_multipart(calls.request(calls.REQUEST, number, service.instance, 0, b"s.large", b"", b""))


def test_a_caller_that_reads_nothing_has_few_replies_made_and_others_are_served(zfabric_fabric, service):
    """Its socket takes all, and so its connection lives: nothing but the instance's questions tells."""
    with strangers(service.endpoint, 1) as (deaf,):
        for number in range(2, 2 * REQUESTS + 2, 2):
            ask(service, deaf, number)
        assert until(lambda: service.stats()["waiting"] > 0 and service.stats()["running"] == 0, PATIENCE_S)
        for _ in range(10):
            assert len(zfabric_fabric.request("s.large", timeout=PATIENCE_S)) == MIB
        made = service.stats()["methods"]["large"]["calls"] - 10
        assert made <= CALLER_BYTES // MIB + 8  # That many workers had one each.
        told = []
        while len(told) < REQUESTS:
            assert deaf.poll(PATIENCE_S * 1_000)
            answer = calls.read_answered(deaf.recv_multipart())
            if answer.type == calls.PONG:
                deaf.send_multipart(calls.bare(calls.PING, answer.number))
            else:
                told.append(answer.number)
        assert sorted(told) == list(range(2, 2 * REQUESTS + 2, 2))


def test_many_large_replies_at_once_all_arrive_at_a_caller_that_reads(zfabric_fabric, service):
    got = []
    with zfabric.connect(zfabric_fabric.url, timeout=PATIENCE_S) as caller:
        threads = [threading.Thread(target=lambda: got.append(len(caller.request("s.large")))) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [MIB] * 50
