"""``zfabric produce``: lines or NDJSON to a topic.

What was sent before a bad line, Ctrl-C or SIGTERM stays sent: it is flushed, and the last words say what was not
acknowledged.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from zfabric import errors
from zfabric.cli.options import connect, console, counted, fabric_options, json_option, standard_input, topic_argument

if TYPE_CHECKING:
    from zfabric.cli.lines import Piece
    from zfabric.sync.producer import Producer

FLUSH_S = 10.0
"""Longest wait for acknowledgements after a command was ended early."""
STDIN = "standard input"
Advance = Callable[[int, int], None]
"""Told after each piece: records taken, bytes read."""


@click.command()
@topic_argument()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["lines", "json"]),
    default="lines",
    show_default=True,
    help="A record a line, or an object a line.",
)
@click.option(
    "--key-separator",
    metavar="TEXT",
    help="What parts key and value in a line; \\t is a tab. A line without it has no key.  [default: no keys]",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="How batches are compressed.",
)
@fabric_options
@json_option
def command(
    topic: str,
    files: tuple[str, ...],
    layout: str,
    key_separator: str | None,
    compression: Any,
    url: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Write each line of FILES, or of standard input, to TOPIC as one record; ends when all are acknowledged.

    With --format json a line is an object: "value" (text or null) or "value_base64" (any bytes), and if wanted "key"
    or "key_base64", "headers" or "headers_base64" (names to text), "partition" and "timestamp" (ms since 1970).
    "topic" and "offset" are ignored, so that what consume --format json prints can be sent again.

    A bad line ends the command with status 1; the lines before it are sent.
    """
    if key_separator == "" or (key_separator and layout == "json"):
        raise click.UsageError("--key-separator wants some text, and --format lines")
    with connect(url, timeout, join=True) as fabric:
        limit = fabric.topics.describe(topic).config.record_bytes_max
        with fabric.producer(compression=compression) as producer, _progress(files) as advance:
            work = _Work(producer, topic, limit, advance)
            try:
                for name in files or ("-",):
                    work.send(name, layout, key_separator)
                producer.flush()
            except BaseException as problem:
                _last_words(producer, work.taken, problem)
                raise
    if as_json:
        import json

        click.echo(json.dumps({"topic": topic, "records": work.taken}))
    else:
        click.echo(f"{counted(work.taken, 'record')} acknowledged", err=True)


class _Work:
    """Sends files and counts what was taken."""

    def __init__(self, producer: Producer, topic: str, limit: int, advance: Advance) -> None:
        self.taken = 0
        self._producer = producer
        self._topic = topic
        self._limit = limit
        self._advance = advance

    def send(self, name: str, layout: str, key_separator: str | None) -> None:
        """Send one file."""
        from zfabric.core.client.outbox import RECORD_OVERHEAD
        from zfabric.settings import MIB

        # Text in JSON may take six characters a byte, and keys and headers come on top.
        line_max = self._limit - RECORD_OVERHEAD if layout == "lines" else 6 * self._limit + MIB
        if key_separator is not None:
            line_max += MIB
        separator = (key_separator or "").replace("\\t", "\t").encode()
        for piece in self._pieces(name, line_max):
            if layout == "json":
                self._send_objects(piece)
            elif separator:
                self._send_keyed(piece, separator)
            else:
                self.taken += self._producer.send_many(self._topic, piece.lines)
            self._advance(self.taken, piece.bytes)

    def _pieces(self, name: str, line_max: int) -> Iterator[Piece]:
        from zfabric.cli.lines import LineTooLong, pieces
        from zfabric.core.client.outbox import RECORD_OVERHEAD

        source = STDIN if name == "-" else name
        with _opened(name) as file:
            try:
                yield from pieces(file, source, line_max)
            except LineTooLong as long:
                error = errors.RecordTooLarge(size=long.size + RECORD_OVERHEAD, topic=self._topic, limit=self._limit)
                error.add_note(f"it is {long}")
                raise error from long

    def _send_objects(self, piece: Piece) -> None:
        from zfabric.cli.lines import parse

        for number, line in enumerate(piece.lines, piece.first):
            if line and not line.isspace():
                value, key, headers, partition, timestamp = parse(line, piece.source, number)
                with _blaming(piece.source, number):
                    self._producer.send(
                        self._topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp
                    )
                self.taken += 1

    def _send_keyed(self, piece: Piece, separator: bytes) -> None:
        for number, line in enumerate(piece.lines, piece.first):
            key, found, value = line.partition(separator)
            with _blaming(piece.source, number):
                self._producer.send(self._topic, value if found else key, key=key if found else None)
            self.taken += 1


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield standard_input("name a FILE")
    else:
        with open(name, "rb") as file:
            yield file


@contextmanager
def _blaming(source: str, line: int) -> Iterator[None]:
    """Let an error say which line made it."""
    try:
        yield
    except errors.RecordTooLarge as error:
        error.add_note(f"it is {source} line {line:,}")
        raise
    except (errors.InvalidArgument, errors.UnknownPartition) as error:
        raise errors.BadInput(source=source, line=line, problem=str(error)) from error


def _last_words(producer: Producer, taken: int, problem: BaseException) -> None:
    """Flush what was taken before the command was ended, and say what became of it and why."""
    if isinstance(problem, errors.DeliveryError):
        problem.add_note(f"{counted(taken - problem.records, 'record')} acknowledged")
        return
    before = " before it" if isinstance(problem, Exception) else ""  # Else the user has ended it.
    try:
        producer.flush(FLUSH_S)
    except errors.DeliveryError as lost:
        why = "" if producer.refusal is None else f"; {producer.refusal}"
        problem.add_note(f"{counted(taken - lost.records, 'record')}{before} acknowledged; {lost}{why}")
        producer.abandon()  # It was waited for long enough.
    except errors.ZFabricError as failed:
        problem.add_note(f"and then: {failed}")
    else:
        problem.add_note(f"{counted(taken, 'record')}{before} acknowledged")


def _tell_nobody(taken: int, size: int) -> None:
    """Nobody looks on."""


@contextmanager
def _progress(files: tuple[str, ...]) -> Iterator[Advance]:
    """Yield what to tell of each piece: it is shown if somebody looks on and nobody types."""
    if not sys.stderr.isatty() or (not files and (sys.stdin is None or sys.stdin.isatty())):
        yield _tell_nobody
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TextColumn("{task.fields[rate]:,.0f} records/s"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as progress:
        task = progress.add_task("", total=_size(files), records=0, rate=0.0)

        def advance(taken: int, size: int) -> None:
            seconds = progress.tasks[0].elapsed or 0.0
            progress.update(task, advance=size, records=taken, rate=taken / seconds if seconds else 0.0)

        yield advance


def _size(files: tuple[str, ...]) -> int | None:
    """Return the bytes of all files together; None if one is a pipe, whose end nobody knows."""
    states = [os.fstat(sys.stdin.fileno()) if name == "-" else os.stat(name) for name in files or ("-",)]
    return sum(state.st_size for state in states) if all(stat.S_ISREG(state.st_mode) for state in states) else None
