r"""Which statement about a member wins: SWIM's order of precedence (section 4.2), as one pure function.

What is known of a member (rows) meets a claim (columns). ``i`` is the known incarnation, ``j`` the claimed one.

=================  ===================  ======================  =============  ==============
known \ claim       alive                suspect                 failed         left
=================  ===================  ======================  =============  ==============
nothing            ADMIT                --                      --             --
alive              UPDATE if j > i      SUSPECT if j >= i       FAIL if j >= i  LEAVE if j >= i
suspect            UPDATE if j > i      CONFIRM if j = i,       FAIL if j >= i  LEAVE if j >= i
                                        SUSPECT if j > i
failed             RETURN if j > i      --                      --             LEAVE if j >= i
left               RETURN if j > i      --                      --             --
=================  ===================  ======================  =============  ==============

Only the member itself raises its incarnation. So a suspicion is refuted by the member alone, and an old frame can
bring nothing back. That one left is its own word as well, and counts though it could not be heard when it said so.

Each start of a member has an *instance* of its own. A claim of another instance than the known one is a restart if it
is at the same endpoint, which two processes cannot share, or if the known one has failed or left; it counts with
j > i like any other. Otherwise two processes live under one id, most likely from a copied directory: COLLIDE. The one
that is known keeps the id while it lives; the other one is heard when it does not.

An incarnation far above the known one is refused (JUMP): a forger could else take a member's id to the highest
number, beyond which the member cannot refute. What several such claims, each within that step, have made some member
believe is refused by all others, the member itself among them, and so could not be refuted either. Therefore its own
word in a frame of its own counts whenever it is far from what is known, above or below: what is known was made up.
For the same reason a member follows such a step itself only now and then (``JUMP_NS``): after it was started with a
clock that was set back it needs one, and two million of them would take it to the highest number.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from zfabric.wire.gossip import INCARNATION_MAX, VERSION_MAX, Member, Status

_ALIVE: Final = int(Status.ALIVE)
_FAILED: Final = int(Status.FAILED)
_LEFT: Final = int(Status.LEFT)

INCARNATION_STEP_MAX: Final = 1 << 42
"""Largest first incarnation and largest step. An incarnation may begin at the wall clock in ms, now 2**41."""
FAR: Final = 1 << 20
"""No member changes so often while one of its frames is under way."""


def first_incarnation(wall_ms: int) -> int:
    """Return the incarnation to begin with: the wall clock, higher than in any run before unless it was set back.

    A clock that nobody has set, or far in the future, must keep nobody from starting; others know better anyway.
    """
    return min(max(1, wall_ms), INCARNATION_STEP_MAX)


def next_incarnation(incarnation: int) -> int:
    """Return the incarnation of a member's next word; at the highest one it can tell nothing new any more."""
    return min(incarnation + 1, INCARNATION_MAX)


def next_version(version: int) -> int:
    """Return the version of a member's next metadata; after the highest one it begins again."""
    return version + 1 if version < VERSION_MAX else 1


def far(one: int, other: int) -> bool:
    """Tell whether one of two incarnations of an instance must have been made up."""
    return abs(one - other) > FAR


JUMP_NS: Final = 10_000_000_000
"""A member takes an incarnation far above its own at most once in this time: to the highest one it is eight months."""


class Verdict(IntEnum):
    """What a claim does to what is known."""

    IGNORE = 0
    ADMIT = 1
    UPDATE = 2
    RETURN = 3
    SUSPECT = 4
    CONFIRM = 5
    FAIL = 6
    LEAVE = 7
    COLLIDE = 8
    JUMP = 9


def decide(known: Member | None, claim: Member, *, own: bool = False) -> Verdict:
    """Return what a claim about another member does; ``own`` if it is what that one says itself, in its own frame."""
    if known is None:
        if claim.status != Status.ALIVE:
            return Verdict.IGNORE
        return Verdict.ADMIT if own or claim.incarnation <= INCARNATION_STEP_MAX else Verdict.JUMP
    if own and claim.instance == known.instance and far(claim.incarnation, known.incarnation):
        return _own_word(known, claim)
    if claim.incarnation < known.incarnation:
        return Verdict.IGNORE
    if claim.incarnation > known.incarnation + INCARNATION_STEP_MAX:
        return Verdict.JUMP
    if claim.status == Status.ALIVE:
        return _alive(known, claim)
    if known.status == Status.LEFT or claim.instance != known.instance:
        return Verdict.IGNORE
    if claim.status == Status.LEFT:
        return Verdict.LEAVE
    return Verdict.IGNORE if known.status == Status.FAILED else _doubted(known, claim)


def _doubted(known: Member, claim: Member) -> Verdict:
    if claim.status == Status.FAILED:
        return Verdict.FAIL
    same = known.status == Status.SUSPECT and claim.incarnation == known.incarnation
    return Verdict.CONFIRM if same else Verdict.SUSPECT


def _own_word(known: Member, claim: Member) -> Verdict:
    if claim.status == Status.ALIVE:
        return Verdict.RETURN if known.status >= Status.FAILED else Verdict.UPDATE
    return Verdict.LEAVE if claim.status == Status.LEFT != known.status else Verdict.IGNORE


def stale(known: Member, claim: Member) -> bool:
    """Tell whether a claim is surely to be ignored: the quick look at what comes twenty times."""
    if claim is known or claim.incarnation < known.incarnation:
        return True
    return claim.incarnation == known.incarnation and (
        known.status == _LEFT
        or (known.status == _FAILED and claim.status != _LEFT)
        or (claim.status == _ALIVE and claim.instance == known.instance)
    )


def _alive(known: Member, claim: Member) -> Verdict:
    ended = known.status >= Status.FAILED
    if claim.instance != known.instance and claim.endpoint != known.endpoint and not ended:
        return Verdict.COLLIDE
    if claim.incarnation == known.incarnation:
        return Verdict.IGNORE
    return Verdict.RETURN if ended or claim.instance != known.instance else Verdict.UPDATE


def refutation(me: Member, claim: Member) -> int:
    """Return the incarnation that this member must take so that a claim about itself does not win; 0: it does not.

    An own statement that came back needs no answer; anything else with its incarnation or a higher one does.
    """
    if claim.incarnation < me.incarnation or claim == me:
        return 0
    if claim.incarnation > min(me.incarnation + INCARNATION_STEP_MAX, INCARNATION_MAX - 1):
        return 0
    return claim.incarnation + 1
