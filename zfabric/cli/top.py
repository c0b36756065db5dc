"""``zfabric top``: leaders and topics, live.

Each refresh is one reading (``cli/reading.py``); rates come from the difference to the one before. A fabric that goes
away is shown as such, and asked again at each refresh until it is back.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from zfabric import errors
from zfabric.cli.options import Number, connect, console, counted, fabric_options, pause

if TYPE_CHECKING:
    from zfabric.cli.reading import Reading
    from zfabric.sync.fabric import Fabric

ANSWER_S = 1.0
"""Longest wait for one leader's answer: a dead one must not stop the display of the others."""


@click.command()
@click.option(
    "--interval",
    type=Number(min=0.05, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two refreshes, which is also what rates are measured over.",
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="REFRESHES", help="End after so many.  [default: until Ctrl-C]"
)
@click.option(
    "--topics",
    "topics_max",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="TOPICS",
    help="Show so many, the busiest first; --json has all.",
)
@fabric_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document a refresh, for scripts.")
def command(
    interval: float, count: int | None, topics_max: int, url: str | None, timeout: float, as_json: bool
) -> None:
    """Watch leaders and topics: rates per second, memory and sizes in bytes.

    On a terminal the display stays in place; in a pipe each refresh is printed below the last. A leader that was
    restarted shows its new pid, and rates since it began. If the fabric goes away, that is shown until it is back; if
    it never answers within --timeout, top ends with status 3.
    """
    with connect(url, min(timeout, ANSWER_S)) as fabric, _display(topics_max, as_json=as_json) as show:
        before = _first(fabric, timeout)
        show(_document(fabric, None, before), final=False)
        shown, due = 0, time.monotonic()
        while count is None or shown < count:
            due = max(due + interval, time.monotonic())
            pause(due - time.monotonic())
            after = _read(fabric)
            show(_document(fabric, before, after), final=True)
            before = before if isinstance(after, errors.ZFabricError) else after
            shown += 1


def _first(fabric: Fabric, timeout: float) -> Reading:
    """Return the first reading; it has ``timeout`` seconds, since the fabric may be starting.

    Raises:
        Unreachable: nobody answered.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = _read(fabric)
        if not isinstance(found, errors.ZFabricError):
            return found
        if time.monotonic() >= deadline:
            why = found.values if isinstance(found, errors.Unreachable) else {}
            raise errors.Unreachable(**why | {"url": fabric.url, "seconds": timeout}) from found


def _read(fabric: Fabric) -> Reading | errors.ZFabricError:
    """Return a reading, or the error of a fabric that may come back."""
    from zfabric.cli.reading import read

    try:
        return read(fabric)
    except errors.ZFabricError as error:
        if not error.retriable:
            raise
        return error


def _document(fabric: Fabric, before: Reading | None, after: Reading | errors.ZFabricError) -> dict[str, Any]:
    """Return one refresh as ``--json`` prints it."""
    from zfabric.cli.reading import leader_rows, topic_rows

    document: dict[str, Any] = {"time": time.time_ns() // 1_000_000, "url": fabric.url}
    if isinstance(after, errors.ZFabricError):
        return {**document, "reachable": False, "problem": str(after), "leaders": [], "topics": []}
    leaders = leader_rows(before, after)
    if before is None:  # Averages since the start are not what a display of now may show.
        leaders = [{name: None if name.endswith("_per_s") else row[name] for name in row} for row in leaders]
    return {
        **document,
        "reachable": True,
        "seconds": None if before is None else round(after.at_s - before.at_s, 3),
        "leaders": leaders,
        "topics": topic_rows(before, after),
    }


Show = Callable[..., None]


@contextmanager
def _display(topics_max: int, *, as_json: bool) -> Iterator[Show]:
    """Yield what shows a refresh; one that is not final, because rates are still to come, is for a terminal alone."""
    if as_json:

        def show(document: dict[str, Any], *, final: bool) -> None:
            if final:
                click.echo(json.dumps(document))

        yield show
        return
    out = console()
    if not out.is_terminal:

        def append(document: dict[str, Any], *, final: bool) -> None:
            if final:
                out.print(_frame(document, topics_max))
                sys.stdout.flush()

        yield append
        return
    from rich.live import Live

    with Live(console=out, auto_refresh=False) as live:

        def replace(document: dict[str, Any], *, final: bool) -> None:
            live.update(_frame(document, topics_max), refresh=True)

        yield replace


def _frame(document: dict[str, Any], topics_max: int) -> Any:
    """Return a refresh as rich prints it."""
    from rich.console import Group
    from rich.text import Text

    from zfabric.cli.tables import leader_table, topic_table

    clock = time.strftime("%H:%M:%S", time.localtime(document["time"] / 1000))
    head = Text(f"{clock}  {document['url']}")
    if not document["reachable"]:
        return Group(head, Text(f"no answer, trying again: {document['problem']}", style="bold red"), Text())
    parts: list[Any] = [head, leader_table(document["leaders"])]
    topics = document["topics"]
    if topics and topics_max:
        parts += [Text(), topic_table(topics[:topics_max])]
    if len(topics) > topics_max:
        parts.append(Text(f"and {counted(len(topics) - topics_max, 'further topic')}", style="dim"))
    return Group(*parts, Text())
