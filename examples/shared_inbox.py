"""Many local processes write to one inbox, with no daemon and never a locked database."""

import subprocess
import sys
import tempfile

import zfabric

WRITER = """
import sys, zfabric
with zfabric.connect(sys.argv[1]) as fabric, fabric.producer() as producer:
    for number in range(100):
        producer.send("inbox", f"{sys.argv[2]}-{number}".encode(), key=sys.argv[2].encode())
"""


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        url = f"zf+file:{directory}/data"
        with zfabric.connect(url) as fabric:
            fabric.topics.create("inbox")
            writers = [subprocess.Popen([sys.executable, "-c", WRITER, url, f"agent{i}"]) for i in range(4)]
            assert [writer.wait() for writer in writers] == [0] * 4
            with fabric.consumer("inbox") as consumer:
                records = []
                while len(records) < 400:
                    records += consumer.poll(timeout=5.0)
            print(f"{len(records)} messages of {len({record.key for record in records})} processes")
            assert len({record.value for record in records}) == 400


if __name__ == "__main__":
    main()
