"""The socket of beacons, on the loopback interface of this machine."""

from __future__ import annotations

import os
import time

import pytest

from zfabric.net.beacon import READ_MAX, BeaconSocket


@pytest.fixture
def sockets():
    try:
        made = [BeaconSocket(local=True), BeaconSocket(local=True)]
    except OSError as error:
        pytest.skip(f"no multicast here: {error}")
    yield made
    for socket in made:
        socket.close()


def heard(socket, wanted):
    """Wait for a datagram; others on this machine may send some as well."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(data == wanted and host for data, host in socket.receive()):
            return True
        time.sleep(0.01)
    return False


def test_what_one_sends_all_on_this_machine_hear_itself_included(sockets):
    data = os.urandom(100)
    sockets[0].send(data)
    assert all(heard(socket, data) for socket in sockets)


def test_a_flood_is_read_in_parts_and_the_rest_is_dropped_by_the_kernel(sockets):
    for _ in range(5_000):
        sockets[0].send(bytes(150))
    assert len(sockets[1].receive()) == READ_MAX
    parts = 1
    while sockets[1].receive():
        parts += 1
    assert parts < 5_000 / READ_MAX


def test_nothing_is_an_empty_list(sockets):
    while found := sockets[0].receive():
        continue
    assert found == []
