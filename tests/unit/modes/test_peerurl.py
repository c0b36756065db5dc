"""What a peer's URL may say, and what is said about one that may not."""

import pytest

from zfabric import errors
from zfabric.modes import attach, url
from zfabric.modes.peerurl import parse


def test_a_name_is_enough():
    target = parse("zf+peer://chat", {})
    assert (target.mesh, target.data, target.listen, target.seeds) == ("chat", "zfabric-data", "127.0.0.1:0", [])
    assert target.beacon
    assert not target.client


def test_everything_may_stand_in_the_url():
    target = parse(
        "zf+peer://chat/?data=%2Fvar%2Fa%20b&listen=127.0.0.2:7500&seed=10.0.0.1:7400&seed=10.0.0.2:7400&beacon=0"
        "&key=mesh.key&zone=hall-2&advertise=me.local&insecure=1&keep=a.*&keep=b&keeper=h:1&leader=thread",
        {},
    )
    assert target == (
        target.url, "chat", "/var/a b", "127.0.0.2:7500", ["10.0.0.1:7400", "10.0.0.2:7400"], False, "mesh.key",
        "hall-2", "me.local", False, ["a.*", "b"], ["h:1"], "thread",
    )  # fmt: skip


def test_a_keyword_goes_before_the_url():
    target = parse("zf+peer://chat?data=a&seed=h:1&beacon=0", {"data": "b", "seed": ["h:2", "h:3"], "beacon": True})
    assert (target.data, target.seeds, target.beacon) == ("b", ["h:2", "h:3"], True)
    assert parse("zf+peer://chat", {"seed": "h:4"}).seeds == ["h:4"]


@pytest.mark.parametrize("listen", ["127.0.0.1", "localhost:7400", "[::1]:7400", "127.0.0.9:0"])
def test_loopback_needs_no_more_words(listen):
    assert parse("zf+peer://chat", {"listen": listen}).listen.rpartition(":")[2].isdigit()


@pytest.mark.parametrize("listen", ["0.0.0.0", "10.0.0.1:7400", "[::]:7400", "myhost:7400"])
def test_listening_beyond_loopback_has_to_be_meant(listen):
    with pytest.raises(errors.InsecureListen, match="insecure"):
        parse("zf+peer://chat", {"listen": listen})
    assert parse("zf+peer://chat", {"listen": listen, "insecure": True}).listen.startswith(listen)


def test_who_may_be_reached_from_everywhere_listens_everywhere():
    assert parse("zf+peer://chat?insecure=1", {}).listen == "0.0.0.0:0"


@pytest.mark.parametrize(("url", "options", "name"), [
    ("zf+peer://chat?dada=x", {}, "dada"),
    ("zf+peer://chat", {"dada": "x"}, "dada"),
    ("zf+peer://chat?beacon=yes", {}, "beacon"),
    ("zf+peer://chat", {"beacon": 2}, "beacon"),
    ("zf+peer://chat?data=", {}, "data"),
    ("zf+peer://chat", {"data": 7}, "data"),
    ("zf+peer://chat", {"data": "a\0b"}, "data"),
    ("zf+peer://chat", {"seed": [7]}, "seed"),
    ("zf+peer://chat?keep=", {}, "keep"),
    ("zf+peer://chat", {"keeper": 7}, "keeper"),
    ("zf+peer://chat", {"seed": ["h:1"] * 33}, "seed"),
    ("zf+peer://chat?key=", {}, "key"),
    ("zf+peer://chat", {"key": ""}, "key"),
    ("zf+peer://chat?leader=fiber", {}, "leader"),
    ("zf+peer://chat", {"leader": True}, "leader"),
    ("zf+peer://chat?role=boss", {}, "role"),
    ("zf+peer://chat?role=client&beacon=0", {}, "seed"),
    ("zf+peer://-chat", {}, "mesh"),
    ("zf+peer://a/b", {}, "mesh"),
])  # fmt: skip
def test_what_cannot_be_is_named(url, options, name):
    with pytest.raises(errors.InvalidArgument) as caught:
        parse(url, options)
    assert caught.value.name == name


@pytest.mark.parametrize("parameter", [
    "seed=h", "seed=h:0", "seed=h:1:2", "seed=h:00000000099999", "listen=127.0.0.1:99999", "listen=127.0.0.1:65535",
    "advertise=h:1", "zone=%0A", "key=none.key",
])  # fmt: skip
def test_what_a_leader_would_refuse_is_refused_whoever_starts_it(parameter, tmp_path):
    """A leader that runs already was started with other words: these would be passed over in silence."""
    with pytest.raises((errors.ConfigurationError, errors.InvalidArgument)) as caught:
        attach(f"zf+peer://chat?data={tmp_path / 'data'}&{parameter}", None, {})
    assert parameter.partition("=")[0] in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("url", ["zf+peer:", "zf+peer://", "zf+peer:///?data=x"])
def test_a_url_without_a_mesh_is_none(url):
    with pytest.raises(errors.ConfigurationError, match="names no mesh"):
        parse(url, {})


def test_a_directory_s_leader_may_be_a_thread_too():
    for text in ("zf+file:///a?leader=thread", "zf+file:/a?leader=thread"):
        assert url.parse(text)[1:] == ("embedded", "/a", "", 0, "thread")
    assert url.parse("zf+file:/a?b%20c")[1:] == ("embedded", "/a?b c", "", 0, "process")
    with pytest.raises(errors.InvalidArgument, match="'process' or 'thread'"):
        url.parse("zf+file:/a?leader=fiber")


@pytest.mark.parametrize(
    "place", ["", "::1:7400", "a b:1", "*:1", "h/x:1", "[::1:7", "[no]:7", "h:0", "h:65536", "h:-1", "h;g:1", ":7400"]
)
def test_an_address_of_a_node_that_can_be_none_is_refused_at_once(place):
    """An IPv6 address without brackets was taken for a host that never answers."""
    with pytest.raises(errors.ConfigurationError):
        url.parse(f"zf://{place}")


@pytest.mark.parametrize(
    ("place", "host", "port"), [("h", "h", 7400), ("[::1]", "[::1]", 7400), ("[fe80::1%eth0]:1/", "[fe80::1%eth0]", 1)]
)
def test_a_node_is_where_its_address_says(place, host, port):
    assert url.parse(f"zf://{place}")[1:5] == ("node", "", host, port)


def test_where_a_leader_runs_is_no_question_at_a_node():
    for options in ({"leader": "thread"}, {"data": "a"}):
        with pytest.raises(errors.InvalidArgument, match="only with a URL"):
            attach("zf://h:1", None, options)
    with pytest.raises(errors.InvalidArgument) as refused:  # Nor is what no fabric has.
        attach("zf://h:1", None, {"retries": 3})
    assert refused.value.name == "retries"
    assert refused.value.allowed.startswith("url, timeout, settings, and with a URL")


def test_a_url_of_no_known_scheme_is_told_that_there_are_peers():
    with pytest.raises(errors.ConfigurationError) as caught:
        url.parse("peer://plant")
    assert "zf+peer://mesh" in caught.value.instead
