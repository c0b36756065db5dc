"""``zfabric serve`` as operators and service managers meet it: start, settings, signals, logs, broken leaders."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

import zfabric
from tests.process.flow import Flow
from tests.process.leaders import PATIENCE_S, free_port

ZFABRIC = [sys.executable, "-m", "zfabric"]
PATIENT = """
import sys
from zfabric.server import supervisor
supervisor.STOP_S = 3600.0
node = supervisor.Supervisor(sys.argv[1], sys.argv[2], leaders=1, announce=lambda *_: print("ready", flush=True))
sys.exit(node.run())
"""


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


class Serve:
    """One node; killed at the end if it still runs.

    Attributes:
        said: what it said on standard output when it was ready; empty if it ended instead. log: its standard error.
    """

    def __init__(self, tmp_path, *arguments, environment=None, program=(*ZFABRIC, "serve")):
        self.log = tmp_path / "serve.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*program, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=tmp_path,
                env={**os.environ, **(environment or {})},
            )
        self.said = self.process.stdout.readline().decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdout.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def url(self):
        return re.search(r"zf://[^\s\"]+", self.said).group(0)

    def leader(self, number):
        """The process of a leader, once there is one."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for child in psutil.Process(self.process.pid).children():
                try:
                    options = child.cmdline()[-1:]
                except psutil.NoSuchProcess:
                    continue
                if options and options[0].startswith("{") and json.loads(options[0])["leader"] == number:
                    return child
            time.sleep(0.01)
        raise AssertionError("no such leader")

    def options(self, number=0):
        """What a leader was told."""
        return json.loads(self.leader(number).cmdline()[-1])

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def refused(tmp_path, *arguments, environment=None):
    """Run a node that cannot start; return its status and the one line that it says."""
    done = subprocess.run(
        [*ZFABRIC, "serve", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **(environment or {})},
        timeout=PATIENCE_S,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    return done.returncode, lines[0]


# A service manager.


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A socket where datagrams for a service manager arrive, and its name in the environment."""
    name = f"zfabric-test-{os.getpid()}-{time.monotonic_ns()}"
    address = {"path": str(tmp_path / "notify"), "abstract": f"\0{name}"}[request.param]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(PATIENCE_S)
        yield listening, f"@{name}" if request.param == "abstract" else address


def silent(listening):
    """Tell whether nothing comes for a while."""
    try:
        listening.recv(100)
    except TimeoutError:
        return True
    return False


def test_the_manager_hears_when_the_node_is_ready_and_when_it_stops(manager, tmp_path):
    listening, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with Serve(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "2", environment=environment) as node:
        assert node.said
        assert listening.recv(100) == b"READY=1"
        with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric:
            assert len(fabric.status()) == 2
        assert node.end() == 0
        assert listening.recv(100) == b"STOPPING=1"  # And the watchdog of another process was left alone.


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_the_watchdog_is_pinged_while_the_leaders_go_round(manager, tmp_path):
    """A leader that is killed is the supervisor's business, one that hangs is the watchdog's."""
    listening, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    with Serve(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "2", environment=environment) as node:
        until(lambda: listening.recv(100) == b"READY=1")
        node.leader(1).kill()
        assert [listening.recv(100) for _ in range(4)] == [b"WATCHDOG=1"] * 4
        until(lambda: node.log.read_text().count("leader_ready leader=1 ") == 2)  # Until then it is the supervisor's.
        hanging = node.leader(1)
        hanging.suspend()
        listening.settimeout(2.0)
        until(lambda: silent(listening))
        hanging.resume()
        listening.settimeout(PATIENCE_S)
        assert listening.recv(100) == b"WATCHDOG=1"
        assert node.end() == 0


def test_a_manager_that_is_not_there_is_no_reason_to_fail(tmp_path):
    environment = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with Serve(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "1", environment=environment) as node:
        assert node.said
        assert node.end() == 0
    assert "notify_failed" in node.log.read_text()


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drained_node_answers_what_it_has_and_clients_go_on_with_the_next(tmp_path, number):
    """Nobody sees an error, and nothing acknowledged is missing, when the next node comes on the same port."""
    arguments = ("--data", "data", "--listen", f"127.0.0.1:{free_port()}", "--leaders", "2")
    node = Serve(tmp_path, *arguments)
    with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric:
        fabric.topics.create("t", partitions=2)
        fabric.topics.create("bulk")
        with Flow(node.url, "t", 2) as flow, fabric.producer() as producer:
            for round_number in range(3):
                flow.await_progress()
                producer.send_many("bulk", [b"%d" % round_number] * 5_000)
                with node:
                    assert node.end(number) == 0
                node = Serve(tmp_path, *arguments)
            with node:
                flow.await_progress()
                producer.flush(PATIENCE_S)
                flow.finish()
                assert fabric.topics.describe("bulk").partitions[0].end_offset == 15_000
                assert node.end() == 0
    assert "leader_killed" not in node.log.read_text()


def test_a_signal_that_comes_twice_at_once_is_one_signal(tmp_path):
    """``timeout`` sends it to the process and then to its group: the node drains, and does not kill its leaders."""
    with Serve(tmp_path, "--data", "data", "--listen", f"127.0.0.1:{free_port()}", "--leaders", "2") as node:
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):  # Both arrive with the last.
            node.process.send_signal(number)
        assert node.process.wait(PATIENCE_S) == 0
    assert "leader_killed" not in node.log.read_text()


def test_a_second_signal_ends_a_drain_that_hangs(tmp_path):
    program = (sys.executable, "-c", PATIENT)
    with Serve(tmp_path, str(tmp_path / "data"), "127.0.0.1:0", program=program) as node:
        assert node.said == "ready\n"
        (leader,) = psutil.Process(node.process.pid).children()
        leader.suspend()
        node.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            node.process.wait(0.5)

        def ended():
            """Whether it has; else another signal, as the one before may have come as soon as the first."""
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            return node.process.poll() is not None

        until(ended)
        assert node.process.returncode == 1
        assert not leader.is_running()


# Settings.


def test_options_come_before_variables_before_the_file_before_the_defaults(tmp_path):
    (tmp_path / "node.toml").write_text(
        f'[node]\ndata = "from-file"\nlisten = "127.0.0.1:{free_port()}"\nleaders = 3\n'
        '[leader]\nhead_ms = 11\ngrace_ms = 12\nlog_level = "ERROR"\nlog_format = "json"\n'
    )
    environment = {
        "ZFABRIC_CONFIG": "node.toml",
        "ZFABRIC_DATA": "from-variable",
        "ZFABRIC_LEADERS": "2",
        "ZFABRIC_GRACE_MS": "22",
        "ZFABRIC_LOG_LEVEL": "WARNING",
    }
    with Serve(tmp_path, "--leaders", "1", "--log-level", "INFO", environment=environment) as node:
        options = node.options()
        settings = options["settings"]
        assert options["data"] == str(tmp_path / "from-variable")
        assert options["leaders"] == 1
        assert options["listen"] != "tcp://127.0.0.1:7400"
        assert [settings[name] for name in ("head_ms", "grace_ms", "turn_messages")] == [11, 22, 256]
        assert [settings[name] for name in ("log_level", "log_format")] == ["INFO", "json"]
        assert node.end() == 0


WRONG = {
    "unknown table": ("[laeder]\n", {}, (), ("node.toml", "laeder")),
    "no table": ("leader = 5\n", {}, (), ("node.toml", "leader")),
    "unknown key": ("[leader]\nhead = 5\n", {}, (), ("node.toml", "'head'", "head_ms")),
    "unknown key of the node": ("[node]\nport = 5\n", {}, (), ("node.toml", "'port'", "listen")),
    "wrong type": ('[leader]\nhead_ms = "5"\n', {}, (), ("node.toml", "head_ms", "int")),
    "wrong type of the node": ("[node]\nlisten = 7400\n", {}, (), ("node.toml", "listen", "str")),
    "wrong value": ("[leader]\nhead_ms = 0\n", {}, (), ("node.toml", "head_ms", "1 to 60,000")),
    "no TOML": ("[leader\n", {}, (), ("node.toml", "line 1")),
    "variable": ("", {"ZFABRIC_HEAD_MS": "soon"}, (), ("ZFABRIC_HEAD_MS", "int")),
    "variable out of range": ("", {"ZFABRIC_HEAD_MS": "0"}, (), ("ZFABRIC_HEAD_MS", "1 to 60,000")),
    "variable of the node": ("", {"ZFABRIC_LEADERS": "many"}, (), ("ZFABRIC_LEADERS", "int")),
    "option": ("", {}, ("--log-format", "xml"), ("log_format", "xml", "text, json")),
    "listen": ("", {}, ("--listen", "7400"), ("--listen", "HOST:PORT")),
    "leaders": ("", {}, ("--leaders", "0"), ("leaders", "1 to 64")),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_the_settings_is_named_with_its_place(tmp_path, case):
    content, environment, arguments, named = WRONG[case]
    (tmp_path / "node.toml").write_text(content)
    status, said = refused(tmp_path, "--config", "node.toml", *arguments, environment=environment)
    assert status == 2
    assert [word for word in named if word not in said] == []
    assert os.listdir(tmp_path) == ["node.toml"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert refused(tmp_path, "--config", "nowhere.toml")[0] == 2


def test_what_keeps_a_node_from_starting_is_one_line_and_status_1(tmp_path):
    with Serve(tmp_path, "--data", "one", "--listen", "127.0.0.1:0", "--leaders", "1") as node:
        port = node.url.rpartition(":")[2]
        status, said = refused(tmp_path, "--data", "two", "--listen", f"127.0.0.1:{port}")
        assert (status, port in said, "choose another host or port" in said) == (1, True, True)
        status, said = refused(tmp_path, "--data", "one", "--listen", "127.0.0.1:0")
        assert (status, f"led by process {node.process.pid}" in said, node.url in said) == (1, True, True)
        (tmp_path / "file").write_text("mine")
        status, said = refused(tmp_path, "--data", "file", "--listen", "127.0.0.1:0")
        assert (status, "'file'" in said) == (1, True)
        status, said = refused(tmp_path, "--data", "file/below", "--listen", "127.0.0.1:0")
        assert (status, "'file/below'" in said) == (1, True)
        assert node.end() == 0


# Logs.


def test_logs_are_one_json_object_a_line(tmp_path):
    with Serve(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "2", "--log-format", "json") as node:
        killed = node.leader(1)
        killed.kill()
        until(lambda: node.log.read_text().count('"leader_ready"') == 3)
        assert node.end() == 0
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "pid", "event", "message"} <= set(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["logger"].startswith("zfabric")
        assert line["message"].startswith(line["event"])
    (ended,) = [line for line in lines if line["event"] == "leader_ended"]
    assert (ended["level"], ended["leader"], ended["status"]) == ("WARNING", 1, -9)
    assert ended["restart_in"] == pytest.approx(0.05)
    assert killed.pid in [line["leader_pid"] for line in lines if line["event"] == "leader_ready"]


def test_a_field_of_a_json_log_may_hold_anything_and_hides_none_of_the_line():
    code = """
import logging
from zfabric.server import logs
logs.configure("INFO", "json")
logging.getLogger("zfabric.x").info("told leader=%d pid=%d problem=%s", 1, 0, ValueError("a=b, c=%d"))
logging.getLogger("zfabric.x").info("told 100 %")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stderr.splitlines())
    assert (first["leader"], first["problem"], first["event"]) == (1, "a=b, c=%d", "told")
    assert first["pid"] == second["pid"] > 0
    assert set(second) == {"time", "level", "logger", "pid", "event", "message"}


