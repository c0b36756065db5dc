"""Where to begin, as ``--from`` and ``--to`` say it: a word, a time, or an offset, which not every partition has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from zfabric import errors
from zfabric.cli.options import counted

if TYPE_CHECKING:
    from zfabric.model import TopicInfo

SHOWN_MAX = 10


def offset_of(place: str, option: str) -> int | None:
    """Return ``place`` as an offset; None if it is a word or a time.

    Raises:
        InvalidArgument: it is neither; names the option.
    """
    if place.isascii() and place.isdigit():
        return int(place)
    from zfabric.sync.consumer import start_of

    start_of(place, option)
    return None


def check_partitions(info: TopicInfo, numbers: Iterable[int]) -> list[int]:
    """Return the partitions meant: ``numbers``, or all if there are none.

    Raises:
        UnknownPartition: the topic does not have one of them. NotSupported: all that is here are copies of others'.
    """
    known = [part.partition for part in info.partitions]
    if not known:
        raise errors.NotSupported(
            what=f"reading topic {info.name!r}",
            where="through a keeper's own address, which has copies of it and no partition",
            instead="use --url 'zf+peer://MESH?role=client&seed=HOST:PORT' with the keeper's HOST:PORT",
        )
    wanted = list(dict.fromkeys(numbers))
    for number in wanted:
        if number not in known:
            origins = {part.partition: part.origin for part in info.partitions}
            raise errors.UnknownPartition.among(info.name, number, origins)
    return wanted or known


def nearest(info: TopicInfo, offset: int, numbers: Iterable[int]) -> dict[int, int]:
    """Return by partition the offset nearest to ``offset`` that it has; those that are others are told on stderr."""
    found = {}
    moved = []
    parts = {part.partition: part for part in info.partitions}
    for number in numbers:
        part = parts[number]
        place = found[number] = min(max(offset, part.start_offset), part.end_offset)
        if place != offset:
            moved.append(f"partition {number} has {part.start_offset} to {part.end_offset}: {place} is taken")
    for line in moved[:SHOWN_MAX]:
        click.echo(f"offset {offset}: {line}", err=True)
    if len(moved) > SHOWN_MAX:
        click.echo(f"offset {offset}: and so in {counted(len(moved) - SHOWN_MAX, 'further partition')}", err=True)
    return found
