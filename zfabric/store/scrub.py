"""Looking for damage in a data directory, without changing anything: ``zfabric doctor``.

For each volume: its ``FORMAT``, the length of its file against LMDB's last page, every page of the main tree
(``lmdbtree.py``), every row (``rowcheck.py``), and the journal of topics with durability ``"os"``, whose entries must
be whole batches that continue the log.

The work is cut into steps of at most 20,000 rows or 50 ms, each with its own snapshot, so that a leader that is at
work meanwhile is not kept from reusing pages, and so that the caller can show progress, pause, or stop. Of the files
in the directory ``lock.mdb`` alone may be written, by LMDB (``reader.py``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final

from zfabric import errors
from zfabric.store import journal
from zfabric.store.directory import DataDirectory
from zfabric.store.engine import DATA
from zfabric.store.finding import Finding, Totals
from zfabric.store.formatfile import FORMAT_NEW, check_format, is_newer
from zfabric.store.lmdbfile import Damaged
from zfabric.store.lmdbtree import Hole
from zfabric.store.reader import VolumeReader
from zfabric.store.rowcheck import RowCheck
from zfabric.store.volume import VERSION

STEP_ROWS: Final = 20_000
STEP_NS: Final = 50_000_000
_JOURNAL_ATTEMPTS: Final = 20


class Scrub:
    """One pass over a data directory.

    Args:
        step_rows: most rows read in one snapshot.

    Attributes:
        totals: what was checked so far.
    """

    def __init__(self, directory: DataDirectory, *, step_rows: int = STEP_ROWS) -> None:
        self.totals = Totals()
        self._directory = directory
        self._step_rows = step_rows

    def run(self) -> Iterator[Finding]:
        """Yield everything that is not as it must be.

        Raises:
            DirectoryFormat: a newer version wrote a volume.
            DirectoryLocked: a process began to lead a volume whose ``lock.mdb`` was missing; scrub it again.
            StorageFailed: LMDB cannot open a volume beside its leader.
            OSError: a file cannot be read.
        """
        for step in self.steps():
            yield from step

    def steps(self) -> Iterator[list[Finding]]:
        """The same, step by step: each item is what one step found, mostly nothing."""
        for number in self._directory.volumes():
            self.totals.volumes += 1
            yield from self._volume(number, self._directory.volume_path(number))

    def _volume(self, number: int, path: str) -> Iterator[list[Finding]]:
        names = set(os.listdir(path))
        problem = _format_problem(path, names)
        if problem:
            yield [Finding("format", problem, number)]
        if DATA not in names:
            # Without a FORMAT it never became a volume: whoever made it was killed, and promised nothing.
            if FORMAT_NEW not in names and names - {"LOCK"}:
                yield [Finding("file", f"{DATA} is missing", number)]
            return
        check = RowCheck(number, self.totals)
        with VolumeReader(path) as reader:
            try:
                reader.check_length()
            except Damaged as error:
                yield [Finding("file", str(error), number)]
            try:
                yield from self._rows(reader, check, number)
                yield self._journal(reader, path, number)
            except Damaged as error:
                yield [Finding("file", str(error), number)]

    def _rows(self, reader: VolumeReader, check: RowCheck, number: int) -> Iterator[list[Finding]]:
        key, more = b"", True
        before = self.totals.rows
        commits = set()
        holes = 0
        said = 0
        while more:
            with reader.snapshot() as tree:
                commits.add(tree.meta.transaction)
                said = tree.meta.rows
                until = time.monotonic_ns() + STEP_NS
                left = self._step_rows
                more = False
                for found in tree.rows(check.begin(tree, key)):
                    check.take(found)
                    if isinstance(found, Hole):
                        holes += 1
                        continue
                    left -= 1
                    if left <= 0 or time.monotonic_ns() >= until:
                        key, more = found.key + b"\0", True
                        break
                if not more:
                    check.end()
            findings, check.findings = check.findings, []
            yield findings
        read = self.totals.rows - before
        if len(commits) == 1 and not holes and read != said:
            yield [Finding("page", f"its tree has {read:,} rows, {DATA} says {said:,}", number)]

    def _journal(self, reader: VolumeReader, path: str, number: int) -> list[Finding]:
        """Check the entries that no commit covers, against the log as of that commit."""
        for _ in range(_JOURNAL_ATTEMPTS):
            findings: list[Finding] = []
            count = 0
            with reader.snapshot() as tree:
                check = RowCheck(number, Totals())
                check.begin(tree, b"")
                try:
                    for entry in journal.examine(path, tree.meta.transaction):
                        if isinstance(entry, str):
                            findings.append(Finding("journal", entry, number))
                            break
                        count += 1
                        check.journal_entry(entry)
                except FileNotFoundError:
                    return []
                changed = reader.transaction() != tree.meta.transaction
            if not changed:
                self.totals.journal_entries += count
                return check.findings + findings
        # Its leader commits all the time, so no entry stays for long.
        return []


def _format_problem(path: str, names: set[str]) -> str:
    try:
        complete = check_format(path, "volume", VERSION)
    except errors.DirectoryFormat as error:
        if is_newer(path, "volume", VERSION):
            raise
        return str(error.problem)
    return "FORMAT is missing" if not complete and DATA in names and FORMAT_NEW not in names else ""