def test_the_last_words_of_a_crash_are_json_too():
    code = "from zfabric.server import logs; logs.configure('INFO', 'json'); 1 / 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = json.loads(done.stderr)
    assert (said["event"], said["level"], "ZeroDivisionError" in said["traceback"]) == ("crashed", "CRITICAL", True)


# Broken leaders.


def test_a_leader_that_dies_at_each_start_is_tried_ever_more_rarely_and_the_others_serve(tmp_path):
    """And it comes back by itself once its volume is whole again."""
    data = tmp_path / "data"
    with Serve(tmp_path, "--data", "data", "--listen", "127.0.0.1:0", "--leaders", "2") as node:
        with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
            places = fabric.topics.create("t", partitions=2).partitions
            broken = next(place.partition for place in places if place.leader == 1)
            producer.send("t", b"before", partition=broken).result(timeout=PATIENCE_S)
            victim = node.leader(1)
            victim.suspend()
            shutil.copytree(data / "leader-1", tmp_path / "kept")
            shutil.rmtree(data / "leader-1")
            shutil.copytree(tmp_path / "kept", data / "leader-1")
            (data / "leader-1" / "data.mdb").write_bytes(b"garbage" * 10_000)
            victim.kill()
            until(lambda: node.log.read_text().count("leader_ended leader=1") >= 5)
            pauses = [float(text) for text in re.findall(r"restart_in=(\S+)", node.log.read_text())]
            assert pauses[:5] == [0.05, 0.1, 0.2, 0.4, 0.4]
            assert "leader_failed leader=1" in node.log.read_text()
            for number in range(20):
                producer.send("t", b"%d" % number, partition=1 - broken).result(timeout=PATIENCE_S)
            waiting = producer.send("t", b"after", partition=broken)
            command = [*ZFABRIC, "status", "--json", "--sample", "0", "--url", node.url, "--timeout", "2"]

            def shown():
                told = subprocess.run(command, capture_output=True, timeout=PATIENCE_S)
                return {row["id"]: row["pid"] for row in json.loads(told.stdout or "[]")}

            until(lambda: shown() == {0: node.leader(0).pid, 1: None})
            shutil.copy(tmp_path / "kept" / "data.mdb", data / "leader-1" / "data.mdb")
            assert waiting.result(timeout=PATIENCE_S).offset == 1
            assert len(fabric.status()) == 2
        assert node.end() == 0


