"""Rows of results, each against its goal, as a table for people and as JSON for scripts."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

AT_LEAST, AT_MOST = ">=", "<="


@dataclass(frozen=True)
class Row:
    """One measured value.

    Attributes:
        group, name: what was measured. value: median of the runs. unit: of it.
        floor: the same of the floor in the same run, if it does that job.
        goal: ``>=`` or ``<=`` and a number; judged is what it speaks of: the value, or the ratio to the floor.
    """

    group: str
    name: str
    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None
    goal: tuple[str, float] | None = None
    of: str = "value"

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        sign, limit = self.goal
        judged = self.ratio if self.of == "ratio" else self.value
        assert judged is not None
        return judged >= limit if sign == AT_LEAST else judged <= limit


def compared(
    group: str, name: str, ours: Sequence[float], floor: Sequence[float], unit: str, goal: tuple[str, float] | None
) -> Row:
    """Make a row of a value and the floor's.

    The ratio is the median of the ratios of the runs: the two of one run met the same neighbours on the machine.
    """
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, floor, strict=True))
    return Row(group, name, statistics.median(ours), unit, statistics.median(floor), ratio, goal, "ratio")


def machine() -> dict[str, Any]:
    """Tell on what this was measured."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def document(rows: Sequence[Row], runs: int) -> dict[str, Any]:
    """Return all rows as one JSON document."""
    return {"machine": machine(), "runs": runs, "rows": [asdict(row) | {"met": row.met} for row in rows]}


def number(value: float | None) -> str:
    """Write a number with three digits, or all that it has before the point."""
    if value is None:
        return ""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def show(rows: Sequence[Row], runs: int) -> None:
    """Print a table for a person."""
    from rich.console import Console
    from rich.table import Table

    here = machine()
    table = Table(
        title=f"zfabric against the floor: {here['cores']} cores, {here['system']}, Python {here['python']}; "
        f"medians of {runs} run{'s' * (runs > 1)}",
        title_justify="left",
    )
    for column in ("what", "zfabric", "floor", "× floor", "goal", ""):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(f"[bold]{group}")
        goal = ""
        if row.goal is not None:
            sign = "≥" if row.goal[0] == AT_LEAST else "≤"
            goal = f"{sign} {number(row.goal[1])}{' × floor' if row.of == 'ratio' else ''}"
        mark = {None: "", True: "[green]met", False: "[red]missed"}[row.met]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(f"  {row.name}", f"{number(row.value)} {row.unit}", number(row.floor), ratio, goal, mark)
    # A pipe has no width of its own, and half a number is none.
    Console(width=None if sys.stdout.isatty() else 132).print(table)
