"""``zfabric serve``: run a node."""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.option(
    "--data",
    envvar="ZFABRIC_DATA",
    show_envvar=True,
    default="zfabric-data",
    show_default=True,
    metavar="DIR",
    help="Data directory.",
)
@click.option(
    "--listen",
    envvar="ZFABRIC_LISTEN",
    show_envvar=True,
    default="127.0.0.1:7400",
    show_default=True,
    metavar="HOST:PORT",
    help="Where clients connect; port 0 takes a free one.",
)
@click.option(
    "--leaders",
    envvar="ZFABRIC_LEADERS",
    show_envvar=True,
    type=int,
    metavar="PROCESSES",
    help="How many leaders.  [default: one per core]",
)
@click.option(
    "--config",
    envvar="ZFABRIC_CONFIG",
    show_envvar=True,
    metavar="FILE",
    help="TOML file with a table [leader].  [default: none]",
)
@click.option("--insecure", is_flag=True, help="Listen beyond loopback though there are no keys.")
@click.option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.  [default: INFO]")
@click.option("--log-format", metavar="FORMAT", help="text or json.  [default: text]")
@click.option("--json", "as_json", is_flag=True, help="Say that the node is ready in one JSON document.")
def command(
    data: str,
    listen: str,
    leaders: int | None,
    config: str | None,
    insecure: bool,
    log_level: str | None,
    log_format: str | None,
    as_json: bool,
) -> None:
    """Run a node until SIGTERM: a supervisor and its leader processes."""
    from zfabric.server import logs
    from zfabric.server.config import load
    from zfabric.server.supervisor import Supervisor

    settings = load(config, {"log_level": log_level, "log_format": log_format})
    logs.configure(settings.log_level, settings.log_format)

    def announce(url: str, count: int) -> None:
        if as_json:
            import json

            click.echo(json.dumps({"url": url, "leaders": count, "data": data, "pid": os.getpid()}))
        else:
            click.echo(f"zfabric node ready on {url} ({count} leaders, data {data})")
        sys.stdout.flush()

    Supervisor(data, listen, leaders=leaders, settings=settings, insecure=insecure, announce=announce).run()
