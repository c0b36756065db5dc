"""Some seeds at every run of the tests; ``tools/sim`` runs as many as one likes."""

import pytest
import workload


@pytest.mark.parametrize("seed", range(24))
def test_a_seed_breaks_no_promise(seed):
    """Repeat it with: tools/sim --seed N."""
    result = workload.run(seed)
    assert result.anomalies == []
    assert result.polled >= result.acknowledged > 0


def test_a_seed_is_the_same_run_each_time():
    def trace(seed):
        run = workload.Run(seed)
        run.sim.world.trace = []
        result = run.execute()
        return run.sim.world.trace, result.acknowledged, result.polled, result.steps

    assert trace(5) == trace(5) != trace(6)


def test_the_seeds_cover_the_faults_and_the_modes():
    """A plan that is never drawn proves nothing."""
    from random import Random

    plans = [workload.Plan.draw(Random(f"workload {seed}")) for seed in range(300)]
    assert {fault for plan in plans for fault in plan.faults} == set(workload.Storm.FAULTS)
    assert {topic for plan in plans for topic in plan.topics} == {"log", "page", "ring", "shared"}
    assert {plan.embedded for plan in plans} == {plan.named > 0 for plan in plans} == {True, False}
    assert {plan.leaders for plan in plans} == {1, 2, 3}
    assert {plan.fleeting for plan in plans} == {plan.newcomer for plan in plans} == {True, False}
