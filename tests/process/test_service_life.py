"""How a service starts and ends: told to end while it starts, and together with the others of its fabric."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading

import pytest

import zfabric
from tests.process.leaders import PATIENCE_S
from tests.process.test_sdk import until as settled
from zfabric import aio, errors

SYNC = """
import sys, zfabric
fabric = zfabric.connect(sys.argv[1], timeout=600.0)
service = fabric.service("s", listen="tcp://127.0.0.1:*")
service.run()
print("ended" if service.ended else "still there", flush=True)
fabric.close()
"""
ASYNC = """
import asyncio, sys
from zfabric import aio, errors
async def main():
    async with aio.connect(sys.argv[1], timeout=600.0) as fabric:
        service = fabric.service("s", listen="tcp://127.0.0.1:*")
        await service.run()
        print("ended" if service.ended else "still there", flush=True)
asyncio.run(main())
"""


async def until(condition):
    for _ in range(int(PATIENCE_S * 100)):
        if found := condition():
            return found
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("source", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_service_that_is_told_to_end_while_it_starts_ends_in_order(source, number):
    """Its leader says nothing, so it would start for ten minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_S)
        command = [sys.executable, "-c", source, f"zf://127.0.0.1:{silent.getsockname()[1]}"]
        starting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            connection, _ = silent.accept()
            starting.send_signal(number)
            assert starting.communicate(timeout=PATIENCE_S) == ("ended\n", "")
            assert starting.returncode == 0
            connection.close()
        finally:
            starting.kill()
            starting.wait(PATIENCE_S)


SLOW = """
import time, zfabric, sys
fabric = zfabric.connect(sys.argv[1])
service = fabric.service("slow")

@service.method("m")
def method(request):
    while not service.stats()["draining"]:
        time.sleep(0.01)
    time.sleep(0.5)
    return b"drained"

service.run()
fabric.close()
"""
SLOW_ASYNC = """
import asyncio, sys
from zfabric import aio, errors
async def main():
    async with aio.connect(sys.argv[1]) as fabric:
        service = fabric.service("slow")

        @service.method("m")
        async def method(request):
            while not service.stats()["draining"]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            return b"drained"

        await service.run()
asyncio.run(main())
"""


@pytest.mark.parametrize("source", [SLOW, SLOW_ASYNC], ids=["sync", "async"])
def test_a_second_sigterm_does_not_cut_the_drain_short(zfabric_fabric, source):
    """Whoever tells a group of processes and each of them tells them twice."""
    running = subprocess.Popen([sys.executable, "-c", source, zfabric_fabric.url])
    told = []

    def ask():
        told.append(zfabric_fabric.request("slow.m", timeout=PATIENCE_S))

    def listed():
        return zfabric_fabric.services("slow")

    try:
        assert settled(listed)
        asking = threading.Thread(target=ask)
        asking.start()
        assert settled(lambda: json.loads(zfabric_fabric.request("slow.stats"))["running"] == 1)
        running.terminate()
        assert settled(lambda: all(instance.draining for instance in listed()))
        running.terminate()
        asking.join(PATIENCE_S)
        assert (told, running.wait(PATIENCE_S)) == ([b"drained"], 0)
    finally:
        running.kill()
        running.wait(PATIENCE_S)


async def test_a_fabric_that_closes_drains_its_services_side_by_side(zfabric_url):
    """Each has a request that goes on until both of them drain."""
    async with aio.connect(zfabric_url) as caller:
        fabric = aio.connect(zfabric_url)
        services = [fabric.service(name) for name in ("one", "two")]
        began = []

        async def method(request):
            began.append(request)
            both = await until(lambda: all(service.stats()["draining"] for service in services))
            return b"both drain" if both else b"one drains after the other"

        for service in services:
            service.method("m")(method)
            await service.start()
        asking = [asyncio.create_task(caller.request(f"{name}.m", timeout=60.0)) for name in ("one", "two")]
        assert await until(lambda: len(began) == 2)
        await fabric.close()
        assert await asyncio.gather(*asking) == [b"both drain"] * 2


def test_services_of_two_fabrics_of_one_process_are_both_reached(zfabric_fabric):
    """In one directory: a socket's path goes to whoever binds it last."""
    with zfabric.connect(zfabric_fabric.url) as one, zfabric.connect(zfabric_fabric.url) as two:
        services = [one.service("s"), two.service("s")]
        for service in services:
            service.start()
        for service in services:
            assert zfabric_fabric.request("s.health", instance=service.instance) == b"ok"


def test_a_service_that_retires_takes_nothing_new_and_stops_when_told(zfabric_fabric):
    with zfabric.connect(zfabric_fabric.url) as other:
        service = other.service("s")
        began, go_on = threading.Event(), threading.Event()

        @service.method("m")
        def method(request):
            began.set()
            return b"%d" % go_on.wait(PATIENCE_S)

        service.start()
        told = []
        asking = threading.Thread(target=lambda: told.append(zfabric_fabric.request("s.m", timeout=PATIENCE_S)))
        asking.start()
        assert began.wait(PATIENCE_S)
        service.retire(drain=PATIENCE_S)
        assert service.stats()["draining"]
        assert not service.ended
        go_on.set()
        service.stop()
        asking.join(PATIENCE_S)
        assert (told, service.ended) == ([b"1"], True)


def test_a_service_is_not_run_where_no_signal_arrives(zfabric_fabric):
    told = []

    def run():
        try:
            zfabric_fabric.service("s").run()
        except errors.ZFabricError as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    assert isinstance(told[0], errors.NotSupported)
    assert zfabric_fabric.services("s") == []
