"""The command line: ``zfabric`` and ``python -m zfabric``. One file a command; each is imported when it is used.

Data goes to standard output, progress and errors to standard error. Exit codes are listed in README.md. Whoever reads
our output may go at any time: that is the end of a command, not an error. Ctrl-C and SIGTERM unwind it, so that
producers flush, temporary topics go and embedded leaders end.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Any

import click

from zfabric import errors
from zfabric.cli.plain import plain

_COMMANDS = {
    "bench": "Measure a fabric on a temporary topic.",
    "completion": "Print the script for shell completion.",
    "consume": "Read a topic.",
    "demo": "Stream real files through a fabric, crash it, verify.",
    "doctor": "Check a data directory, or its disk.",
    "group": "Committed offsets of consumer groups.",
    "keys": "Make files that hold secret keys.",
    "peers": "Show the members of the mesh.",
    "produce": "Write lines or NDJSON to a topic.",
    "request": "Ask a service.",
    "serve": "Run a node.",
    "services": "Instances of services: list, ping, stats.",
    "status": "Show the leader processes.",
    "top": "Watch leaders and topics live.",
    "topic": "Create, list, describe, alter, delete topics.",
    "uplink": "Ship topics to another fabric, exactly once.",
    "version": "Show the version.",
}
_EXITS: list[tuple[type[Exception], int]] = [
    (errors.Unreachable, 3),
    (errors.NobodyHeard, 3),
    (errors.RequestTimeout, 3),
    (errors.ServiceUnavailable, 3),
    (errors.UnknownTopic, 4),
    (errors.UnknownPartition, 4),
    (errors.NotFound, 4),
    (errors.UnknownMethod, 4),
    (errors.CorruptBatch, 5),
    (errors.CorruptRow, 5),
    (errors.DirectoryDamaged, 5),
    (errors.InvalidArgument, 2),
    (errors.ConfigurationError, 2),
]
NAME = "zfabric"
COMPLETE_VARIABLE = "_ZFABRIC_COMPLETE"
"""What a shell sets when it asks for completions: ``bash_complete`` and the like."""


class _Lazy(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"zfabric.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        import zfabric

        click.echo(zfabric.__version__)
        ctx.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def command() -> None:
    """Durable topics, published live: embedded in a directory, on a node, or among peers."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        if COMPLETE_VARIABLE in os.environ:
            status: int = import_module("zfabric.cli.completion").answer(command, os.environ[COMPLETE_VARIABLE])
            return status
        with command.make_context(NAME, list(sys.argv[1:] if arguments is None else arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return 2
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        _say_notes(stop)
        return 130
    except SystemExit as stop:
        _say_notes(stop)
        raise
    except BrokenPipeError:
        _forget_output()
        return 0
    except errors.ZFabricError as error:
        click.echo(f"error: {plain(str(error))}", err=True)
        _say_notes(error)
        return status_of(error)
    except OSError as error:
        click.echo(f"error: {_refusal(error)}", err=True)
        _forget_output()
        return 1
    return 0


def status_of(error: errors.ZFabricError) -> int:
    """Return the exit status for an error."""
    return next((status for kind, status in _EXITS if isinstance(error, kind)), 1)


def _refusal(error: OSError) -> str:
    """Say what the system refused, and where."""
    problem = error.strerror or str(error)
    if error.filename is None:
        return problem
    return f"{os.fsdecode(error.filename)}: {problem}"


class _Output(io.FileIO):
    """Standard output, whose errors say that they are its own."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def _open_output() -> None:
    before = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "w", closefd=False)),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.isatty(),
    )


def _forget_output() -> None:
    """Whoever read us has enough, or the disk has: what is left in the buffer must not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _say_notes(error: BaseException) -> None:
    """Print what was added to an exception on its way: where it happened, what else went wrong."""
    for note in getattr(error, "__notes__", ()):
        click.echo(f"  {plain(str(note))}", err=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    interrupts = sys.modules.get("zfabric.sync.interrupts")
    if interrupts is None or not interrupts.hold(number, frame):
        raise SystemExit(128 + number)


def run() -> None:
    """Entry point of the ``zfabric`` script."""
    signal.signal(signal.SIGTERM, _terminate)
    # What a shell closed (zfabric ... >&-) must not become a socket or a data file that somebody then prints into.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    _open_output()
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    sys.exit(main())
