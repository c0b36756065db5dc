"""What a supervisor decides without a process."""

from __future__ import annotations

from zfabric.server.supervisor import restart_pause


def test_a_leader_killed_at_its_start_is_started_again_soon_and_one_that_fails_for_long_ever_more_rarely():
    pauses = [restart_pause(failures) for failures in range(17)]
    assert pauses[:5] == [0.05, 0.1, 0.2, 0.4, 0.4]
    assert pauses[5:11] == [0.4] * 6
    assert pauses[11:] == [0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert restart_pause(1_000_000) == 5.0
