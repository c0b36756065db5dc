"""A consumer process of ``zfabric demo``: counts words and remembers what it saw of each file.

Arguments: URL, topic, result file, partitions. It reads until standard input has ended and nothing is left.
"""

from __future__ import annotations

import hashlib
import json
import re
import select
import sys
from collections import Counter
from pathlib import Path

from zfabric.sync.fabric import connect

_WORD = re.compile(rb"[A-Za-z_]{2,}")


def main() -> None:
    """Count until the producer is done and everything is read."""
    url, topic, result, *numbers = sys.argv[1:]
    words: Counter[bytes] = Counter()
    files: dict[bytes, tuple[int, hashlib.blake2b]] = {}
    partitions = [int(number) for number in numbers]
    with connect(url, timeout=30.0) as fabric, fabric.consumer(topic, partitions=partitions) as consumer:
        ends: dict[int, int] | None = None
        while ends is None or any(consumer.position[number] < ends[number] for number in partitions):
            for batch in consumer.poll_batches(timeout=0.2):
                for key, value in zip(batch.keys, batch.values, strict=True):
                    assert key is not None
                    assert value is not None
                    words.update(_WORD.findall(value))
                    count, digest = files.get(key) or (0, hashlib.blake2b())
                    digest.update(value + b"\n")
                    files[key] = (count + 1, digest)
            if ends is None and select.select([0], [], [], 0)[0]:
                ends = {part.partition: part.end_offset for part in fabric.topics.describe(topic).partitions}
    document = {
        "words": {word.decode(): count for word, count in words.items()},
        "files": {key.decode(): [count, digest.hexdigest()] for key, (count, digest) in files.items()},
    }
    Path(result).write_text(json.dumps(document))


if __name__ == "__main__":
    main()
