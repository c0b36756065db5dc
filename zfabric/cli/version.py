"""``zfabric version``."""

from __future__ import annotations

import click

import zfabric


@click.command()
def command() -> None:
    """Show the version."""
    click.echo(zfabric.__version__)
