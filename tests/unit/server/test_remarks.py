"""What a member of a mesh says in its log, and how often."""

from zfabric.server.remarks import ALONE_AGAIN_NS, ALONE_NS, REFUSED_AGAIN_NS, SECOND, Refused, Remarks

NOW = 1_000_000_000_000


def test_who_finds_nobody_behind_its_seeds_says_so_now_and_then():
    remarks = Remarks(NOW)
    assert not remarks.alone(0, 1, NOW + ALONE_NS - 1)
    assert remarks.alone(0, 1, NOW + ALONE_NS)
    assert not remarks.alone(0, 1, NOW + ALONE_NS + ALONE_AGAIN_NS - 1)
    assert remarks.alone(0, 1, NOW + ALONE_NS + ALONE_AGAIN_NS)


def test_who_has_no_seeds_or_has_met_others_does_not():
    assert not Remarks(NOW).alone(0, 0, NOW + ALONE_NS)
    met = Remarks(NOW)
    assert not met.alone(1, 1, NOW)
    assert not met.alone(0, 1, NOW + ALONE_NS), "it was told that the other one has failed"


def test_the_first_refusal_is_told_at_once_and_a_flood_ever_less_often():
    remarks = Remarks(NOW)
    assert remarks.refused(Refused(), NOW) is None
    assert remarks.refused(Refused(keys=1), NOW) == Refused(keys=1)
    assert remarks.refused(Refused(keys=900, meshes=2), NOW + REFUSED_AGAIN_NS - 1) is None
    assert remarks.refused(Refused(keys=900, meshes=2), NOW + REFUSED_AGAIN_NS) == Refused(keys=899, meshes=2)
    assert remarks.refused(Refused(keys=900, meshes=2), NOW + 9 * REFUSED_AGAIN_NS) is None
    said = [second for second in range(1, 86_400) if remarks.refused(Refused(keys=900 + second), NOW + second * SECOND)]
    assert len(said) < 40
    assert said[-1] - said[-2] == 3_600


def test_a_flood_of_members_is_a_hundred_lines_and_ten_a_second():
    remarks = Remarks(5 * SECOND)
    said = sum(remarks.member(5 * SECOND) for _ in range(10_000))
    assert (said, remarks.left_out(), remarks.left_out()) == (100, 9_900, 0)
    said = sum(remarks.member(5 * SECOND + number * SECOND // 1_000) for number in range(2_000))
    assert (said, remarks.left_out()) == (19, 1_981)
    said = sum(remarks.member(10_000 * SECOND) for _ in range(200))
    assert (said, remarks.left_out()) == (100, 100), "silence pays for no more than that"
