"""``zfabric peers``: the members of the mesh."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from zfabric.cli.options import connect, console, fabric_options, json_option, pause
from zfabric.cli.plain import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group
    from rich.table import Table

    from zfabric.model import MemberInfo
    from zfabric.sync.watch import MemberWatch

LOOK_S = 1.0
SILENT_S = 5.0
"""After so long without an answer what is shown is called old."""
_STYLES = {"alive": "green", "suspect": "yellow", "failed": "red", "left": "dim"}
_COLUMNS = ("state", "host", "endpoint", "zone", "rtt ms", "topics", "services", "load %", "incarnation")
_NUMBERS = {"rtt ms", "topics", "load %", "incarnation"}


@click.command()
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C; with --json a line of JSON for each change.")
@fabric_options
@json_option
def command(watch: bool, url: str | None, timeout: float, as_json: bool) -> None:
    """Show the members of the mesh, as leader 0 of the fabric sees them.

    A member is alive, suspect (it may have failed), failed or left. The round trip (rtt) is that of a probe, in
    milliseconds; the load is what its leader 0 takes of one core, as of its last report. The member that was asked
    stands first, with a star. A fabric without a mesh has one member: itself.
    """
    with connect(url, timeout) as fabric:
        found = fabric.members()
        if watch:
            with fabric.watch_members() as changes:
                (_follow_lines if as_json else _follow)(changes)
        elif as_json:
            click.echo(json.dumps([_document(member) for member in found]))
        else:
            console().print(_shown(found))


def _document(member: MemberInfo) -> dict[str, Any]:
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(member)
    return document


def _follow_lines(watch: MemberWatch) -> None:
    """Print each change."""
    silence = _Silence()
    while True:
        found = watch.poll(LOOK_S)
        silence.tell(watch.age())
        for change in found:
            click.echo(json.dumps({"kind": change.kind, "member": _document(change.member)}))
            sys.stdout.flush()
        pause(0)


class _Silence:
    """Says once on standard error that nobody answers any more, and once that somebody does again."""

    def __init__(self) -> None:
        self._silent = False

    def tell(self, age: float) -> None:
        """Take the seconds since the last answer."""
        if (age >= SILENT_S) != self._silent:
            self._silent = not self._silent
            click.echo(_old(age) if self._silent else "answers again", err=True)


def _old(age: float) -> str:
    return f"no answer for {age:.0f} s, trying again: what was shown last is as old"


def _follow(watch: MemberWatch) -> None:
    """Show the table, and again when it has changed; on a terminal in its place."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    out = console()
    if not out.is_terminal:
        silence = _Silence()
        while True:
            changed = watch.poll(LOOK_S)
            silence.tell(watch.age())
            if changed:
                out.print(_shown(watch.members()))
                sys.stdout.flush()
            pause(0)
    with Live(console=out, auto_refresh=False) as live:
        while True:
            watch.poll(LOOK_S)
            age = watch.age()
            note = Text(_old(age) if age >= SILENT_S else "", style="bold red")
            live.update(Group(_shown(watch.members()), note), refresh=True)


def _shown(members: Sequence[MemberInfo]) -> Group:
    """Return the mesh's name with how many members are in which state, and the table of them."""
    from rich.console import Group
    from rich.text import Text

    counts = Counter[str](member.state for member in members)
    states = ", ".join(f"{counts[state]} {state}" for state in _STYLES if counts[state])
    mesh = next((member.mesh for member in members), "")
    return Group(Text(f"mesh {mesh}: {states}" if mesh else "no mesh: this fabric alone"), _table(members))


def _table(members: Sequence[MemberInfo]) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in _COLUMNS:
        if name in _NUMBERS:
            made.add_column(name, justify="right", no_wrap=True)
        else:
            made.add_column(name, overflow="fold")  # A narrow terminal breaks lines: all of an endpoint is needed.
    for member in sorted(members, key=lambda member: not member.local):
        made.add_row(
            *map(Text, map(plain, _cells(member))), style=None if member.state == "alive" else _STYLES[member.state]
        )
    return made


def _cells(member: MemberInfo) -> list[str]:
    more = "+" if member.more else ""
    return [
        f"{member.state}{'*' if member.local else ''}",
        member.host,
        member.endpoint,
        member.zone,
        "–" if member.round_trip is None else f"{member.round_trip * 1e3:.1f}",
        f"{len(member.topics)}{more}",
        " ".join(sorted({service.name for service in member.services})) + more,
        str(member.load),
        str(member.incarnation),
    ]
