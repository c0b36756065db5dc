"""A program whose sends are struck by a signal handler's exceptions: ``python -m tests.process.struck URL``.

It is not measured for coverage: the measuring itself does not survive exceptions at any instant. The URL is of a leader
in a thread. It prints one JSON document: how many sends were struck, what was read of how many, whether the leader is
still the same.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time

import zfabric

PATIENCE_S = 60.0
STRIKES = 20
EVERY_S = 0.0013


class Late(Exception):
    """What the handler raises."""


def strike(number, frame):
    """Raise, if a turn is being lent, or a record on its way by express."""
    while frame is not None:
        if frame.f_code.co_name in {"lend", "_express"}:
            raise Late
        frame = frame.f_back


def leaders():
    """Return the threads that lead."""
    return [thread for thread in threading.enumerate() if thread.name == "zfabric-leader"]


def main() -> None:
    """Send until enough sends were struck, then read all."""
    with zfabric.connect(sys.argv[1], timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
        fabric.topics.create("t", durability="memory", if_absent=True)
        producer.send("t", b"0").result(PATIENCE_S)
        led = leaders()
        sent, struck = 1, 0
        signal.signal(signal.SIGALRM, strike)
        deadline = time.monotonic() + PATIENCE_S
        with fabric.consumer("t") as consumer:
            signal.setitimer(signal.ITIMER_REAL, EVERY_S, EVERY_S)
            while struck < STRIKES and time.monotonic() < deadline:
                try:
                    producer.send("t", b"%d" % sent).result(PATIENCE_S)
                except Late:
                    struck += 1
                sent += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            producer.flush(PATIENCE_S)
            got: list[int] = []
            while len(got) < sent and (records := consumer.poll(timeout=PATIENCE_S)):
                got += [int(record.value) for record in records]
            got += [int(record.value) for record in consumer.poll(timeout=0.1)]
        print(json.dumps({"struck": struck, "sent": sent, "got": got, "same": len(led) == 1 and leaders() == led}))


if __name__ == "__main__":
    main()
