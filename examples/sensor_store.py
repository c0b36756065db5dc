"""Keep a day of measurements on flash: shared commits spare it, retention bounds it, time finds the place."""

import struct
import tempfile
import time

import zfabric


def main() -> None:
    """Run the example."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        zfabric.connect(f"zf+file:{directory}/data") as fabric,
    ):
        fabric.topics.create("sensors", retention=86_400.0, retention_bytes=64 << 20, commit_interval=0.2)
        now = int(time.time() * 1000)
        with fabric.producer() as producer:
            for minute in range(60):
                value = struct.pack("<d", 20 + minute / 10)
                producer.send("sensors", value, key=b"boiler", timestamp=now - (60 - minute) * 60_000)
        half_an_hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now / 1000 - 1800))
        with fabric.consumer("sensors", start=half_an_hour_ago) as consumer:
            temperatures = [struct.unpack("<d", record.value)[0] for record in consumer.poll(timeout=5.0)]
        print(f"{len(temperatures)} values since {half_an_hour_ago}, the last {temperatures[-1]:.1f}")
        assert 30 <= len(temperatures) <= 31


if __name__ == "__main__":
    main()
