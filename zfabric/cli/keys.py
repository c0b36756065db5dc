"""``zfabric keys``: make the files that hold secrets."""

from __future__ import annotations

import click

from zfabric.cli.options import json_option


@click.group()
def command() -> None:
    """Make files that hold secret keys."""


@command.command()
@click.option("--mesh", "path", metavar="FILE", required=True, help="Write a new mesh key to this file.")
@json_option
def generate(path: str, as_json: bool) -> None:
    """Make a new key, in a file that its owner alone may read (mode 0600) and that must not exist yet.

    Give a copy to every node of the mesh (`zfabric serve --mesh-key FILE`). Whoever has the key can speak there as any
    member; who has not is not heard. A mesh changes its key by being stopped and started with another one.
    """
    import json

    from zfabric.store import keyfile

    keyfile.create_key(path)
    if as_json:
        click.echo(json.dumps({"mesh_key": path}))
    else:
        click.echo(path)
