"""``zfabric consume``: read a topic."""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING

import click

from zfabric.cli.options import connect, fabric_options

if TYPE_CHECKING:
    from zfabric.model import Record


@click.command()
@click.argument("topic")
@click.option("--group", help="Begin where this group committed, and commit what was printed.")
@click.option(
    "--from", "start", default="earliest", show_default=True, help="earliest, latest, an offset, an ISO time."
)
@click.option("--follow", is_flag=True, help="Wait for more at the end.")
@click.option("--format", "layout", type=click.Choice(["text", "json", "raw"]), default="text", show_default=True)
@click.option("--count", type=click.IntRange(min=1), help="End after so many records.")
@click.option("--partition", "partitions", type=int, multiple=True, help="Read only these.  [default: all]")
@fabric_options
def command(  # noqa: PLR0917 - one parameter an option
    topic: str,
    group: str | None,
    start: str,
    follow: bool,
    layout: str,
    count: int | None,
    partitions: tuple[int, ...],
    url: str | None,
    timeout: float,
) -> None:
    """Print records: values a line (text), one JSON object a line (json), or bare bytes (raw).

    Without --follow it ends at the end that the topic had at the beginning.
    """
    write = sys.stdout.buffer.write
    printed = 0
    with connect(url, timeout) as fabric:
        ends = {part.partition: part.end_offset for part in fabric.topics.describe(topic).partitions}
        first = int(start) if start.isdigit() else start
        with fabric.consumer(topic, group=group, start=first, partitions=partitions or None) as consumer:
            while follow or any(position < ends[number] for number, position in consumer.position.items()):
                wanted = 500 if count is None else min(500, count - printed)
                records = consumer.poll(wanted, timeout=1.0)
                for record in records:
                    write(_line(record, layout))
                sys.stdout.buffer.flush()
                printed += len(records)
                if group is not None and records:
                    consumer.commit()
                if count is not None and printed >= count:
                    break


def _line(record: Record, layout: str) -> bytes:
    if layout == "raw":
        return record.value or b""
    if layout == "text":
        return (record.value or b"") + b"\n"
    document: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
    }
    for name, content in (("key", record.key), ("value", record.value)):
        try:
            document[name] = None if content is None else content.decode()
        except UnicodeDecodeError:
            document[f"{name}_base64"] = base64.b64encode(content or b"").decode()
    document["headers"] = {name: content.decode(errors="replace") for name, content in record.headers.items()}
    return json.dumps(document).encode() + b"\n"
