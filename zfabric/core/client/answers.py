"""What an answer must be for its request, beyond what its decoder sees: then the machines behind can trust it.

A leader that answers something else is broken or none of ours. Its answer becomes a ProtocolViolation for whoever
asked; nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import lt
from typing import Any, Final

from zfabric import errors
from zfabric.wire import messages
from zfabric.wire.membership import Members, MembersAre
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Metadata, MetadataIs


def check(kind: int, asked: Any, answer: Command) -> errors.ProtocolViolation | None:
    """Return what is wrong with ``answer`` to a command of type ``kind`` with the body ``asked``; None if nothing."""
    if answer.type != messages.ANSWERS.get(kind):
        problem = f"{Type(answer.type).name} as the answer to {Type(kind).name}"
        return errors.ProtocolViolation(problem=problem, allowed=Type(messages.ANSWERS[kind]).name)
    rule = _RULES.get(kind)
    if rule is None or rule(asked, answer):
        return None
    return errors.ProtocolViolation(
        problem=f"{Type(answer.type).name} that does not fit its {Type(kind).name}", allowed="what was asked for"
    )


def _metadata(asked: Metadata, answer: Command) -> bool:
    body: MetadataIs = answer.body
    return all(
        [place.number for place in topic.partitions] == list(range(len(topic.partitions)))
        and (topic.partitions or topic.kept)
        for topic in body.topics
    )


def _described(asked: messages.Describe, answer: Command) -> bool:
    return [part.partition for part in answer.body.partitions] == asked.partitions


def _found(asked: messages.FindOffsets, answer: Command) -> bool:
    return [part.partition for part in answer.body.parts] == [part.partition for part in asked.parts]


def _committed(asked: messages.GetOffsets, answer: Command) -> bool:
    return [part.partition for part in answer.body.parts] == asked.partitions


def _listed(asked: messages.ListGroups, answer: Command) -> bool:
    body: messages.CommittedAre = answer.body
    places = [(asked.partition, asked.after.encode()), *((part.partition, part.group.encode()) for part in body.parts)]
    mine = not asked.group or all(part.group == asked.group for part in body.parts)
    return mine and all(map(lt, places, places[1:])) and (len(places) > 1 or not body.more)


def _fetched(asked: messages.Fetch, answer: Command) -> bool:
    parts = answer.body.parts
    wanted = [part.partition for part in asked.parts]
    length = sum(part.length for part in parts)
    return [part.partition for part in parts] == wanted[: len(parts)] and length == len(answer.rest[0])


def _members(asked: Members, answer: Command) -> bool:
    body: MembersAre = answer.body
    whole = len(body.me) == 16 and all(len(member.id) == 16 for member in body.members)
    onward = body.run != asked.run or body.version > asked.since or (body.version == asked.since and not body.more)
    return whole and onward and body.run > 0


_RULES: Final[dict[int, Callable[[Any, Command], bool]]] = {
    Type.METADATA: _metadata,
    Type.DESCRIBE: _described,
    Type.FIND_OFFSETS: _found,
    Type.GET_OFFSETS: _committed,
    Type.LIST_GROUPS: _listed,
    Type.FETCH: _fetched,
    Type.MEMBERS: _members,
}
