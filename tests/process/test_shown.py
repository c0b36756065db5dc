"""What ``repr`` shows of a fabric and of what it made."""

from __future__ import annotations

import os
import threading

import zfabric

PATIENCE_S = 60.0


def test_what_it_is_and_how_it_stands_is_seen_without_a_lock_or_a_query(zfabric_fabric):
    """Debuggers and logs ask for it whenever they like: also while another thread holds what the fabric needs."""
    fabric = zfabric_fabric
    fabric.topics.create("t")
    producer, consumer = fabric.producer(), fabric.consumer("t", group="g")
    service = fabric.service("users", version="1.2")
    shown = [repr(producer)]
    for topic in ("t", "a", "b", "c"):
        fabric.topics.create(topic, if_absent=True)
        producer.send(topic, b"v")
    producer.flush(timeout=PATIENCE_S)
    held, done = threading.Event(), threading.Event()

    def hold():
        with fabric._pump.lock:
            held.set()
            assert done.wait(PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE_S)
    looker = threading.Thread(target=lambda: shown.extend(map(repr, (producer, consumer, service, fabric))))
    looker.start()
    looker.join(PATIENCE_S)
    blocked = looker.is_alive()
    done.set()
    holder.join()
    assert not blocked
    assert shown == [
        "<Producer to no topic yet: open>",
        "<Producer to 't', 'a', 'b' and 1 more: open>",
        "<Consumer of 't' in group 'g', partitions 1: open>",
        f"<Service 'users' version '1.2' instance {service.instance:x}: not started>",
        f"<Fabric {fabric.url!r}, one fabric: open>",
    ]
    with service:
        assert repr(service).endswith(": serving>")
    fabric.close()
    assert [repr(entry).rpartition(": ")[2] for entry in (service, producer, consumer, fabric)] == [
        "ended>",
        *["closed>"] * 3,
    ]


def test_a_peers_key_is_not_shown(tmp_path):
    key = tmp_path / "secret.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    url = f"zf+peer://shown{os.getpid()}"
    with zfabric.connect(f"{url}?role=client&seed=127.0.0.1:1&key={key}") as fabric:
        assert repr(fabric) == f"<Fabric {url!r}, a mesh: open>"
