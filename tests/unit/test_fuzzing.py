"""Every decoder on any bytes: nothing comes out but what it promises. For longer runs there is ``tools/fuzz``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import TARGETS, refusals, seeds

REFUSED = {
    "produced": [0, 0, 0, 1, 1],  # A compacted batch, and several at once, no producer may send.
    "columns": [0, 0, 0, 0, 2],
    "consumer": [0, 0, 0, 0, 2],
    "address": [0, 0, 0, 1, 1],  # Addresses of other modes.
    "toml": [0, 1, 0],  # One that is no table.
    "gossiped": [0, 0, 0, 0, 1, 1, 1, 1],  # Bodies alone.
    "beaconed": [2, 2],  # Each is one as it is, or once it is signed or addressed.
    "called": [1] * 7,  # Each is read as a caller's and as an instance's.
}
"""How often what is right is refused, by seeds; where nothing is said, never."""


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
    """Else the decoders would be fuzzed with nothing that they understand."""
    counts = []
    for data in seeds(name):
        refusals.clear()
        TARGETS[name](data)
        counts.append(len(refusals))
    assert counts == REFUSED.get(name, [0] * len(counts))
