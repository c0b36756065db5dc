"""SWIM's order of precedence, as a table."""

from itertools import product

import pytest

from zfabric.core.mesh import rules
from zfabric.core.mesh.rules import Verdict
from zfabric.wire.gossip import INCARNATION_MAX, VERSION_MAX, Member, Status

A = b"a" * 16
STEP = rules.INCARNATION_STEP_MAX


def member(status, incarnation, instance=1, endpoint="x"):
    return Member(A, instance, incarnation, status, endpoint if status == Status.ALIVE else "")


ROWS = """
nothing    alive 1    ADMIT
nothing    suspect 1  IGNORE
nothing    failed 1   IGNORE
nothing    left 1     IGNORE
alive 5    alive 4    IGNORE
alive 5    alive 5    IGNORE
alive 5    alive 6    UPDATE
alive 5    suspect 4  IGNORE
alive 5    suspect 5  SUSPECT
alive 5    suspect 6  SUSPECT
alive 5    failed 4   IGNORE
alive 5    failed 5   FAIL
alive 5    left 4     IGNORE
alive 5    left 5     LEAVE
suspect 5  alive 5    IGNORE
suspect 5  alive 6    UPDATE
suspect 5  suspect 4  IGNORE
suspect 5  suspect 5  CONFIRM
suspect 5  suspect 6  SUSPECT
suspect 5  failed 5   FAIL
suspect 5  left 5     LEAVE
failed 5   alive 5    IGNORE
failed 5   alive 6    RETURN
failed 5   suspect 6  IGNORE
failed 5   failed 6   IGNORE
failed 5   left 4     IGNORE
failed 5   left 5     LEAVE
left 5     alive 5    IGNORE
left 5     alive 6    RETURN
left 5     suspect 6  IGNORE
left 5     failed 6   IGNORE
"""


def parse(text, endpoint="x"):
    if text == "nothing":
        return None
    status, incarnation = text.split()
    return Member(A, 1, int(incarnation), Status[status.upper()], endpoint)


@pytest.mark.parametrize("row", ROWS.strip().splitlines())
def test_the_table_of_precedence(row):
    """SWIM, 4.2."""
    known, claim, verdict = (row[:11].strip(), row[11:22].strip(), row[22:].strip())
    assert rules.decide(parse(known), parse(claim)) == Verdict[verdict]


@pytest.mark.parametrize(
    ("known", "claim", "verdict"),
    [
        (member(0, 5), member(0, 6, instance=2), Verdict.RETURN),
        (member(0, 5), member(0, 5, instance=2), Verdict.IGNORE),
        (member(0, 5), member(0, 6, instance=2, endpoint="y"), Verdict.COLLIDE),
        (member(1, 5), member(0, 6, instance=2, endpoint="y"), Verdict.COLLIDE),
        (member(2, 5), member(0, 6, instance=2, endpoint="y"), Verdict.RETURN),
        (member(3, 5), member(0, 6, instance=2, endpoint="y"), Verdict.RETURN),
        (member(2, 5), member(0, 5, instance=2, endpoint="y"), Verdict.IGNORE),
        (member(0, 5), member(0, 6, endpoint="y"), Verdict.UPDATE),
        (member(0, 5), member(1, 5, instance=2), Verdict.IGNORE),
        (member(0, 5), member(2, 9, instance=2), Verdict.IGNORE),
    ],
    ids=[
        "restart at its endpoint", "the same incarnation", "two live under one id", "while suspected",
        "after a failure", "after leaving", "after a failure, not higher", "it moved", "suspicion of another instance",
        "failure of another instance",
    ],
)  # fmt: skip
def test_another_process_under_the_same_id(known, claim, verdict):
    known = Member(A, 1, known.incarnation, known.status, "x")
    assert rules.decide(known, claim) == verdict


@pytest.mark.parametrize(
    ("known", "incarnation", "verdict"),
    [
        (None, STEP, Verdict.ADMIT),
        (None, STEP + 1, Verdict.JUMP),
        (5, 5 + STEP, Verdict.UPDATE),
        (5, 6 + STEP, Verdict.JUMP),
        (5, INCARNATION_MAX, Verdict.JUMP),
    ],
)
def test_nobody_takes_an_id_to_the_highest_incarnation(known, incarnation, verdict):
    """Bad input 24: a huge incarnation."""
    known = None if known is None else member(0, known)
    assert rules.decide(known, member(0, incarnation)) == verdict


