"""``zfabric status``: the leader processes."""

from __future__ import annotations

import click

from zfabric.cli.options import connect, fabric_options, json_option, pause, show

_COLUMNS = (
    "id",
    "pid",
    "partitions",
    "clients",
    "subscriptions",
    "rss_bytes",
    "records_in_per_s",
    "bytes_in_per_s",
    "records_out_per_s",
    "bytes_out_per_s",
    "commits_per_s",
    "errors",
    "endpoint",
)


@click.command()
@click.option(
    "--sample",
    type=click.FloatRange(min=0, max=3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Measure rates for so long; 0 answers at once, with averages since each leader's start.",
)
@fabric_options
@json_option
def command(sample: float, url: str | None, timeout: float, as_json: bool) -> None:
    """Show leaders with pid, partitions, memory (bytes), rates (per second) and totals since their start.

    Rates are those of the last half second (see --sample), in from producers and out to consumers. A leader that does
    not answer is shown without values.
    """
    from zfabric.cli.reading import leader_rows, read

    with connect(url, timeout) as fabric:
        before = None
        if sample:
            before = read(fabric, topics=False)
            pause(sample)
        rows = leader_rows(before, read(fabric, topics=False))
    show(rows, _COLUMNS, as_json=as_json)
