"""A program that is interrupted again and again: ``python -m tests.process.interrupted SCENARIO URL COUNT SEED``.

A thread sends SIGINT to it at random instants while it is within ``armed``; each KeyboardInterrupt is caught there,
and the work goes on with the same objects. It prints one JSON document: how often it was interrupted, and the result.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import zfabric
from zfabric.uplink import Uplink

TOPIC = "t"
OTHER = "sent"
COUNT = 20_000
"""Records of the topic that is read."""
PATIENCE_S = 60.0


class Tormentor:
    """Interrupts :meth:`run` at random instants, each time after the work has gone on."""

    def __init__(self, interruptions: int, seed: int) -> None:
        self.left = interruptions
        self.done = 0
        self._sent = False
        self._rng = random.Random(seed)
        self._armed = threading.Event()
        self._aiming = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._torment)
        self._thread.start()

    def run(self, work: Callable[[], None]) -> None:
        """Call ``work`` until it returns by itself, however often it is interrupted."""
        while True:
            try:
                self._armed.set()
                work()
                with self._aiming:  # Who has aimed has struck.
                    self._armed.clear()
                self._settle()
                return
            except KeyboardInterrupt:
                self.done += 1
                self._sent = False

    def _settle(self) -> None:
        """Take an interruption that is still on its way."""
        try:
            deadline = time.monotonic() + 0.1
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except KeyboardInterrupt:
            self.done += 1
            self._sent = False

    def _torment(self) -> None:
        while self.left and not self._ended:
            if not self._armed.wait(0.1):
                continue
            time.sleep(self._rng.choice([0.0, 0.0003, 0.001, 0.005, 0.02]) * self._rng.random())
            if self._strike():
                while self._sent and self._armed.is_set():
                    time.sleep(0.0005)

    def _strike(self) -> bool:
        with self._aiming:
            if not self._armed.is_set():
                return False
            self.left -= 1
            self._sent = True
            os.kill(os.getpid(), signal.SIGINT)
            return True

    def end(self) -> None:
        """No more."""
        self._ended = True
        self._thread.join()


def send(fabric: zfabric.Fabric, tormentor: Tormentor) -> list[int]:
    """Send numbers until there were enough interruptions, into a buffer that is often full; return the count."""
    deliveries: list[object] = []
    with fabric.producer(buffer_bytes=2_000) as producer:

        def work() -> None:
            while tormentor.left:
                deliveries.append(producer.send(OTHER, b"%d" % len(deliveries)))

        tormentor.run(work)
    return [len(deliveries)]


def flush(fabric: zfabric.Fabric, tormentor: Tormentor) -> list[int]:
    """The same, but wait for each few."""
    deliveries: list[object] = []
    with fabric.producer() as producer:

        def work() -> None:
            while tormentor.left:
                deliveries.append(producer.send(OTHER, b"%d" % len(deliveries)))
                if len(deliveries) % 3 == 0:
                    producer.flush()

        tormentor.run(work)
    return [len(deliveries)]


def poll(fabric: zfabric.Fabric, tormentor: Tormentor) -> list[int]:
    """Read all numbers of the topic in small pieces, and again, until there were enough interruptions."""
    records: list[zfabric.Record] = []
    with fabric.consumer(TOPIC) as consumer:

        def work() -> None:
            while tormentor.left:
                if consumer.position[0] == COUNT:
                    consumer.seek(0, 0)
                records.extend(consumer.poll(7, timeout=1.0))

        tormentor.run(work)
    return [int(record.value or b"-1") for record in records]


def iterate(fabric: zfabric.Fabric, tormentor: Tormentor) -> list[int]:
    """The same with an iteration, which is left by each interruption and begun anew."""
    records: list[zfabric.Record] = []
    with fabric.consumer(TOPIC) as consumer:

        def work() -> None:
            if consumer.position[0] == COUNT:
                consumer.seek(0, 0)
            for record in consumer:
                records.append(record)
                if not tormentor.left:
                    return
                if record.offset == COUNT - 1:
                    consumer.seek(0, 0)

        tormentor.run(work)
    return [int(record.value or b"-1") for record in records]


def connect(fabric: zfabric.Fabric, tormentor: Tormentor) -> list[int]:
    """Connect, open a consumer and leave, again and again, in the directory beside the one given."""
    url = f"{fabric.url}-beside"
    whole = []

    def work() -> None:
        for number in count():
            if not tormentor.left:
                return
            with zfabric.connect(url, timeout=PATIENCE_S) as other:
                other.topics.create(TOPIC, if_absent=True)
                with other.consumer(TOPIC):
                    whole.append(number)

    tormentor.run(work)
    return [len(whole)]


def ship(fabric: zfabric.Fabric, tormentor: Tormentor) -> list[int]:
    """Ship all numbers to the fabric beside the one given, by steps and by runs of one uplink."""
    with zfabric.connect(f"{fabric.url}-beside", timeout=PATIENCE_S) as hub:
        uplink = Uplink(fabric, hub, topics=TOPIC, buffer_bytes=64 << 10)

        def work() -> None:
            while tormentor.left:
                uplink.advance(0.01)
            uplink.run(once=True)

        tormentor.run(work)
        with hub.consumer(TOPIC) as consumer:
            numbers: list[int] = []
            while len(numbers) < hub.topics.describe(TOPIC).partitions[0].end_offset:
                numbers += [int(record.value or b"-1") for record in consumer.poll(100_000, timeout=PATIENCE_S)]
    return numbers


def blocked(fabric: zfabric.Fabric, tormentor: Tormentor) -> list[int]:
    """Interrupt each call that waits, alone and beside a thread that waits; return how many came out, and records."""
    pid = fabric.status()[0].pid
    consumer, producer = fabric.consumer(OTHER), fabric.producer(buffer_bytes=100)
    came_out = 0
    for beside in (False, True):
        other = threading.Thread(target=fabric.consumer(OTHER, start="latest").poll, kwargs={"timeout": 4.0})
        if beside:
            other.start()
        calls: list[Callable[[], object]] = [
            lambda: consumer.poll(timeout=3_600),
            lambda: consumer.poll_batches(timeout=3_600),
            lambda: next(iter(consumer)),
        ]
        came_out += sum(map(interrupted, calls))
        os.kill(pid, signal.SIGSTOP)
        try:
            first = producer.send(OTHER, b"x" * 200)
            calls = [
                lambda: producer.send(OTHER, b"y"),
                lambda: producer.send_many(OTHER, [b"y"]),
                producer.flush,
                lambda delivery=first: delivery.result(),
                fabric.topics.list,
                lambda: fabric.consumer(OTHER),
            ]
            came_out += sum(map(interrupted, calls))
        finally:
            os.kill(pid, signal.SIGCONT)
        first.result(timeout=PATIENCE_S)
        consumer.poll(timeout=PATIENCE_S)
        if beside:
            other.join()
    came_out += interrupted(lambda: producer.send_many(OTHER, slow()))
    producer.flush(PATIENCE_S)
    return [came_out, fabric.topics.describe(OTHER).partitions[0].end_offset]


def slow() -> Iterator[bytes]:
    """The user's own iterable, which does not come to an end."""
    while True:
        time.sleep(3_600)
        yield b""


def interrupted(call: Callable[[], object]) -> bool:
    """Interrupt a call that would wait; tell whether it raised KeyboardInterrupt."""
    while True:
        timer, returned = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)), False
        try:
            timer.start()
            call()
            returned = True
            timer.join()
            time.sleep(1)
        except KeyboardInterrupt as error:
            timer.join()
            inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
            if returned or (inner is not None and inner.tb_frame.f_code is not threading.Timer.start.__code__):
                return not returned
            # It came before the call was begun.
        else:
            return False


def main() -> None:
    """Run one scenario."""
    scenario, url, interruptions, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    scenarios = {made.__name__: made for made in (send, flush, poll, iterate, connect, ship, blocked)}
    with zfabric.connect(url, timeout=PATIENCE_S) as fabric:
        tormentor = Tormentor(interruptions, seed)
        try:
            result = scenarios[scenario](fabric, tormentor)
        finally:
            tormentor.end()
    print(json.dumps({"interrupted": tormentor.done, "result": result}))


if __name__ == "__main__":
    main()
