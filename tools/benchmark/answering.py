"""The answering side of request/reply: ``python -m benchmark.answering KIND ADDRESS`` says "ready", then answers.

Kinds: bare (a ROUTER that sends back what it gets), least (the same with the least that a request needs: a header, and
a wait that others could end), sync and aio (a service of ours), nats, zenoh.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from struct import Struct
from typing import Any

HEAD = Struct("<QQ")
"""Of a request: its number, and until when it is waited for."""


def bare(address: str) -> None:
    """Answer as plainly as pyzmq can."""
    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    print("ready", flush=True)
    while True:
        peer, number, body = socket.recv_multipart()
        socket.send_multipart([peer, number, body])


def least(address: str) -> None:
    """Answer with a header that is read and written, waiting for the socket's descriptor rather than in the socket."""
    import select

    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.bind(address)
    poller = select.poll()
    poller.register(socket.get(zmq.FD), select.POLLIN)
    print("ready", flush=True)
    while True:
        while not socket.get(zmq.EVENTS) & zmq.POLLIN:
            poller.poll(1_000)
        peer, request = socket.recv(zmq.NOBLOCK), socket.recv(zmq.NOBLOCK)
        number, _ = HEAD.unpack_from(request)
        socket.send(peer, zmq.NOBLOCK | zmq.SNDMORE)
        socket.send(HEAD.pack(number, 0) + request[HEAD.size :], zmq.NOBLOCK)


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
    {kind.__name__: kind for kind in (bare, least, sync, aio, nats, zenoh)}[sys.argv[1]](sys.argv[2])
