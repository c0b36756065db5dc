"""``zfabric serve``: run a node."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--data", envvar="ZFABRIC_DATA", default="zfabric-data", show_default=True, help="Data directory.")
@click.option("--listen", envvar="ZFABRIC_LISTEN", default="127.0.0.1:7400", show_default=True, metavar="HOST:PORT")
@click.option("--leaders", envvar="ZFABRIC_LEADERS", type=int, help="Leader processes.  [default: one per core]")
@click.option("--config", envvar="ZFABRIC_CONFIG", help="TOML file with a table [leader].")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback though there are no keys.")
@click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR.  [default: INFO]")
@click.option("--log-format", help="text or json.  [default: text]")
def command(
    data: str,
    listen: str,
    leaders: int | None,
    config: str | None,
    insecure: bool,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Run a node until SIGTERM: a supervisor and its leader processes."""
    from zfabric.server import logs
    from zfabric.server.config import load
    from zfabric.server.supervisor import Supervisor

    settings = load(config, {"log_level": log_level, "log_format": log_format})
    logs.configure(settings.log_level, settings.log_format)

    def announce(url: str, count: int) -> None:
        click.echo(f"zfabric node ready on {url} ({count} leaders, data {data})")
        sys.stdout.flush()

    Supervisor(data, listen, leaders=leaders, settings=settings, insecure=insecure, announce=announce).run()
