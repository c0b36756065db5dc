"""Host names are looked up in threads of their own, with bounds."""

from __future__ import annotations

import select
import socket
import threading
import time

import pytest

from zfabric.net.names import KEPT_NS, KNOWN_MAX, NOWHERE_NS, THREADS, WAITING_MAX, Names, address_of, is_address


class Server:
    """Answers when it is told to.

    Attributes:
        asked: for which names. known: what it answers.
    """

    def __init__(self):
        self.asked = []
        self.known = {}
        self.answers = threading.Event()

    def look_up(self, host):
        self.asked.append(host)
        self.answers.wait(30)
        return self.known.get(host, "")


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def names(server):
    made = Names(server.look_up)
    yield made
    server.answers.set()
    made.close()


def found(names, host, now):
    """Wait until a name was looked up."""
    while (address := names.address(host, now)) is None:
        assert select.select([names.fd], [], [], 30)[0]
        names.found(now)
    return address


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "[::1]", "[fe80::1%eth0]"])
def test_an_address_needs_no_server(names, server, host):
    assert (names.address(host, 0), is_address(host)) == (host, True)
    assert server.asked == []


def test_whoever_looks_when_it_is_told_to_is_not_woken_for_ever(server):
    """Were it told before the descriptor is written to, the write would come after the look."""

    class Watched(Names):
        silent = 0

        @property
        def rung(self):
            return self._rung

        @rung.setter
        def rung(self, value):
            self.silent += value and not select.select([self.fd], [], [], 0)[0]
            self._rung = value

    server.answers.set()
    names = Watched(server.look_up)
    try:
        names.address("h", 0)
        deadline = time.monotonic() + 30
        while not names.rung and time.monotonic() < deadline:
            time.sleep(0.001)
        assert (names.rung, names.silent) == (True, 0)
    finally:
        names.close()


def test_a_name_is_found_and_kept_and_looked_up_again(names, server):
    server.known["h"] = "10.0.0.1"
    assert names.address("h", 0) is None
    server.answers.set()
    assert found(names, "h", 0) == "10.0.0.1"
    assert names.address("h", KEPT_NS - 1) == "10.0.0.1"
    assert server.asked == ["h"]
    server.answers.clear()
    server.known["h"] = "10.0.0.2"
    assert names.address("h", KEPT_NS) == "10.0.0.1", "what is known holds until it was found anew"
    server.answers.set()
    assert select.select([names.fd], [], [], 30)[0]
    assert names.address("h", KEPT_NS) == "10.0.0.2"
    assert server.asked == ["h", "h"]


def test_a_server_that_is_away_takes_no_name_from_those_that_are_known(names, server):
    server.answers.set()
    server.known["h"] = "10.0.0.1"
    assert found(names, "h", 0) == "10.0.0.1"
    server.known.clear()
    names.doubt("h")
    assert names.address("h", 1) == "10.0.0.1"
    assert select.select([names.fd], [], [], 30)[0]
    assert names.address("h", 1) == "10.0.0.1"
    assert server.asked == ["h", "h"]


def test_a_name_that_leads_nowhere_is_looked_up_again_after_a_while(names, server):
    server.answers.set()
    assert found(names, "h", 0) == ""
    assert names.address("h", NOWHERE_NS - 1) == ""
    server.known["h"] = "10.0.0.1"
    assert names.address("h", NOWHERE_NS) is None
    assert found(names, "h", NOWHERE_NS) == "10.0.0.1"


def test_a_flood_of_names_is_bounded(names, server):
    before = threading.active_count()
    for number in range(1_000):
        assert (names.address(f"h{number}", 0) is None) == (number < WAITING_MAX)
    server.answers.set()
    for number in range(1_000):
        found(names, f"g{number}", 0)
    assert len(names._known) <= KNOWN_MAX
    assert threading.active_count() <= before + THREADS


def test_what_is_looked_up_while_it_ends_hurts_nobody(server):
    names = Names(server.look_up)
    names.address("h", 0)
    names.close()
    server.answers.set()
    for thread in names._threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("host", ["", "a" * 100, "a..b"])
def test_what_cannot_be_a_name_leads_nowhere(host):
    assert address_of(host) == ""


def test_the_own_machine_is_found():
    assert socket.inet_pton(socket.AF_INET, address_of("localhost"))
