"""Options and output that commands share."""

from __future__ import annotations

import math
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from zfabric.cli.plain import plain

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console
    from rich.table import Table

    from zfabric.sync.fabric import Fabric

F = TypeVar("F", bound=Callable[..., Any])

COMPLETION_TIMEOUT_S = 1.0
"""Longest that a Tab waits for a fabric."""
_WIDE = 10_000
_NAMES = {"id", "pid", "leader", "partition", "epoch"}
"""Columns whose numbers name something: they are not grouped by thousands."""


class Number(click.FloatRange):
    """An option's number in a range; what is none, or has no end, is refused: ``nan`` compares with no bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            BadParameter: it is none, or outside the range.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def fabric_options(function: F) -> F:
    """Add ``--url`` and ``--timeout``."""
    function = click.option(
        "--timeout",
        type=float,
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an answer.",
    )(function)
    return click.option(
        "--url",
        envvar="ZFABRIC_URL",
        show_envvar=True,
        default=None,
        metavar="URL",
        help="zf://HOST:PORT, zf+peer://MESH or zf+file:DIR.  [default: zf+file:zfabric-data]",
    )(function)


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document, for scripts.")(function)


def topic_argument(name: str = "topic") -> Callable[[F], F]:
    """Add an argument that names a topic; Tab completes it from the fabric."""
    return click.argument(name, shell_complete=_complete_topics)


def group_argument(name: str = "name") -> Callable[[F], F]:
    """Add an argument that names a consumer group; Tab completes it from the fabric."""
    return click.argument(name, shell_complete=complete_groups)


def _complete_topics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _complete(ctx, incomplete, lambda fabric: fabric.topics.list())


def complete_groups(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the groups that begin with ``incomplete``."""
    return _complete(ctx, incomplete, lambda fabric: fabric.groups.list())


def _complete(ctx: click.Context, incomplete: str, ask: Callable[[Fabric], list[str]]) -> list[CompletionItem]:
    """Return the names that the fabric knows; none when it does not answer, and never an error in the shell."""
    from click.shell_completion import CompletionItem

    from zfabric import errors

    try:
        with connect(ctx.params.get("url"), COMPLETION_TIMEOUT_S) as fabric:
            return [CompletionItem(name) for name in ask(fabric) if name.startswith(incomplete)]
    except (errors.ZFabricError, OSError):
        return []


def connect(url: str | None, timeout: float, *, create: bool = False, join: bool = False) -> Fabric:
    """Return the fabric that the options name.

    Args:
        create: make its directory if there is none. What only looks at a fabric makes none: a URL that is mistyped
            would answer like an empty fabric. Who has no directory looks at a mesh through another member: a seed of
            the URL, or one that is heard on the local network within five seconds.
        join: make it if it is a peer's: whoever writes to a mesh is a member of it.

    Raises:
        NotFound: there is no data directory, and no other member.
    """
    from zfabric import errors
    from zfabric.modes import peerurl
    from zfabric.modes import url as urls
    from zfabric.sync.fabric import connect as connect_fabric

    text = urls.text_of(url)
    directory = directory_of(text)
    if directory is not None and not (create or (join and text.startswith(f"{peerurl.SCHEME}:"))):
        try:
            _check_directory(directory)
        except errors.NotFound as error:
            others = _others(text, timeout, error)
            if not others:
                raise
            return connect_fabric(url, timeout=timeout, role="client", seed=others)
    return connect_fabric(url, timeout=timeout)


def _others(url: str, seconds: float, error: Exception) -> list[str]:
    """Return other members of the mesh that a URL names; if there are none, ``error`` gets a note that says so."""
    from zfabric.modes import peerurl

    if not url.startswith(f"{peerurl.SCHEME}:"):
        error.add_note(f"make one: zfabric topic create NAME{f' --url {shlex.quote(url)}' if url else ''}")
        return []
    from zfabric.modes.hearing import HEAR_S, hear

    seconds = min(seconds, HEAR_S)
    target = peerurl.parse(url, {})
    if target.seeds:
        return target.seeds
    heard = hear(target.mesh, target.key, seconds) if target.beacon else None
    if heard is None:
        how = f"was heard here within {seconds:g} s" if target.beacon else "is named in the URL, and beacon=0"
        error.add_note(
            f"and no other member of mesh {target.mesh!r} {how}: add '&seed=HOST:PORT' of one to look through it, or "
            "become a member: 'zfabric topic create' makes the directory"
        )
    return [] if heard is None else [heard]


def directory_of(url: str) -> str | None:
    """Return the directory that a URL names; None if it names none."""
    from zfabric.modes import peerurl
    from zfabric.modes import url as urls

    if url.startswith(f"{peerurl.SCHEME}:"):
        peer = peerurl.parse(url, {})
        return None if peer.client else peer.data
    target = urls.parse(url)
    return target.path if target.mode == "embedded" else None


def _check_directory(path: str) -> None:
    from zfabric.store.directory import DataDirectory, unusable

    try:
        DataDirectory.check(path)
    except OSError as error:
        raise unusable(path, error) from error


def standard_input(instead: str) -> BinaryIO:
    """Return standard input, as bytes.

    Raises:
        UsageError: there is none; ``instead`` says what to do.
    """
    if sys.stdin is None:
        raise click.UsageError(f"standard input is closed: {instead}")
    return sys.stdin.buffer


def counted(number: int, thing: str) -> str:
    """Return a number with what it counts: ``1 record``, ``2 records``, ``1 batch``, ``2 batches``."""
    many = "es" if thing.endswith("ch") else "s"
    return f"{number:,} {thing}{'' if number == 1 else many}"


def console(*, stderr: bool = False) -> Console:
    """Return a console that wraps nothing in a pipe, and lets a closed pipe end the command as everywhere else."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - rich calls this from its handler

    made = Piped(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as one JSON document or as a table of some columns."""
    if as_json:
        import json

        click.echo(json.dumps(rows))
        return
    from rich.measure import Measurement

    out, made = console(), _table(rows, columns)
    # A terminal that is too narrow breaks lines; a digit is never left out.
    wanted = Measurement.get(out, out.options.update(max_width=_WIDE), made).minimum
    out.width = max(out.width, wanted)
    out.print(made)


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Table:
    """Return a rich table: numbers to the right and never broken, floats with one digit, None as a dash."""
    from rich.table import Table
    from rich.text import Text  # A string would be read as rich's markup.

    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        if all(isinstance(row[name], int | float | None) for row in rows):
            widest = max([len(name), *(len(_cell(name, row[name])) for row in rows)])
            made.add_column(name, justify="right", no_wrap=True, min_width=widest)
        else:
            made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(Text(plain(_cell(name, row[name]))) for name in columns))
    return made


def _cell(name: str, value: object) -> str:
    if value is None:
        return "–"
    if name in _NAMES or isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def pause(seconds: float) -> None:
    """Wait, but not longer than somebody reads standard output.

    Raises:
        BrokenPipeError: the pipe's reader has gone; without this a command that has nothing to write would stay.
    """
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(max(0.0, seconds) * 1e3)):
        raise BrokenPipeError
