"""``zfabric request`` and ``zfabric services``, against a service in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from tests.process.leaders import PATIENCE_S
from tests.process.test_sdk import until

ZFABRIC = [sys.executable, "-m", "zfabric"]


@pytest.fixture
def service(zfabric_fabric):
    made = zfabric_fabric.service("users", version="1.2.0")

    @made.method("echo")
    def echo(request):
        return request.headers.get("prefix", b"") + request.value

    @made.method("count")
    def count(request):
        for number in range(int(request.value)):
            yield b"%d" % number

    @made.method("fail")
    def fail(request):
        raise ValueError("no")

    @made.method("wait")
    def wait(request):
        threading.Event().wait(2 * request.remaining)

    with made:
        made.url = zfabric_fabric.url
        yield made


def run(service, *arguments, **options):
    return subprocess.run(
        [*ZFABRIC, *arguments],
        capture_output=True,
        timeout=60,
        env={**os.environ, "ZFABRIC_URL": service.url},
        **options,
    )


def test_request_prints_the_reply_as_it_is(service):
    done = run(service, "request", "users.echo", "-", "--header", "prefix=<", input=b"\xff\0")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"<\xff\0", b"")


def test_who_gives_no_answer_in_time_is_nobody_who_answers(service):
    done = run(service, "request", "users.wait", "--timeout", "0.3")
    assert (done.returncode, done.stdout, b"no answer within 0.3 s" in done.stderr) == (3, b"", True)


def test_request_as_json_tells_text_and_bytes_apart(service):
    assert json.loads(run(service, "request", "users.echo", "ä", "--json").stdout)["value"] == "ä"
    binary = json.loads(run(service, "request", "users.echo", "-", "--json", input=b"\xff").stdout)
    assert binary["value_base64"] == "/w=="
    assert binary["seconds"] > 0


def test_request_reads_a_stream_chunk_by_chunk(service):
    assert run(service, "request", "users.count", "3", "--stream").stdout.split() == [b"0", b"1", b"2"]


def test_request_without_a_reply_says_nothing_but_to_scripts(service):
    done = run(service, "request", "users.echo", "x", "--notify")
    assert (done.returncode, done.stdout) == (0, b"")
    done = run(service, "request", "users.echo", "x", "--notify", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"notified": "users.echo"})


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["users.fail"], 1, "'users.fail' raised ValueError: no"),
        (["users.fail", "--traceback"], 1, "Traceback"),
        (["users.nothing"], 4, "it has: count, echo, fail, health, stats"),
        (["nobody.get", "--timeout", "1"], 4, "no instance of service 'nobody'"),
        (["users.echo", "--timeout", "1", "--service-version", "9"], 3, "there is '1.2.0'"),
        (["users"], 2, "SERVICE.METHOD"),
        (["users.echo", "--header", "x"], 2, "NAME=TEXT"),
        (["users.echo", "--header", "x=1", "--header", "x=2"], 2, "twice"),
        ([b"users.\xff"], 2, "SERVICE.METHOD"),
    ],
)
def test_what_goes_wrong_is_told_on_standard_error_with_a_status(service, arguments, status, words):
    done = run(service, "request", *arguments, text=True)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr


def test_services_are_listed_asked_for_their_health_and_counted(service):
    listed = json.loads(run(service, "services", "list", "--json").stdout)
    assert [(row["service"], row["version"], row["state"]) for row in listed] == [("users", "1.2.0", "serving")]
    pinged = json.loads(run(service, "services", "ping", "users", "--json").stdout)
    assert [(row["instance"], row["answer"]) for row in pinged] == [(listed[0]["instance"], "ok")]
    stats = json.loads(run(service, "services", "stats", "--json").stdout)
    assert stats[0]["methods"]["health"]["calls"] == 1
    assert run(service, "services", "list", "nobody").returncode == 4
    assert b"1.2.0" in run(service, "services", "list").stdout


def test_all_instances_are_pinged_at_once_and_each_that_does_not_answer_has_a_row(service, zfabric_fabric):
    """Three say that they are well only when all three are asked, and one never does."""
    asked = threading.Barrier(3)
    go_on = threading.Event()

    def health(request):
        return b"ok" if asked.wait(PATIENCE_S) >= 0 else b""

    with ExitStack() as stack:
        for number in range(4):
            beside = zfabric_fabric.service("beside", version=f"{number}")
            beside.method("health")(health if number < 3 else lambda request: b"%d" % go_on.wait(PATIENCE_S))
            stack.enter_context(beside)
        stack.callback(go_on.set)
        done = run(service, "services", "ping", "--json", "--timeout", "5")
    rows = {row["version"]: row for row in json.loads(done.stdout)}
    assert [rows[version]["answer"] for version in ("0", "1", "2", "1.2.0")] == ["ok"] * 4
    assert rows["3"]["ms"] is None
    assert "had no answer within" in rows["3"]["answer"]
    assert done.returncode == 1


def test_an_instance_whose_workers_are_all_busy_is_not_said_to_be_dead(service, zfabric_fabric):
    """What all services do by themselves needs no worker, and no serializer."""
    go_on = threading.Event()
    busy = zfabric_fabric.service("busy", concurrency=1, queue=0, serializer=lambda method, value: b"%d" % value)
    busy.method("work")(lambda request: 1 + go_on.wait(PATIENCE_S))
    with busy:
        worker = threading.Thread(target=zfabric_fabric.request, args=("busy.work",), kwargs={"timeout": PATIENCE_S})
        worker.start()
        try:
            assert until(lambda: busy.stats()["running"] == 1)
            (pinged,) = json.loads(run(service, "services", "ping", "busy", "--json").stdout)
            (told,) = json.loads(run(service, "services", "stats", "busy", "--json").stdout)
        finally:
            go_on.set()
            worker.join()
    assert (pinged["answer"], told["running"], told["methods"]["work"]["calls"]) == ("ok", 1, 0)


def test_arguments_may_be_bytes_that_are_no_text(service):
    done = run(service, "request", "users.echo", b"\xff", "--header", b"prefix=\xfe")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\xfe\xff", b"")


@pytest.mark.parametrize("reply", [b"\xff", b"[1]", b"[" * 100_000])
def test_stats_that_are_none_are_said_to_be(service, reply):
    @service.method("stats")
    def stats(request):
        return reply

    done = run(service, "services", "stats", text=True)
    assert done.returncode == 1
    assert "an object in JSON" in done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(run(service, "services", "stats", "--json").stdout)
    assert told[0]["requests"] is None


def test_stats_of_another_kind_are_shown_as_far_as_they_are_known(service):
    @service.method("stats")
    def stats(request):
        return b'{"requests": "many"}'

    done = run(service, "services", "stats", text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "many" in done.stdout


def test_what_a_service_says_is_shown_as_it_is_and_moves_no_cursor(service):
    """Neither as escape sequences of a terminal, nor as markup of the table that it stands in."""

    @service.method("health")
    def health(request):
        return b"\x1b[31mred [bold]text[/bold] [/none]"

    @service.method("bell")
    def bell(request):
        raise ValueError("\x1b[2J\a\u202e")

    pinged = run(service, "services", "ping", text=True)
    assert (pinged.returncode, pinged.stderr) == (0, "")
    assert "\\x1b[31mred [bold]text[/bold] [/none]" in pinged.stdout
    failed = run(service, "request", "users.bell", "--traceback", text=True)
    assert failed.returncode == 1
    assert "\\x1b[2J\\x07\\u202e" in failed.stderr
    assert failed.stderr.replace("\n", "").isprintable()
