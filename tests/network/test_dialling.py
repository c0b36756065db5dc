"""A peer that can only dial out, as behind NAT: it is kept over the connection that it opens, and reads all others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import zfabric
from tests.network.namespaces import serving
from tests.process.leaders import PATIENCE_S
from tests.process.test_sdk import until

INSIDE = """
import json, sys, time, zfabric
with zfabric.connect(sys.argv[1], timeout=60) as fabric:
    fabric.topics.create("inside", replicas=2, if_absent=True)
    with fabric.producer() as producer:
        print(json.dumps(producer.send("inside", b"from inside").result(60).offset), flush=True)
    deadline = time.monotonic() + 60
    while "outside" not in fabric.topics.list() and time.monotonic() < deadline:
        time.sleep(0.05)
    with fabric.consumer("outside", group="g") as consumer:
        found = consumer.poll(timeout=60)
        consumer.commit()
    print(json.dumps([record.value.decode() for record in found]), flush=True)
    print(json.dumps([[member.endpoint, member.state] for member in fabric.members()]), flush=True)
"""


def test_a_peer_that_can_only_dial_out_is_kept_and_reads_what_others_have(machine, tmp_path):
    machine.rule("INPUT", "-i", "wire", "-p", "tcp", "--syn", "-j", "DROP")  # Nobody comes in.
    mesh = f"nat-{os.getpid()}"
    options = ("--leaders", "1", "--mesh", mesh, "--no-beacon", "--keep", "inside")
    with serving(machine, str(tmp_path / "keeper"), *options) as keeper:
        keeper.topics.create("outside")
        with keeper.producer() as producer:
            producer.send("outside", b"from outside").result(PATIENCE_S)
        place = keeper.url.removeprefix("zf://")
        url = f"zf+peer://{mesh}?data={tmp_path}/peer&insecure=1&beacon=0&seed={place}&keeper={place}"
        peer = subprocess.Popen(machine.command(sys.executable, "-c", INSIDE, url), stdout=subprocess.PIPE, text=True)
        try:
            assert json.loads(peer.stdout.readline()) == 0
            assert json.loads(peer.stdout.readline()) == ["from outside"]
            members = json.loads(peer.stdout.readline())
            assert sorted(state for _, state in members) == ["alive", "alive"]
            assert f"tcp://{place}" in [endpoint for endpoint, _ in members]
            assert len(keeper.members()) == 1  # It is no member: nobody could reach it.
            committed = keeper.groups.describe("g")
            assert [(entry.topic, entry.offset) for entry in committed] == [("outside", 1)]
        finally:
            peer.kill()
            peer.wait()
            peer.stdout.close()
        with zfabric.connect(f"zf+peer://{mesh}", role="client", seed=place, timeout=PATIENCE_S) as office:
            found = []
            with office.consumer("inside") as consumer:
                assert until(lambda: found.extend(consumer.poll(timeout=0.2)) or found, PATIENCE_S)
            assert [record.value for record in found] == [b"from inside"]
