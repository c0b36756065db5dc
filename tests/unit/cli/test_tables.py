"""Numbers as people read them."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric.cli.rates import LEADER_COUNTERS
from zfabric.cli.tables import leader_table, short
from zfabric.model import LeaderInfo


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (0.26, "0.3"),
        (7, "7"),
        (99.5, "99.5"),
        (1234.4, "1234"),
        (9_999, "9999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (99_960, "100k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (22_839_296, "22.8M"),
        (1 << 60, "1.15E"),
    ],
)
def test_a_number_is_short(value, text):
    assert short(value) == text


@given(value=st.floats(0, 9e20) | st.integers(0, 9 * 10**20))
def test_five_characters_are_enough_and_hardly_lie(value):
    text = short(value)
    assert len(text) <= 5
    read = float(text.rstrip("kMGTPE")) * 1000 ** (" kMGTPE".index(text[-1]) if text[-1].isalpha() else 0)
    assert read == pytest.approx(value, rel=0.006, abs=0.5)


def test_leaders_fit_into_eighty_columns():
    from rich.console import Console

    row = dict.fromkeys(LeaderInfo.__struct_fields__, 22_839_296) | {"id": 31, "pid": 4_194_304, "clients": 9999}
    row |= dict.fromkeys((f"{name}_per_s" for name in LEADER_COUNTERS), 12_345_678.9)
    out = io.StringIO()
    Console(file=out, width=200).print(leader_table([row, dict.fromkeys(row)]))
    assert max(len(line.rstrip()) for line in out.getvalue().splitlines()) <= 80
    assert {"rss", "anon"} <= set(out.getvalue().split())  # Resident, and the part that is not the kernel's to take.
