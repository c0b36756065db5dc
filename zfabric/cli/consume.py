"""``zfabric consume``: read a topic."""

from __future__ import annotations

import base64
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from zfabric import errors
from zfabric.cli import status_of
from zfabric.cli.options import complete_groups, connect, fabric_options, pause, topic_argument
from zfabric.cli.places import check_partitions, nearest, offset_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from zfabric.model import Record, TopicInfo
    from zfabric.sync.consumer import Consumer
    from zfabric.sync.fabric import Fabric


@click.command()
@topic_argument()
@click.option(
    "--group",
    metavar="NAME",
    shell_complete=complete_groups,
    help="Begin where this group committed, and commit what was printed.  [default: no group]",
)
@click.option(
    "--from",
    "start",
    metavar="PLACE",
    default="earliest",
    show_default=True,
    help="earliest, latest, an offset or an ISO time; where a partition has no such offset, its nearest.",
)
@click.option("--follow", is_flag=True, help="Wait for more at the end.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["text", "json", "raw"]),
    default="text",
    show_default=True,
    help="A value a line, one JSON object a line, or bare bytes.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--count", type=click.IntRange(min=1), metavar="RECORDS", help="End after so many.  [default: at the topic's end]"
)
@click.option(
    "--partition", "partitions", type=int, metavar="NUMBER", multiple=True, help="Read only these.  [default: all]"
)
@fabric_options
def command(  # noqa: PLR0917 - one parameter an option
    topic: str,
    group: str | None,
    start: str,
    follow: bool,
    layout: str,
    as_json: bool,
    count: int | None,
    partitions: tuple[int, ...],
    url: str | None,
    timeout: float,
) -> None:
    """Print the records of TOPIC.

    Without --follow it ends at the end that the topic had at the beginning. In JSON, "timestamp" is in milliseconds
    since 1970, and bytes that are no UTF-8 are in "value_base64", "key_base64" and "headers_base64";
    produce --format json takes them back.

    A partition that cannot go on, as its offset was removed or it is damaged, is told on standard error and read no
    more until that was mended; the others are, and the exit code says in the end that one was left out.
    """
    write = sys.stdout.buffer.write
    layout = "json" if as_json else layout
    printed, told = 0, dict[int, errors.ZFabricError]()
    with connect(url, timeout) as fabric:
        info = fabric.topics.describe(topic)
        ends = {part.partition: part.end_offset for part in info.partitions}
        with _consumer(fabric, info, group, start, partitions, follow=follow) as consumer:
            while follow or _unread(consumer, ends, told):
                wanted = 500 if count is None else min(500, count - printed)
                try:
                    records = consumer.poll(wanted, timeout=1.0)
                except errors.ZFabricError as error:
                    stopped = {number: error for number, problem in consumer.problems.items() if problem is error}
                    told |= stopped
                    if not stopped or told.keys() >= {*consumer.assignment}:
                        raise  # There is nothing else to read.
                    click.echo(f"error: {error}", err=True)
                    continue
                for record in records:
                    write(_line(record, layout))
                sys.stdout.buffer.flush()
                if not records:
                    pause(0)  # Whoever reads us may have gone while there was nothing to write.
                printed += len(records)
                if group is not None and records:
                    consumer.commit()
                if count is not None and printed >= count:
                    break
            told = {number: error for number, error in told.items() if number in consumer.problems}
    if told:
        raise click.exceptions.Exit(max(map(status_of, told.values())))


def _unread(consumer: Consumer, ends: dict[int, int], told: Container[int]) -> bool:
    """Tell whether there is something before ``ends`` in partitions of which it was not told that they cannot go on."""
    return any(max(at, 0) < ends.get(number, 0) for number, at in consumer.position.items() if number not in told)


@contextmanager
def _consumer(
    fabric: Fabric, info: TopicInfo, group: str | None, start: str, partitions: tuple[int, ...], *, follow: bool
) -> Iterator[Consumer]:
    """Yield a consumer that stands where it is to begin.

    Who follows without saying which partitions reads those that are added as well, and of a mesh a group's share.
    """
    offset = offset_of(start, "--from")
    first = start if offset is None else "earliest"
    numbers = check_partitions(info, partitions)
    given = numbers if partitions or offset is not None or not follow else None
    with fabric.consumer(info.name, group=group, start=first, partitions=given) as consumer:
        if offset is not None:
            committed = {
                entry.partition
                for entry in (fabric.groups.describe() if group is not None else ())
                if (entry.group, entry.topic) == (group, info.name)
            }
            rest = [number for number in numbers if number not in committed]
            for number, place in nearest(info, offset, rest).items():
                consumer.seek(number, place)
        yield consumer


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
    headers: dict[str, str] = {}
    binary: dict[str, str] = {}
    for name, content in record.headers.items():
        try:
            headers[name] = content.decode()
        except UnicodeDecodeError:
            binary[name] = base64.b64encode(content).decode()
    document["headers"] = headers
    if binary:
        document["headers_base64"] = binary
    return json.dumps(document).encode() + b"\n"