def test_a_directory_keeps_as_many_leaders_as_it_had(tmp_path):
    arguments = ("--data", "data", "--listen", "127.0.0.1:0")
    with Serve(tmp_path, *arguments, "--leaders", "3") as node:
        with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric, fabric.producer() as producer:
            fabric.topics.create("t", partitions=3)
            for number in range(30):
                producer.send("t", b"%d" % number, partition=number % 3)
        assert node.end() == 0
    with Serve(tmp_path, *arguments, "--leaders", "1") as node:
        with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric, fabric.consumer("t") as consumer:
            assert len(fabric.status()) == 3
            values = set()
            while len(values) < 30:
                values |= {record.value for record in consumer.poll(timeout=PATIENCE_S)}
        assert node.end() == 0
    with zfabric.connect(f"zf+file:{tmp_path / 'data'}") as fabric, pytest.raises(zfabric.errors.DirectoryFormat) as no:
        fabric.topics.list()
    assert "zfabric serve" in no.value.instead


def test_a_supervisor_waits_without_using_the_processor(tmp_path):
    """Also while a client works: no data goes through it."""
    with Serve(tmp_path, "--listen", "127.0.0.1:0", "--leaders", "1") as node:
        with zfabric.connect(node.url, timeout=PATIENCE_S) as fabric:
            fabric.topics.create("t")
            before = psutil.Process(node.process.pid).num_ctx_switches().voluntary
            with fabric.producer() as producer:
                for _ in range(500):
                    producer.send("t", b"v").result(timeout=PATIENCE_S)
            assert psutil.Process(node.process.pid).num_ctx_switches().voluntary - before < 250
        assert node.end() == 0
