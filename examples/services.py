"""Three microservices without a broker: a shop asks for prices and stock, and an instance is killed under load.

Run it: python examples/services.py. Each instance is a process of its own; nothing runs beside them but the leader of
the directory, which tells who is there. All requests are idempotent, so none fails when an instance is killed.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import zfabric
from zfabric import Request

PRICES = {b"tea": 350, b"cake": 420}


def serve(url: str, name: str) -> None:
    """One instance of a service: the body of its process. It ends with SIGTERM, which drains it."""
    with zfabric.connect(url) as fabric:
        service = fabric.service(name, version="1.0")

        if name == "prices":

            @service.method("of", idempotent=True)
            def price(request: Request) -> bytes:
                return b"%d" % PRICES[request.value]

        elif name == "stock":

            @service.method("of", idempotent=True)
            def stock(request: Request) -> bytes:
                return b"12"

        else:

            @service.method("offer", idempotent=True)
            def offer(request: Request) -> bytes:  # What it asks inherits its deadline and its trace.
                price = fabric.request("prices.of", request.value, idempotent=True)
                stock = fabric.request("stock.of", request.value, idempotent=True)
                return b"%b costs %b, %b left" % (request.value, price, stock)

        service.run()


def buy(fabric: zfabric.Fabric, running: dict[tuple[str, int], subprocess.Popen[bytes]]) -> list[Exception]:
    """Ask all the time while two instances are killed; returns what failed."""
    answered: list[bytes] = []
    failed: list[Exception] = []
    over = threading.Event()

    def customer() -> None:
        while not over.is_set():
            try:
                answered.append(fabric.request("shop.offer", b"tea", idempotent=True))
            except zfabric.ZFabricError as error:
                failed.append(error)

    customers = [threading.Thread(target=customer) for _ in range(3)]
    for thread in customers:
        thread.start()
    try:
        for victim in (("prices", 1), ("shop", 2), None):
            enough = len(answered) + 100
            while len(answered) < enough:
                time.sleep(0.01)
            if victim is not None:
                running[victim].kill()
    finally:
        over.set()
        for thread in customers:
            thread.join()
    print(set(answered))
    return failed


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: a process that we could not note any more would run for ever."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *caught: came.append(caught))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Start two instances of each, ask, kill two of them, and count what failed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        url = f"zf+file:{directory}/shop"
        with zfabric.connect(url, timeout=30.0) as fabric:
            running = {}
            try:
                for name in ("shop", "prices", "stock"):
                    for number in (1, 2):  # In groups of their own: Ctrl-C is for this process, which ends them.
                        command = [sys.executable, __file__, url, name]
                        with undisturbed():
                            running[name, number] = subprocess.Popen(command, process_group=0)
                while len(fabric.services()) < len(running):
                    time.sleep(0.05)
                failed = buy(fabric, running)
            finally:
                for process in running.values():
                    process.terminate()
                for process in running.values():
                    process.wait()
    print(f"two instances killed, {len(failed)} requests failed: {failed[:1]}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    try:
        if len(sys.argv) == 3:
            serve(sys.argv[1], sys.argv[2])
        else:
            main()
    except KeyboardInterrupt:
        sys.exit(130)
