"""Golden bytes of beacons, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.wire import beacon
from zfabric.wire.beacon import Beacon
from zfabric.wire.gossip import MAC_BYTES, Codec

KEYED, OPEN = Codec("m", b"k" * 32), Codec("m")
EXAMPLE = Beacon(b"\1" * 16, "tcp://h:1")
HEAD = "7a6201090fa87cf3fa15b3ce" + "01" * 16 + b"tcp://h:1".hex()


@pytest.mark.parametrize(
    ("codec", "mac"),
    [(OPEN, "83291022dea2748c67028819610a6da2"), (KEYED, "ab377ad218eb6422e50a05788d2fe40b")],
)
def test_a_beacon_is_these_bytes(codec, mac):
    assert beacon.write(codec, EXAMPLE).hex() == HEAD + mac
    assert beacon.read(codec, bytes.fromhex(HEAD + mac)) == EXAMPLE


def signed(data):
    return data + KEYED.sign(data)


WHOLE = beacon.write(KEYED, EXAMPLE)
BODY = WHOLE[:-MAC_BYTES]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        WHOLE[:-1],
        WHOLE + b"\0",
        beacon.write(OPEN, EXAMPLE),
        beacon.write(Codec("n", b"k" * 32), EXAMPLE),
        signed(b"zg" + BODY[2:]),
        signed(b"zb\2" + BODY[3:]),
        signed(BODY[:3] + b"\x08" + BODY[4:]),
        signed(BODY[:12] + bytes(16) + BODY[28:]),
        signed(BODY[:28] + b"tcp://h 1"),
        signed(BODY[:28] + b"tcp://h\xff1"),
        signed(BODY[:3] + b"\0" + BODY[4:28]),
        signed(BODY[:3] + b"\x81" + BODY[4:28] + b"x" * 129),
    ],
)
def test_what_is_no_beacon_of_this_mesh_is_refused(data):
    with pytest.raises(errors.ProtocolViolation):
        beacon.read(KEYED, data)


def test_one_of_this_mesh_with_another_key_is_told_from_one_of_another_mesh():
    """The former is most likely a mistake, the latter a neighbour."""
    refusals = []
    for codec in (Codec("m", b"x" * 32), Codec("n", b"k" * 32)):
        with pytest.raises(errors.ProtocolViolation) as caught:
            beacon.read(KEYED, beacon.write(codec, EXAMPLE))
        refusals.append(caught.value.values.get("refusal"))
    assert refusals == ["mac", None]


@pytest.mark.parametrize("at", range(len(WHOLE)))
def test_no_byte_can_be_changed(at):
    with pytest.raises(errors.ProtocolViolation):
        beacon.read(KEYED, WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_beacon_or_refused(data):
    for codec in (KEYED, OPEN):
        with pytest.raises(errors.ProtocolViolation):
            beacon.read(codec, data)


def test_the_longest_endpoint_fits():
    longest = Beacon(b"\1" * 16, "e" * 128)
    assert len(beacon.write(KEYED, longest)) == beacon.BYTES_MAX
    assert beacon.read(KEYED, beacon.write(KEYED, longest)) == longest
