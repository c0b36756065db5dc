"""``zfabric version``."""

from __future__ import annotations

import json

import click

import zfabric
from zfabric.cli.options import json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Show the version."""
    click.echo(json.dumps({"version": zfabric.__version__}) if as_json else zfabric.__version__)
