"""An edge device logs its readings, link or no link; the hub gets each of them once and in order.

The uplink runs in a thread of its own here. On a device it is mostly a process of its own, which any service manager
may kill and start again:

    zfabric uplink --from zf+file:/var/lib/device --to zf://hub:7400 --topic 'sensor.*' --bandwidth 20000
"""

import sys
import threading
import time

import zfabric
from zfabric.testing import frozen_leader, kill_leader, temporary_fabric
from zfabric.uplink import Uplink


def log(device: zfabric.Fabric, first: int, count: int) -> None:
    """Store readings; an acknowledged one is on the device's disk."""
    with device.producer() as producer:
        for number in range(first, first + count):
            producer.send("sensor.heat", b"reading %d" % number, key=b"boiler")


def wait_for(uplink: Uplink, records: int) -> None:
    """Wait until so many have arrived."""
    while uplink.status().records < records:
        time.sleep(0.01)


def main() -> None:
    """Log through a cut link and a crash of each side, then compare."""
    with temporary_fabric() as device, temporary_fabric() as hub:
        device.topics.create("sensor.heat", retention_bytes=64 << 20)  # What the disk of the device has room for.
        uplink = Uplink(device, hub, topics="sensor.*")
        shipping = threading.Thread(target=uplink.run)
        shipping.start()
        try:
            log(device, 0, 1_000)
            wait_for(uplink, 1_000)
            with frozen_leader(hub):  # The link is cut: nothing is answered.
                log(device, 1_000, 1_000)
            kill_leader(hub)
            log(device, 2_000, 1_000)
            wait_for(uplink, 3_000)
            kill_leader(device)
            log(device, 3_000, 1_000)
        finally:
            uplink.stop()
            shipping.join()
        print(f"{uplink.status().records:,} readings shipped before it was stopped")
        Uplink(device, hub, topics="sensor.*").run(once=True)  # Another one goes on where the hub says.
        with hub.consumer("sensor.heat") as consumer:
            values = [record.value for record in consumer.poll(10_000, timeout=10.0)]
            while len(values) < 4_000 and (more := consumer.poll(10_000, timeout=10.0)):
                values += [record.value for record in more]
        assert values == [b"reading %d" % number for number in range(4_000)]
        print("the hub has all 4,000, each once and in order")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
