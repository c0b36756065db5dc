"""Decoding small rows: damage in one is an error that names it, and concerns nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from zfabric import errors
from zfabric.model import Buffer

T = TypeVar("T")


def decode(decoder: Callable[[Buffer], T], row: Buffer, what: str) -> T:
    """Return what ``decoder`` makes of ``row``; ``what`` names it in the error.

    Raises:
        CorruptRow: it cannot be decoded.
    """
    try:
        return decoder(row)
    except (msgspec.MsgspecError, ValueError) as error:
        raise errors.CorruptRow(what=what, problem=str(error)) from error
