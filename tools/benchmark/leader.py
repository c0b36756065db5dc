"""An embedded leader started by hand: stripped of features, or profiled. Clients attach to it as to any other.

``python -m benchmark.leader DIRECTORY [--plain] [--cprofile FILE]``; it detaches, and ends after its last client.
"""

from __future__ import annotations

import argparse
import cProfile
import subprocess
import sys
from contextlib import nullcontext


def start(directory: str, *options: str) -> None:
    """Start one and return when it serves."""
    command = [sys.executable, "-m", "benchmark.leader", directory, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
    if '"ready"' not in said:
        sys.exit(f"the leader did not start: {said}")


def main() -> int:
    """Lead until the last client has left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--cprofile", default="")
    options = parser.parse_args()
    if options.plain:
        from benchmark import plain

        plain.strip()
    from zfabric.modes.options import LeaderOptions, encode
    from zfabric.server import __main__ as server
    from zfabric.store.directory import DataDirectory

    directory = DataDirectory.create_or_check(options.directory)
    listen, publish = (f"ipc://{directory.socket_path(name)}" for name in ("router", "xpub"))
    settings = LeaderOptions(
        data=directory.real_path,
        listen=listen,
        publish=publish,
        advertise=listen,
        advertise_publish=publish,
        embedded=True,
    )
    sys.argv[1:] = [encode(settings)]
    profile = cProfile.Profile() if options.cprofile else None
    with profile or nullcontext():
        status = server.main()
    if profile is not None:
        profile.dump_stats(options.cprofile)
    return status


if __name__ == "__main__":
    sys.exit(main())
