"""One producer and one consumer that go on, with the same objects, whatever happens to the leaders; then the count.

The consumer is another client than the producer, as it is in life, and starts before the first record.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Self

import zfabric
import zfabric.aio
from zfabric.settings import LeaderSettings

PATIENCE_S = 60.0


class Flow:
    """Sends numbers to the partitions of a topic in turn; each is acknowledged before the next of its partition.

    Attributes:
        acked: numbers acknowledged. seen: numbers read, by partition; offsets: theirs.
    """

    def __init__(self, url: str, topic: str, partitions: int = 1, settings: LeaderSettings | None = None) -> None:
        self.acked = 0
        self.seen: list[list[int]] = [[] for _ in range(partitions)]
        self.offsets: list[list[int]] = [[] for _ in range(partitions)]
        self._url, self._topic, self._settings = url, topic, settings
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in (self._read, self._send)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def read(self) -> int:
        """How many were read."""
        return sum(map(len, self.seen))

    def await_progress(self, more: int = 2) -> None:
        """Wait until both sides have gone on by some records."""
        acked, read = self.acked, self.read
        self._await(lambda: self.acked >= acked + more and self.read >= read + more)

    def finish(self) -> int:
        """Stop sending, wait until all is read, and check it; returns how many there were."""
        self._stopping.set()
        self._await(lambda: not any(thread.is_alive() for thread in self._threads))
        assert self._failures == []
        check(self)
        return self.acked

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert not self._failures, self._failures
            assert time.monotonic() < deadline, f"{self.acked} acknowledged, {self.read} read, and then nothing"
            time.sleep(0.001)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test's own thread hands it over
            self._failures.append(error)

    def _connect(self) -> zfabric.Fabric:
        return zfabric.connect(self._url, timeout=PATIENCE_S, settings=self._settings)

    def _send(self) -> None:
        with self._connect() as fabric, fabric.producer() as producer:
            number = 0
            while not self._stopping.is_set():
                partition = number % len(self.seen)
                producer.send(self._topic, b"%d" % number, partition=partition).result(timeout=PATIENCE_S)
                number += 1
                self.acked = number

    def _read(self) -> None:
        with self._connect() as fabric, fabric.consumer(self._topic) as consumer:
            while not self._stopping.is_set() or self.read < self.acked or self._threads[1].is_alive():
                for record in consumer.poll(timeout=0.05):
                    self.seen[record.partition].append(int(record.value or b"-1"))
                    self.offsets[record.partition].append(record.offset)


class AsyncFlow:
    """The same on the asynchronous twin, in one task each. Used inside a running loop."""

    def __init__(self, url: str, topic: str, settings: LeaderSettings | None = None) -> None:
        self.acked = 0
        self.seen: list[list[int]] = [[]]
        self.offsets: list[list[int]] = [[]]
        self._url, self._topic, self._settings = url, topic, settings
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def await_progress(self, more: int = 2) -> None:
        """Wait until both sides have gone on by some records."""
        acked, read = self.acked, len(self.seen[0])
        deadline = time.monotonic() + PATIENCE_S
        while self.acked < acked + more or len(self.seen[0]) < read + more:
            assert not any(task.done() for task in self._tasks)
            assert time.monotonic() < deadline, f"{self.acked} acknowledged, {len(self.seen[0])} read, and then nothing"
            await asyncio.sleep(0.001)

    async def finish(self) -> int:
        """Stop sending, wait until all is read, and check it; returns how many there were."""
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE_S)
        check(self)
        return self.acked

    def _connect(self) -> zfabric.aio.Fabric:
        return zfabric.aio.connect(self._url, timeout=PATIENCE_S, settings=self._settings)

    async def _send(self) -> None:
        async with self._connect() as fabric, fabric.producer() as producer:
            while not self._stopping:
                delivery = await producer.send(self._topic, b"%d" % self.acked)
                await delivery.result(timeout=PATIENCE_S)
                self.acked += 1

    async def _read(self) -> None:
        async with self._connect() as fabric, fabric.consumer(self._topic) as consumer:
            while not self._stopping or len(self.seen[0]) < self.acked or not self._tasks[1].done():
                for record in await consumer.poll(timeout=0.05):
                    self.seen[0].append(int(record.value or b"-1"))
                    self.offsets[0].append(record.offset)


def check(flow: Flow | AsyncFlow) -> None:
    """I1, I8: what was acknowledged was read once, in order, at offsets without holes."""
    count = len(flow.seen)
    for partition in range(count):
        assert flow.seen[partition] == list(range(partition, flow.acked, count))
        assert flow.offsets[partition] == list(range(len(flow.seen[partition])))
