"""``zfabric group``: what consumer groups have committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zfabric.cli.options import connect, fabric_options, group_argument, json_option, show, topic_argument
from zfabric.cli.places import check_partitions, nearest, offset_of

if TYPE_CHECKING:
    from zfabric.sync.fabric import Fabric

_COLUMNS = ("group", "topic", "partition", "offset", "end_offset", "lag")


@click.group()
def command() -> None:
    """List, describe, reset and delete committed offsets."""


@command.command("list")
@fabric_options
@json_option
def list_groups(url: str | None, timeout: float, as_json: bool) -> None:
    """List the groups."""
    with connect(url, timeout) as fabric:
        names = fabric.groups.list()
    show([{"group": name} for name in names], ("group",), as_json=as_json)


@command.command()
@group_argument()
@fabric_options
@json_option
def describe(name: str, url: str | None, timeout: float, as_json: bool) -> None:
    """Show the offsets of group NAME and its lag (records)."""
    with connect(url, timeout) as fabric:
        rows = _rows(fabric, name)
    show(rows, _COLUMNS, as_json=as_json)


def _rows(fabric: Fabric, name: str) -> list[dict[str, Any]]:
    import msgspec

    return [msgspec.structs.asdict(entry) for entry in fabric.groups.describe(name)]


@command.command()
@group_argument()
@topic_argument()
@click.option(
    "--to",
    required=True,
    metavar="PLACE",
    help="earliest, latest, an offset or an ISO time; where a partition has no such offset, its nearest.",
)
@click.option(
    "--partition", "partitions", type=int, metavar="NUMBER", multiple=True, help="Reset only these.  [default: all]"
)
@fabric_options
@json_option
def reset(
    name: str, topic: str, to: str, partitions: tuple[int, ...], url: str | None, timeout: float, as_json: bool
) -> None:
    """Set what group NAME has committed in TOPIC."""
    with connect(url, timeout) as fabric:
        info = fabric.topics.describe(topic)
        numbers = check_partitions(info, partitions)
        offset = offset_of(to, "--to")
        if offset is None:
            fabric.groups.reset(name, topic, to=to, partitions=numbers)
        else:
            alike: dict[int, list[int]] = {}
            for number, place in nearest(info, offset, numbers).items():
                alike.setdefault(place, []).append(number)
            for place, some in alike.items():
                fabric.groups.reset(name, topic, to=place, partitions=some)
        rows = [row for row in _rows(fabric, name) if row["topic"] == topic]
    show(rows, _COLUMNS, as_json=as_json)


@command.command()
@group_argument()
@fabric_options
@json_option
def delete(name: str, url: str | None, timeout: float, as_json: bool) -> None:
    """Forget what group NAME has committed."""
    with connect(url, timeout) as fabric:
        rows = _rows(fabric, name)
        fabric.groups.delete(name)
    show(rows, _COLUMNS, as_json=as_json)
