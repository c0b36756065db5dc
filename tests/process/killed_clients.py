"""A program whose children are clients, each killed after a while: ``python -m tests.process.killed_clients``.

It forks, so that a client costs milliseconds. Arguments: what the children do, the URL, how many, a seed. It prints one
JSON document when all are gone: for producers what each was told, for consumers what each read and committed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable

import zfabric

# Loaded before the fork.
from zfabric.sync import consumer, fabric, producer  # noqa: F401

TOPIC = "t"
GROUP = "g"
_TWO = struct.Struct("<QQ")

Say = Callable[[int, int], object]


def produce(url: str, child: int, begin: int, say: Say) -> None:
    """Send numbers from 0 on, one after the other, as a producer of its own; say each that was acknowledged."""
    with zfabric.connect(url, timeout=30.0) as connected, connected.producer() as sender:
        for number in range(1 << 40):
            say(number, sender.send(TOPIC, b"%d %d" % (child, number)).result(timeout=30).offset)


def resume(url: str, child: int, begin: int, say: Say) -> None:
    """Send numbers from the first one on that was not acknowledged, as the same named producer as those before."""
    with zfabric.connect(url, timeout=30.0) as connected, connected.producer(name="clerk") as sender:
        for number in range(begin, 1 << 40):
            sender.send(TOPIC, b"%d" % number, partition=0, sequence=number).result(timeout=30)
            say(number, 0)


def consume(url: str, child: int, begin: int, say: Say) -> None:
    """Read as a member of the group, say what was read, commit, and say that."""
    with zfabric.connect(url, timeout=30.0) as connected, connected.consumer(TOPIC, group=GROUP) as reader:
        while True:
            for record in reader.poll(20, timeout=1.0):
                say(0, record.offset)
            reader.commit()
            say(1, reader.position[0])


def run_and_kill(work: Callable[[str, int, int, Say], None], url: str, child: int, begin: int, rng: random.Random):
    """Return what a child said until it was killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            work(url, child, begin, lambda first, second: os.write(writing, _TWO.pack(first, second)))
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(1)
    os.close(writing)
    wanted, said = rng.choice([0, 1, 5, 20]), b""
    while len(said) < wanted * _TWO.size:
        piece = os.read(reading, 1 << 16)
        assert piece, "the client ended by itself"
        said += piece
    time.sleep(rng.choice([0.0, 0.0005, 0.002, 0.01]))
    os.kill(pid, signal.SIGKILL)
    while piece := os.read(reading, 1 << 16):
        said += piece
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return [_TWO.unpack_from(said, at) for at in range(0, len(said) - _TWO.size + 1, _TWO.size)]


def main() -> None:
    """Run all children, one after the other."""
    kind, url, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    work = {"produce": produce, "resume": resume, "consume": consume}[kind]
    rng, begin, said = random.Random(seed), 0, []
    for child in range(count):
        said.append(run_and_kill(work, url, child, begin, rng))
        begin = max([begin, *(first + 1 for first, _ in said[-1])])
    print(json.dumps(said))


if __name__ == "__main__":
    main()
