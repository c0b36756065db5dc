"""URLs: which mode, and where.

- none: ``ZFABRIC_URL``, else embedded in ``./zfabric-data``
- ``zf+file:///path`` or ``zf+file:relative``: embedded in that directory; with two slashes a host would follow.
  ``?leader=thread`` after it: a leader that this process starts is a part of it (``inside.py``)
- ``zf://host:port``: a node (port 7400 by default)
- ``zf+peer://mesh``: a peer, see ``peerurl.py``
"""

from __future__ import annotations

import os
import re
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote

from zfabric import errors
from zfabric.net.places import is_host
from zfabric.settings import DEFAULT_PORT

DEFAULT_DIRECTORY = "zfabric-data"
Placement = Literal["process", "thread"]
"""Where a leader runs that this process has to start."""
_LEADER: Final = "?leader="
_DIGITS = re.compile(r"[0-9]{1,5}")


class Target(NamedTuple):
    """A parsed URL: ``mode`` is "embedded" (then ``path`` and ``leader``) or "node" (then ``host`` and ``port``)."""

    url: str
    mode: str
    path: str
    host: str
    port: int
    leader: Placement = "process"


def text_of(url: str | None) -> str:
    """Return a URL as it was given, or that of the environment; "" if there is none."""
    text = url if url is not None else os.environ.get("ZFABRIC_URL", "")
    if not isinstance(text, str):
        raise errors.InvalidArgument(name="url", value=type(text).__name__, allowed="text or None")
    return text


def placement(value: object) -> Placement:
    """Check where a leader shall run.

    Raises:
        InvalidArgument: it is neither "process" nor "thread".
    """
    if value not in ("process", "thread"):
        raise errors.InvalidArgument(name="leader", value=repr(value)[:100], allowed="'process' or 'thread'")
    return value


def parse(url: str | None) -> Target:
    """Read a URL.

    Raises:
        InvalidArgument: its leader.
        ConfigurationError: it is none of the forms above.
        NotSupported: it names a mode that this version does not have.
    """
    text = text_of(url)
    if not text:
        return Target(f"zf+file:{DEFAULT_DIRECTORY}", "embedded", DEFAULT_DIRECTORY, "", 0)
    scheme, _, rest = text.partition(":")
    if scheme == "zf+file":
        if rest.startswith("//") and rest[2:3] not in ("/", ""):
            host = rest[2:].partition("/")[0]
            raise errors.ConfigurationError(
                source=f"URL {text[:100]!r}",
                problem=f"{host[:100]!r} stands where a host would",
                instead=f"write zf+file:{rest[2:102]}, or with three slashes zf+file:///directory",
            )
        rest, asked, leader = rest.removeprefix("//").partition(_LEADER)
        path = unquote(rest)
        if not path or "\0" in path:
            raise _wrong(text, "it names no directory" if not path else "a directory's name holds no NUL")
        return Target(text, "embedded", path, "", 0, placement(leader) if asked else "process")
    if scheme != "zf" or not rest.startswith("//"):
        raise _wrong(text, "its scheme is unknown")
    place = rest[2:].rstrip("/")
    if "," in place:
        raise errors.NotSupported(what=text[:100], where="in this version", instead="name one node: zf://host:port")
    host, colon, digits = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, digits = place, str(DEFAULT_PORT)
    if not host or not is_host(host) or not _DIGITS.fullmatch(digits) or not 1 <= int(digits) <= 65_535:
        raise _wrong(text, "wants host:port with a port from 1 to 65535, an IPv6 address in brackets")
    return Target(text, "node", "", host, int(digits))


def _wrong(url: str, problem: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(
        source=f"URL {url[:100]!r}",
        problem=problem,
        instead="use zf://host:port, zf+peer://mesh, zf+file:///directory, or nothing",
    )
