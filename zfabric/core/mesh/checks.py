"""What a member of a mesh may be and say of itself: checked once, where it is handed in."""

from __future__ import annotations

from zfabric import errors
from zfabric.core.mesh import rules
from zfabric.settings import MESH_METADATA_BYTES_MAX
from zfabric.wire import gossip


def check_member(id: bytes, endpoint: str, incarnation: int, metadata: bytes) -> None:
    """Refuse what a member cannot be.

    Raises:
        InvalidArgument: which, and what is allowed.
    """
    if len(id) != gossip.ID_BYTES or id == gossip.NOBODY:
        raise errors.InvalidArgument(name="id", value=repr(id)[:100], allowed="16 bytes, not all zero")
    if not 1 <= incarnation <= rules.INCARNATION_STEP_MAX:
        raise errors.InvalidArgument(
            name="incarnation", value=str(incarnation), allowed=f"1 to {rules.INCARNATION_STEP_MAX}"
        )
    check_endpoint("endpoint", endpoint)
    check_metadata(metadata)


def is_endpoint(text: str) -> bool:
    """Tell whether a text can be an endpoint; one with an @ in front is what a shell calls a connection."""
    printable = text.isascii() and text.isprintable() and " " not in text and text[:1] != "@"
    return printable and 1 <= len(text) <= gossip.ENDPOINT_BYTES_MAX


def check_endpoint(name: str, endpoint: str) -> None:
    """Refuse what cannot be an endpoint; ``name`` is what it is called.

    Raises:
        InvalidArgument: it cannot.
    """
    if not is_endpoint(endpoint):
        allowed = f"1 to {gossip.ENDPOINT_BYTES_MAX} printable ASCII characters without blanks, and no @ in front"
        raise errors.InvalidArgument(name=name, value=repr(endpoint)[:100], allowed=allowed)


def check_metadata(metadata: bytes) -> None:
    """Refuse more than a member can tell of itself.

    Raises:
        InvalidArgument: there is more.
    """
    if len(metadata) > MESH_METADATA_BYTES_MAX:
        allowed = f"at most {MESH_METADATA_BYTES_MAX} bytes"
        raise errors.InvalidArgument(name="metadata", value=f"{len(metadata)} bytes", allowed=allowed)
