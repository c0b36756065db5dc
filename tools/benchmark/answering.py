"""The answering side of request/reply: ``python -m benchmark.answering KIND ADDRESS`` says "ready", then answers.

Kinds: bare (a ROUTER that sends back what it gets), sync and aio (a service of ours), nats, zenoh.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any


def bare(address: str) -> None:
    """Answer as plainly as pyzmq can."""
    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    print("ready", flush=True)
    while True:
        peer, number, body = socket.recv_multipart()
        socket.send_multipart([peer, number, body])


def sync(address: str) -> None:
    """Answer with the synchronous SDK."""
    import zfabric

    with zfabric.connect(address) as fabric:
        service = fabric.service("bench")

        @service.method("echo", idempotent=True)
        def echo(request: Any) -> Any:
            return request.value

        service.start()
        print("ready", flush=True)
        threading.Event().wait()


def aio(address: str) -> None:
    """Answer with the asynchronous SDK."""

    async def serve() -> None:
        import zfabric.aio

        async with zfabric.aio.connect(address) as fabric:
            service = fabric.service("bench", concurrency=1_000)

            @service.method("echo", idempotent=True)
            async def echo(request: Any) -> Any:
                return request.value

            await service.start()
            print("ready", flush=True)
            await asyncio.Event().wait()

    asyncio.run(serve())


def nats(address: str) -> None:
    """Answer through a NATS server."""

    async def serve() -> None:
        import nats as client

        connection = await client.connect(address)

        async def echo(message: Any) -> None:
            await message.respond(message.data)

        await connection.subscribe("bench.echo", cb=echo)
        await connection.flush()
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


def zenoh(address: str) -> None:
    """Answer as a queryable, listening at ``address``."""
    import zenoh as client

    config = client.Config()
    config.insert_json5("listen/endpoints", f'["{address}"]')
    config.insert_json5("scouting/multicast/enabled", "false")
    with client.open(config) as session:
        session.declare_queryable("bench/echo", lambda query: query.reply("bench/echo", query.payload.to_bytes()))
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    {kind.__name__: kind for kind in (bare, sync, aio, nats, zenoh)}[sys.argv[1]](sys.argv[2])
