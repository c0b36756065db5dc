"""Follow a log file into a topic and survive its rotation, exactly once.

A named producer remembers, together with the records, the last sequence that was stored. The sequence is the number of
the line counted over all rotations, so after a crash the lines that were shipped already are dropped by themselves.
"""

import os
import tempfile
from pathlib import Path

import zfabric


def lines(paths: list[Path]) -> list[bytes]:
    """All lines, oldest file first."""
    return [line for path in paths for line in path.read_bytes().splitlines()]


def ship(fabric: zfabric.Fabric, paths: list[Path]) -> None:
    """Send everything from the first line; what is stored already is dropped."""
    with fabric.producer(name="shipper") as producer:
        for sequence, line in enumerate(lines(paths)):
            producer.send("app-log", line, partition=0, sequence=sequence)


def main() -> None:
    """Run the example."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        zfabric.connect(f"zf+file:{directory}/data") as fabric,
    ):
        fabric.topics.create("app-log")
        log, rotated = Path(directory, "app.log"), Path(directory, "app.log.1")
        log.write_bytes(b"started\nworking\n")
        ship(fabric, [log])
        os.rename(log, rotated)
        log.write_bytes(b"after rotation\n")
        ship(fabric, [rotated, log])
        with fabric.consumer("app-log") as consumer:
            values = [record.value for record in consumer.poll(timeout=5.0)]
        print(values)
        assert values == [b"started", b"working", b"after rotation"]


if __name__ == "__main__":
    main()
