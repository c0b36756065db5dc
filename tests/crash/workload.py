"""What is recorded: a real leader and a client that writes down what it asked for and what it was told, and when."""

from __future__ import annotations

import functools
import random
import time
from dataclasses import dataclass, field

import zfabric
from tests.process.leaders import LeaderProcess

TOPICS = {
    "sync": {},
    "ring": {"retention_bytes": 60_000},
    "cached": {"durability": "os"},
    "shared": {"commit_interval": 0.02},
    "memory": {"durability": "memory"},
}
GROUP = "readers"
BURST = 12


@functools.cache
def value_of(topic: str, number: int) -> bytes:
    """Return the value of a topic's record ``number``: 10 bytes to 9 KB that depend on both."""
    rng = random.Random(f"{topic} {number}")
    return b"%s %d " % (topic.encode(), number) + rng.randbytes(rng.choice([10, 100, 100, 1000, 3000, 9000]))


@dataclass
class History:
    """Times in monotonic ns.

    Attributes:
        sent: by topic, when record n was handed over. acked: by topic, when record n was acknowledged.
        made: when the topic's creation was answered. committed: when the group's offset n + 1 in "sync" was.
    """

    sent: dict[str, list[int]] = field(default_factory=dict)
    acked: dict[str, dict[int, int]] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    committed: list[tuple[int, int]] = field(default_factory=list)


class Workload:
    """One client of ``leader``; every record of a topic is sent once, so record n gets offset n."""

    def __init__(self, leader: LeaderProcess, seed: int) -> None:
        self.history = History()
        self._leader = leader
        self._rng = random.Random(seed)
        self._fabric = zfabric.connect(leader.url, timeout=30.0)
        self._producer = self._fabric.producer()

    def close(self) -> None:
        """Leave."""
        self._producer.close()
        self._fabric.close()

    def make_topics(self) -> None:
        """Create all topics, one after the other."""
        for topic, options in TOPICS.items():
            self._fabric.topics.create(topic, **options)
            self.history.made[topic] = time.monotonic_ns()
            self.history.sent[topic] = []
            self.history.acked[topic] = {}

    def run(self, steps: int) -> None:
        """Send records, alone and in bursts, to one topic and to several; commit a group's offset now and then."""
        for _ in range(steps):
            topics = self._rng.sample(sorted(TOPICS), self._rng.choice([1, 1, 1, 2, 5]))
            self.send(topics, self._rng.choice([1, 1, 1, 2, BURST]))
            if self._rng.random() < 0.1:
                self._commit()

    def idle(self, seconds: float) -> None:
        """Leave the leader alone for so long: its timers run."""
        time.sleep(seconds)

    def send(self, topics: list[str], count: int) -> None:
        """Send ``count`` records to each of the topics at once, then wait for all."""
        history, deliveries = self.history, []
        for _ in range(count):
            for topic in topics:
                number = len(history.sent[topic])
                history.sent[topic].append(time.monotonic_ns())
                deliveries.append((topic, number, self._producer.send(topic, value_of(topic, number))))
        for topic, number, delivery in deliveries:
            offset = delivery.result(timeout=30).offset
            assert offset == number or topic == "memory"
            history.acked[topic][offset] = time.monotonic_ns()

    def _commit(self) -> None:
        acked = len(self.history.acked["sync"])
        with self._fabric.consumer("sync", group=GROUP, start=0) as consumer:
            consumer.seek(0, acked)
            consumer.commit()
        self.history.committed.append((time.monotonic_ns(), acked))
