"""Builds the disk states that a crash may leave, from a recording of what a process did (``recorder.c``).

The disk's contract, which is that of POSIX and no more:

- a flush of a file (fsync, fdatasync) makes what was written to it before durable; a flush of a directory its names;
- a write through a descriptor with O_DSYNC is durable when it returns;
- of everything else a power cut keeps any part: each block of a file (4 KiB, or a sector of 512 bytes) stands as any
  write since the last flush left it, its length too, and of changed names of a directory the first ones are kept;
- a call under way at that moment is kept in part as well.

``kill -9`` loses nothing of what was written, and cuts a write under way between two pages.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

BLOCK = 4096
SECTOR = 512
_HEAD = struct.Struct("<BBHIQQQ")


class Call(NamedTuple):
    """One recorded call.

    ``kind``: W a write, T a cut to ``place`` bytes, S a flush, C a new file, D a directory, U a removal, R a rename to
    ``data``. Times are monotonic ns.
    """

    kind: str
    synchronous: bool
    path: str
    data: bytes
    began: int
    ended: int
    place: int


def read(recording: str) -> list[Call]:
    """Return the calls in the order in which they began."""
    with open(recording, "rb") as file:
        raw = file.read()
    calls, at = [], 0
    while at < len(raw):
        kind, synchronous, path, data, began, ended, place = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        name = raw[at : at + path].decode()
        at += path
        calls.append(Call(chr(kind), bool(synchronous), name, raw[at : at + data], began, ended, place))
        at += data
    assert calls == sorted(calls, key=lambda call: call.began), "one thread writes"
    return calls


def _apply(content: bytearray, call: Call, begin: int, end: int) -> None:
    """Do what a call does to the bytes of [begin, end) of a file; ``content`` grows as needed."""
    if call.kind == "T":
        begin = max(begin, call.place)
        if begin < min(end, len(content)):
            content[begin : min(end, len(content))] = bytes(min(end, len(content)) - begin)
        return
    begin, end = max(begin, call.place), min(end, call.place + len(call.data))
    if begin < end:
        if len(content) < begin:
            content += bytes(begin - len(content))
        content[begin:end] = call.data[begin - call.place : end - call.place]


def _length(before: int, call: Call) -> int:
    return call.place if call.kind == "T" else max(before, call.place + len(call.data))


@dataclass
class File:
    """One file: what is durable, and the calls since the last flush."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[Call] = field(default_factory=list)

    def take(self, call: Call) -> None:
        """Note a write or a cut."""
        if call.synchronous:
            # Durable by itself; what waits for a flush in the same place came before and is overwritten.
            assert not any(_touches(other, call) for other in self.pending)
            _apply(self.content, call, call.place, call.place + len(call.data))
        else:
            self.pending.append(call)

    def flush(self) -> None:
        """Make it all durable."""
        self.content = self.whole(self.pending)
        self.pending.clear()

    def whole(self, calls: list[Call]) -> bytearray:
        """Return the content with all of these calls done."""
        content = bytearray(self.content)
        for call in calls:
            _apply(content, call, 0, 1 << 62)
            length = _length(len(content), call)
            del content[length:]
            content += bytes(length - len(content))
        return content

    def torn(self, calls: list[Call], rng: random.Random, size: int) -> bytearray:
        """Return what a power cut may leave: each block of ``size`` bytes as of a moment of its own."""
        kept = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        content, lengths = bytearray(self.content), [len(self.content)]
        for call in calls:
            lengths.append(_length(lengths[-1], call))
        highest = max(lengths)
        moments: dict[int, int] = {}
        for number, call in enumerate(calls):
            last = highest if call.kind == "T" else call.place + len(call.data)
            for block in range(call.place // size, -(-last // size)):
                if block not in moments:
                    moments[block] = rng.randint(1, len(calls)) if rng.random() < kept else 0
                if number < moments[block]:
                    _apply(content, call, block * size, (block + 1) * size)
        length = lengths[-1] if rng.random() < 0.5 else rng.choice(lengths)
        del content[length:]
        return content + bytes(length - len(content))


def _touches(call: Call, other: Call) -> bool:
    return call.kind == "T" or (
        call.place < other.place + len(other.data) and other.place < call.place + len(call.data)
    )


Names = dict[str, File | None]
"""Path to file, or None for a directory."""


def _rename(names: Names, call: Call) -> None:
    if call.kind == "U":
        names.pop(call.path, None)
    elif call.kind == "R":
        names[call.data.decode()] = names.pop(call.path)
    elif call.path not in names:
        names[call.path] = None if call.kind == "D" else File()


class Disk:
    """The disk while the recording is played: names as the processes see them, and as they are durable."""

    def __init__(self) -> None:
        self.seen: Names = {"": None}
        self.durable: Names = {"": None}
        self.pending: dict[str, list[tuple[Call, File | None]]] = {}

    def play(self, call: Call) -> None:
        """Do what the call did."""
        if call.kind in "CDUR":
            made = File() if call.kind == "C" else None
            if call.kind == "C":
                self.seen[call.path] = made
            else:
                _rename(self.seen, call)
            self.pending.setdefault(os.path.dirname(call.path), []).append((call, made))
        elif call.kind == "S" and self.seen[call.path] is None:
            for change, made in self.pending.pop(call.path, []):
                self._settle(self.durable, change, made)
        elif call.kind == "S":
            self._file(call).flush()
        else:
            self._file(call).take(call)

    def _file(self, call: Call) -> File:
        file = self.seen[call.path]
        assert file is not None
        return file

    @staticmethod
    def _settle(names: Names, change: Call, made: File | None) -> None:
        if change.kind == "C":
            names[change.path] = made
        else:
            _rename(names, change)

    def state(
        self, under_way: Call | None, rng: random.Random, *, power_cut: bool, size: int
    ) -> dict[str, bytes | None]:
        """Return what is there after a crash: path to content, None for a directory."""
        names = dict(self.durable)
        if power_cut:
            for changes in self.pending.values():
                for change, made in changes[: rng.randint(0, len(changes))]:
                    self._settle(names, change, made)
        else:
            names = dict(self.seen)
        found: dict[str, bytes | None] = {}
        for path, file in names.items():
            if path and os.path.dirname(path) not in names:
                continue
            if file is None:
                found[path] = None
                continue
            calls = list(file.pending)
            if under_way is not None and under_way.kind in "WT" and self.seen.get(under_way.path) is file:
                calls.append(under_way if power_cut else _first_pages(under_way, rng))
            found[path] = bytes(file.torn(calls, rng, size) if power_cut else file.whole(calls))
        return found


def _first_pages(call: Call, rng: random.Random) -> Call:
    if call.kind == "T":
        return call
    pages = rng.randint(0, len(call.data) // BLOCK)
    return call._replace(data=call.data[: pages * BLOCK])


class State(NamedTuple):
    """A state to check: before which call the crash came, whether that one was under way, what is on the disk."""

    number: int
    place: int
    time_ns: int
    power_cut: bool
    content: dict[str, bytes | None]


def states(calls: list[Call], count: int, seed: int, *, first: int = 0) -> Iterator[State]:
    """Yield ``count`` states that a crash after call ``first`` may leave, in the order of the crash's moment."""
    rng = random.Random(seed)
    places = sorted(rng.randrange(first, len(calls) + 1) for _ in range(count))
    disk, played = Disk(), 0
    for number, place in enumerate(places):
        while played < place:
            disk.play(calls[played])
            played += 1
        under_way = calls[place] if place < len(calls) and rng.random() < 0.5 else None
        power_cut = rng.random() < 0.8
        size = SECTOR if rng.random() < 0.3 else BLOCK
        time_ns = calls[place].began if place < len(calls) else calls[-1].ended + 1
        yield State(number, place, time_ns, power_cut, disk.state(under_way, rng, power_cut=power_cut, size=size))


def write(state: State, directory: str) -> None:
    """Put a state into a directory, over what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    for path in sorted(state.content):
        content = state.content[path]
        place = os.path.join(directory, path)
        if content is None:
            os.mkdir(place, 0o700)
        else:
            with open(place, "wb") as file:
                file.write(content)
