"""The command line: ``zfabric`` and ``python -m zfabric``. One file a command; each is imported when it is used.

Data goes to standard output, progress and errors to standard error. Exit codes are listed in README.md.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from zfabric import errors

_COMMANDS = {
    "consume": "Read a topic.",
    "demo": "Stream real files through a fabric, crash it, verify.",
    "group": "Committed offsets of consumer groups.",
    "produce": "Write lines or NDJSON to a topic.",
    "serve": "Run a node.",
    "status": "Show the leader processes.",
    "topic": "Create, list, describe, alter, delete topics.",
    "version": "Show the version.",
}
_EXITS: list[tuple[type[Exception], int]] = [
    (errors.Unreachable, 3),
    (errors.UnknownTopic, 4),
    (errors.UnknownPartition, 4),
    (errors.NotFound, 4),
    (errors.CorruptBatch, 5),
    (errors.DirectoryDamaged, 5),
    (errors.InvalidArgument, 2),
    (errors.ConfigurationError, 2),
]


class _PipeClosedError(Exception):
    """Whoever read our output has enough."""


class _Lazy(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"zfabric.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _PipeClosedError from error  # click would turn the other one into status 1.

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None})
def command() -> None:
    """Durable topics, published live: embedded in a directory, or on a node."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        command.main(args=arguments, prog_name="zfabric", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (BrokenPipeError, _PipeClosedError):
        # Whoever read us has enough; what is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except errors.ZFabricError as error:
        click.echo(f"error: {error}", err=True)
        return next((status for kind, status in _EXITS if isinstance(error, kind)), 1)
    return 0


def run() -> None:
    """Entry point of the ``zfabric`` script."""
    sys.exit(main())
