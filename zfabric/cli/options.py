"""Options and output that commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from zfabric.sync.fabric import Fabric

F = TypeVar("F", bound=Callable[..., Any])


def fabric_options(function: F) -> F:
    """Add ``--url`` and ``--timeout``."""
    function = click.option(
        "--timeout",
        type=float,
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for answers.",
    )(function)
    return click.option(
        "--url",
        envvar="ZFABRIC_URL",
        default=None,
        help="zf://HOST:PORT or zf+file:DIR.  [default: zf+file:zfabric-data]",
    )(function)


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document, for scripts.")(function)


def connect(url: str | None, timeout: float) -> Fabric:
    """Return the fabric that the options name."""
    from zfabric.sync.fabric import connect as connect_fabric

    return connect_fabric(url, timeout=timeout)


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as one JSON document or as a table of some columns."""
    if as_json:
        click.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(f"{row[name]:,}" if isinstance(row[name], int) else str(row[name]) for name in columns))
    console = Console()
    console.print(table)
