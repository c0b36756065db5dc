"""A peer that nobody told its address: it starts without a link, gets one, and another one later."""

from __future__ import annotations

import os
import subprocess
import sys

import zfabric
from tests.process.leaders import PATIENCE_S
from tests.process.test_sdk import until

DEVICE = """
import sys, zfabric
with zfabric.connect(sys.argv[1], timeout=60) as fabric:
    fabric.topics.create("t", if_absent=True)
    with fabric.producer() as producer:
        for line in sys.stdin:
            producer.send("t", line.strip().encode()).result(60)
            print("stored", flush=True)
"""
"""Stores each line that it is told."""


def test_a_device_stores_without_a_link_and_is_found_at_whatever_address_it_gets(machine, tmp_path):
    """No gateway, no seeds, no addresses told on either side: what a peer on a plain switch has."""
    mesh = f"zf+peer://found-{os.getpid()}"
    machine.unplug()
    url = f"{mesh}?data={tmp_path}/device&insecure=1"
    device = subprocess.Popen(
        machine.command(sys.executable, "-c", DEVICE, url), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def store(value):
        device.stdin.write(f"{value}\n")
        device.stdin.flush()
        assert device.stdout.readline() == "stored\n"

    found = []

    def reads(value):
        found.extend(record.value for record in consumer.poll(timeout=0.2))
        return found[-1:] == [value]

    def consumer_of(office):
        assert until(lambda: "t" in office.topics.list(), PATIENCE_S), "it hears of the device"
        return office.consumer("t")

    def device_is_at(host):
        return any(member.state == "alive" and f"//{host}:" in member.endpoint for member in office.members())

    try:
        store("without a link")
        machine.heal()
        with (
            zfabric.connect(
                mesh, data=f"{tmp_path}/office", listen=machine.here, insecure=True, timeout=PATIENCE_S
            ) as office,
            consumer_of(office) as consumer,
        ):
            assert until(lambda: reads(b"without a link"), PATIENCE_S)
            assert until(lambda: device_is_at(machine.there), PATIENCE_S)
            store("with one")
            assert until(lambda: reads(b"with one"), PATIENCE_S)
        machine.move()
        store("elsewhere")
        with (
            zfabric.connect(
                mesh, data=f"{tmp_path}/annex", listen=machine.here, insecure=True, timeout=PATIENCE_S
            ) as office,
            consumer_of(office) as consumer,
        ):
            assert until(lambda: reads(b"elsewhere"), PATIENCE_S)
            assert until(lambda: device_is_at(machine.there), PATIENCE_S)
        assert found == [b"without a link", b"with one", b"without a link", b"with one", b"elsewhere"]
    finally:
        device.stdin.close()
        device.wait(PATIENCE_S)
        device.stdout.close()
