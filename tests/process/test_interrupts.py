"""Ctrl-C at any instant: it comes out of what waits, and the same objects go on with nothing lost or repeated."""

from __future__ import annotations

import dis
import json
import os
import signal
import subprocess
import sys
import threading
from itertools import count

import pytest

import zfabric
from tests.process.interrupted import COUNT, OTHER, TOPIC
from tests.scale import scaled
from zfabric.settings import LeaderSettings
from zfabric.sync import interrupts

pytestmark = pytest.mark.usefixtures("unmeasured")
SEED = 5
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


@pytest.fixture
def fabric(zfabric_url):
    with zfabric.connect(zfabric_url, timeout=60, settings=LeaderSettings(grace_ms=100)) as connected:
        connected.topics.create(TOPIC)
        connected.topics.create(OTHER)
        yield connected


def run(fabric, scenario, interruptions):
    command = [sys.executable, "-m", "tests.process.interrupted", scenario, fabric.url, str(interruptions), str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    assert said["interrupted"] == interruptions
    return said["result"]


def read(fabric, topic):
    end, values = fabric.topics.describe(topic).partitions[0].end_offset, []
    with fabric.consumer(topic) as consumer:
        while len(values) < end:
            found = consumer.poll(100_000, timeout=60)
            assert found
            values += [record.value for record in found]
    return values


@pytest.mark.parametrize("scenario", ["send", "flush"])
def test_an_interrupted_producer_sends_everything_once(fabric, scenario):
    (sent,) = run(fabric, scenario, scaled(60))
    assert read(fabric, OTHER) == [b"%d" % number for number in range(sent)]


@pytest.mark.parametrize("scenario", ["poll", "iterate"])
def test_an_interrupted_consumer_misses_and_repeats_nothing(fabric, scenario):
    with fabric.producer() as producer:
        producer.send_many(TOPIC, [b"%d" % number for number in range(COUNT)])
    numbers = run(fabric, scenario, scaled(30))
    assert len(numbers) > scaled(30)
    assert numbers == [number % COUNT for number in range(len(numbers))]


def test_an_interrupted_uplink_ships_everything_once(fabric):
    with fabric.producer(batch_bytes=1_000) as producer:
        for number in range(COUNT):
            producer.send(TOPIC, b"%d" % number)
    assert run(fabric, "ship", scaled(60)) == list(range(COUNT))


def test_connecting_and_leaving_can_be_interrupted_at_any_instant(fabric):
    """What an interrupted attempt had taken is given back: the leader of that directory ends."""
    (whole,) = run(fabric, "connect", scaled(60))
    assert whole >= 0


def test_every_call_that_waits_comes_out_and_everything_goes_on(fabric):
    """Also while a thread drives the sockets, and out of the user's own iterable."""
    came_out, records = run(fabric, "blocked", 0)
    assert came_out == 2 * (3 + 6) + 1
    assert records == 2


def test_a_handler_of_the_application_stays_and_ours_goes_with_the_last_fabric(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with zfabric.connect(f"zf+file:{tmp_path / 'one'}"):
            assert signal.getsignal(signal.SIGINT) is interrupts._interrupt
            with zfabric.connect(f"zf+file:{tmp_path / 'two'}"):
                pass
            assert signal.getsignal(signal.SIGINT) is interrupts._interrupt
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with zfabric.connect(f"zf+file:{tmp_path / 'one'}", settings=LeaderSettings(grace_ms=100)) as fabric:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # As Jupyter does before each cell.
            fabric.topics.list()
            assert signal.getsignal(signal.SIGINT) is interrupts._interrupt

        def own(number, frame):
            raise AssertionError("never called")

        signal.signal(signal.SIGINT, own)
        with zfabric.connect(f"zf+file:{tmp_path / 'one'}"):
            assert signal.getsignal(signal.SIGINT) is own
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def strike(number, send):
    """Call ``send``, and raise where the n-th call that it makes ends, as signals' handlers do; tells if so."""
    code = zfabric.Producer.send.__code__
    calls = {at.offset for at in dis.get_instructions(code) if at.opname in {"CALL", "CALL_FUNCTION_EX"}}
    after, ended = False, 0

    def look(frame, event, argument):
        nonlocal after, ended
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            ended += after
            if after and ended == number:
                after = False
                raise TimeoutError
            after = frame.f_lasti in calls
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        send()
    except TimeoutError:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_send_that_an_exception_of_a_signal_handler_strikes_keeps_no_other_thread_waiting(fabric):
    with fabric.producer() as producer:
        producer.send(TOPIC, b"0").result(60)
        for number in count(1):
            struck = strike(number, lambda: producer.send(TOPIC, b"struck"))
            other = threading.Thread(target=producer.send, args=(TOPIC, b"%d" % number), daemon=True)
            other.start()
            other.join(30)
            assert not other.is_alive(), f"the lock stays taken where it strikes behind call {number}"
            if not struck:
                break
        assert number > 5
    assert read(fabric, TOPIC)[-1] == b"%d" % number