@pytest.mark.parametrize(
    ("claim", "incarnation"),
    [
        (member(0, 5), 0),
        (member(1, 4), 0),
        (member(1, 5), 6),
        (member(2, 9), 10),
        (member(3, 5), 6),
        (member(0, 5, endpoint="y"), 6),
        (member(0, 8), 9),
        (member(0, 5, instance=2), 6),
        (member(2, 6 + STEP), 0),
        (member(2, 5 + STEP), 6 + STEP),
    ],
)
def test_a_member_refutes_what_would_win_against_it(claim, incarnation):
    me = member(0, 5)
    assert rules.refutation(me, claim) == incarnation


def test_the_highest_incarnation_is_never_passed():
    me = member(0, INCARNATION_MAX)
    assert rules.refutation(me, member(2, INCARNATION_MAX)) == 0
    below = member(0, INCARNATION_MAX - 1)
    assert rules.refutation(below, member(2, INCARNATION_MAX - 1)) == INCARNATION_MAX


@pytest.mark.parametrize(
    ("known", "claim", "verdict"),
    [
        (None, member(0, INCARNATION_MAX), Verdict.ADMIT),
        (member(0, 5), member(0, INCARNATION_MAX), Verdict.UPDATE),
        (member(0, INCARNATION_MAX), member(0, 5), Verdict.UPDATE),
        (member(1, STEP), member(0, 5), Verdict.UPDATE),
        (member(2, STEP), member(0, 5), Verdict.RETURN),
        (member(3, STEP), member(0, 5), Verdict.RETURN),
        (member(0, STEP), member(3, 5), Verdict.LEAVE),
        (member(3, STEP), member(3, 5), Verdict.IGNORE),
        (member(0, 9), member(0, 8), Verdict.IGNORE),
        (member(0, STEP), member(0, 5, instance=2), Verdict.IGNORE),
        (member(0, STEP), member(0, 5, endpoint="y"), Verdict.UPDATE),
    ],
)
def test_the_own_word_of_a_member_counts_when_it_is_far_from_what_is_known(known, claim, verdict):
    """What is known was made up: nobody else would believe it, nor could the member refute it."""
    assert rules.decide(known, claim, own=True) == verdict


def test_incarnations_and_versions_do_not_pass_their_ends():
    assert [rules.next_incarnation(n) for n in (1, INCARNATION_MAX)] == [2, INCARNATION_MAX]
    assert [rules.next_version(n) for n in (0, 1, VERSION_MAX)] == [1, 2, 1]


def test_what_is_found_stale_at_a_glance_would_be_ignored():
    """For each pair of statements with incarnations, instances and endpoints around each other's."""
    statements = [
        Member(A, instance, incarnation, status, endpoint if status == Status.ALIVE else "")
        for status, incarnation, instance, endpoint in product(Status, (4, 5, 6, 5 + STEP, 6 + STEP), (1, 2), "xy")
    ]
    stale = [pair for pair in product(statements, statements) if rules.stale(*pair)]
    assert all(rules.stale(one, one) for one in statements), "what is believed already needs no judgement"
    assert {rules.decide(known, claim) for known, claim in stale if claim is not known} == {Verdict.IGNORE}
    assert len(stale) > len(statements) ** 2 / 2


@pytest.mark.parametrize(
    ("wall_ms", "incarnation"),
    [(1_800_000_000_000, 1_800_000_000_000), (0, 1), (-5_000, 1), (STEP, STEP), (STEP + 1, STEP), (1 << 62, STEP)],
)
def test_no_clock_keeps_a_member_from_beginning(wall_ms, incarnation):
    """The year 1970, one before it, and those after 2109."""
    assert rules.first_incarnation(wall_ms) == incarnation
    assert rules.decide(None, member(Status.ALIVE, incarnation)) == Verdict.ADMIT
