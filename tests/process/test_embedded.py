"""Embedded mode as processes meet it: who starts the leader, when it ends, where its directory may be."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

import zfabric
from tests.process.leaders import Node
from zfabric import errors
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.testing import kill_leader

FAST = LeaderSettings(grace_ms=100)
PATIENCE_S = 60.0

CLIENT = """
import sys, zfabric
from zfabric.settings import LeaderSettings
url, name = sys.argv[1:3]
print("here", flush=True)
sys.stdin.readline()
with zfabric.connect(url, timeout=60, settings=LeaderSettings(grace_ms=100)) as fabric:
    fabric.topics.create("t", if_absent=True)
    with fabric.producer() as producer:
        producer.send("t", name.encode()).result(timeout=60)
    print(fabric.status()[0].pid, flush=True)
    sys.stdin.readline()
"""


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


class Clients:
    """Programs that connect at the same instant, and stay until they are let go."""

    def __init__(self, url, count):
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", CLIENT, url, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for number in range(count)
        ]
        for process in self.processes:
            assert process.stdout.readline() == b"here\n"
        for process in self.processes:
            process.stdin.write(b"\n")
            process.stdin.flush()
        self.leaders = {int(process.stdout.readline()) for process in self.processes}

    def end(self, number=None):
        for process in self.processes:
            if number is not None:
                process.send_signal(number)
            process.communicate()


def use(fabric, name="t"):
    """Do something with a fabric; return what came back."""
    fabric.topics.create(name, if_absent=True)
    with fabric.producer() as producer, fabric.consumer(name, start="latest") as consumer:
        producer.send(name, b"v").result(timeout=PATIENCE_S)
        return [record.value for record in consumer.poll(timeout=PATIENCE_S)]


def connect(path, **options):
    return zfabric.connect(f"zf+file:{path}", **{"timeout": PATIENCE_S, "settings": FAST, **options})


def nothing_left(path, pid):
    """Tell whether the leader, its sockets and all locks have gone."""
    directory = DataDirectory.check(path)
    if psutil.pid_exists(pid) or directory.holder() is not None:
        return False
    clients = directory.try_exclusive_clients()
    if clients is None:
        return False
    clients.close()
    run = os.path.join(path, "run")
    assert not os.path.exists(run) or os.listdir(run) == []
    assert set(os.listdir(path)) <= {"FORMAT", "LOCK", "clients", "leader-0", "leader.log", "run"}
    return True


# Beginning and end.


def test_twelve_that_come_at_the_same_instant_share_one_leader(tmp_path):
    path = str(tmp_path / "data")
    clients = Clients(f"zf+file:{path}", 12)
    try:
        assert len(clients.leaders) == 1
        with connect(path) as fabric, fabric.consumer("t") as consumer:
            names = set()
            while len(names) < 12:
                names |= {record.value for record in consumer.poll(timeout=PATIENCE_S)}
        assert names == {b"%d" % number for number in range(12)}
    finally:
        clients.end()
    until(lambda: nothing_left(path, *clients.leaders))


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after_the_last_client_whatever_its_end(tmp_path, number):
    path = str(tmp_path / "data")
    clients = Clients(f"zf+file:{path}", 3)
    clients.end(number)
    until(lambda: nothing_left(path, *clients.leaders))


@pytest.mark.parametrize("temporary", [None, "z" * 100])
def test_the_sockets_of_a_long_path_leave_no_directory_behind(tmp_path, monkeypatch, temporary):
    """Also where the temporary directory has no room for them either."""
    path = str(tmp_path / ("x" * 100) / ("y" * 100))
    if temporary is not None:
        (tmp_path / temporary).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / temporary))
    with connect(path) as fabric:
        assert use(fabric) == [b"v"]
        elsewhere, pid = os.readlink(os.path.join(path, "run")), fabric.status()[0].pid
        assert os.listdir(elsewhere)
    until(lambda: nothing_left(path, pid))
    assert not os.path.exists(elsewhere)


def test_a_leader_has_its_assertions_whatever_the_environment_says(tmp_path, monkeypatch):
    """They guard the log, and images of containers set the variable for all that runs in them."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    with connect(str(tmp_path / "data")) as fabric:
        assert use(fabric) == [b"v"]


def test_whoever_comes_within_the_grace_finds_the_same_leader(tmp_path):
    path, patient = str(tmp_path / "data"), LeaderSettings(grace_ms=3_600_000)
    pids = []
    for _ in range(3):
        with connect(path, settings=patient) as fabric:
            use(fabric)
            pids.append(fabric.status()[0].pid)
        time.sleep(0.7)  # The leader has looked for clients at least once.
    os.kill(pids[0], signal.SIGTERM)
    until(lambda: nothing_left(path, pids[0]))
    assert len(set(pids)) == 1


def test_a_client_that_comes_while_the_leader_ends_waits_and_starts_another(tmp_path):
    """Without an error, however often it comes just then."""
    path, hasty = str(tmp_path / "data"), LeaderSettings(grace_ms=0)
    offsets = []
    for number in range(8):
        with connect(path, settings=hasty) as fabric:
            fabric.topics.create("t", if_absent=True)
            with fabric.producer() as producer:
                offsets.append(producer.send("t", b"v").result(timeout=PATIENCE_S).offset)
        time.sleep(0.1 * number)  # It looks for clients twice a second.
    assert offsets == list(range(8))


# Where it may be.


@pytest.mark.parametrize("name", ["with space", "日本é", "a#b%c?d", "x" * 200, "trailing.", "-dash"], ids=range(6))
def test_a_directory_may_have_any_name(tmp_path, name):
    path = tmp_path / name
    url = f"zf+file:{str(path).replace('%', '%25')}"
    with zfabric.connect(url, timeout=PATIENCE_S, settings=FAST) as fabric:
        assert use(fabric) == [b"v"]
    assert (path / "FORMAT").exists()


