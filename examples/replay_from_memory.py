"""PUB/SUB with replay and without a disk: a ring in memory, and whoever comes late reads what it still holds."""

import tempfile

import zfabric


def main() -> None:
    """Run the example."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        zfabric.connect(f"zf+file:{directory}/data") as fabric,
    ):
        fabric.topics.create("kv-events", durability="memory", retention_bytes=20_000)
        with fabric.producer(batch_bytes=4_096) as producer:
            for number in range(5_000):
                producer.send("kv-events", b"block %06d" % number)
        with fabric.consumer("kv-events", start="earliest") as late:
            replayed = []
            while not replayed or replayed[-1].offset < 4_999:
                replayed += late.poll(5_000, timeout=5.0)
        print(f"the ring still held {len(replayed)} of 5000, from offset {replayed[0].offset}")
        assert replayed[-1].value == b"block 004999"
        assert len(replayed) == 5_000 - replayed[0].offset


if __name__ == "__main__":
    main()
