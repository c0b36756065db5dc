"""What the bodies of all commands are made of: their base, and the types of their fields, each with its range."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from zfabric.settings import FETCH_PARTITIONS_MAX, PARTITIONS_MAX

Id = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Signed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Text = Annotated[str, Meta(max_length=1_000)]
ASKED: Final = Meta(max_length=FETCH_PARTITIONS_MAX)
"""Length of a list whose asker chooses what is in it."""
ALL: Final = Meta(max_length=PARTITIONS_MAX)
"""Length of a list of everything that a fabric has of something."""


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all bodies: a msgpack array of the fields in order."""
