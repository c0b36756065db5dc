"""What the command line says when it cannot do what it was asked: which thing, why, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ZFABRIC = [sys.executable, "-m", "zfabric"]


def run(*arguments, cwd=None, stdin=b""):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZFABRIC_")}
    done = subprocess.run(
        [*ZFABRIC, *arguments], input=stdin, capture_output=True, cwd=cwd, env=environment, timeout=100, check=False
    )
    assert b"Traceback" not in done.stderr
    return done


# Directories that are not there.

LOOKING = (
    ("status",),
    ("top", "--count", "1"),
    ("topic", "list"),
    ("topic", "describe", "t"),
    ("topic", "alter", "t", "--retention", "1"),
    ("topic", "delete", "t"),
    ("group", "list"),
    ("group", "describe", "g"),
    ("group", "reset", "g", "t", "--to", "earliest"),
    ("group", "delete", "g"),
    ("consume", "t"),
    ("produce", "t"),
)


@pytest.mark.parametrize("arguments", LOOKING, ids=" ".join)
def test_a_command_that_needs_a_fabric_makes_no_directory(tmp_path, arguments):
    """A mistyped URL must not answer like an empty fabric."""
    for url, name in ((f"zf+file:{tmp_path}/nonexistent/dir", f"{tmp_path}/nonexistent/dir"), (None, "zfabric-data")):
        done = run(*arguments, *(("--url", url) if url else ()), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (4, b"")
        assert f"error: no data directory {name!r}".encode() in done.stderr
    assert os.listdir(tmp_path) == []


ENDLESS = (
    ("bench", "--rate"),
    ("bench", "--duration"),
    ("doctor", "--disk", "--seconds"),
    ("status", "--sample"),
    ("top", "--interval"),
    ("uplink", "--from", "zf+file:a", "--to", "zf+file:b", "--topic", "t", "--give-up"),
)


@pytest.mark.parametrize("arguments", ENDLESS, ids=" ".join)
def test_a_number_that_is_none_is_refused_by_name(tmp_path, arguments):
    """`nan` compares with no bound, and `inf` is above those that have none."""
    for number in ("nan", "inf"):
        done = run(*arguments, number, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, b"")
        assert arguments[-1].strip("-").encode() in done.stderr
        assert number.encode() in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_command_without_standard_input_says_what_to_name_instead(tmp_path):
    run("topic", "create", "t", cwd=tmp_path)
    for arguments, instead in (("produce t", "name a FILE"), ("request a.b -", "give the BODY")):
        closed = ["sh", "-c", f"exec {sys.executable} -m zfabric {arguments} <&-"]
        done = subprocess.run(closed, capture_output=True, cwd=tmp_path, timeout=100)
        assert done.returncode == 2
        assert f"standard input is closed: {instead}".encode() in done.stderr


@pytest.mark.parametrize("place", ["0001-01-01", "yesterday", "-1"])
def test_a_place_that_cannot_be_is_refused_under_the_name_of_the_option(tmp_path, place):
    run("topic", "create", "t", cwd=tmp_path)
    for arguments in (("consume", "t", "--from"), ("group", "reset", "g", "t", "--to")):
        done = run(*arguments, place, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"error: {arguments[-1]}={place!r} is not allowed".encode() in done.stderr


def test_the_doctor_counts_one_as_one(tmp_path):
    run("topic", "create", "t", cwd=tmp_path)
    run("produce", "t", cwd=tmp_path, stdin=b"one\n")
    assert b": 1 partition, 1 batch, 1 record, " in run("doctor", cwd=tmp_path).stdout


def test_creating_a_topic_makes_the_directory(tmp_path):
    assert run("topic", "create", "t", cwd=tmp_path).returncode == 0
    assert os.listdir(tmp_path) == ["zfabric-data"]
    assert run("topic", "list", "--json", cwd=tmp_path).stdout == b'[{"topic": "t"}]\n'


@pytest.mark.parametrize("command", [("doctor",), ("topic", "list", "--url")], ids=" ".join)
def test_a_directory_of_something_else_is_no_data_directory(tmp_path, command):
    (tmp_path / "somebody's").write_text("mine")
    done = run(*command, f"zf+file:{tmp_path}" if "--url" in command else str(tmp_path))
    assert (done.returncode, done.stdout) == (4, b"")
    assert f"error: no data directory {str(tmp_path)!r}".encode() in done.stderr


@pytest.mark.parametrize("arguments", [("topic", "list"), ("top", "--count", "1")], ids=" ".join)
def test_a_host_whose_name_leads_nowhere_ends_with_3_and_is_named(arguments):
    done = run(*arguments, "--url", "zf://nowhere.invalid:7400", "--timeout", "1")
    assert (done.returncode, done.stdout) == (3, b"")
    [told] = [line for line in done.stderr.splitlines() if line.startswith(b"error: ")]
    assert b"no address of the host 'nowhere.invalid' was found" in told
    assert b"zfabric serve" not in told


def test_a_relative_path_behind_two_slashes_says_what_to_write(tmp_path):
    done = run("topic", "create", "t", "--url", "zf+file://relative/d", cwd=tmp_path)
    assert (done.returncode, os.listdir(tmp_path)) == (2, [])
    assert b"'relative' stands where a host would; write zf+file:relative/d" in done.stderr


@pytest.mark.parametrize("made", [(), ("empty",)])
def test_a_demo_of_nothing_proves_nothing(tmp_path, made):
    for name in made:
        (tmp_path / name).touch()
    for options in ((), ("--json",)):
        done = run("demo", str(tmp_path), *options)
        assert (done.returncode, done.stdout, b"error: there is nothing to stream" in done.stderr) == (1, b"", True)
