"""Every decoder on any bytes: nothing comes out but what it promises. For longer runs there is ``tools/fuzz``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import TARGETS, seeds


@st.composite
def mutations(draw, name):
    """Something right with a few bytes changed, cut out or put in; or anything at all."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "cut", "put"]))
        if kind == "put":
            data[at:at] = draw(st.binary(max_size=20))
        else:
            data[at : at + draw(st.integers(1, 20 if kind == "cut" else 1))] = (
                b"" if kind == "cut" else draw(st.binary(min_size=1, max_size=1))
            )
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_understood_or_refused(name):
    @given(mutations(name))
    def run(data):
        TARGETS[name](data)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_taken(name):
    for data in seeds(name):
        TARGETS[name](data)
