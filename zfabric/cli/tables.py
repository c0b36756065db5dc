"""Leaders and topics as people read them: short numbers, and no more than 80 columns.

Scripts take ``--json``, which has every field in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_LEADERS = {
    "id": "\nid",
    "pid": "\npid",
    "partitions": "\nparts",
    "clients": "\nconns",
    "subscriptions": "\nsubs",
    "rss_bytes": "\nrss",
    "rss_anon_bytes": "\nanon",
    "records_in_per_s": "rec\nin/s",
    "bytes_in_per_s": "bytes\nin/s",
    "records_out_per_s": "rec\nout/s",
    "bytes_out_per_s": "bytes\nout/s",
    "commits_per_s": "commits\n/s",
    "errors_per_s": "errors\n/s",
}
_TOPICS = {
    "topic": "topic",
    "partitions": "parts",
    "records_per_s": "rec/s",
    "records": "records",
    "end_offset": "end offset",
    "bytes": "bytes",
}
_EXACT = {"id", "pid", "end_offset"}
"""What is compared or typed in again, not estimated."""
_STEPS = "kMGTPE"


def short(value: float) -> str:
    """Return a number in at most five characters: 7, 0.3, 9999, 12.3k, 456M."""
    if value < 10_000:
        return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
    power = 1
    while value >= 999.5 * 1000**power and power < len(_STEPS):
        power += 1
    scaled = value / 1000**power
    return f"{scaled:.3g}{_STEPS[power - 1]}" if scaled < 99.95 else f"{scaled:.0f}{_STEPS[power - 1]}"


def leader_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of leaders; one that does not answer has dashes."""
    return _table(rows, _LEADERS)


def topic_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of topics."""
    return _table(rows, _TOPICS)


def _table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> Table:
    from rich.table import Table

    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    cells = [[_cell(name, row[name]) for name in columns] for row in rows]
    for at, (name, title) in enumerate(columns.items()):
        if name == "topic":
            made.add_column(title, overflow="fold")
        else:
            widest = max(map(len, (*title.split("\n"), *(line[at] for line in cells))))
            made.add_column(title, justify="right", no_wrap=True, min_width=widest)
    for line in cells:
        made.add_row(*line)
    return made


def _cell(name: str, value: object) -> str:
    if value is None:
        return "–"
    return short(value) if isinstance(value, int | float) and name not in _EXACT else str(value)
