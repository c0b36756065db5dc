"""What a directory's lock says of a peer's leader, and which options of others it does not know of."""

from __future__ import annotations

import pytest

from zfabric.modes import holderurl
from zfabric.modes.options import LeaderOptions, PeerPlace

USUAL = {"mesh": "m", "listen": "127.0.0.1:0"}


def leader(keep=(), offer_to=(), **place):
    return LeaderOptions(data="d", peer=PeerPlace(**{**USUAL, **place}), keep=keep, offer_to=offer_to)


def options(**given):
    return holderurl.peer_options(leader(**given))


def test_the_options_are_read_as_they_were_written():
    given = leader(("a.*", "b&c=d"), ("tcp://k:1",), zone="a b#", seeds=["h:1", "[::1]:2"], beacon=False)
    assert holderurl.read(holderurl.write(given, "12ab34cd")) == (
        "zf+peer://m", holderurl.peer_options(given), "12ab34cd",
    )  # fmt: skip


def test_what_is_too_long_for_the_lock_is_left_out_and_not_compared():
    seeds = [f"{'h' * 100}{number}:7400" for number in range(32)]
    text = holderurl.write(leader(seeds=seeds, zone="z"), "")
    assert len(text) <= holderurl.BYTES_MAX
    _, running, _ = holderurl.read(text)
    assert (running["zone"], "seed" in running) == (("z",), False)
    assert holderurl.ignored(options(seeds=["other:1"], zone="y"), running, options()) == [("zone", "y", "z")]


def test_a_leader_of_an_older_version_tells_nothing_and_is_not_compared():
    mesh, running, key = holderurl.read("zf+peer://m#12ab34cd")
    assert (mesh, running, key) == ("zf+peer://m", {}, "12ab34cd")
    assert holderurl.ignored(options(zone="z"), running, options()) == []


@pytest.mark.parametrize(
    ("given", "running", "told"),
    [
        ({}, {"zone": "z", "seeds": ["h:1"], "keep": ("a",), "beacon": False}, None),
        ({"zone": "z"}, {"zone": "z"}, None),
        ({"zone": "z"}, {}, ("zone", "z", "")),
        ({"advertise": "h"}, {"advertise": "g"}, ("advertise", "h", "g")),
        ({"beacon": False}, {}, ("beacon", "0", "1")),
        ({"seeds": ["h:1"]}, {"seeds": ["g:1", "h:1"]}, None),
        ({"seeds": ["h:1", "i:1"]}, {"seeds": ["h:1"]}, ("seed", "h:1,i:1", "h:1")),
        ({"keep": ("a.*",)}, {}, ("keep", "a.*", "")),
        ({"offer_to": ("tcp://k:1",)}, {"offer_to": ("tcp://l:1",)}, ("keeper", "k:1", "l:1")),
        ({"listen": "0.0.0.0:0"}, {"listen": "0.0.0.0:7400"}, None),
        ({"listen": "0.0.0.0:0"}, {"listen": "127.0.0.1:0"}, ("listen", "0.0.0.0:0", "127.0.0.1:0")),
        ({"listen": "127.0.0.1:7500"}, {"listen": "127.0.0.1:7400"}, ("listen", "127.0.0.1:7500", "127.0.0.1:7400")),
    ],
)
def test_an_option_that_was_given_to_no_effect_is_told_with_both_values(given, running, told):
    assert holderurl.ignored(options(**given), options(**running), options()) == ([told] if told else [])
