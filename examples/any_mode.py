"""One application, in any mode: what changes is the URL.

any_mode.py                                              two sites that share a directory
any_mode.py zf://10.0.0.1:7400 zf://10.0.0.1:7400        two sites at a node
any_mode.py 'zf+peer://shop?data=a' 'zf+peer://shop?data=b'   two peers, each with its own log, and no broker
"""

import contextlib
import sys
import tempfile
import time

import zfabric

ORDERS = 50


def sell(fabric: zfabric.Fabric, site: int) -> None:
    """Append this site's orders; returns when they are safe."""
    fabric.topics.create("orders", if_absent=True)
    with fabric.producer() as producer:
        for number in range(ORDERS):
            producer.send("orders", f"{site}/{number}".encode(), key=f"customer {number % 5}".encode())


def report(fabric: zfabric.Fabric, sites: int) -> list[str]:
    """Read the orders of all sites, each site's in the order in which it took them."""
    seen: list[str] = []
    deadline = time.monotonic() + 60.0
    with fabric.consumer("orders", group="report") as consumer:
        while len(seen) < ORDERS * sites and time.monotonic() < deadline:
            seen += [record.value.decode() for record in consumer.poll(timeout=1.0)]
            consumer.commit()
    return seen


def main(urls: list[str]) -> None:
    """Run the example."""
    with contextlib.ExitStack() as stack:
        sites = [stack.enter_context(zfabric.connect(url)) for url in urls]
        for number, site in enumerate(sites):
            sell(site, number)
        seen = report(sites[-1], len(sites))
        for number in range(len(sites)):
            mine = [order for order in seen if order.startswith(f"{number}/")]
            assert mine == [f"{number}/{count}" for count in range(ORDERS)]
        print(f"{len(seen)} orders of {len(sites)} sites, each once and in order")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            main([f"zf+file:{directory}/data"] * 2)
