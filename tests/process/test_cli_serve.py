"""What ``zfabric serve`` says of its ports, of leaders that it keeps, and of disks that are full."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S, free_ports
from tests.process.test_sdk import until

SERVE = [sys.executable, "-m", "zfabric", "serve"]


@contextlib.contextmanager
def serving(tmp_path, *arguments):
    """A node; yields its URL and a function that ends it and returns (status, standard error)."""
    command = [*SERVE, "--data", str(tmp_path / "data"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"zf://\S+", process.stdout.readline())
            assert found, process.communicate()

            def end():
                process.send_signal(signal.SIGTERM)
                return process.wait(PATIENCE_S), process.stderr.read()

            yield found.group(0), end
        finally:
            if process.poll() is None:
                process.kill()


def refused(data, *arguments):
    """Run a node that cannot start; return its status and the error that it says."""
    done = subprocess.run([*SERVE, "--data", str(data), *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.stdout, len(lines), "Traceback" in done.stderr) == ("", 1, False), done.stderr
    return done.returncode, lines[0]


def ports_of(url):
    with zfabric.connect(url, timeout=PATIENCE_S) as fabric:
        leaders = fabric.status()
    return [int(place.rpartition(":")[2]) for info in leaders for place in (info.endpoint, info.publish)]


def test_the_ports_of_a_node_are_two_a_leader_in_a_row_from_the_one_given(tmp_path):
    first = free_ports(6)
    with serving(tmp_path, "--listen", f"127.0.0.1:{first}", "--leaders", "3") as (url, end):
        assert ports_of(url) == [*range(first, first + 6)]
        with (
            zfabric.connect(f"zf://127.0.0.1:{first + 2}", timeout=PATIENCE_S) as astray,
            pytest.raises(zfabric.errors.ProtocolViolation, match="first port"),
        ):
            astray.members()
        assert end()[0] == 0
    with serving(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "3") as (url, end):
        first = int(url.rpartition(":")[2])
        assert ports_of(url) == [*range(first, first + 6)]
        assert end()[0] == 0


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_a_port_that_is_taken_is_named_and_nothing_is_started(tmp_path, taken):
    first = free_ports(4)
    with socket.socket() as other:
        other.bind(("127.0.0.1", first + taken))
        other.listen()
        status, said = refused(tmp_path / "data", "--listen", f"127.0.0.1:{first}", "--leaders", "2")
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{first + taken}: " in said
    assert f"ports {first} to {first + 3} are wanted" in said
    assert "choose another host or port" in said
    assert not [name for name in os.listdir(tmp_path / "data") if name.startswith("leader")]


def test_a_host_that_leads_nowhere_and_a_file_that_is_not_there_are_said_once_each_and_in_words(tmp_path):
    status, said = refused(tmp_path / "data", "--listen", "nowhere.invalid:7400", "--leaders", "1", "--insecure")
    assert (status, said.count("nowhere.invalid"), "no address" in said) == (1, 1, True)
    status, said = refused(tmp_path / "data", "--config", "absent.toml")
    assert (status, said.count("absent.toml"), "No such file" in said, "Errno" in said) == (2, 1, True, False)


def test_a_port_that_leaves_no_room_for_all_leaders_is_refused(tmp_path):
    status, said = refused(tmp_path / "data", "--listen", "127.0.0.1:65533", "--leaders", "2")
    assert (status, "choose a port up to 65532" in said) == (2, True)


def test_leaders_that_are_kept_against_the_option_are_a_warning(tmp_path):
    for asked, kept in (("3", False), ("1", True)):
        with serving(tmp_path, "--listen", "127.0.0.1:0", "--leaders", asked) as (url, end):
            assert len(ports_of(url)) == 6
            status, log = end()
        assert (status, "WARNING" in log, "leaders_kept asked=1 kept=3" in log) == (0, kept, kept)


@pytest.fixture
def full_disk(tmp_path):
    """A function that mounts a file system with so many KiB, and returns where."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(kib):
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "zfabric-test", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("cannot mount a small file system here")
        return place

    yield mounted
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("kib", [4, 8, 12, 16, 20, 24])
def test_a_full_disk_is_named_with_its_directory_and_what_to_do(full_disk, kib):
    """At whichever file the room ends: LMDB's lock file is even mapped, and would be a SIGBUS."""
    data = full_disk(kib) / "data"
    status, said = refused(data, "--listen", "127.0.0.1:0", "--leaders", "1")
    assert (status, str(data) in said, "free some space" in said) == (1, True, True)
    command = [sys.executable, "-m", "zfabric", "topic", "create", "t", "--url", f"zf+file:{data}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, str(data) in done.stderr, "free some space" in done.stderr) == (1, True, True)


def run(*arguments):
    command = [sys.executable, "-m", "zfabric", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def test_two_nodes_with_a_key_form_a_mesh(tmp_path):
    key = str(tmp_path / "key")
    assert run("keys", "generate", "--mesh", key).stdout.strip() == key
    mesh = ("--listen", "127.0.0.1:0", "--leaders", "2", "--mesh", "plant", "--mesh-key", key)
    with serving(tmp_path / "a", *mesh, "--zone", "east") as (first, end_first):
        with serving(tmp_path / "b", *mesh, "--seed", first.removeprefix("zf://")) as (second, end_second):
            with zfabric.connect(second, timeout=PATIENCE_S) as fabric:
                assert until(lambda: len(fabric.members()) == 2)
                [other] = [member for member in fabric.members() if not member.local]
                assert (other.endpoint, other.zone) == (first.replace("zf://", "tcp://"), "east")
                assert [info.mesh for info in fabric.status()] == ["plant", ""]
            assert end_second()[0] == 0
        with zfabric.connect(first, timeout=PATIENCE_S) as fabric:
            assert until(lambda: [member.state for member in fabric.members() if not member.local] == ["left"])
        assert end_first()[0] == 0


def test_a_node_whose_supervisor_is_killed_has_failed_and_not_left(tmp_path):
    """Its leader ends by itself then, and could say good-bye: whoever watches the mesh would take that for intended."""
    mesh = ("--listen", "127.0.0.1:0", "--leaders", "1", "--mesh", "plant", "--no-beacon")
    with serving(tmp_path / "a", *mesh) as (first, _), zfabric.connect(first, timeout=PATIENCE_S) as fabric:

        def other():
            return [member.state for member in fabric.members() if not member.local]

        with serving(tmp_path / "b", *mesh, "--seed", first.removeprefix("zf://")):
            assert until(lambda: other() == ["alive"], PATIENCE_S)
        assert until(lambda: other()[0] in ("failed", "left"), PATIENCE_S)  # Killed by then.
        assert other() == ["failed"]


@pytest.mark.parametrize("way", ["seed", "beacon"])
def test_two_with_different_keys_both_say_so_in_their_logs(tmp_path, way):
    """They are silent to each other: without that nobody would know why they do not meet."""
    name = f"m-{os.urandom(6).hex()}"
    for node in "ab":
        run("keys", "generate", "--mesh", str(tmp_path / f"{node}.key"))
    logs = {node: tmp_path / f"{node}.log" for node in "ab"}
    url, running = "", []
    try:
        for node, log in logs.items():
            command = [*SERVE, "--data", str(tmp_path / node), "--listen", "127.0.0.1:0", "--leaders", "1"]
            command += ["--mesh", name, "--mesh-key", str(tmp_path / f"{node}.key")]
            command += ["--no-beacon"] if way == "seed" else []
            command += ["--seed", url.removeprefix("zf://")] if url and way == "seed" else []
            with log.open("wb") as file:
                running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True))
            url = re.search(r"zf://\S+", running[-1].stdout.readline()).group(0)
        if way == "beacon" and "beacon_unavailable" in logs["a"].read_text():
            pytest.skip("no multicast here")
        refused = rf"gossip_refused mesh={name} other_meshes=0 "
        refused += r"other_keys=[1-9]" if way == "seed" else r".* beacons_of_other_keys=[1-9]"
        assert until(lambda: re.search(rf"{refused}.* last_from=\d+\.", logs["a"].read_text()), PATIENCE_S)
        if way == "seed":
            alone = f"mesh_alone mesh={name} seeds=tcp://127.0.0.1:"
            assert until(lambda: alone in logs["b"].read_text(), PATIENCE_S)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(PATIENCE_S)
            process.stdout.close()


def test_what_is_wrong_with_the_mesh_is_said_before_anything_is_started(tmp_path):
    for arguments, word in (
        (("--mesh", "m", "--mesh-key", str(tmp_path / "none")), "zfabric keys generate"),
        (("--mesh", "m", "--seed", "nowhere"), "--seed"),
        (("--mesh", "a b"), "mesh"),
    ):
        status, said = refused(tmp_path / "data", "--listen", "127.0.0.1:0", *arguments)
        assert (status, word in said) == (2, True)
    assert not (tmp_path / "data").exists()


def test_a_key_that_is_there_stays(tmp_path):
    key = tmp_path / "key"
    run("keys", "generate", "--mesh", str(key))
    before = key.read_text()
    done = run("keys", "generate", "--mesh", str(key))
    assert (done.returncode, str(key) in done.stderr, key.read_text()) == (1, True, before)