def test_a_relative_path_stays_where_it_was_when_the_working_directory_changes(tmp_path, monkeypatch):
    """Also when a leader has to be started again."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with connect("data/here") as fabric:
        assert use(fabric) == [b"v"]
        monkeypatch.chdir(tmp_path / "elsewhere")
        kill_leader(fabric)
        assert use(fabric) == [b"v"]
    assert os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "data" / "here" / "leader-0").is_dir()


def test_a_link_leads_to_the_same_fabric_and_a_dangling_one_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(errors.DirectoryFormat):
        connect(tmp_path / "link")
    with connect(tmp_path / "data") as direct:
        use(direct)
        with connect(tmp_path / "link") as linked:
            assert linked.status()[0].pid == direct.status()[0].pid


def test_two_directories_in_one_process_are_two_fabrics(tmp_path):
    with connect(tmp_path / "one") as one, connect(tmp_path / "two") as two:
        assert use(one, "a") == use(two, "b") == [b"v"]
        assert (one.topics.list(), two.topics.list()) == (["a"], ["b"])
        assert one.status()[0].pid != two.status()[0].pid
        kill_leader(one)
        assert two.topics.list() == ["b"]
        assert use(one, "a") == [b"v"]


# What is refused, and how.


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.DirectoryFormat):
        connect(tmp_path / "file")
    for path in (tmp_path / "file" / "below", tmp_path / ("x" * 300), "/proc/zfabric", f"{tmp_path}/\udcff"):
        with pytest.raises(errors.DirectoryUnusable) as refused:
            connect(path)
        assert refused.value.directory == str(path)
        assert refused.value.instead
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]


def as_nobody(work):
    """Run ``work`` as another user, in a child; return the name of the error that it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65_534)
            os.setuid(65_534)
            work()
            os.write(writer, b"nothing")
        except errors.ZFabricError as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as said:
        return said.read().decode()


@pytest.fixture
def open_place():
    """A directory that every user may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    place = tempfile.mkdtemp(prefix="zfabric-test-")
    os.chmod(place, 0o755)
    yield place
    shutil.rmtree(place)


def test_a_directory_of_another_user_is_refused_in_words(open_place):
    with connect(f"{open_place}/made") as fabric:
        use(fabric)
        os.mkdir(f"{open_place}/empty")
        for name in ("made", "empty", "new"):
            said = as_nobody(lambda name=name: connect(f"{open_place}/{name}"))
            assert said.startswith("DirectoryUnusable: ")
            assert "let this user write there" in said
            assert f"{open_place}/{name}" in said
        assert use(fabric) == [b"v"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = str(tmp_path / "disk")
    os.mkdir(place)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system here: {error}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_refused_in_words(small_disk):
    other = os.open(f"{small_disk}/other", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(other, b"x" * 4096)
    os.close(other)
    with pytest.raises((errors.DirectoryUnusable, errors.StorageFull, errors.StorageFailed)) as refused:
        connect(f"{small_disk}/data").topics.list()
    assert "space" in str(refused.value)
    os.unlink(f"{small_disk}/other")
    with connect(f"{small_disk}/data") as fabric:
        assert fabric.topics.list() == []


def test_a_disk_that_cannot_be_written_to_is_refused_in_words(small_disk):
    with connect(f"{small_disk}/data") as fabric:
        pid = fabric.status()[0].pid
    until(lambda: nothing_left(f"{small_disk}/data", pid))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name in ("data", "new"):
        with pytest.raises(errors.DirectoryUnusable) as refused:
            connect(f"{small_disk}/{name}")
        assert "written to" in refused.value.instead


def test_a_directory_that_a_node_leads_names_the_node(tmp_path):
    """And what it leads embedded, no node takes."""
    with Node(str(tmp_path / "data")) as node:
        with connect(tmp_path / "data") as fabric, pytest.raises(errors.DirectoryLocked) as refused:
            fabric.topics.list()
        assert (refused.value.pid, refused.value.where) == (node.supervisor.pid, node.url)
        with zfabric.connect(refused.value.where, timeout=PATIENCE_S) as fabric:
            assert use(fabric) == [b"v"]
    with connect(tmp_path / "other") as fabric:
        use(fabric)
        command = [sys.executable, "-m", "zfabric", "serve", "--data", str(tmp_path / "other"), "--listen", "[::1]:0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 1
        assert f"is led by process {fabric.status()[0].pid}" in done.stderr


def test_leaders_that_end_without_a_word_are_told_and_where_to_look(tmp_path, monkeypatch):
    """Some may have been killed; thirty in a row were not. The same client goes on once they come up."""
    with connect(tmp_path / "data") as fabric:
        monkeypatch.setenv("PYTHONHOME", str(tmp_path / "nowhere"))
        with pytest.raises(errors.LeaderFailed) as failed:
            fabric.topics.list()
        assert "leader.log" in failed.value.detail
        monkeypatch.delenv("PYTHONHOME")
        assert use(fabric) == [b"v"]


def test_a_damaged_directory_is_refused_by_its_own_error(tmp_path):
    with connect(tmp_path / "data") as fabric:
        use(fabric)
        pid = fabric.status()[0].pid
    until(lambda: nothing_left(str(tmp_path / "data"), pid))
    (tmp_path / "data" / "leader-0" / "data.mdb").write_bytes(b"garbage" * 10_000)
    with connect(tmp_path / "data") as fabric, pytest.raises(errors.DirectoryDamaged):
        fabric.topics.list()
