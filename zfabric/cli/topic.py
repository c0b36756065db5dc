"""``zfabric topic``: create, list, describe, alter, delete."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from zfabric.cli.options import connect, fabric_options, json_option, show


@click.group()
def command() -> None:
    """Create, list, describe, alter and delete topics."""


def _config_options(function: Any) -> Any:
    for option in (
        click.option("--retention", type=float, help="Seconds that records are kept.  [default: for ever]"),
        click.option("--retention-bytes", type=int, help="Bytes kept per partition.  [default: all]"),
        click.option("--cleanup", type=click.Choice(["delete", "compact", "compact,delete"])),
        click.option(
            "--commit-interval", type=float, help="Seconds that acks may wait to share an fsync.  [default: 0]"
        ),
        click.option("--record-bytes-max", type=int, help="Largest record in bytes.  [default: 1048576]"),
    ):
        function = option(function)
    return function


@command.command()
@click.argument("name")
@click.option("--partitions", type=int, default=1, show_default=True)
@click.option("--durability", type=click.Choice(["fsync", "os", "memory"]), default="fsync", show_default=True)
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
    """Create a topic."""
    given = {key: value for key, value in config.items() if value is not None}
    with connect(url, timeout) as fabric:
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
@click.argument("name")
@fabric_options
@json_option
def describe(name: str, url: str | None, timeout: float, as_json: bool) -> None:
    """Show a topic's configuration and partitions."""
    with connect(url, timeout) as fabric:
        info = fabric.topics.describe(name)
    _show(info, as_json=as_json)


@command.command()
@click.argument("name")
@click.option("--partitions", type=int, help="More partitions than now.")
@_config_options
@fabric_options
@json_option
def alter(name: str, partitions: int | None, url: str | None, timeout: float, as_json: bool, **config: Any) -> None:
    """Change a topic."""
    given = {key: value for key, value in config.items() if value is not None}
    with connect(url, timeout) as fabric:
        info = fabric.topics.alter(name, partitions=partitions, **given)
    _show(info, as_json=as_json)


@command.command()
@click.argument("name")
@fabric_options
def delete(name: str, url: str | None, timeout: float) -> None:
    """Remove a topic with all its records."""
    with connect(url, timeout) as fabric:
        fabric.topics.delete(name)


def _show(info: Any, *, as_json: bool) -> None:
    """Print a topic: everything as JSON, or its partitions as a table."""
    rows = [msgspec.structs.asdict(partition) for partition in info.partitions]
    if as_json:
        import json

        document = {"topic": info.name, "id": info.id, **msgspec.structs.asdict(info.config), "partitions": rows}
        click.echo(json.dumps(document))
        return
    config = info.config
    click.echo(f"{info.name}: durability {config.durability}, cleanup {config.cleanup}", err=True)
    columns = ("partition", "leader", "epoch", "start_offset", "end_offset", "bytes", "write_amplification")
    show(rows, columns, as_json=False)
