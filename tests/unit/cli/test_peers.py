"""The table of ``zfabric peers``."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from zfabric.cli.peers import _shown
from zfabric.model import MemberInfo


def test_a_terminal_of_eighty_columns_shows_all_of_an_endpoint():
    """Half of one names nobody."""
    member = MemberInfo(
        id="01" * 16, state="suspect", incarnation=1_795_686_114_161, endpoint="tcp://192.168.100.101:17400",
        kind="node", host="gateway", zone="hall-7", fabric="23" * 8, round_trip=0.0123, load=12, since=5, local=False,
        topics=[], services=[], more=False, mesh="plant", instance="45" * 8,
    )  # fmt: skip
    out = StringIO()
    Console(file=out, width=80).print(_shown([member]))
    first, *rows = out.getvalue().splitlines()
    assert first == "mesh plant: 1 suspect"
    begins = next(number for number, row in enumerate(rows) if "tcp://" in row)
    at = rows[begins].index("tcp://")
    assert "".join(row[at:].split(" ")[0] for row in rows[begins:]) == member.endpoint
