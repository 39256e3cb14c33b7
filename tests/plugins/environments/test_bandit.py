import pytest
from uncollapse.core.errors import RunError
from uncollapse.plugins.environments.bandit import PAIRS, Bandit


def test_the_names_of_the_splits_are_disjoint():
    names = {split: [name for pair in pairs for name in pair] for split, pairs in PAIRS.items()}
    assert {split: len(pairs) for split, pairs in PAIRS.items()} == {"train": 12, "validation": 8}
    every = [name.lower() for split in names.values() for name in split]
    assert len(set(every)) == len(every) == 40


def test_members_see_one_prompt_and_are_paid_apart():
    bandit = Bandit()
    envs = [bandit.make(5, member) for member in range(400)]
    assert len({env.initial_observation() for env in envs}) == 1
    payoffs = [env.step(env.risky).reward for env in envs]
    assert set(payoffs) == {0.0, 1.0}
    assert sum(payoffs) == pytest.approx(100, abs=44)  # 5 standard deviations around p = 0.25


def test_names_and_order_come_from_the_seed():
    prompts = {Bandit().make(seed).initial_observation() for seed in range(300)}
    assert len(prompts) == 24  # 12 pairs, both orders
    assert len({Bandit(split="validation").make(seed).initial_observation() for seed in range(300)}) == 16


def test_the_steady_arm():
    env = Bandit().make(0)
    steady = next(name for name in env.names if name != env.risky)
    step = env.step(f" {steady.upper()} ")
    assert (step.reward, step.done, step.success) == (0.1, True, False)
    assert step.metrics == {"share_of_played_actions_accepted": 1.0}
    assert step.observation == f"{steady} pays 0.1."
    with pytest.raises(RunError, match="the episode is over"):
        env.step(steady)


def test_the_risky_arm_is_success_even_when_it_pays_nothing():
    outcomes = {(step.reward, step.success) for member in range(50) for step in [_pull_risky(member)]}
    assert outcomes == {(0.0, True), (1.0, True)}


def _pull_risky(member):
    env = Bandit().make(1, member)
    return env.step(env.risky)


def test_other_text_earns_nothing():
    step = Bandit().make(0).step("both of them")
    assert (step.reward, step.done, step.success, step.metrics) == (
        0.0,
        True,
        False,
        {"share_of_played_actions_accepted": 0.0},
    )


def test_parameters():
    env = Bandit(low=0.5, high=2.0, probability=1.0).make(0)
    assert env.payoffs[env.risky] == 2.0
    assert sorted(env.payoffs.values()) == [0.5, 2.0]
    with pytest.raises(ValueError, match="risky arm must pay more"):
        Bandit(low=0.3)
    with pytest.raises(ValueError, match="split"):
        Bandit(split="test")
    with pytest.raises(ValueError, match="probability"):
        Bandit(probability=1.5)
