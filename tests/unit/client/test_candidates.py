"""Candidates, against a look at everybody."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from zfabric.core.client.candidates import Candidates

PLACES = st.integers(0, 7)
STEPS = st.lists(
    st.tuples(st.sampled_from(["becomes true", "becomes untrue", "goes", "first", "all", "clear"]), PLACES),
    max_size=60,
)


@given(steps=STEPS)
def test_they_are_those_of_whom_it_is_true_in_order_of_their_places(steps):
    holders = [SimpleNamespace(place=place, true=False) for place in range(8)]
    candidates = Candidates(lambda holder: holder.true)
    for step, place in steps:
        holder = holders[place]
        true = [other for other in holders if other.true]
        if step == "becomes true":
            holder.true = True
            candidates.note(holder)
        elif step == "becomes untrue":
            holder.true = False
            candidates.note(holder)
        elif step == "goes":
            holder.true = False
            candidates.forget(holder)
        elif step == "first":
            behind = [other for other in true if other.place > place]
            assert candidates.first(place) is next(iter(behind or true), None)
        elif step == "all":
            assert candidates.all() == true
        else:
            candidates.clear()
            for other in holders:
                other.true = False
