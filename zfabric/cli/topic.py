"""``zfabric topic``: create, list, describe, alter, delete."""

from __future__ import annotations

from typing import Any

import click

from zfabric.cli.options import connect, fabric_options, json_option, show, topic_argument


@click.group()
def command() -> None:
    """Create, list, describe, alter and delete topics."""


def _config_options(function: Any) -> Any:
    """Add what ``create`` and ``alter`` share; without a value a topic keeps what it has, or the default."""
    options = (
        click.option(
            "--retention",
            type=float,
            metavar="SECONDS",
            help="How long records are kept; -1 for ever.  [default: for ever]",
        ),
        click.option(
            "--retention-bytes",
            type=int,
            metavar="BYTES",
            help="What is kept per partition; -1 all.  [default: all; 64 MiB with durability memory]",
        ),
        click.option(
            "--cleanup",
            type=click.Choice(["delete", "compact", "compact,delete"]),
            help="What goes: old records, or all but the latest of a key.  [default: delete]",
        ),
        click.option(
            "--tombstone-retention",
            type=float,
            metavar="SECONDS",
            help="How long a tombstone stays in a compacted topic.  [default: 86400]",
        ),
        click.option(
            "--commit-interval",
            type=float,
            metavar="SECONDS",
            help="How long acknowledgements may wait to share an fsync.  [default: 0]",
        ),
        click.option("--record-bytes-max", type=int, metavar="BYTES", help="Largest record.  [default: 1048576]"),
    )
    for option in reversed(options):  # click shows the one that was added last first.
        function = option(function)
    return function


@command.command()
@click.argument("name")
@click.option(
    "--partitions", type=int, default=1, show_default=True, metavar="PARTITIONS", help="How many, 1 to 10,000."
)
@click.option(
    "--durability",
    type=click.Choice(["fsync", "os", "memory"]),
    default="fsync",
    show_default=True,
    help="What an acknowledgement means: on the disk, in the kernel's page cache, or in memory alone.",
)
@click.option("--if-absent", is_flag=True, help="Take a topic that exists as it is.")
@_config_options
@fabric_options
@json_option
def create(
    name: str,
    partitions: int,
    durability: Any,
    if_absent: bool,
    url: str | None,
    timeout: float,
    as_json: bool,
    **config: Any,
) -> None:
    """Create topic NAME."""
    given = {key: value for key, value in config.items() if value is not None}
    with connect(url, timeout, create=True) as fabric:
        info = fabric.topics.create(name, partitions=partitions, durability=durability, if_absent=if_absent, **given)
    _show(info, as_json=as_json)


@command.command("list")
@fabric_options
@json_option
def list_topics(url: str | None, timeout: float, as_json: bool) -> None:
    """List the topics."""
    with connect(url, timeout) as fabric:
        names = fabric.topics.list()
    show([{"topic": name} for name in names], ("topic",), as_json=as_json)


@command.command()
@topic_argument("name")
@fabric_options
@json_option
def describe(name: str, url: str | None, timeout: float, as_json: bool) -> None:
    """Show the configuration of topic NAME and its partitions, sizes in bytes."""
    with connect(url, timeout) as fabric:
        info = fabric.topics.describe(name)
    _show(info, as_json=as_json)


@command.command()
@topic_argument("name")
@click.option(
    "--partitions", type=int, metavar="PARTITIONS", help="More than now, up to 10,000.  [default: as many as now]"
)
@_config_options
@fabric_options
@json_option
def alter(name: str, partitions: int | None, url: str | None, timeout: float, as_json: bool, **config: Any) -> None:
    """Change topic NAME: what is not given stays as it is."""
    given = {key: value for key, value in config.items() if value is not None}
    with connect(url, timeout) as fabric:
        info = fabric.topics.alter(name, partitions=partitions, **given)
    _show(info, as_json=as_json)


@command.command()
@topic_argument("name")
@fabric_options
@json_option
def delete(name: str, url: str | None, timeout: float, as_json: bool) -> None:
    """Remove topic NAME with all its records."""
    with connect(url, timeout) as fabric:
        fabric.topics.delete(name)
    if as_json:
        show([{"topic": name}], ("topic",), as_json=True)


def _show(info: Any, *, as_json: bool) -> None:
    """Print a topic: everything as JSON, or its partitions as a table."""
    import msgspec

    rows = [msgspec.structs.asdict(partition) for partition in info.partitions]
    if as_json:
        import json

        document = {"topic": info.name, "id": info.id, **msgspec.structs.asdict(info.config), "partitions": rows}
        click.echo(json.dumps(document))
        return
    config = info.config
    click.echo(f"{info.name}: durability {config.durability}, cleanup {config.cleanup}")
    columns = ("partition", "leader", "epoch", "start_offset", "end_offset", "bytes", "write_amplification")
    show(rows, columns, as_json=False)
