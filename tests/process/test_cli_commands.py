"""The commands as a shell runs them: live views, pipes, signals, JSON, completion."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import click
import pytest

import zfabric
from tests.process.leaders import free_port
from zfabric import testing
from zfabric.cli import command
from zfabric.cli import produce as producing
from zfabric.settings import LeaderSettings

ZFABRIC = [sys.executable, "-m", "zfabric"]
ELSEWHERE = {"doctor", "request", "services", "uplink"}
"""Commands whose tests are in a file of their own."""


@pytest.fixture(scope="module")
def fabric(tmp_path_factory):
    """One fabric for all tests here; each uses topics of its own."""
    with testing.temporary_fabric(str(tmp_path_factory.mktemp("cli") / "data")) as found:
        yield found


@pytest.fixture
def topic(fabric, request):
    name = request.node.name.partition("[")[0][:200]
    fabric.topics.create(name, if_absent=True)
    yield name
    with contextlib.suppress(zfabric.errors.UnknownTopic):
        fabric.topics.delete(name)


def run(fabric, *arguments, stdin=b""):
    return subprocess.run(
        [*ZFABRIC, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, "ZFABRIC_URL": fabric.url},
    )


@contextlib.contextmanager
def running(fabric, *arguments, **options):
    """A command that goes on by itself; killed at the end if it still does."""
    url = fabric if isinstance(fabric, str) else fabric.url
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([*ZFABRIC, *arguments], env={**os.environ, "ZFABRIC_URL": url}, **pipes) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def end(process, number):
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said or b""


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def values(fabric, topic, count):
    found = []
    with fabric.consumer(topic) as consumer:
        until(lambda: found.extend(r.value for r in consumer.poll(timeout=1.0)) or len(found) >= count)
    return found


# top and status.


@pytest.mark.usefixtures("unmeasured")
def test_top_shows_what_goes_in_and_out(fabric, topic):
    with running(fabric, "top", "--json", "--interval", "0.2") as top, fabric.consumer(topic) as consumer:
        with fabric.producer() as producer:
            busy = []
            while not busy:
                producer.send_many(topic, [b"x" * 100] * 100)
                producer.flush()
                consumer.poll(timeout=0.1)
                document = json.loads(top.stdout.readline())
                if not document["reachable"]:
                    continue  # Within a second, which is what it waits.
                mine = [row for row in document["topics"] if row["topic"] == topic]
                row = document["leaders"][0]
                busy = mine[0]["records_per_s"] and row["records_in_per_s"] and row["records_out_per_s"]
        assert (document["reachable"], row["pid"]) == (True, fabric.status()[0].pid)
        assert row["bytes_in_per_s"] >= row["records_in_per_s"]
        assert row["bytes_out_per_s"] >= row["records_out_per_s"]
        assert row["commits_per_s"] > 0
        assert 0 < mine[0]["records"] <= mine[0]["end_offset"]
        assert end(top, signal.SIGINT) == (130, b"")


def test_top_in_a_pipe_prints_a_frame_a_refresh(fabric, topic):
    done = run(fabric, "top", "--count", "2", "--interval", "0.05")
    assert (done.returncode, done.stdout.count(b"commits"), done.stderr) == (0, 2, b"")
    assert done.stdout.count(topic.encode()) == 2
    assert str(fabric.status()[0].pid).encode() in done.stdout
    few = run(fabric, "top", "--count", "1", "--interval", "0.05", "--topics", "0")
    assert topic.encode() not in few.stdout


@pytest.mark.usefixtures("unmeasured")
def test_top_on_a_terminal_shows_something_before_the_first_interval_is_over(fabric):
    screen, terminal = pty.openpty()
    with running(fabric, "top", "--interval", "3600", stdout=terminal) as top:
        os.close(terminal)
        seen = b""
        while b"commits" not in seen:
            assert select.select([screen], [], [], 60)[0], seen
            seen += os.read(screen, 4096)
        top.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # The other end is closed. Until then somebody has to read what is shown.
            while os.read(screen, 4096):
                pass
        assert end(top, signal.SIGINT)[0] == 130
    os.close(screen)


@pytest.mark.usefixtures("unmeasured")
def test_top_follows_a_leader_that_is_started_again(tmp_path):
    with testing.temporary_fabric(str(tmp_path / "data")) as fabric:
        fabric.topics.create("t")
        with running(fabric, "top", "--json", "--interval", "0.1") as top:
            while not (rows := json.loads(top.stdout.readline())["leaders"]):
                pass
            first = rows[0]["pid"]
            assert testing.kill_leader(fabric) == first
            rows = []
            while not rows or rows[0]["pid"] == first:
                document = json.loads(top.stdout.readline())
                rows = document["leaders"]
                rates = [value for row in rows for name, value in row.items() if name.endswith("_per_s")]
                assert all(rate is None or rate >= 0 for rate in rates)
            assert end(top, signal.SIGTERM) == (143, b"")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.timeout(120)
def test_top_shows_a_node_that_goes_away_and_comes_back(tmp_path):
    url = f"zf://127.0.0.1:{free_port()}"
    serve = ["serve", "--data", str(tmp_path / "node"), "--listen", url[5:], "--leaders", "1", "--json"]
    with running(url, *serve) as node:
        assert json.loads(node.stdout.readline())["url"] == url
        with running(url, "top", "--json", "--interval", "0.1") as top:
            while not json.loads(top.stdout.readline())["reachable"]:
                pass
            assert end(node, signal.SIGTERM)[0] == 0
            while (document := json.loads(top.stdout.readline()))["reachable"]:
                pass
            assert document["problem"]
            with running(url, *serve) as again:
                while not json.loads(top.stdout.readline())["reachable"]:
                    pass
                assert end(top, signal.SIGINT) == (130, b"")
                assert end(again, signal.SIGTERM)[0] == 0


def test_top_of_nobody_ends_with_status_3():
    done = subprocess.run([*ZFABRIC, "top", "--url", "zf://127.0.0.1:1", "--timeout", "0.2"], capture_output=True)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"error: zf://127.0.0.1:1 did not answer within 0.2 s")


def test_status_measures_rates_or_gives_averages(fabric, topic):
    run(fabric, "produce", topic, stdin=b"line\n" * 1000)
    for sample in ("0", "0.05"):
        row = json.loads(run(fabric, "status", "--json", "--sample", sample).stdout)[0]
        assert row["records_in"] >= 1000
        assert (row["records_in_per_s"] > 0) == (sample == "0")
    shown = run(fabric, "status", "--sample", "0").stdout
    assert str(fabric.status()[0].pid).encode() in shown
    assert max(map(len, shown.splitlines())) <= 80


# produce.


def test_produce_names_the_file_and_line_that_is_bad_and_keeps_what_came_before(fabric, topic, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b'{"value": "1"}\n')
    bad.write_bytes(b'{"value": "2"}\n\n{"value": 3}\n{"value": "4"}\n')
    done = run(fabric, "produce", topic, "--format", "json", str(good), str(bad))
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"error: {bad} line 3: ".encode() in done.stderr
    assert b"2 records before it acknowledged" in done.stderr
    assert values(fabric, topic, 2) == [b"1", b"2"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"value": "v", "partition": 9}',
        b'{"value": "v", "timestamp": 99999999999999999999}',
        b'{"value": "v", "headers": {%s}}' % b",".join(b'"%d": ""' % number for number in range(200)),
    ],
)
def test_produce_names_the_line_that_the_topic_does_not_take(fabric, topic, line):
    done = run(fabric, "produce", topic, "--format", "json", stdin=b'{"value": "v"}\n' + line)
    assert (done.returncode, b"standard input line 2: " in done.stderr) == (1, True)


@pytest.mark.parametrize("options", [(), ("--key-separator", ":"), ("--format", "json")])
def test_produce_names_the_line_that_is_too_large(fabric, topic, options):
    fabric.topics.alter(topic, record_bytes_max=1000)
    line = b'{"value": "%s"}\n' if "json" in options else b"%s\n"
    content = b"".join(line % (b"x" * size) for size in (10, 900, 1000, 10))
    done = run(fabric, "produce", topic, *options, stdin=content)
    assert (done.returncode, b"record_bytes_max=1,000" in done.stderr) == (1, True)
    assert b"record of 1,000 bytes" not in done.stderr  # Which does not exceed it.
    assert b"standard input line 3" in done.stderr
    assert len(values(fabric, topic, 2)) == 2


def test_produce_takes_files_and_standard_input_in_the_order_given(fabric, topic, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1\n2")
    second.write_bytes(b"4\n")
    done = run(fabric, "produce", topic, str(first), "-", str(second), "--json", stdin=b"3\n")
    assert json.loads(done.stdout) == {"topic": topic, "records": 4}
    assert values(fabric, topic, 4) == [b"1", b"2", b"3", b"4"]
    assert run(fabric, "produce", topic, str(tmp_path / "none")).returncode == 2
    assert run(fabric, "produce", "no-such-topic", stdin=b"1\n").returncode == 4


def test_produce_parts_keys_from_values(fabric, topic):
    run(fabric, "produce", topic, "--key-separator", "\\t", stdin=b"k\tv\twith tab\nno key\n")
    with fabric.consumer(topic) as consumer:
        assert [(r.key, r.value) for r in consumer.poll(timeout=60.0)] == [(b"k", b"v\twith tab"), (None, b"no key")]


def test_what_consume_prints_produce_takes_even_if_it_is_no_text(fabric, topic):
    with fabric.producer() as producer:
        producer.send(topic, b"\xff\n", key=b"\0\xfe", headers={"bin": b"\xfd", "text": b"t"}, timestamp=5)
        producer.send(topic, None, key=b"gone", timestamp=6)
    printed = run(fabric, "consume", topic, "--json").stdout
    assert run(fabric, "produce", topic, "--format", "json", stdin=printed).returncode == 0
    with fabric.consumer(topic) as consumer:
        records = [record[3:] for record in consumer.poll(timeout=60.0)]
    assert (
        records[:2]
        == records[2:]
        == [
            (5, b"\0\xfe", b"\xff\n", {"bin": b"\xfd", "text": b"t"}),
            (6, b"gone", None, {}),
        ]
    )


def test_a_followed_pipe_is_sent_line_by_line(fabric, topic):
    with running(fabric, "produce", topic, stdin=subprocess.PIPE) as produce, fabric.consumer(topic) as consumer:
        for line in (b"one", b"two"):
            produce.stdin.write(line + b"\n")
            produce.stdin.flush()
            assert [record.value for record in consumer.poll(timeout=60.0)] == [line]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_produce_says_what_became_of_its_lines_when_it_is_ended(fabric, topic, number, status):
    with running(fabric, "produce", topic, stdin=subprocess.PIPE) as produce:
        produce.stdin.write(b"one\ntwo\nhalf a li")
        produce.stdin.flush()
        until(lambda: fabric.topics.describe(topic).partitions[0].end_offset == 2)
        assert end(produce, number) == (status, b"  2 records acknowledged\n")


def test_produce_says_why_its_lines_were_not_taken_when_it_is_ended(tmp_path, monkeypatch):
    """On a full disk nothing is told until the delivery timeout is over, and few wait for that."""
    monkeypatch.setattr(producing, "FLUSH_S", 0.5)
    full, stop = LeaderSettings(disk_reserve_bytes=1 << 50), KeyboardInterrupt()
    with zfabric.connect(f"zf+file:{tmp_path}/d", settings=full) as fabric:
        fabric.topics.create("t")
        with fabric.producer() as producer:
            producer.send("t", b"one")
            producing._last_words(producer, 1, stop)
    [said] = stop.__notes__
    assert said.startswith("0 records acknowledged; not acknowledged: 1 record;")
    assert "below the reserve" in said


def test_produce_shows_progress_on_a_terminal(fabric, topic, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"line\n" * 10_000)
    screen, terminal = pty.openpty()
    with running(fabric, "produce", topic, str(file), stderr=terminal) as produce:
        os.close(terminal)
        seen = b""
        with contextlib.suppress(OSError):  # The terminal's other end is closed.
            while piece := os.read(screen, 4096):
                seen += piece
        produce.wait(timeout=60)
    os.close(screen)
    assert (produce.returncode, b"10,000 records" in seen, b"records/s" in seen) == (0, True, True)


# bench.


def test_bench_measures_and_leaves_nothing_behind(fabric):
    before = fabric.topics.list()
    options = ["--records", "500", "--size", "50", "--partitions", "2", "--rate", "200", "--duration", "0.5"]
    done = run(fabric, "bench", *options, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr, fabric.topics.list()) == (0, b"", before)
    for name, records in (("send_many", 500), ("send", 500), ("read_records", 1000), ("read_columns", 1000)):
        found = document[name]
        assert found["records"] == records
        assert found["bytes_per_s"] == pytest.approx(50 * found["records_per_s"], rel=0.01)
    latency = document["latency"]
    assert latency["records"] == 100
    assert 0 < latency["p50_us"] <= latency["p99_us"] <= latency["p99_9_us"] <= latency["max_us"]
    shown = run(fabric, "bench", "--records", "10", "--durability", "memory", "--rate", "50", "--duration", "0.1")
    assert (shown.returncode, shown.stdout.count(b"send_many"), b"p99.9" in shown.stdout) == (0, 1, True)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_bench_deletes_its_topic(fabric, number, status):
    def mine():
        return [name for name in fabric.topics.list() if name.startswith("bench-")]

    with running(fabric, "bench", "--records", "10", "--rate", "100", "--duration", "3600") as bench:
        until(mine)
        until(lambda: fabric.topics.describe(mine()[0]).partitions[0].end_offset > 30)
        returned, said = end(bench, number)
    assert (returned, b"Traceback" in said, mine()) == (status, False, [])


# Pipes and signals.


@pytest.mark.parametrize(
    "arguments",
    [
        "consume TOPIC",
        "consume TOPIC --follow",
        "consume TOPIC --json",
        "top --interval 0.05",
        "top --interval 0.05 --json",
        "topic list --json",
        "topic list",
        "topic describe TOPIC",
        "status --sample 0",
        "status",
        "group list",
        "version",
        "--help",
        "produce --help",
        "completion bash",
    ],
)
def test_a_reader_that_has_enough_ends_the_command_in_silence(fabric, topic, arguments):
    run(fabric, "produce", topic, stdin=b"line\n" * 50_000)
    text = " ".join([*ZFABRIC, arguments.replace("TOPIC", topic)])
    done = subprocess.run(
        ["bash", "-c", f"{text} | head -c1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        timeout=60,
        env={**os.environ, "ZFABRIC_URL": fabric.url},
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 1, b"")


@pytest.mark.parametrize("arguments", ["version", "topic list --json", "--help", "topic list", "status --sample 0"])
def test_a_reader_that_has_gone_before_is_no_error(fabric, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with running(fabric, *arguments.split(), stdout=writer) as process:
        os.close(writer)
        assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 0)


@pytest.mark.parametrize(
    "arguments", ["topic list", "topic list --json", "status", "top --count 1 --interval 0.05", "consume TOPIC"]
)
def test_a_closed_standard_output_is_no_crash_and_a_full_one_an_error(fabric, topic, arguments):
    run(fabric, "produce", topic, stdin=b"line\n")
    text = " ".join([*ZFABRIC, arguments.replace("TOPIC", topic)])
    full = b"error: standard output: No space left on device\n"
    for place, status, said in ((">&-", 0, b""), (">/dev/full", 1, full)):
        done = subprocess.run(
            ["bash", "-c", f"{text} {place}"],
            stderr=subprocess.PIPE,
            timeout=60,
            env={**os.environ, "ZFABRIC_URL": fabric.url},
        )
        assert (done.returncode, done.stderr) == (status, said)


def test_produce_without_standard_input_is_wrong_usage(fabric, topic):
    text = " ".join([*ZFABRIC, "produce", topic, "<&-"])
    done = subprocess.run(["bash", "-c", text], capture_output=True, env={**os.environ, "ZFABRIC_URL": fabric.url})
    assert (done.returncode, b"standard input is closed" in done.stderr) == (2, True)


def test_consume_notices_that_nobody_reads_though_there_is_nothing_to_write(fabric, topic):
    run(fabric, "produce", topic, stdin=b"line\n")
    with running(fabric, "consume", topic, "--follow") as consume:
        assert consume.stdout.readline() == b"line\n"
        consume.stdout.close()
        assert (consume.wait(timeout=60), consume.stderr.read()) == (0, b"")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_consume_quietly_and_keep_what_was_committed(fabric, topic, number, status):
    run(fabric, "produce", topic, stdin=b"one\ntwo\n")
    with running(fabric, "consume", topic, "--follow", "--group", f"g{status}") as consume:
        assert [consume.stdout.readline() for _ in range(2)] == [b"one\n", b"two\n"]
        until(lambda: f"g{status}" in fabric.groups.list())
        until(lambda: [entry.offset for entry in fabric.groups.describe(f"g{status}")] == [2])
        assert end(consume, number) == (status, b"")


def test_a_file_that_cannot_be_read_is_one_line_of_error(fabric, topic):
    done = run(fabric, "produce", topic, "/proc/self/mem")
    assert (done.returncode, done.stderr.startswith(b"error: "), b"Traceback" in done.stderr) == (1, True, False)


# JSON.

JSON = {
    ("bench",): ["--records", "5", "--rate", "100", "--duration", "0.05"],
    ("consume",): ["TOPIC"],
    ("demo",): ["README", "--no-kill"],
    ("group", "delete"): ["GROUP"],
    ("group", "describe"): ["GROUP"],
    ("group", "list"): [],
    ("group", "reset"): ["GROUP", "TOPIC", "--to", "0"],
    ("keys", "generate"): ["--mesh", "NEW"],
    ("peers",): [],
    ("produce",): ["TOPIC"],
    ("serve",): ["--data", "NEW", "--listen", "127.0.0.1:0", "--leaders", "1"],
    ("status",): [],
    ("top",): ["--count", "1", "--interval", "0.05"],
    ("topic", "alter"): ["TOPIC", "--retention", "60"],
    ("topic", "create"): ["TOPIC-2"],
    ("topic", "delete"): ["TOPIC"],
    ("topic", "describe"): ["TOPIC"],
    ("topic", "list"): [],
    ("version",): [],
}
"""What each command is run with. ``completion`` has no --json: what it prints is for a shell."""


def leaves(group, path=()):
    with click.Context(group) as context:
        if not isinstance(group, click.Group):
            yield path
            return
        for name in group.list_commands(context):
            yield from leaves(group.get_command(context, name), (*path, name))


def test_every_command_is_in_the_list_of_json():
    assert {path for path in leaves(command) if path[0] not in ELSEWHERE} - {("completion",)} == set(JSON)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("path", JSON, ids=" ".join)
def test_json_output_parses(fabric, topic, path, tmp_path):
    words = {"TOPIC": topic, "TOPIC-2": f"{topic}-2", "GROUP": f"{topic}-g", "NEW": str(tmp_path / "new")}
    (tmp_path / "file").write_text("some words\n" * 3)
    words["README"] = str(tmp_path / "file")
    run(fabric, "produce", topic, stdin=b"line\n")
    fabric.groups.reset(words["GROUP"], topic, to="latest")
    arguments = [*path, *(words.get(word, word) for word in JSON[path]), "--json"]
    if path == ("serve",):
        with running(fabric, *arguments) as node:
            document = json.loads(node.stdout.readline())
            assert end(node, signal.SIGTERM)[0] == 0
        assert (document["leaders"], document["pid"]) == (1, node.pid)
    else:
        done = run(fabric, *arguments)
        assert (done.returncode, json.loads(done.stdout) is not None) == (0, True)
    with contextlib.suppress(zfabric.errors.UnknownTopic):
        fabric.topics.delete(f"{topic}-2")


# Completion.


def complete(url, *words, shell="bash", cwd=None):
    """What a shell is told; it waits for a fabric for a second, so on a busy machine that may be nothing."""
    variables = {
        "_ZFABRIC_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(["zfabric", *words]),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
        **({"ZFABRIC_URL": url} if url else {}),
    }
    done = subprocess.run(ZFABRIC, capture_output=True, text=True, timeout=60, env={**os.environ, **variables}, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_topics_and_groups(fabric, topic, shell):
    fabric.groups.reset("my-group", topic, to="latest")

    def found(*words):
        return "\n".join(complete(fabric.url, *words, shell=shell))

    assert "produce" in found("prod")
    assert "--key-separator" in found("produce", "--key")
    until(lambda: topic in found("consume", topic[:9]))
    until(lambda: topic in found("topic", "describe", topic[:9]))
    until(lambda: "my-group" in found("consume", topic, "--group", "my-"))
    until(lambda: "my-group" in found("group", "describe", "my-"))
    assert topic not in found("consume", "no-such-prefix")


def test_completion_is_silent_when_nobody_answers_and_makes_no_directory(tmp_path):
    assert complete("zf://127.0.0.1:1", "consume", "t") == []
    assert complete("nonsense", "consume", "t") == []
    assert complete(None, "consume", "t", cwd=tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(shell):
    done = subprocess.run([*ZFABRIC, "completion", shell], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_ZFABRIC_COMPLETE={shell}_complete" in done.stdout


def test_bash_itself_completes_behind_a_url_with_colons(fabric, topic, tmp_path):
    """Bash cuts words at colons; the script hands over the whole line instead."""
    program = tmp_path / "zfabric"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zfabric "$@"\n')
    program.chmod(0o755)
    script = f"""
eval "$(zfabric completion bash)"
complete -p zfabric
COMP_LINE='zfabric consume --url zf+file:{fabric.url.partition(":")[2]} {topic[:9]} x'
COMP_POINT=$((${{#COMP_LINE}} - 2))
_zfabric_completion zfabric
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = f"{tmp_path}:{os.environ['PATH']}"

    def completed():
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
        )
        assert done.stderr == ""
        shown, *found = done.stdout.splitlines()
        assert shown == "complete -o nosort -F _zfabric_completion zfabric"
        return found

    until(lambda: completed() == [topic])
