"""``zfabric topic``: create, list, describe, alter, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zfabric.cli.options import connect, fabric_options, json_option, show, topic_argument

if TYPE_CHECKING:
    from zfabric.model import TopicConfig

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Create, list, describe, alter and delete topics."""


def _config_options(*, unset: bool) -> Callable[[F], F]:
    """Add what ``create`` and ``alter`` share.

    Args:
        unset: what is not given stays as it is; if not, it gets its default.
    """
    as_it_is = "as it is"

    def add(function: F) -> F:
        for name, kind, metavar, text, default in reversed(_OPTIONS):  # click shows what was added last first.
            shown = as_it_is if unset else default
            function = click.option(name, type=kind, metavar=metavar, help=f"{text}  [default: {shown}]")(function)
        return function

    return add


def _given(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, as the SDK takes them."""
    unbounded = ("retention", "retention_bytes")
    return {
        name: None if name in unbounded and value == -1 else value
        for name, value in config.items()
        if value is not None
    }


_OPTIONS: list[tuple[str, Any, str | None, str, str]] = [
    ("--retention", float, "SECONDS", "How long records are kept; -1 for ever.", "for ever"),
    ("--retention-bytes", int, "BYTES", "What is kept per partition; -1 all.", "all; 64 MiB with durability memory"),
    (
        "--cleanup",
        click.Choice(["delete", "compact", "compact,delete"]),
        None,
        "What goes: old records, or all but the latest of a key, 60 s later and 10 s more for each MiB kept.",
        "delete",
    ),
    ("--tombstone-retention", float, "SECONDS", "How long a tombstone stays in a compacted topic at least.", "86400"),
    ("--commit-interval", float, "SECONDS", "How long acknowledgements may wait to share an fsync, to 3600.", "0"),
    ("--record-bytes-max", int, "BYTES", "Largest record, to 67,108,864 where the node allows it.", "1048576"),
    ("--replicas", int, "NUMBER", "Disks that acks=all waits for, to 16: the leader's own and its keepers'.", "1"),
]


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
@_config_options(unset=False)
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
    given = _given(config)
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
@_config_options(unset=True)
@fabric_options
@json_option
def alter(name: str, partitions: int | None, url: str | None, timeout: float, as_json: bool, **config: Any) -> None:
    """Change topic NAME: what is not given stays as it is."""
    given = _given(config)
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

        copies = [msgspec.structs.asdict(copy) for copy in info.copies]
        document = {"topic": info.name, "id": info.id, **msgspec.structs.asdict(info.config), "partitions": rows}
        if copies:
            document["copies"] = copies
        if info.others:
            document["others"] = {origin: msgspec.structs.asdict(config) for origin, config in info.others.items()}
        click.echo(json.dumps(document))
        return
    click.echo(f"{info.name}: {', '.join(_told(info.config))}")
    for origin, config in sorted(info.others.items()):
        click.echo(f"{info.name} at origin {origin}: {', '.join(_told(config))}")
    columns = ["partition", "leader", "epoch", "start_offset", "end_offset", "bytes", "write_amplification"]
    if any(row["origin"] for row in rows):
        columns += ["origin", "online"]
    if info.config.replicas > 1 or any(row["keepers"] for row in rows):
        columns.append("keepers")
        for row in rows:
            row["keepers"] = ", ".join(f"{keeper} has {end:,}" for keeper, end in sorted(row["keepers"].items()))
    if rows:
        show(rows, columns, as_json=False)
    if info.copies:
        click.echo("copies of other fabrics' partitions:")
        import time

        now = time.time() * 1000
        kept = [
            {**msgspec.structs.asdict(copy), "heard": f"{max(now - copy.heard_ms, 0) / 1000:,.0f} s ago"}
            for copy in info.copies
        ]
        show(kept, ("origin", "partition", "start_offset", "end_offset", "lag", "heard", "problem"), as_json=False)


def _told(config: TopicConfig) -> Iterator[str]:
    """Yield each setting of a topic, as the options are called and in their units."""
    memory = config.durability == "memory"
    kept = f"{config.retention_bytes:,} bytes a partition" if config.retention_bytes >= 0 else "all"
    yield f"durability {config.durability}"
    yield "retention " + (f"{config.retention_ms / 1000:g} s" if config.retention_ms >= 0 else "for ever")
    yield "retention-bytes " + ("64 MiB a partition" if memory and config.retention_bytes < 0 else kept)
    yield f"cleanup {config.cleanup}"
    if "compact" in config.cleanup:
        yield f"tombstone-retention {config.tombstone_ms / 1000:g} s"
    yield f"commit-interval {config.commit_interval_ms / 1000:g} s"
    yield f"record-bytes-max {config.record_bytes_max:,} bytes"
    if config.replicas > 1:
        yield f"replicas {config.replicas}"
