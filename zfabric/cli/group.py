"""``zfabric group``: what consumer groups have committed."""

from __future__ import annotations

import click
import msgspec

from zfabric import errors
from zfabric.cli.options import connect, fabric_options, json_option, show

_COLUMNS = ("group", "topic", "partition", "offset", "end_offset", "lag")


@click.group()
def command() -> None:
    """Show and change committed offsets."""


@command.command("list")
@fabric_options
@json_option
def list_groups(url: str | None, timeout: float, as_json: bool) -> None:
    """List the groups."""
    with connect(url, timeout) as fabric:
        names = sorted({entry.group for entry in fabric.groups.describe()})
    show([{"group": name} for name in names], ("group",), as_json=as_json)


@command.command()
@click.argument("name")
@fabric_options
@json_option
def describe(name: str, url: str | None, timeout: float, as_json: bool) -> None:
    """Show a group's offsets and lag (records)."""
    with connect(url, timeout) as fabric:
        rows = [msgspec.structs.asdict(entry) for entry in fabric.groups.describe(name)]
    if not rows:
        raise errors.NotFound(kind="group", name=name)
    show(rows, _COLUMNS, as_json=as_json)


@command.command()
@click.argument("name")
@click.argument("topic")
@click.option("--to", required=True, help="earliest, latest, an offset or an ISO time.")
@fabric_options
def reset(name: str, topic: str, to: str, url: str | None, timeout: float) -> None:
    """Set what a group has committed in a topic."""
    with connect(url, timeout) as fabric:
        fabric.groups.reset(name, topic, to=int(to) if to.isdigit() else to)


@command.command()
@click.argument("name")
@fabric_options
def delete(name: str, url: str | None, timeout: float) -> None:
    """Forget what a group has committed."""
    with connect(url, timeout) as fabric:
        fabric.groups.delete(name)
