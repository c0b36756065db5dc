"""``zfabric status``: the leader processes."""

from __future__ import annotations

import click
import msgspec

from zfabric.cli.options import connect, fabric_options, json_option, show


@click.command()
@fabric_options
@json_option
def command(url: str | None, timeout: float, as_json: bool) -> None:
    """Show leaders with pid, partitions, memory (bytes) and totals since their start."""
    with connect(url, timeout) as fabric:
        rows = [msgspec.structs.asdict(info) for info in fabric.status()]
    columns = (
        "id",
        "pid",
        "endpoint",
        "partitions",
        "clients",
        "rss_bytes",
        "records_in",
        "bytes_in",
        "commits",
        "errors",
    )
    show(rows, columns, as_json=as_json)
