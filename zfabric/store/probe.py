"""What a durable commit costs on a disk, and whether the disk keeps what it acknowledges: ``zfabric doctor --disk``.

Three things are timed, because a commit is made of them: an LMDB commit of one record of 300 bytes (two flushes), one
write and ``fdatasync`` of a file that has its blocks already (one flush), and the same write without a flush (a system
call).

No program can prove that a flush reaches the platter; only a power cut can. What can be seen is evidence:

* a file system in memory, or one mounted without barriers, does not flush at all: doubtful;
* a device that is said to have a volatile write cache and yet flushes faster than its medium can store: doubtful;
* a device that is said to have no volatile cache, or flushes at the speed of its medium: likely;
* a file system that lives on another machine, or behind another program, or a virtual disk: unknown, the answer is
  the host's.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from zfabric.settings import MIB
from zfabric.store.engine import open_environment

__all__ = ["DiskFacts", "DiskReport", "Latency", "judge", "probe_disk", "read_facts"]

Verdict = Literal["likely", "doubtful", "unknown"]

RECORD_BYTES: Final = 300
_SAMPLES_MIN: Final = 5
_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_REMOTE: Final = frozenset({"9p", "afs", "ceph", "cifs", "fuse", "glusterfs", "nfs", "nfs4", "smb3", "virtiofs"})
_NO_BARRIER: Final = frozenset({"nobarrier", "barrier=0"})
_VIRTUAL = re.compile(r"(vd|xvd|nbd|loop|zram|ram)[a-z0-9]+\Z")

_FLASH_FLUSH_US_MIN: Final = 20.0
"""Programming a flash page takes 50 us and more, SLC and the way there and back included."""
_PLATTER_FLUSH_US_MIN: Final = 500.0
"""At 15,000 revolutions a minute a sector passes every 4,000 us; some are lucky, the median is not."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations in microseconds. samples: how many there were."""

    p50_us: float
    p99_us: float
    samples: int


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What the system says about the place of a directory.

    Attributes:
        filesystem: its type, empty where it is not known. options: how it is mounted.
        device: name of the whole block device, empty where there is none of its own.
        rotational: whether the device says it turns; None where it does not say.
        write_cache: ``"write back"`` (volatile, flushes are sent), ``"write through"``, or empty.
    """

    filesystem: str = ""
    options: tuple[str, ...] = ()
    device: str = ""
    rotational: bool | None = None
    write_cache: str = ""


@dataclass(frozen=True, slots=True)
class DiskReport:
    """The result of :func:`probe_disk`.

    Attributes:
        path: the directory. facts: what the system says.
        commit: an LMDB commit of one record. flush: write and fdatasync of a preallocated file. write: without flush.
        honours_fsync: what the evidence says. reasons: the evidence, in sentences.
    """

    path: str
    facts: DiskFacts
    commit: Latency
    flush: Latency
    write: Latency
    honours_fsync: Verdict
    reasons: tuple[str, ...]


def probe_disk(path: str | os.PathLike[str], *, seconds: float = 3.0, samples_max: int = 2000) -> DiskReport:
    """Measure the disk below the directory ``path``, in a new directory there that is removed afterwards.

    Args:
        path: an existing directory.
        seconds: for all measurements together; each takes at least five samples, however long they last.
        samples_max: most samples of each.

    Raises:
        OSError: nothing can be written there.
        StorageFailed: LMDB cannot work there.
    """
    directory = os.fspath(path)
    place = tempfile.mkdtemp(prefix=".probe-", dir=directory)
    budget_ns = int(seconds * 1e9 / 3)
    try:
        commit = _time_commits(place, budget_ns, samples_max)
        flush, write = _time_writes(place, budget_ns, samples_max)
    finally:
        shutil.rmtree(place)
    facts = read_facts(directory)
    verdict, reasons = judge(facts, flush.p50_us)
    return DiskReport(directory, facts, commit, flush, write, verdict, reasons)


def judge(facts: DiskFacts, flush_us: float) -> tuple[Verdict, tuple[str, ...]]:
    """Weigh the evidence, strongest first; ``flush_us`` is the median of a flush in microseconds."""
    if facts.filesystem in _MEMORY:
        return "doubtful", (f"{facts.filesystem} lives in memory: a power cut loses everything",)
    off = sorted(_NO_BARRIER.intersection(facts.options))
    if off:
        return "doubtful", (f"it is mounted with {off[0]}: flushes are not sent to the device",)
    if facts.filesystem in _REMOTE or facts.filesystem.startswith("fuse."):
        return "unknown", (f"{facts.filesystem} keeps the data elsewhere; what a flush means is decided there",)
    if not facts.device:
        return "unknown", ("the block device below it is not known",)
    if _VIRTUAL.match(facts.device):
        return "unknown", (f"{facts.device} is a virtual disk; its host decides what a flush means",)
    if facts.write_cache == "write through":
        return "likely", (f"{facts.device} says that it has no volatile write cache",)
    least = _PLATTER_FLUSH_US_MIN if facts.rotational else _FLASH_FLUSH_US_MIN
    medium = "a platter" if facts.rotational else "flash"
    speed = f"a flush of {facts.device} takes {flush_us:,.0f} us, {medium} needs {least:,.0f} or more"
    if flush_us < least:
        return "doubtful", (speed, "a cache without power seems to acknowledge it")
    if not facts.write_cache:
        return "unknown", (speed, f"{facts.device} does not say what cache it has")
    return "likely", (speed, f"the kernel flushes the volatile write cache of {facts.device}")


def read_facts(path: str | os.PathLike[str], *, root: str = "/") -> DiskFacts:
    """Return what ``/proc`` and ``/sys`` (below ``root``) say about the place of ``path``; empty facts elsewhere."""
    real = os.path.realpath(path)
    mount = _find_mount(real, os.path.join(root, "proc/self/mountinfo"))
    if mount is None:
        return DiskFacts()
    number, filesystem, options = mount
    queue = _find_queue(os.path.join(root, "sys/dev/block", number))
    if queue is None:
        return DiskFacts(filesystem, options)
    turns = _read(os.path.join(queue, "rotational"))
    return DiskFacts(
        filesystem=filesystem,
        options=options,
        device=os.path.basename(os.path.dirname(queue)),
        rotational=None if not turns else turns == "1",
        write_cache=_read(os.path.join(queue, "write_cache")),
    )


def _find_mount(path: str, table: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return (device number, file system, options) of the last mount on the longest prefix of ``path``."""
    best: tuple[str, str, tuple[str, ...]] | None = None
    longest = -1
    for line in _read(table).splitlines():
        # 36 35 98:0 /root /mount rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 6 or len(tail) < 3:
            continue
        # Blanks in a mount point are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and len(point) >= longest:
            longest = len(point)
            number = _device_number(tail[1]) or fields[2]
            best = number, tail[0], tuple(dict.fromkeys([*fields[5].split(","), *tail[2].split(",")]))
    return best


