"""The command line as a user and as a script see it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import zfabric
from zfabric import errors
from zfabric.cli import command


def run(*arguments, stdin=b"", url=None, cwd=None):
    command = [sys.executable, "-m", "zfabric", *arguments, *(("--url", url) if url else ())]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, timeout=100, check=False)


def test_topics_from_creation_to_deletion(zfabric_url):
    made = run("topic", "create", "t", "--partitions", "2", "--json", url=zfabric_url)
    assert (made.returncode, len(json.loads(made.stdout)["partitions"])) == (0, 2)
    assert run("topic", "create", "t", url=zfabric_url).returncode == 1
    assert json.loads(run("topic", "list", "--json", url=zfabric_url).stdout) == [{"topic": "t"}]
    altered = json.loads(
        run("topic", "alter", "t", "--partitions", "3", "--retention", "60", "--json", url=zfabric_url).stdout
    )
    assert (len(altered["partitions"]), altered["retention_ms"]) == (3, 60_000)
    assert run("topic", "describe", "t", url=zfabric_url).stdout.count(b"\n") >= 4
    assert run("topic", "delete", "t", url=zfabric_url).returncode == 0
    assert run("topic", "describe", "t", url=zfabric_url).returncode == 4


def test_produce_and_consume_lines_json_and_raw(zfabric_url, tmp_path):
    run("topic", "create", "t", url=zfabric_url)
    assert run("produce", "t", stdin=b"one\ntwo\n", url=zfabric_url).returncode == 0
    file = tmp_path / "file"
    file.write_bytes(b'{"value": "three", "key": "k", "headers": {"a": "1"}, "timestamp": 7}\n')
    sent = run("produce", "t", str(file), "--format", "json", "--json", url=zfabric_url)
    assert json.loads(sent.stdout) == {"topic": "t", "records": 1}
    assert run("consume", "t", url=zfabric_url).stdout == b"one\ntwo\nthree\n"
    assert run("consume", "t", "--format", "raw", "--count", "2", url=zfabric_url).stdout == b"onetwo"
    last = json.loads(run("consume", "t", "--format", "json", "--from", "2", url=zfabric_url).stdout)
    assert (last["key"], last["value"], last["headers"], last["timestamp"]) == ("k", "three", {"a": "1"}, 7)
    bad = run("produce", "t", "--format", "json", stdin=b"no json\n", url=zfabric_url)
    assert (bad.returncode, b"line 1" in bad.stderr) == (1, True)


def test_groups_go_on_and_can_be_reset(zfabric_url):
    run("topic", "create", "t", url=zfabric_url)
    run("produce", "t", stdin=b"a\nb\nc\n", url=zfabric_url)
    assert run("consume", "t", "--group", "g", "--count", "2", url=zfabric_url).stdout == b"a\nb\n"
    assert run("consume", "t", "--group", "g", url=zfabric_url).stdout == b"c\n"
    assert json.loads(run("group", "describe", "g", "--json", url=zfabric_url).stdout)[0]["lag"] == 0
    assert run("group", "reset", "g", "t", "--to", "1", url=zfabric_url).returncode == 0
    assert run("consume", "t", "--group", "g", url=zfabric_url).stdout == b"b\nc\n"
    assert json.loads(run("group", "list", "--json", url=zfabric_url).stdout) == [{"group": "g"}]
    assert run("group", "delete", "g", url=zfabric_url).returncode == 0
    assert run("group", "describe", "g", url=zfabric_url).returncode == 4


def test_a_closed_pipe_ends_in_silence(zfabric_url):
    run("topic", "create", "t", url=zfabric_url)
    run("produce", "t", stdin=b"line\n" * 100_000, url=zfabric_url)
    command = f"{sys.executable} -m zfabric consume t --url {zfabric_url} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"line\n", b"")


def test_exit_codes_tell_what_happened(tmp_path):
    assert run("topic", "list", "--timeout", "0.3", url="zf://127.0.0.1:1").returncode == 3
    assert run("topic", "list", url="ftp://x").returncode == 2
    assert run("nonsense").returncode == 2
    assert run("version").stdout.decode().strip() == zfabric.__version__
    assert run("--version").stdout.decode().strip() == zfabric.__version__


def test_one_record_is_no_records(zfabric_url):
    run("topic", "create", "t", url=zfabric_url)
    assert run("produce", "t", stdin=b"one\n", url=zfabric_url).stderr == b"1 record acknowledged\n"
    assert run("produce", "t", stdin=b"one\n" * 1000, url=zfabric_url).stderr == b"1,000 records acknowledged\n"


def test_no_help_shows_the_marks_of_its_source():
    for name in command.list_commands(None):
        shown = run(name, "--help").stdout
        assert (name, b"\\b" in shown, b"\b" in shown, b"``" in shown) == (name, False, False, False)
    assert b"zsh:   echo" in run("completion", "--help").stdout


def test_help_loads_nothing_heavy():
    code = "import sys, zfabric.cli as c; c.main(['--help']); print([m for m in ('zmq', 'lmdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.timeout(120)
def test_the_demo_proves_its_files_and_finds_a_crash_harmless(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("".join(f"word{i % 50} line {i}\n" for i in range(500)))
    done = run("demo", str(tmp_path))
    assert done.returncode == 0
    assert b"verified: every one of 10,000 lines" in done.stdout
    assert b"killed leader process" in done.stderr


def test_the_demo_counts_one_line_as_one(tmp_path):
    (tmp_path / "one.txt").write_text("alone\n")
    done = run("demo", "--no-kill", str(tmp_path))
    assert done.returncode == 0
    assert b"verified: the only line exactly once" in done.stdout


class Node:
    """A `zfabric serve` of its own."""

    def __init__(self, tmp_path, *arguments):
        command = [sys.executable, "-m", "zfabric", "serve", "--data", str(tmp_path / "node"), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline().decode()
        found = re.search(r"zf://\S+", line)
        self.url = found.group(0) if found else ""

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        errors_said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors_said


@pytest.mark.timeout(120)
def test_a_node_serves_restarts_its_leaders_and_drains(tmp_path):
    node = Node(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "2")
    try:
        with zfabric.connect(node.url, timeout=60.0) as fabric:
            fabric.topics.create("t", partitions=4)
            with fabric.producer() as producer, fabric.consumer("t") as consumer:
                for attempt in range(3):
                    for number in range(40):
                        producer.send("t", b"%d-%d" % (attempt, number), partition=number % 4)
                    producer.flush(60)
                    for info in fabric.status():
                        os.kill(info.pid, signal.SIGKILL)
                seen = []
                deadline = time.monotonic() + 60
                while len(seen) < 120 and time.monotonic() < deadline:
                    seen += [record.value for record in consumer.poll(timeout=1.0)]
            assert len(seen) == len(set(seen)) == 120
            assert len(fabric.status()) == 2
        assert b"ready" in run("status", url=node.url).stdout or run("status", "--json", url=node.url).returncode == 0
        second = run("serve", "--data", str(tmp_path / "node"), "--listen", "127.0.0.1:0")
        assert (second.returncode, b"is led by process" in second.stderr) == (1, True)
        port = node.url.rpartition(":")[2]
        taken = run("serve", "--data", str(tmp_path / "other"), "--listen", f"127.0.0.1:{port}")
        assert (taken.returncode, port.encode() in taken.stderr) == (1, True)
    finally:
        status, said = node.end()
        print(said.decode())
    assert (status, b"Traceback" in said) == (0, False)


@pytest.mark.timeout(120)
def test_leaders_end_with_a_killed_supervisor_and_the_next_one_serves_the_same(tmp_path):
    node = Node(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "1")
    with zfabric.connect(node.url, timeout=60.0) as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer:
            producer.send("t", b"kept").result(timeout=60)
        pid = fabric.status()[0].pid
    node.end(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
    again = Node(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "1")
    try:
        with zfabric.connect(again.url, timeout=60.0) as fabric, fabric.consumer("t") as consumer:
            assert [record.value for record in consumer.poll(timeout=60.0)] == [b"kept"]
    finally:
        assert again.end()[0] == 0


def test_a_node_refuses_the_open_network_without_keys(tmp_path):
    done = run("serve", "--data", str(tmp_path / "d"), "--listen", "0.0.0.0:0")
    assert (done.returncode, b"--insecure" in done.stderr) == (1, True)
    assert errors.InsecureListen.code == 56


def test_bad_configuration_names_its_source(tmp_path):
    config = tmp_path / "zfabric.toml"
    config.write_text("[leader]\nturn_messages = 0\n")
    done = run("serve", "--data", str(tmp_path / "d"), "--config", str(config))
    assert (done.returncode, b"zfabric.toml" in done.stderr, b"turn_messages" in done.stderr) == (2, True, True)


def test_ctrl_c_while_the_command_is_still_being_loaded_is_quiet(tmp_path):
    """On a slow machine that is the first second."""
    (tmp_path / "click.py").write_text("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)")
    done = subprocess.run(
        [sys.executable, "-m", "zfabric", "version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
