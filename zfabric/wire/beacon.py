"""Beacons of members of a mesh on a local network, field by field: one datagram each.

======  =====  =========  ===========================================================================================
offset  type   field      meaning
======  =====  =========  ===========================================================================================
0       2s     signature  ``zb``
2       u8     version    of this format; another one is refused
3       u8     length     of the endpoint, 1 to 128
4       8s     mesh       hash of the mesh's name, as in gossip: beacons of other meshes are dropped unread
12      16s    sender     id of the member
28      ...    endpoint   where it listens, printable ASCII
end-16  16s    MAC        of everything before it, with the mesh key, as in gossip
======  =====  =========  ===========================================================================================

A beacon introduces somebody and says nothing more, so a repeated one does no harm: who is introduced has to prove
itself at that endpoint like anybody else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zfabric import errors
from zfabric.model import Buffer
from zfabric.wire.gossip import ENDPOINT_BYTES_MAX, ID_BYTES, MAC_BYTES, NOBODY, Codec

SIGNATURE: Final = b"zb"
VERSION: Final = 1
HEAD_BYTES: Final = 28
BYTES_MAX: Final = HEAD_BYTES + ENDPOINT_BYTES_MAX + MAC_BYTES


class Beacon(NamedTuple):
    """What a beacon says."""

    sender: bytes
    endpoint: str


def write(codec: Codec, beacon: Beacon) -> bytes:
    """Encode a beacon."""
    endpoint = beacon.endpoint.encode("ascii")
    assert 1 <= len(endpoint) <= ENDPOINT_BYTES_MAX, "a member's endpoint was checked"
    data = SIGNATURE + bytes((VERSION, len(endpoint))) + codec.hash + beacon.sender + endpoint
    return data + codec.sign(data)


def read(codec: Codec, data: Buffer) -> Beacon:
    """Decode a beacon.

    Raises:
        ProtocolViolation: it is none, or not of this mesh; or its MAC is wrong, then ``values["refusal"]`` is "mac".
    """
    data = bytes(data)
    if not HEAD_BYTES + MAC_BYTES < len(data) <= BYTES_MAX or data[:3] != SIGNATURE + bytes((VERSION,)):
        raise errors.ProtocolViolation(problem=f"a datagram of {len(data)} bytes", allowed="beacons of version 1")
    if data[4:12] != codec.hash:
        raise errors.ProtocolViolation(problem=f"a beacon of mesh {data[4:12].hex()}", allowed=codec.hash.hex())
    if not codec.signed(data):
        problem = "a MAC that is not ours"
        raise errors.ProtocolViolation(problem=problem, allowed="beacons signed with the mesh key", refusal="mac")
    sender, endpoint = data[12 : 12 + ID_BYTES], data[HEAD_BYTES:-MAC_BYTES]
    if len(endpoint) != data[3] or sender == NOBODY or not all(0x21 <= byte <= 0x7E for byte in endpoint):
        raise errors.ProtocolViolation(problem="a beacon about nobody", allowed="an id and an endpoint")
    return Beacon(sender, endpoint.decode("ascii"))
