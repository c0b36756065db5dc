"""The members that a process knew in its last run, in one small file: so it finds its mesh without seeds.

A hint like all that gossip says: who is gone is found out, and a file that is damaged, of another mesh or of another
version is as good as none. It is written by way of a new file, without an fsync, which would cost flash and latency
for nothing that matters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from zfabric.wire.gossip import Member

MEMBERS_MAX: Final = 64
_BYTES_MAX: Final = 256 << 10
_VERSION: Final = 1


class _File(msgspec.Struct, array_like=True, frozen=True):
    version: int
    mesh: str
    members: Annotated[list[Member], Meta(max_length=MEMBERS_MAX)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_File).decode


def store(path: str, mesh: str, members: Sequence[Member]) -> None:
    """Replace the file; at most ``MEMBERS_MAX`` members.

    Raises:
        OSError: it cannot be written.
    """
    assert len(members) <= MEMBERS_MAX
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.write(_encode(_File(_VERSION, mesh, list(members))))
    os.replace(new, path)


def load(path: str, mesh: str) -> list[Member]:
    """Return the members that were stored for ``mesh``, those that can be spoken to; none if there is no such file."""
    found = _read(path)
    if found is None or found.mesh != mesh:
        return []
    return [member for member in found.members if member.endpoint]


def mesh_of(path: str) -> str:
    """Return the mesh whose members were stored; "" if there is no such file."""
    found = _read(path)
    return "" if found is None else found.mesh


def _read(path: str) -> _File | None:
    try:
        with open(path, "rb") as file:
            found = _decode(file.read(_BYTES_MAX))
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: text that is no UTF-8.
        return None
    return found if found.version == _VERSION else None
