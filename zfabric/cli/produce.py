"""``zfabric produce``: lines or NDJSON to a topic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from zfabric import errors
from zfabric.cli.options import connect, fabric_options, json_option

if TYPE_CHECKING:
    from zfabric.sync.producer import Producer

_FIELDS = {"value", "key", "headers", "partition", "timestamp"}


@click.command()
@click.argument("topic")
@click.argument("files", nargs=-1, type=click.File("rb"))
@click.option("--format", "layout", type=click.Choice(["lines", "json"]), default="lines", show_default=True)
@click.option("--key-separator", help="What parts key and value in a line.")
@click.option("--compression", type=click.Choice(["none", "lz4", "zstd"]), default="none", show_default=True)
@fabric_options
@json_option
def command(
    topic: str,
    files: tuple[BinaryIO, ...],
    layout: str,
    key_separator: str | None,
    compression: Any,
    url: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Write each line of FILES, or of standard input, as one record; ends when all are acknowledged.

    With --format json a line is an object: value, key (text), headers (text to text), partition, timestamp (ms).
    """
    sources = files or (sys.stdin.buffer,)
    with connect(url, timeout) as fabric, fabric.producer(compression=compression) as producer:
        lines = (line.removesuffix(b"\n") for source in sources for line in source)
        if layout == "json":
            count = _send_objects(producer, topic, lines)
        elif key_separator:
            count = 0
            for count, line in enumerate(lines, 1):  # noqa: B007
                key, found, value = line.partition(key_separator.encode())
                producer.send(topic, value if found else key, key=key if found else None)
        else:
            count = producer.send_many(topic, lines)
        producer.flush()
    if as_json:
        click.echo(json.dumps({"topic": topic, "records": count}))
    else:
        click.echo(f"{count:,} records acknowledged", err=True)


def _send_objects(producer: Producer, topic: str, lines: Iterator[bytes]) -> int:
    count = 0
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not set(entry) <= _FIELDS:
            raise errors.InvalidArgument(
                name=f"line {number}", value=repr(line[:60]), allowed="a JSON object with " + ", ".join(sorted(_FIELDS))
            )
        value, key = entry.get("value"), entry.get("key")
        producer.send(
            topic,
            value.encode() if isinstance(value, str) else value,
            key=key.encode() if isinstance(key, str) else key,
            headers={name: str(text).encode() for name, text in (entry.get("headers") or {}).items()},
            partition=entry.get("partition"),
            timestamp=entry.get("timestamp"),
        )
        count += 1
    return count
