"""The data directory: what it refuses, who leads it, who is left, where its sockets are."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading

import pytest

from zfabric import errors
from zfabric.store.directory import DataDirectory


@pytest.fixture
def directory(tmp_path):
    return DataDirectory.create_or_check(tmp_path / "data")


def short_directory():
    return tempfile.TemporaryDirectory(dir="/tmp", prefix="z")


# Creation.


def test_a_new_directory_is_this_users_alone(directory):
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    with open(os.path.join(directory.path, "FORMAT"), "rb") as file:
        assert file.read() == b"zfabric data 1\n"


def test_creating_checks_what_is_there_already(directory):
    assert DataDirectory.create_or_check(directory.path).real_path == directory.real_path
    assert DataDirectory.check(directory.path).real_path == directory.real_path


def test_many_may_create_the_same_directory(tmp_path):
    barrier, made = threading.Barrier(8), []

    def create():
        barrier.wait()
        made.append(DataDirectory.create_or_check(tmp_path / "deep" / "data"))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert os.listdir(tmp_path / "deep" / "data") == ["FORMAT"]


def test_a_foreign_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    for attempt, error in (
        (DataDirectory.create_or_check, errors.DirectoryFormat),
        (DataDirectory.check, errors.NotFound),
    ):
        with pytest.raises(error):
            attempt(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_checking_creates_nothing(tmp_path):
    for place in (tmp_path / "absent", tmp_path):
        with pytest.raises(errors.NotFound):
            DataDirectory.check(place)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("line", ["zfabric data 2\n", "zfabric volume 1\n", "zfabric data one\n", ""])
def test_a_newer_or_another_format_is_refused(directory, line):
    with open(os.path.join(directory.path, "FORMAT"), "w") as file:
        file.write(line)
    with pytest.raises(errors.DirectoryFormat):
        DataDirectory.create_or_check(directory.path)


def test_the_refusal_of_a_newer_format_names_both_versions(directory):
    with open(os.path.join(directory.path, "FORMAT"), "w") as file:
        file.write("zfabric data 42\n")
    with pytest.raises(errors.DirectoryFormat) as caught:
        DataDirectory.create_or_check(directory.path)
    assert "42" in caught.value.problem
    assert "1" in caught.value.problem.replace("42", "")


# Who leads.


def test_one_leads_and_says_where(directory):
    assert directory.holder() is None
    with directory.lock("node", "tcp://127.0.0.1:7400"):
        assert directory.holder() == {"pid": os.getpid(), "mode": "node", "listen": "tcp://127.0.0.1:7400"}
        with pytest.raises(errors.DirectoryLocked) as caught:
            directory.lock("embedded", "")
        assert caught.value.pid == os.getpid()
    assert directory.holder() is None


def test_a_holder_that_has_not_said_who_it_is_counts(directory):
    with directory.lock("node", "") as lock:
        lock.write(b"")
        assert directory.holder() == {"pid": 0, "mode": "", "listen": ""}


# Who is left.


def test_clients_of_one_process_count_each(directory):
    first, second = directory.attach_client(), directory.attach_client()
    first.close()
    assert directory.try_exclusive_clients() is None
    second.close()
    directory.try_exclusive_clients().close()


def test_a_newcomer_waits_until_the_ending_leader_has_gone(directory):
    ending = directory.try_exclusive_clients()
    assert directory.try_attach_client() is None
    with pytest.raises(errors.Unreachable):
        directory.attach_client(timeout=0)
    attached = []
    newcomer = threading.Thread(target=lambda: attached.append(directory.attach_client(timeout=60)))
    newcomer.start()
    ending.close()
    newcomer.join()
    attached[0].close()


def test_a_killed_client_has_left(directory):
    program = "import os, sys; from zfabric.store.directory import DataDirectory\n"
    program += "client = DataDirectory.check(sys.argv[1]).attach_client(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, directory.path]).returncode == -9
    directory.try_exclusive_clients().close()


def test_a_forked_child_is_no_client(directory):
    client = directory.attach_client()
    ready, end = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(end[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert directory.try_exclusive_clients() is None
    client.close()
    alone = directory.try_exclusive_clients()
    os.write(end[1], b"x")
    os.waitpid(pid, 0)
    assert alone is not None
    alone.close()


# What is inside.


def test_volumes_are_listed_by_number(directory):
    for name in ("leader-10", "leader-2", "leader-0", "leader-01", "leader-x", "leader-"):
        os.mkdir(os.path.join(directory.path, name))
    assert directory.volumes() == [0, 2, 10]
    assert os.path.basename(directory.volume_path(2)) == "leader-2"


def test_sockets_live_in_the_directory_when_its_path_is_short():
    with short_directory() as place:
        directory = DataDirectory.create_or_check(os.path.join(place, "data"))
        path = directory.socket_path("router")
        assert path == os.path.join(os.path.realpath(place), "data", "run", "router")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)


def test_sockets_live_elsewhere_when_the_path_is_long(tmp_path):
    deep = tmp_path / ("d" * 100)
    directory = DataDirectory.create_or_check(deep)
    path = directory.socket_path("router")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        assert DataDirectory.check(deep).socket_path("router") == path
    directory.drop_run()
    assert not os.path.exists(os.path.dirname(path))


def test_processes_with_other_temporary_directories_meet(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    first = DataDirectory.create_or_check(deep).socket_path("router")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = DataDirectory.check(deep)
    assert directory.socket_path("router") == first
    directory.drop_run()
    # After a restart of the machine the directory is gone, and comes back in the same place.
    assert directory.socket_path("router") == first
    directory.drop_run()


def test_a_path_through_a_link_is_the_same_directory(tmp_path):
    directory = DataDirectory.create_or_check(tmp_path / "data")
    os.symlink(tmp_path / "data", tmp_path / "link")
    linked = DataDirectory.check(tmp_path / "link")
    assert linked.socket_path("router") == directory.socket_path("router")
    with directory.lock("node", ""), pytest.raises(errors.DirectoryLocked):
        linked.lock("node", "")


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o770])
def test_a_run_directory_that_others_can_enter_is_refused(mode):
    with short_directory() as place:
        directory = DataDirectory.create_or_check(place)
        os.mkdir(os.path.join(place, "run"))
        os.chmod(os.path.join(place, "run"), mode)
        with pytest.raises(errors.DirectoryFormat):
            directory.socket_path("router")


def test_a_link_planted_in_the_temporary_directory_is_not_followed(tmp_path):
    directory = DataDirectory.create_or_check(tmp_path / ("d" * 100))
    elsewhere = os.path.dirname(directory.socket_path("router"))
    os.rmdir(elsewhere)
    os.symlink(tmp_path, elsewhere)
    try:
        with pytest.raises(errors.DirectoryFormat):
            directory.socket_path("router")
    finally:
        os.unlink(elsewhere)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 25])
def test_a_socket_has_a_plain_name(directory, name):
    with pytest.raises(errors.InvalidArgument):
        directory.socket_path(name)


def test_cleaning_removes_sockets_and_nothing_else():
    with short_directory() as place:
        directory = DataDirectory.create_or_check(place)
        path = directory.socket_path("router")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
        note = directory.socket_path("note")
        open(note, "w").close()
        assert directory.clean_run() == 1
        assert os.listdir(os.path.dirname(path)) == ["note"]
