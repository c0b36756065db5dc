"""Follow a log file into a topic: every line exactly once, over rotation, truncation and kill -9.

    python log_shipping.py /var/log/app.log [URL]

The topic itself keeps the place. Each record says where its line was: the file's inode, where the line began and
ended, when the file was last written. Whoever starts reads the last record, looks for the file that has this line at
this place, under whatever name it has by now (or its copy, after logrotate's copytruncate), and goes on behind it and
through all newer files. Looking for more is the same, so following is starting again and again. A line's sequence is
the offset that it will get: what a killed shipper still had under way and the next one sends again is stored once.

Nobody else writes to the topic, and it is bounded by size, which never takes the last record, as age would. Rotated
files are app.log.1, app.log.2, …, not compressed while they are shipped (logrotate's delaycompress). Lines that begin
with the time are never taken for each other.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO, FileIO
from pathlib import Path
from typing import NamedTuple, Self

import zfabric

CHUNK_BYTES = 4 << 20
"""Read at once; a line has to fit."""


class Place(NamedTuple):
    """A line, and where it was: its file, first and next byte there, and when the file was last written (ns)."""

    inode: int
    begin: int
    end: int
    written: int
    line: bytes

    @classmethod
    def of(cls, record: zfabric.Record) -> Self:
        """The place that a record came from."""
        inode, begin, end, written = map(int, (record.headers or {})["place"].split())
        return cls(inode, begin, end, written, record.value or b"")

    @property
    def header(self) -> dict[str, bytes]:
        """What a record carries of it."""
        return {"place": b"%d %d %d %d" % self[:4]}


class LogFile(NamedTuple):
    """An open file, as it was at one moment."""

    file: FileIO
    inode: int
    size: int
    written: int

    def has(self, place: Place) -> bool:
        """Tell whether this file, or the one it is a copy of, is where the line came from."""
        self.file.seek(place.begin)
        found = self.file.read(place.end - place.begin)
        return self.size >= place.end and found.removesuffix(b"\n") == place.line

    def lines(self, last: Place | None, *, complete: bool) -> Iterator[Place]:
        """The lines after ``last``, the one without an end only if nothing more will be written to this file."""
        begin = last.end if last is not None else 0
        while begin < self.size:
            self.file.seek(begin)
            data = self.file.read(min(self.size - begin, CHUNK_BYTES))
            if not data or (last is not None and not self.has(last)):
                return  # It was truncated meanwhile, and this may be something else; the next look finds the copy.
            rest = begin + len(data) == self.size
            for line in BytesIO(data):
                if not line.endswith(b"\n") and len(line) < CHUNK_BYTES and not (rest and complete):
                    break
                last = Place(self.inode, begin, begin + len(line), self.written, line.removesuffix(b"\n"))
                begin = last.end
                yield last
            if rest:
                return


def names(path: Path) -> list[tuple[Path, int]]:
    """The log and its rotated files, newest first, with their inodes."""
    rotated = [name for name in path.parent.glob(f"{path.name}.*") if name.suffix[1:].isdigit()]
    rotated.sort(key=lambda name: int(name.suffix[1:]))
    return [(name, name.stat().st_ino) for name in ([path] if path.exists() else []) + rotated]


def look(path: Path, stack: ExitStack) -> list[LogFile]:
    """Open the log and its rotated files, oldest first, at a moment when no rotation is under way."""
    while True:
        try:
            before = names(path)
            files = [stack.enter_context(name.open("rb", buffering=0)) for name, _ in before]
            if names(path) != before:
                continue
        except FileNotFoundError:
            continue
        # Newest first: when a newer file has a line, the older one is complete, and so is the size taken after that.
        stats = [(file, os.fstat(file.fileno())) for file in files]
        return [LogFile(file, stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in reversed(stats)]


def lines_after(place: Place | None, path: Path) -> Iterator[Place]:
    """All lines that were written after the one at ``place``."""
    with ExitStack() as stack:
        files = look(path, stack)
        same = [log for log in files if place is not None and log.has(place)]
        if same and place is not None:
            here = next((log for log in same if log.inode == place.inode), same[0])
            files = files[files.index(here) :]
        elif place is not None:
            # Removed or overwritten: what was written later is new.
            files = [log for log in files if log.written > place.written or log.file.name == str(path)]
        for number, log in enumerate(files):
            complete = any(newer.size for newer in files[number + 1 :])
            yield from log.lines(place if same and number == 0 else None, complete=complete)


def ship(fabric: zfabric.Fabric, path: Path, *, follow: bool) -> None:
    """Send what the topic of the file's name does not have yet; for ever, or once."""
    topic = path.name
    info = fabric.topics.create(topic, retention_bytes=1 << 30, if_absent=True).partitions[0]
    sequence, place = info.end_offset, None
    if info.start_offset < sequence:
        with fabric.consumer(topic, start=sequence - 1) as consumer:
            place = Place.of(consumer.poll(1, timeout=30.0)[0])
            sequence = consumer.position[0]
    with fabric.producer(name=f"shipper-of-{topic}") as producer:
        while True:
            for new in lines_after(place, path):
                place = new
                producer.send(topic, place.line, partition=0, headers=place.header, sequence=sequence)
                sequence += 1
            producer.flush()
            if not follow:
                return
            time.sleep(0.1)


def main() -> None:
    """Ship what was written, through both kinds of rotation."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        zfabric.connect(f"zf+file:{directory}/data") as fabric,
    ):
        log = Path(directory, "app.log")
        log.write_bytes(b"09:00 started\n09:01 working\n")
        ship(fabric, log, follow=False)
        log.rename(f"{log}.1")
        log.write_bytes(b"09:02 after a rename\n")
        ship(fabric, log, follow=False)
        with log.open("ab") as file:
            file.write(b"09:03 copied\n")
        Path(f"{log}.2").write_bytes(Path(f"{log}.1").read_bytes())
        Path(f"{log}.1").write_bytes(log.read_bytes())
        log.write_bytes(b"09:04 after a truncation\n")
        ship(fabric, log, follow=False)
        with fabric.consumer("app.log") as consumer:
            values = [record.value for record in consumer.poll(timeout=5.0)]
        print(*values, sep="\n")
        assert [value and value[:5] for value in values] == [b"09:00", b"09:01", b"09:02", b"09:03", b"09:04"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with zfabric.connect(sys.argv[2] if len(sys.argv) > 2 else None) as the_fabric:
            ship(the_fabric, Path(sys.argv[1]), follow=True)
    else:
        main()
