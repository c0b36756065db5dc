"""One producer, many consumers: each follows the live tail by PUB/SUB, none slows another."""

import tempfile
import threading

import zfabric

CONSUMERS, RECORDS = 8, 1_000


def follow(url: str, ready: threading.Barrier, counts: list[int], number: int) -> None:
    """Count what one consumer reads."""
    with zfabric.connect(url) as fabric, fabric.consumer("ticks", start="latest") as consumer:
        ready.wait()
        while counts[number] < RECORDS:
            counts[number] += len(consumer.poll(timeout=5.0))


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        url = f"zf+file:{directory}/data"
        with zfabric.connect(url) as fabric:
            fabric.topics.create("ticks")
            ready, counts = threading.Barrier(CONSUMERS + 1), [0] * CONSUMERS
            threads = [threading.Thread(target=follow, args=(url, ready, counts, i)) for i in range(CONSUMERS)]
            for thread in threads:
                thread.start()
            ready.wait()
            with fabric.producer() as producer:
                producer.send_many("ticks", (b"%d" % number for number in range(RECORDS)))
            for thread in threads:
                thread.join()
        print(counts)
        assert counts == [RECORDS] * CONSUMERS


if __name__ == "__main__":
    main()
