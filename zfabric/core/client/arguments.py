"""What users give to calls, checked: versions, methods, values, headers and options of requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from zfabric import errors
from zfabric.core.client.errand import HEDGE_AUTO
from zfabric.settings import (
    CALL_BYTES_MAX,
    CALL_HEADER_BYTES_MAX,
    HEADERS_MAX,
    METHOD_BYTES_MAX,
    check_flag,
    check_name,
    check_range,
)
from zfabric.wire import calls
from zfabric.wire.card import GROUP_PREFIX

if TYPE_CHECKING:
    from zfabric.model import Buffer

VERSION_MAX: Final = 100
HOST_MAX: Final = 100
_ADVERTISE: Final = re.compile(r"tcp://(?!0\.0\.0\.0:|\*|\[::\])[\w.:%\[\]-]{1,100}:(\*|[1-9]\d{0,4})", re.ASCII)
_LISTEN: Final = re.compile(r"tcp://[\w.:%\[\]*-]{1,100}:(\*|\d{1,5})", re.ASCII)
METHOD_CHARACTERS_MAX: Final = METHOD_BYTES_MAX // 4


def check_service(value: object) -> str:
    """Return a name for a service, else raise InvalidArgument: members of groups are announced like services."""
    name = check_name("service", value)
    if name.startswith(GROUP_PREFIX):
        raise errors.InvalidArgument(
            name="service", value=repr(name)[:100], allowed=f"names that do not begin with {GROUP_PREFIX!r}"
        )
    return name


def check_version(value: object) -> None:
    """Raise InvalidArgument unless it is a version: at most ``VERSION_MAX`` characters that fit a card; "" is none."""
    fits = isinstance(value, str) and len(value) <= VERSION_MAX and value.isascii() and value.isprintable()
    if not fits or " " in str(value):
        allowed = f"at most {VERSION_MAX} printable ASCII characters without blanks"
        raise errors.InvalidArgument(name="version", value=repr(value)[:100], allowed=allowed)


def flat(value: object) -> Buffer:
    """Return what is to be sent as one row of bytes.

    Raises:
        InvalidArgument: it is none. LimitExceeded: of more than ``CALL_BYTES_MAX`` bytes.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise errors.InvalidArgument(name="value", value=type(value).__name__, allowed="bytes, or with a serializer")
    body = calls.flat(value)
    if len(body) > CALL_BYTES_MAX:
        what, instead = "bytes of a request", "send them in several requests, or a reference to where they are"
        raise errors.LimitExceeded(what=what, value=len(body), limit=CALL_BYTES_MAX, instead=instead)
    return body


def check_listen(listen: object) -> None:
    """Raise InvalidArgument unless it can be listened on: libzmq takes port 99,999 for another one."""
    if listen is None:
        return
    found = _LISTEN.fullmatch(listen) if isinstance(listen, str) else None
    if found is None or (found[1] != "*" and int(found[1]) > 65_535):
        raise errors.InvalidArgument(
            name="listen", value=repr(listen)[:100], allowed="tcp://host:port, the port 0 to 65,535 or *"
        )


def check_advertise(advertise: object) -> None:
    """Raise InvalidArgument unless callers can connect to it, but for the port, which may be ``*``."""
    if advertise is None:
        return
    found = _ADVERTISE.fullmatch(advertise) if isinstance(advertise, str) else None
    if found is None or not (found[1] == "*" or 0 < int(found[1]) < 65_536):
        allowed = f"tcp://host:port, the host of at most {HOST_MAX} characters, the port 1 to 65,535 or *"
        raise errors.InvalidArgument(name="advertise", value=repr(advertise)[:100], allowed=allowed)


def check_options(version: object, instance: object, idempotent: object, hedge: object) -> None:
    """Raise InvalidArgument unless they are options of a request; ``hedge`` is "auto", or in seconds, 0 to 3,600."""
    check_version(version)
    check_range("instance", instance, 0, 2**64 - 1)
    if idempotent is not None:
        check_flag("idempotent", idempotent)
    if isinstance(hedge, str) and hedge != "auto":
        raise errors.InvalidArgument(name="hedge", value=repr(hedge)[:100], allowed="'auto', or 0 to 3,600 s")
    if hedge is not None and hedge != "auto":
        check_range("hedge", hedge, 0.0, 3_600.0, "s")


def hedge_ns(hedge: float | str | None) -> int:
    """Return what an errand calls ``hedge``."""
    if isinstance(hedge, str):
        return HEDGE_AUTO
    return 0 if hedge is None else max(int(hedge * 1e9), 1)


def check_method(method: object) -> None:
    """Raise InvalidArgument unless it is ``SERVICE.METHOD``, of at most ``METHOD_CHARACTERS_MAX`` characters."""
    fits = (
        isinstance(method, str)
        and 0 < method.rfind(".") < len(method) - 1
        and len(method) <= METHOD_CHARACTERS_MAX
        and (method.isascii() or _encodable(method))
    )
    if not fits:
        allowed = f"SERVICE.METHOD of at most {METHOD_CHARACTERS_MAX} characters"
        raise errors.InvalidArgument(name="method", value=repr(method)[:100], allowed=allowed)


def _encodable(text: str) -> bool:
    """Tell whether it has a form in UTF-8: half of a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_header(name: object, content: object) -> None:
    if not isinstance(name, str) or not isinstance(content, bytes) or not _encodable(name):
        raise errors.InvalidArgument(name="headers", value=repr((name, content))[:100], allowed="text to bytes")


def checked(headers: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return headers of a request; raise InvalidArgument unless they are text to bytes, and few enough."""
    if not isinstance(headers, Mapping):
        raise errors.InvalidArgument(name="headers", value=repr(headers)[:100], allowed="a mapping of text to bytes")
    check_range("number of headers", len(headers), 0, HEADERS_MAX - 3)  # Beside the trace, its state, and traceback.
    size = 0
    for name, content in headers.items():
        _check_header(name, content)
        size += len(name.encode()) + len(content) + 10
    check_range("bytes of headers", size, 0, CALL_HEADER_BYTES_MAX - 1_000, "bytes")
    return headers
