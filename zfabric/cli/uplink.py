"""``zfabric uplink``: ship topics from one fabric to another, exactly once."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from zfabric import errors
from zfabric.cli.options import Number, connect, console, counted

if TYPE_CHECKING:
    from zfabric.uplink import Uplink, UplinkStatus

Watch = Callable[[float], None]
"""Told the time (monotonic s) after each turn of the uplink."""


@click.command()
@click.option(
    "--from",
    "source",
    required=True,
    metavar="URL",
    help="The fabric to read: zf://HOST:PORT, zf+file:DIR, or zf+peer://MESH, all members of a mesh.",
)
@click.option(
    "--to", "target", required=True, metavar="URL", help="The fabric to write to: zf://HOST:PORT or zf+file:DIR."
)
@click.option(
    "--topic",
    "topics",
    required=True,
    multiple=True,
    metavar="PATTERN",
    help="Names and patterns with * ? [...]; may be repeated. Topics that are made later are found.",
)
@click.option("--prefix", default="", metavar="TEXT", help="Begins the topics' names at the target.  [default: none]")
@click.option("--no-create", is_flag=True, help="At the target make no directory and no topics, and add no partitions.")
@click.option("--once", is_flag=True, help="End when all has arrived that was there at the beginning.")
@click.option(
    "--bandwidth",
    type=click.IntRange(min=1),
    metavar="BYTES/S",
    help="Send at most so many, repeats included.  [default: no bound]",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "lz4", "zstd"]),
    default="zstd",
    show_default=True,
    help="How batches are compressed.",
)
@click.option(
    "--buffer",
    type=click.IntRange(min=64 << 10),
    default=8 << 20,
    show_default=True,
    metavar="BYTES",
    help="Read at most so many ahead of what is acknowledged.",
)
@click.option(
    "--group",
    metavar="NAME",
    help="At the source; what it has committed is at the target.  [default: uplink.TARGET-ID]",
)
@click.option("--origin-headers", is_flag=True, help="Add a header zf-origin: FABRIC/TOPIC/PARTITION/OFFSET.")
@click.option(
    "--give-up",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    help="End with an error after so long without progress.  [default: never]",
)
@click.option(
    "--rescan",
    type=Number(min=0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks for new topics and partitions.",
)
@click.option(
    "--interval",
    type=Number(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two reports.",
)
@click.option(
    "--timeout",
    type=Number(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for an answer before it is tried again; at most --give-up.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line: reports and events.")
def command(  # noqa: PLR0917 - one parameter an option
    source: str,
    target: str,
    topics: tuple[str, ...],
    prefix: str,
    no_create: bool,
    once: bool,
    bandwidth: int | None,
    compression: Any,
    buffer: int,
    group: str | None,
    origin_headers: bool,
    give_up: float | None,
    rescan: float,
    interval: float,
    timeout: float,
    as_json: bool,
) -> None:
    """Store every record of some topics in another fabric, exactly once and in order, over a link that comes and goes.

    It may be killed and started again at any time, and runs until then, or until it is done with --once: the target
    knows what it has. An unreachable side is tried again for ever unless --give-up says otherwise. What was removed at
    the source before it could be shipped is told and passed over.
    """
    from zfabric.modes.peerurl import SCHEME

    if target.startswith(f"{SCHEME}:"):
        raise errors.InvalidArgument(name="--to", value=target, allowed="zf://HOST:PORT or zf+file:DIR")
    if give_up is not None:
        timeout = min(timeout, max(give_up, 0.001))  # One attempt must not take longer than all of them.
    with connect(source, timeout) as here, connect(target, timeout, create=not no_create) as there:
        from zfabric.uplink import Uplink

        uplink = Uplink(
            here,
            there,
            topics=topics,
            prefix=prefix,
            create=not no_create,
            group=group,
            compression=compression,
            bandwidth=None if bandwidth is None else float(bandwidth),
            buffer_bytes=buffer,
            origin_headers=origin_headers,
            rescan=rescan,
        )
        with _reports(uplink, interval, as_json=as_json) as watch:
            uplink.run(once=once, give_up=give_up, watch=lambda: watch(time.monotonic()))


@contextmanager
def _reports(uplink: Uplink, interval: float, *, as_json: bool) -> Iterator[Watch]:
    """Yield what reports as time passes; the last words are said at the end, whatever ended it."""
    out = console(stderr=True)
    if as_json:
        report = _Report(uplink, interval, _print, _print)
        try:
            yield report.watch
        except BrokenPipeError:
            raise
        except BaseException:
            report.finish()
            raise
        report.finish()
    elif not out.is_terminal:
        report = _Report(uplink, interval, _say_event, None)
        try:
            yield report.watch
        finally:
            report.finish()
            _say_result(uplink.status())
    else:
        from rich.live import Live

        with Live(console=out, auto_refresh=False, transient=True) as live:
            report = _Report(
                uplink,
                interval,
                lambda event: live.console.print(_event_text(event), markup=False, soft_wrap=True),
                lambda document: live.update(_line(document), refresh=True),
            )
            try:
                yield report.watch
            finally:
                report.finish()
        _say_result(uplink.status())


class _Report:
    """Says what happened at once, and how far it is from time to time."""

    def __init__(
        self,
        uplink: Uplink,
        interval: float,
        event: Callable[[dict[str, Any]], None],
        report: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._uplink = uplink
        self._interval = interval
        self._event = event
        self._report = report
        self._at = time.monotonic()
        self._due = self._at
        self._before = (0, 0)
        self._said: dict[str, str] = {}

    def watch(self, now: float) -> None:
        """Look at the uplink."""
        for notice in self._uplink.take_notices():
            # The same trouble again and again is told once.
            if notice.kind != "trouble" or self._said.get(notice.topic) != notice.text:
                self._event(_event_of(notice))
            if notice.kind in ("begun", "trouble"):
                self._said[notice.topic] = notice.text
        if self._report is not None and now >= self._due:
            self._due = now + self._interval
            self._report(self._document(now))

    def finish(self) -> None:
        """Say the last words."""
        self._due = 0.0
        self.watch(time.monotonic())

    def _document(self, now: float) -> dict[str, Any]:
        from msgspec.structs import asdict

        status = self._uplink.status()
        seconds = max(now - self._at, 1e-9)
        totals = (status.records, status.sent_bytes)
        rates = [round((after - before) / seconds, 1) for before, after in zip(self._before, totals, strict=True)]
        self._at, self._before = now, totals
        return {
            "event": "status",
            "time": time.time_ns() // 1_000_000,
            **asdict(status),
            "records_per_s": rates[0],
            "bytes_per_s": rates[1],
            "partitions": [asdict(part) for part in status.partitions],
        }


def _event_of(notice: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "event": notice.kind,
        "time": time.time_ns() // 1_000_000,
        "topic": notice.topic or None,
        "partition": notice.partition,
        "text": notice.text,
    }
    if notice.first is not None:
        document.update(first=notice.first, next=notice.next)
    return document


def _print(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document))
    sys.stdout.flush()


def _event_text(event: dict[str, Any]) -> str:
    place = "" if event["topic"] is None else f"{event['topic']}: "
    if event["partition"] is not None:
        place = f"{event['topic']} [{event['partition']}]: "
    return f"{event['event']}: {place}{event['text']}"


def _say_event(event: dict[str, Any]) -> None:
    click.echo(_event_text(event), err=True)


def _say_result(status: UplinkStatus) -> None:
    text = f"{counted(status.records, 'record')} shipped of {counted(len(status.topics), 'topic')}"
    if status.skipped:
        text += f", {counted(status.skipped, 'offset')} missed"
    click.echo(f"{text}, {_behind(status.lag)}", err=True)


def _behind(lag: int | None) -> str:
    return "how far behind is not known" if lag is None else f"{counted(lag, 'record')} behind"


def _line(document: dict[str, Any]) -> Any:
    from rich.text import Text

    line = Text(
        f"{document['records']:,} records  {document['records_per_s']:,.0f} records/s  "
        f"{document['bytes_per_s'] / 1e3:,.1f} kB/s  {_behind(document['lag'])}  {len(document['topics']):,} topics"
    )
    if document["skipped"]:
        line.append(f"  {document['skipped']:,} missed", style="yellow")
    if document["problem"]:
        line.append(f"\ntrying again: {document['problem']}", style="bold red")
    return line
