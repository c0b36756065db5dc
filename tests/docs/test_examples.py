"""Every example runs and ends well; those that are programs of their own do what they promise."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import psutil
import pytest

import zfabric
from zfabric.testing import temporary_fabric

PLACE = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(PLACE.glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def wait_until(condition):
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running_in(place: Path) -> list[int]:
    """Return the processes whose command lines name something in a directory."""
    found = psutil.process_iter(["cmdline"])
    return [process.pid for process in found if str(place) in " ".join(process.info["cmdline"] or ())]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("name", ["edge_plant", "lan_chat", "services"])
def test_ctrl_c_ends_an_example_of_several_processes_and_all_of_them(name: str, tmp_path: Path):
    command = [sys.executable, "-W", "error", str(PLACE / f"{name}.py")]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_until(lambda: list(tmp_path.glob("*/*")))  # Something has begun.
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=100)
    assert (process.returncode, said) == (130, ("", ""))
    wait_until(lambda: not running_in(tmp_path))


def test_there_are_examples():
    assert len(EXAMPLES) >= 8


def test_one_application_runs_in_every_mode(tmp_path: Path):
    """Unchanged but for the URLs: processes that share a directory, clients of a node, peers without a broker."""
    node = subprocess.Popen(
        [sys.executable, "-m", "zfabric", "serve", "--data", "node", "--listen", "127.0.0.1:0", "--json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        served = json.loads(node.stdout.readline())["url"]
        mesh = f"zf+peer://any-{os.urandom(6).hex()}"
        modes = [["zf+file:data"] * 3, [served] * 3, [f"{mesh}?data=peer-{number}" for number in range(3)]]
        modes += [["zf+file:other?leader=thread"] * 3, [f"{mesh}-in?data=in-{n}&leader=thread" for n in range(3)]]
        for urls in modes:
            done = subprocess.run(
                [sys.executable, str(PLACE / "any_mode.py"), *urls],
                cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == "150 orders of 3 sites, each once and in order\n"
    finally:
        node.terminate()
        node.communicate(timeout=60)


# Log shipping.


def rename(log: Path):
    """Rotate as logrotate does: the oldest moves first, then there is no log for a moment."""
    for number in range(len(list(log.parent.glob("app.log.*"))), 0, -1):
        os.rename(f"{log}.{number}", f"{log}.{number + 1}")
    os.rename(log, f"{log}.1")


def copy_and_truncate(log: Path):
    """Rotate as logrotate does with copytruncate: the file stays the same one."""
    for number in range(len(list(log.parent.glob("app.log.*"))), 0, -1):
        os.rename(f"{log}.{number}", f"{log}.{number + 1}")
    shutil.copyfile(log, f"{log}.1")
    os.truncate(log, 0)


def append(log: Path, *lines: bytes):
    with log.open("ab") as file:
        file.writelines(lines)


@pytest.fixture(scope="module")
def shipping():
    spec = util.spec_from_file_location("log_shipping", PLACE / "log_shipping.py")
    module = util.module_from_spec(spec)
    sys.modules["log_shipping"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["log_shipping"]


@pytest.fixture(scope="module")
def fabric():
    with temporary_fabric() as fabric:
        yield fabric


@pytest.fixture
def shipped(shipping, fabric, tmp_path):
    """Return a function that ships what is there, by a shipper that was just started, and returns all of it."""
    log = tmp_path / "app.log"

    def once():
        shipping.ship(fabric, log, follow=False)
        return values(fabric)

    yield log, once
    if "app.log" in fabric.topics.list():
        fabric.topics.delete("app.log")


def values(fabric):
    found, end = [], fabric.topics.describe("app.log").partitions[0].end_offset
    with fabric.consumer("app.log") as consumer:
        while len(found) < end:
            found += [record.value for record in consumer.poll(10_000, timeout=30.0)]
    return found


def test_a_shipper_that_starts_again_finds_its_place(shipped):
    log, ship = shipped
    append(log, b"1 a\n", b"\n", b"2 b\r\n")
    assert ship() == [b"1 a", b"", b"2 b\r"]
    assert ship() == [b"1 a", b"", b"2 b\r"]
    append(log, b"3 c\n")
    assert ship() == [b"1 a", b"", b"2 b\r", b"3 c"]


@pytest.mark.parametrize("rotate", [rename, copy_and_truncate])
def test_what_was_written_before_and_after_a_rotation_arrives_once(shipped, rotate):
    log, ship = shipped
    append(log, b"1\n", b"2\n")
    ship()
    append(log, b"3\n")
    rotate(log)
    append(log, b"4\n")
    rotate(log)
    append(log, b"5\n", b"6\n", b"7\n", b"8\n")
    assert ship() == [b"%d" % number for number in range(1, 9)]
    rotate(log)
    assert ship() == [b"%d" % number for number in range(1, 9)]


def test_a_file_that_was_overwritten_is_a_new_one(shipped):
    """With a rotated file beside it that was shipped long ago."""
    log, ship = shipped
    append(log, b"0\n")
    rename(log)
    append(log, b"one\n", b"two\n", b"three\n")
    ship()
    log.write_bytes(b"four\nfive\n")
    assert ship() == [b"0", b"one", b"two", b"three", b"four", b"five"]


def test_when_the_oldest_file_is_gone_the_newer_ones_are_shipped(shipped):
    log, ship = shipped
    append(log, b"1\n", b"2\n")
    assert ship() == [b"1", b"2"]
    rename(log)
    append(log, b"3\n")
    rename(log)
    append(log, b"4\n")
    Path(f"{log}.2").unlink()
    assert ship() == [b"1", b"2", b"3", b"4"]


def test_a_line_is_shipped_when_it_is_complete_or_its_file_is(shipped):
    log, ship = shipped
    append(log, b"1\n", b"2 un")
    assert ship() == [b"1"]
    append(log, b"finished\n", b"3 never")
    assert ship() == [b"1", b"2 unfinished"]
    rename(log)
    append(log, b"4\n")
    assert ship() == [b"1", b"2 unfinished", b"3 never", b"4"]
    assert ship() == [b"1", b"2 unfinished", b"3 never", b"4"]


def test_what_a_killed_shipper_still_had_under_way_is_not_stored_again(shipped, shipping, fabric, monkeypatch):
    """It arrives when the next shipper has read its place already and not sent anything yet."""
    log, ship = shipped
    append(log, b"1\n")
    ship()
    append(log, b"2\n", b"3\n")
    lines_after = shipping.lines_after

    def late(place, path):
        monkeypatch.setattr(shipping, "lines_after", lines_after)
        shipping.ship(fabric, log, follow=False)
        append(log, b"4\n")
        return lines_after(place, path)

    monkeypatch.setattr(shipping, "lines_after", late)
    assert ship() == [b"1", b"2", b"3", b"4"]


def test_a_shipper_that_is_killed_again_and_again_misses_no_line_and_repeats_none(tmp_path):
    """The real program beside a writer that rotates in both ways, each while the shipper works, dies or is dead."""
    log, url = tmp_path / "app.log", f"zf+file:{tmp_path}/data"
    rng = random.Random(7)
    written = 0

    def start():
        return subprocess.Popen([sys.executable, PLACE / "log_shipping.py", log, url])

    with zfabric.connect(url, timeout=60.0) as fabric:
        fabric.topics.create("app.log")
        shipper = start()
        try:
            for turn in range(24):
                for _ in range(rng.randrange(1, 40)):
                    lines = [b"%06d %s\n" % (written + at, b"x" * rng.randrange(200)) for at in range(50)]
                    written += len(lines)
                    append(log, *lines)
                if turn % 3 == 0:
                    shipper.send_signal(signal.SIGKILL)
                    shipper.wait()
                rng.choice([rename, copy_and_truncate])(log)
                if shipper.returncode is not None:
                    shipper = start()
                time.sleep(rng.random() * 0.4)
            end = 0
            while end < written:
                assert shipper.poll() is None
                time.sleep(0.05)
                end = fabric.topics.describe("app.log").partitions[0].end_offset
        finally:
            shipper.kill()
            shipper.wait()
        assert [int(value[:6]) for value in values(fabric)] == list(range(written))
