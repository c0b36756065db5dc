"""Chat on a local network with zero configuration: no server, no addresses; whoever comes later reads what was said.

lan_chat.py NAME          a line typed is a line said; Ctrl-D leaves
lan_chat.py NAME --lan    the same with everybody on the network, who may all read and write
lan_chat.py               three people on this machine, to show it
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import zfabric


def chat(name: str, directory: str, mesh: str, *, lan: bool) -> None:
    """Say what is typed, print what others say."""
    with zfabric.connect(f"zf+peer://{mesh}", data=f"{directory}/{name}", insecure=lan) as fabric:
        fabric.topics.create("chat", if_absent=True, retention=86_400.0)
        threading.Thread(target=listen, args=(fabric, name), daemon=True).start()
        with fabric.producer() as producer:
            for line in sys.stdin:
                producer.send("chat", line.rstrip("\n").encode(), headers={"from": name.encode()})


def listen(fabric: zfabric.Fabric, name: str) -> None:
    """Print what others say, and what they said before we came."""
    try:
        with fabric.consumer("chat") as consumer:
            for record in consumer:
                if record.headers["from"] != name.encode():
                    print(f"{record.headers['from'].decode()}: {record.value.decode()}", flush=True)
    except zfabric.errors.Closed:
        return


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


def demonstrate() -> None:
    """Let three people speak; each hears the two others."""
    names = ["ada", "bob", "eve"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        mesh = f"chat-{directory.rpartition('/')[2]}"
        command = [sys.executable, __file__]
        # In groups of their own: Ctrl-C is for this process, which ends them.
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "process_group": 0}
        people = {}
        try:
            for name in names:
                with undisturbed():
                    people[name] = subprocess.Popen([*command, name, directory, mesh], **options)
            for name, person in people.items():
                person.stdin.write(f"{name} is here\n")
                person.stdin.flush()
            for name, person in people.items():
                heard = sorted(person.stdout.readline().strip() for _ in range(2))
                assert heard == [f"{other}: {other} is here" for other in names if other != name]
                print(f"{name} heard: {', '.join(heard)}")
        finally:
            for person in people.values():
                person.communicate()  # Ends what there is to say: they leave.
        assert [person.returncode for person in people.values()] == [0, 0, 0]


if __name__ == "__main__":
    try:
        if len(sys.argv) == 4:
            chat(sys.argv[1], sys.argv[2], sys.argv[3], lan=False)
        elif len(sys.argv) > 1:
            chat(sys.argv[1], "chat-data", "chat", lan="--lan" in sys.argv)
        else:
            demonstrate()
    except KeyboardInterrupt:
        sys.exit(130)
