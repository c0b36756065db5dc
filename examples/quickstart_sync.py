"""Write three records and read them back: no server to start, one directory."""

import tempfile

import zfabric


def main() -> None:
    """Run the example."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        zfabric.connect(f"zf+file:{directory}/data") as fabric,
    ):
        fabric.topics.create("orders", partitions=2)
        with fabric.producer() as producer:
            for number in range(3):
                delivery = producer.send("orders", b"order %d" % number, key=b"customer-7")
            print("acknowledged, on disk:", delivery.result(timeout=10))
        with fabric.consumer("orders", group="billing") as consumer:
            records = consumer.poll(timeout=5.0)
            for record in records:
                print(record.partition, record.offset, record.key, record.value)
            consumer.commit()
        assert len(records) == 3


if __name__ == "__main__":
    main()
