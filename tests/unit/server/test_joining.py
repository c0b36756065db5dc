"""What a node has to know before it can join a mesh."""

from __future__ import annotations

import socket

import pytest

from zfabric import errors
from zfabric.net import addresses, places
from zfabric.server import joining
from zfabric.server.config import MeshSection, load
from zfabric.server.joining import mesh_options
from zfabric.server.supervisor import Supervisor
from zfabric.store import keyfile


def test_a_node_is_reached_where_it_listens_and_publishes_on_the_next_port():
    options = mesh_options(MeshSection(name="m", seeds=["a:1", "[::1]:2"], zone="z"), "10.0.0.7", 7400)
    assert (options.endpoint, options.publish) == ("tcp://10.0.0.7:7400", "tcp://10.0.0.7:7401")
    assert (options.seeds, options.zone, options.kind) == (["tcp://a:1", "tcp://[::1]:2"], "z", "node")


@pytest.mark.parametrize(("host", "reached"), [("gate", "gate"), ("fe80::1", "[fe80::1]"), ("[fe80::1]", "[fe80::1]")])
def test_what_is_advertised_goes_before_where_it_listens(host, reached):
    options = mesh_options(MeshSection(name="m", advertise=host), "0.0.0.0", 7400)
    assert (options.endpoint, options.publish) == (f"tcp://{reached}:7400", f"tcp://{reached}:7401")


@pytest.mark.parametrize("wildcard", addresses.WILDCARDS)
def test_for_a_wildcard_it_is_the_address_that_speaks_to_the_first_seed(wildcard):
    assert mesh_options(MeshSection(name="m", seeds=["127.0.0.1:7400"]), wildcard, 1).endpoint == "tcp://127.0.0.1:1"


def test_an_address_that_was_found_is_looked_for_again_and_one_that_was_told_is_not():
    assert mesh_options(MeshSection(name="m", seeds=["127.0.0.1:7400"]), "*", 1).way == "127.0.0.1"
    assert mesh_options(MeshSection(name="m", seeds=["no.such.host.invalid:7400"]), "*", 1).way == addresses.NOWHERE[0]
    assert mesh_options(MeshSection(name="m"), "10.0.0.7", 1).way == ""
    assert mesh_options(MeshSection(name="m", advertise="gate"), "*", 1).way == ""


@pytest.mark.parametrize(
    "seed", ["", "h", "h:", ":1", "h:0", "h:65536", "h:999999999", "h:-1", "h 1:2", "tcp://h:1", "::1:1", "*:1"]
)
def test_a_seed_that_is_no_address_is_named(seed):
    with pytest.raises(errors.ConfigurationError) as caught:
        mesh_options(MeshSection(name="m", seeds=[seed]), "127.0.0.1", 7400)
    assert caught.value.source.startswith("--seed")


@pytest.mark.parametrize(
    "advertise",
    [
        "a b",
        "h/x",
        "*",
        "x" * 128,
        "\u0430",
        "gate:7400",
        "[gate]:1",
        "[gate",
        "10.0.0.7:7400",
        "[::1]:7400",
        "0.0.0.0",
        "::",
        "[::0]",
    ],
)
def test_an_advertised_host_that_is_none_is_named(advertise):
    with pytest.raises(errors.ConfigurationError) as caught:
        mesh_options(MeshSection(name="m", advertise=advertise), "127.0.0.1", 7400)
    assert caught.value.source.startswith("--advertise")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../m"},
        {"seeds": ["h:1"] * (joining.SEEDS_MAX + 1)},
        {"zone": "z" * (places.ZONE_MAX + 1)},
        {"zone": "\x1b[31m"},
    ],
)
def test_what_is_out_of_range_is_refused(change):
    with pytest.raises(errors.InvalidArgument):
        mesh_options(MeshSection(**{"name": "m", **change}), "127.0.0.1", 7400)


def test_a_key_file_is_read_before_anything_is_started(tmp_path):
    path = tmp_path / "key"
    keyfile.create_key(str(path))
    assert mesh_options(MeshSection(name="m", key=str(path)), "127.0.0.1", 1).key_file == str(path)
    path.chmod(0o644)
    with pytest.raises(errors.ConfigurationError):
        mesh_options(MeshSection(name="m", key=str(path)), "127.0.0.1", 1)


def test_the_address_found_is_one_of_this_machine():
    """Where there is a way out at all."""
    found = addresses.own_address("127.0.0.1", 9)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((found, 0))
    assert addresses.own_address("no such host", 9) is None


def test_an_address_is_found_where_no_route_leads_there(monkeypatch):
    """A network without a gateway; a machine without any network has none."""
    monkeypatch.setattr(addresses, "NOWHERE", ("no such host", 9))
    found = addresses.found_address("no such host")
    assert found is None or not addresses.is_loopback(found)
    monkeypatch.setattr(addresses.socket, "if_nameindex", list)
    assert addresses.found_address("no such host") is None


def test_options_go_before_variables_and_those_before_the_file(tmp_path, monkeypatch):
    file = tmp_path / "node.toml"
    file.write_text('[mesh]\nname = "file"\nseeds = ["a:1"]\nkey = "k"\nzone = "file"\n')
    monkeypatch.setenv("ZFABRIC_SEED", "b:1 c:1")
    monkeypatch.setenv("ZFABRIC_ZONE", "variable")
    assert load(str(file), {"mesh": "option", "zone": "option"}).mesh == MeshSection(
        name="option", seeds=["b:1", "c:1"], key="k", zone="option"
    )


def test_a_key_from_a_variable_that_nobody_has_set_does_not_open_the_mesh(monkeypatch):
    with pytest.raises(errors.ConfigurationError, match="--mesh-key"):
        load(None, {"mesh": "plant", "mesh_key": ""})
    monkeypatch.setenv("ZFABRIC_MESH_KEY", "")
    with pytest.raises(errors.ConfigurationError, match="ZFABRIC_MESH_KEY"):
        load(None, {"mesh": "plant"})


@pytest.mark.parametrize("given", [{"seeds": ["a:1"]}, {"key": "plant.key"}, {"advertise": "gate"}])
def test_what_is_said_about_a_mesh_without_saying_which_is_refused(given, tmp_path):
    """Whoever gives a key would otherwise run without one."""
    with pytest.raises(errors.ConfigurationError, match="--mesh NAME"):
        Supervisor(str(tmp_path / "data"), listen="127.0.0.1:0", mesh=MeshSection(**given))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("pattern", ["", "sens[or", "a b", "x" * 250, "a[]", "\u0430*"])
def test_a_pattern_that_matches_no_topic_is_refused(pattern, tmp_path):
    with pytest.raises(errors.InvalidArgument) as caught:
        Supervisor(str(tmp_path / "data"), listen="127.0.0.1:0", keep=["sensor.[!ab]?*", pattern])
    assert caught.value.name == "keep"