def _device_number(source: str) -> str:
    """Return the device number of what is mounted; btrfs shows a number of its own in the table."""
    if not source.startswith("/dev/"):
        return ""
    try:
        device = os.stat(source).st_rdev
    except OSError:
        return ""
    return f"{os.major(device)}:{os.minor(device)}" if device else ""


def _find_queue(device: str) -> str | None:
    """Return the queue directory of a block device; a partition has none, the disk it lies on has."""
    real = os.path.realpath(device)
    for place in (real, os.path.dirname(real)):
        queue = os.path.join(place, "queue")
        if os.path.isdir(queue):
            return queue
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _time_commits(place: str, budget_ns: int, samples_max: int) -> Latency:
    env = open_environment(place, 16 * MIB, 0)
    value = bytes(RECORD_BYTES)

    def commit(number: int) -> None:
        with env.begin(write=True) as txn:
            txn.put(number.to_bytes(8, "big"), value)

    try:
        return _measure(commit, budget_ns, samples_max)
    finally:
        env.close()


def _time_writes(place: str, budget_ns: int, samples_max: int) -> tuple[Latency, Latency]:
    record = b"\1" * RECORD_BYTES
    fd = os.open(os.path.join(place, "file"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(number: int) -> None:
        os.pwrite(fd, record, number * RECORD_BYTES % (MIB - RECORD_BYTES))

    def flush(number: int) -> None:
        write(number)
        os.fdatasync(fd)

    try:
        # Written, not only allocated: turning reserved blocks into written ones is a change of metadata.
        os.pwrite(fd, bytes(MIB), 0)
        os.fsync(fd)
        return _measure(flush, budget_ns, samples_max), _measure(write, budget_ns, samples_max)
    finally:
        os.close(fd)


def _measure(action: Callable[[int], None], budget_ns: int, samples_max: int) -> Latency:
    clock = time.perf_counter_ns
    taken: list[int] = []
    begin = clock()
    while len(taken) < samples_max:
        before = clock()
        if len(taken) >= _SAMPLES_MIN and before - begin >= budget_ns:
            break
        action(len(taken))
        taken.append(clock() - before)
    taken.sort()
    return Latency(
        p50_us=taken[len(taken) // 2] / 1000, p99_us=taken[len(taken) * 99 // 100] / 1000, samples=len(taken)
    )
