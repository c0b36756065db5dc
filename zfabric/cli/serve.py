"""``zfabric serve``: run a node."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from zfabric.cli.options import counted


@click.command()
@click.option(
    "--data",
    metavar="DIR",
    help="Data directory.  [env var: ZFABRIC_DATA; default: zfabric-data]",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where clients connect; see above for PORT.  [env var: ZFABRIC_LISTEN; default: 127.0.0.1:7400]",
)
@click.option(
    "--leaders",
    type=int,
    metavar="PROCESSES",
    help="How many leaders; a directory keeps as many as it had.  [env var: ZFABRIC_LEADERS; default: one per core]",
)
@click.option(
    "--mesh",
    metavar="NAME",
    help="Be a member of this mesh; its members find each other.  [env var: ZFABRIC_MESH; default: none]",
)
@click.option(
    "--seed",
    "seeds",
    metavar="HOST:PORT",
    multiple=True,
    help="A node of the mesh to join through; may be repeated.  [env var: ZFABRIC_SEED; default: of the last run]",
)
@click.option(
    "--mesh-key",
    metavar="FILE",
    help="Speak only to those that have this key ('zfabric keys').  [env var: ZFABRIC_MESH_KEY; default: none]",
)
@click.option(
    "--zone", metavar="ZONE", help="Where this machine is, told to the mesh.  [env var: ZFABRIC_ZONE; default: none]"
)
@click.option(
    "--advertise",
    metavar="HOST",
    help="By which host the mesh reaches this node.  [env var: ZFABRIC_ADVERTISE; default: that of --listen]",
)
@click.option(
    "--beacon/--no-beacon",
    default=None,
    help="Find others on the local network by UDP multicast.  [env var: ZFABRIC_BEACON; default: beacon]",
)
@click.option(
    "--keep",
    "keep",
    metavar="PATTERN",
    multiple=True,
    help="Keep copies of other fabrics' topics that match, as 'sensor.*'; may be repeated.  [env var: ZFABRIC_KEEP; "
    "default: none]",
)
@click.option(
    "--follow",
    "follow",
    metavar="HOST:PORT",
    multiple=True,
    help="A fabric to keep, beside those of the mesh; may be repeated.  [env var: ZFABRIC_FOLLOW; default: none]",
)
@click.option(
    "--keeper",
    "keepers",
    metavar="HOST:PORT",
    multiple=True,
    help="A keeper that cannot reach this node and is dialled; may be repeated.  [env var: ZFABRIC_KEEPER; default: "
    "none]",
)
@click.option(
    "--config",
    envvar="ZFABRIC_CONFIG",
    show_envvar=True,
    metavar="FILE",
    help="TOML file with tables [node], [mesh] and [leader]; options and variables go before it.  [default: none]",
)
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Listen beyond loopback though there are no keys.  [env var: ZFABRIC_INSECURE]",
)
@click.option(
    "--log-level",
    metavar="LEVEL",
    help="DEBUG, INFO, WARNING or ERROR.  [env var: ZFABRIC_LOG_LEVEL; default: INFO]",
)
@click.option("--log-format", metavar="FORMAT", help="text or json.  [env var: ZFABRIC_LOG_FORMAT; default: text]")
@click.option("--json", "as_json", is_flag=True, help="Say that the node is ready in one JSON document.")
def command(
    config: str | None,
    seeds: tuple[str, ...],
    keep: tuple[str, ...],
    follow: tuple[str, ...],
    keepers: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Run a node until SIGTERM or Ctrl-C, then drain: a supervisor and its leader processes.

    Each leader takes two ports: N of them listen on PORT to PORT + 2 N - 1, all of which clients have to reach. With
    port 0 they are free ones in a row.

    A second signal ends it at once. Under systemd, use Type=notify; WatchdogSec= is honoured.
    """
    from zfabric.server import logs
    from zfabric.server.config import load
    from zfabric.server.supervisor import Supervisor

    node, settings, mesh = load(config, {**options, **_lists(seed=seeds, keep=keep, follow=follow, keeper=keepers)})
    logs.configure(settings.log_level, settings.log_format)

    def announce(url: str, count: int) -> None:
        if as_json:
            import json

            click.echo(json.dumps({"url": url, "leaders": count, "data": node.data, "pid": os.getpid()}))
        else:
            click.echo(f"zfabric node ready on {url} ({counted(count, 'leader')}, data {node.data})")
        sys.stdout.flush()

    supervisor = Supervisor(
        node.data,
        node.listen,
        leaders=node.leaders,
        settings=settings,
        insecure=node.insecure,
        mesh=mesh,
        keep=node.keep,
        follow=node.follow,
        keepers=node.keepers,
        announce=announce,
    )
    status = supervisor.run()
    if status:
        raise SystemExit(status)


def _lists(**given: tuple[str, ...]) -> dict[str, list[str] | None]:
    """Return options that may be repeated, None where one is not given."""
    return {name: list(values) or None for name, values in given.items()}
