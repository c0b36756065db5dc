"""``zfabric status``: the leader processes."""

from __future__ import annotations

import click

from zfabric.cli.options import Number, connect, console, fabric_options, json_option, pause


@click.command()
@click.option(
    "--sample",
    type=Number(min=0, max=3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Measure rates for so long; 0 answers at once, with averages since each leader's start.",
)
@fabric_options
@json_option
def command(sample: float, url: str | None, timeout: float, as_json: bool) -> None:
    """Show leaders with pid, partitions, connections, subscriptions, memory (bytes) and rates (per second).

    Rates are those of the last half second (see --sample), in from producers and out to consumers. Of the resident
    memory (rss), the anonymous part (anon) is what a process holds; the kernel may take back the rest. A leader that
    does not answer is shown without values. --json has all fields, with endpoints and totals since each leader's start.
    """
    from zfabric.cli.reading import leader_rows, read

    with connect(url, timeout) as fabric:
        before = None
        if sample:
            before = read(fabric, topics=False)
            pause(sample)
        rows = leader_rows(before, read(fabric, topics=False))
    if as_json:
        import json

        click.echo(json.dumps(rows))
        return
    from zfabric.cli.tables import leader_table

    console().print(leader_table(rows))
