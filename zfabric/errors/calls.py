"""What callers get wrong: arguments, names, limits, input."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import ClassVar, Final, Self

from zfabric.errors.base import Value, ZFabricError

LISTED_MAX: Final = 5
"""Partitions that one error names."""


class InvalidArgument(ZFabricError, ValueError):
    """An argument has a wrong type or lies outside its range."""

    code = 2
    template = "{name}={value} is not allowed; allowed: {allowed}"
    name: str
    value: str
    allowed: str


class NotSupported(ZFabricError):
    """This mode or this kind of topic cannot keep what the call promises."""

    code = 3
    template = "{what} is not supported {where}; {instead}"
    what: str
    where: str
    instead: str


class ConfigurationError(ZFabricError):
    """A configuration file, environment variable or URL cannot be used."""

    code = 4
    template = "{source}: {problem}; {instead}"
    source: str
    problem: str
    instead: str


class RecordTooLarge(ZFabricError):
    """One record exceeds what its topic takes."""

    code = 5
    template = (
        "record of {size:,} bytes for topic {topic!r} exceeds record_bytes_max={limit:,} "
        "(allowed 1 to {ceiling:,}); raise it or split the value"
    )
    defaults: ClassVar[dict[str, Value]] = {"ceiling": 64 << 20}
    size: int
    topic: str
    limit: int


class UnknownTopic(ZFabricError):
    """No topic of this fabric has that name; ``elsewhere`` says which other member of its mesh shows one, if any."""

    code = 6
    template = (
        "no topic {topic!r}; create it with fabric.topics.create({topic!r}) or 'zfabric topic create {topic}'"
        "{elsewhere}"
    )
    defaults: ClassVar[dict[str, Value]] = {"elsewhere": ""}
    topic: str
    elsewhere: str


class UnknownPartition(ZFabricError):
    """The topic has no such partition; ``allowed`` says which it has, ``last`` is the largest number."""

    code = 7
    template = "topic {topic!r} has no partition {partition}; allowed: {allowed}"
    defaults: ClassVar[dict[str, Value]] = {"allowed": ""}
    topic: str
    partition: int
    last: int

    def __init__(self, **values: Value) -> None:
        super().__init__(**values | {"allowed": values.get("allowed") or f"0 to {values['last']}"})

    @classmethod
    def among(cls, topic: str, partition: int, origins: Mapping[int, str]) -> Self:
        """Return the error where ``origins`` has the numbers that there are: whose they are, "" without a mesh."""
        last, allowed = max(origins, default=-1), ""
        if any(origins.values()):
            listed = [f"{number} of {origin}" for number, origin in sorted(origins.items(), key=itemgetter(1))]
            allowed = ", ".join(listed[:LISTED_MAX])
            if len(listed) > LISTED_MAX:
                allowed += f" and {len(listed) - LISTED_MAX:,} more; 'zfabric topic describe {topic}' lists all"
        elif not origins:
            allowed = "none, no partition of it is known here"
        return cls(topic=topic, partition=partition, last=last, allowed=allowed)


class AlreadyExists(ZFabricError):
    """Something of that name is there already."""

    code = 8
    template = "{kind} {name!r} exists already; choose another name or use the one that is there"
    kind: str
    name: str


class NotFound(ZFabricError):
    """A group or another named thing does not exist."""

    code = 9
    template = "no {kind} {name!r}"
    kind: str
    name: str


class Closed(ZFabricError):
    """The object was closed before or during the call."""

    code = 10
    template = "{what} is closed; make a new one"
    what: str


class Forked(ZFabricError):
    """A fabric was used in a process that was forked after it was made."""

    code = 11
    template = (
        "{what} was made in process {owner} and is used in its forked child {child}; "
        "sockets cannot be shared: call zfabric.connect() in the child"
    )
    what: str
    owner: int
    child: int


class BufferFull(ZFabricError):
    """The producer's buffer is full and the caller asked not to wait, or its wait ended."""

    code = 12
    retriable = True
    template = (
        "the producer holds {used:,} bytes that are not acknowledged, buffer_bytes={limit:,}; "
        "wait, flush() or raise buffer_bytes"
    )
    used: int
    limit: int


class LimitExceeded(ZFabricError):
    """A bound of the fabric is reached."""

    code = 35
    template = "{what}: {value:,} exceeds the limit of {limit:,}; {instead}"
    defaults: ClassVar[dict[str, Value]] = {"instead": "use fewer or raise the limit"}
    what: str
    value: int
    limit: int


class BadInput(ZFabricError):
    """A line of a file or of standard input is not what its command takes."""

    code = 60
    template = "{source} line {line:,}: {problem}"
    source: str
    line: int
    problem: str
