"""The asking side of request/reply: ``python -m benchmark.asking KIND ADDRESS COUNT`` prints what it measured as JSON.

One request after the other: p50_us, p99_us. Then ``AT_ONCE`` under way at a time: rate (requests a second), where the
kind has a way to do that. Every reply is compared with its request.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from struct import Struct

HEAD = Struct("<QQ")
AT_ONCE = 64
WARM = 200
BODY = b"x" * 100


def quantiles(times: list[float]) -> dict[str, float]:
    """Return p50 and p99 in microseconds, without what came before all was warm."""
    found = sorted(times[WARM:])
    return {"p50_us": found[len(found) // 2] * 1e6, "p99_us": found[int(len(found) * 0.99)] * 1e6}


def one_by_one(ask: Callable[[], bytes], count: int) -> dict[str, float]:
    """Measure blocking calls."""
    times = []
    for _ in range(count + WARM):
        began = time.perf_counter()
        reply = ask()
        times.append(time.perf_counter() - began)
        assert reply == BODY
    return quantiles(times)


async def both(ask: Callable[[], Awaitable[bytes]], count: int) -> dict[str, float]:
    """Measure coroutines: one by one, then ``AT_ONCE`` side by side."""
    times = []
    for _ in range(count + WARM):
        began = time.perf_counter()
        reply = await ask()
        times.append(time.perf_counter() - began)
        assert reply == BODY

    async def share() -> None:
        for _ in range(count // AT_ONCE + 1):
            assert await ask() == BODY

    began = time.perf_counter()
    await asyncio.gather(*(share() for _ in range(AT_ONCE)))
    rate = (count // AT_ONCE + 1) * AT_ONCE / (time.perf_counter() - began)
    return quantiles(times) | {"rate": rate}


def bare(address: str, count: int) -> dict[str, float]:
    """Ask as plainly as pyzmq can."""
    import zmq

    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)

    def ask() -> bytes:
        socket.send_multipart([b"12345678", BODY])
        return bytes(socket.recv_multipart()[1])

    found = one_by_one(ask, count)
    began = time.perf_counter()
    for _ in range(AT_ONCE):
        socket.send_multipart([b"12345678", BODY])
    for _ in range(count):
        assert socket.recv_multipart()[1] == BODY
        socket.send_multipart([b"12345678", BODY])
    return found | {"rate": count / (time.perf_counter() - began)}


def least(address: str, count: int) -> dict[str, float]:
    """Ask with a number, a deadline, a table of what is under way, and a wait that ends at the deadline."""
    import select

    import zmq

    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)
    poller = select.poll()
    poller.register(socket.get(zmq.FD), select.POLLIN)
    waiting: dict[int, int] = {}
    numbers = iter(range(1, 1 << 62))

    def ask() -> bytes:
        number = next(numbers)
        deadline = waiting[number] = time.monotonic_ns() + 10_000_000_000
        socket.send(HEAD.pack(number, deadline) + BODY, zmq.NOBLOCK)
        while not socket.get(zmq.EVENTS) & zmq.POLLIN:
            poller.poll(max(0.0, (deadline - time.monotonic_ns()) / 1e6))
        reply = bytes(socket.recv(zmq.NOBLOCK))
        del waiting[HEAD.unpack_from(reply)[0]]
        return reply[HEAD.size :]

    return one_by_one(ask, count)


def sync(address: str, count: int) -> dict[str, float]:
    """Ask with the synchronous SDK."""
    import zfabric

    with zfabric.connect(address) as fabric:
        return one_by_one(lambda: fabric.request("bench.echo", BODY), count)


def aio(address: str, count: int) -> dict[str, float]:
    """Ask with the asynchronous SDK."""

    async def run() -> dict[str, float]:
        import zfabric.aio

        async with zfabric.aio.connect(address) as fabric:
            return await both(lambda: fabric.request("bench.echo", BODY), count)

    return asyncio.run(run())


def nats(address: str, count: int) -> dict[str, float]:
    """Ask through a NATS server."""

    async def run() -> dict[str, float]:
        import nats as client

        connection = await client.connect(address)

        async def ask() -> bytes:
            return bytes((await connection.request("bench.echo", BODY, timeout=10)).data)

        try:
            return await both(ask, count)
        finally:
            await connection.close()

    return asyncio.run(run())


def zenoh(address: str, count: int) -> dict[str, float]:
    """Ask a queryable."""
    import zenoh as client

    config = client.Config()
    config.insert_json5("connect/endpoints", f'["{address}"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    with client.open(config) as session:

        def ask() -> bytes:
            for reply in session.get("bench/echo", payload=BODY):
                return bytes(reply.ok.payload.to_bytes())
            return b""

        while ask() != BODY:
            time.sleep(0.05)
        return one_by_one(ask, count)


if __name__ == "__main__":
    kinds = {kind.__name__: kind for kind in (bare, least, sync, aio, nats, zenoh)}
    print(json.dumps(kinds[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
