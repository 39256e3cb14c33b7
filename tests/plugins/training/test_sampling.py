"""What a step samples: tasks in their order, rounds with noise of their own, groups as the batch sampler collects."""

import re
import sys
from pathlib import Path

import pytest
import uncollapse
from uncollapse.core.components import Answer
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.rollout.episode import Episode, Turn
from uncollapse.plugins.training.commands.dry_run import describe
from uncollapse.plugins.training.step import sampling
from uncollapse.plugins.training.step.stages import derived_seed


@pytest.fixture(scope="module", autouse=True)
def plugin():
    registry().load_file(Path(__file__).with_name("samplers_plugin.py"))


def episode(seed, member, reward=0.0):
    turn = Turn((1, 2), (3,), (-0.5,), "eos", "?", "!", Answer("", ("Up",), 1), 1, reward, 0.0)
    return Episode(seed, member, "system", (turn,), "success" if reward > 0 else "done", {})


class Alone:
    """One of ``size`` ranks, which hears of nobody else."""

    def __init__(self, rank=0, size=1):
        self.rank, self.size = rank, size

    def gather(self, value):
        return [value]

    def gather_work(self, work):
        return [work()]


@pytest.fixture
def asked(monkeypatch):
    """What the sampler asks to be played: (group seeds, group size, seed, temperature). Rewards are seed x member."""
    calls = []

    def collect(environment, rollout, engine, template, *, seeds, group_size, seed, temperature, lost):
        calls.append((list(seeds), group_size, seed, temperature))
        return [episode(group, member, float(group * member)) for group in seeds for member in range(group_size)]

    monkeypatch.setattr(sampling, "collect", collect)
    return calls


def sampler(*overrides, ranks=None):
    settings = ("rollout.seed=500", "rollout.groups=4", "rollout.group_size=8", *overrides)
    return sampling.Sampler(uncollapse.compose("tiny-sokoban", settings), None, None, ranks or Alone())


def seeds(groups):
    return [group.seed for group in groups]


def test_every_step_plays_the_next_tasks(asked):
    played = sampler()
    played.train(0)
    groups = played.train(1)
    played.greedy_rewards(groups)
    assert asked == [
        ([500, 501, 502, 503], 8, derived_seed(0, "train", 0), 1.0),
        ([504, 505, 506, 507], 8, derived_seed(0, "train", 1), 1.0),
        ([504, 505, 506, 507], 1, 0, 0.0),
    ]
    assert [(group.seed, len(group.episodes), group.step) for group in groups] == [
        (seed, 8, 1) for seed in range(504, 508)
    ]
    assert groups[1].rewards == tuple(505.0 * member for member in range(8))
    assert groups[1].successes == (False, *[True] * 7)


def test_a_resumed_sampler_goes_on_with_the_next_tasks(asked):
    played, resumed = sampler(), sampler()
    played.train(0)
    resumed.load_state_dict(played.state_dict())
    assert seeds(resumed.train(1)) == seeds(played.train(1)) == [504, 505, 506, 507]


def test_every_validation_plays_the_same_tasks_with_the_same_noise_and_draws_none(asked):
    played = sampler("validation={seed: 70, groups: 3, group_size: 2, temperature: 0.25}")
    for _ in range(2):
        played.validate(played.environment)
    assert asked == [([70, 71, 72], 2, derived_seed(0, "validation"), 0.25)] * 2
    assert seeds(played.train(0)) == [500, 501, 502, 503]


def test_ranks_share_the_groups_of_a_step(asked):
    for rank in range(3):
        played = sampler(ranks=Alone(rank, 3))
        played.play(played.environment, range(504, 508), 8, 7, 1.0)
    assert [each for each, *_ in asked] == [[504, 507], [505], [506]]
    assert {seed for _, _, seed, _ in asked} == {7}


def test_each_round_of_a_step_has_tasks_and_noise_of_its_own(asked):
    played = sampler("rollout.batch=hoards(2)")
    played.train(0)
    assert [(each, seed) for each, _, seed, _ in asked] == [
        ([500, 501, 502, 503], derived_seed(0, "train", 0)),
        ([504, 505], derived_seed(0, "train", 0, 1)),
    ]
    assert seeds(played.train(1)) == [504, 505, 506, 507]
    assert asked[2][2:3] == (derived_seed(0, "train", 1),)


def test_groups_of_earlier_steps_are_told_from_new_ones(asked):
    played = sampler("rollout.batch=hoards(3)")
    steps = [[(group.seed, group.step) for group in played.train(step)] for step in range(3)]
    assert steps[0] == [(500, 0), (501, 0), (502, 0), (503, 0)]
    assert steps[1] == [(504, 0), (505, 0), (506, 0), (507, 1)]
    assert steps[2] == [(508, 1), (509, 1), (510, 1), (511, 1)]
    assert played.stale
    assert played.batches.metrics() == {
        "rollout/old_groups": 4.0,
        "rollout/teaching_groups": 4.0,
        "rollout/left_groups": 9.0,
    }
    fresh = sampler()
    fresh.train(0)
    assert not fresh.stale


def test_greedy_rewards_are_those_of_the_groups_that_were_collected(asked, monkeypatch):
    played = sampler("rollout.batch=hoards(3)")
    for step in range(2):
        groups = played.train(step)
    play = played.play
    monkeypatch.setattr(
        played, "play", lambda *given: play(*given) and [episode(seed, 0, seed / 4) for seed in given[1]]
    )
    assert played.greedy_rewards(groups).tolist() == [126.0, 126.25, 126.5, 126.75]
    assert asked[-1] == ([504, 505, 506, 507], 1, 0, 0.0)


def test_a_task_sampler_learns_from_every_group_in_the_order_of_its_draw(asked):
    played = sampler("rollout.tasks=rated", "rollout.batch=hoards(1)")
    drawn, learnt, session = [], [], played.tasks.session
    draw, learn = session.draw, session.learn
    session.draw = lambda count: drawn.append(draw(count)) or drawn[-1]
    session.learn = lambda groups: learnt.append([(group.seed, group.step) for group in groups]) or learn(groups)
    for step in range(2):
        played.train(step)
    assert [len(each) for each in drawn] == [4, 1, 4, 1]
    assert learnt == [[(seed, number // 2) for seed in each] for number, each in enumerate(drawn)]
    assert drawn[0] != sorted(drawn[0])


def test_state_of_samplers_goes_through_a_checkpoint(asked):
    import json

    from uncollapse.core.files import to_json

    settings = ("rollout.tasks=rated", "rollout.batch=hoards(3)")
    played, resumed = sampler(*settings), sampler(*settings)
    for step in range(2):
        played.train(step)
    resumed.load_state_dict(json.loads(to_json(played.state_dict(), indent=1)))
    assert resumed.batches.session.left == played.batches.session.left
    assert len(played.batches.session.left) == 6
    for step in (2, 3):
        assert resumed.train(step) == played.train(step)


# --- which groups teach -----------------------------------------------------------------------------------------------


def pool_of(monkeypatch, rewards, *overrides):
    """A pool and its groups, whose episodes have these rewards."""

    def collect(environment, rollout, engine, template, *, seeds, group_size, **others):
        return [episode(seed, member, rewards[seed][member]) for seed in seeds for member in range(group_size)]

    monkeypatch.setattr(sampling, "collect", collect)
    played = sampler(
        "rollout.seed=0", f"rollout.groups={len(rewards)}", "rollout.group_size=2", "trainer.mini_batch=8", *overrides
    )
    pool = sampling.StepPool(played, 0)
    return pool, pool.sample(len(rewards))


REWARDS = [[0.0, 0.0], [1.0, 0.0], [2.0, 2.0], [0.0, 3.0]]


@pytest.mark.parametrize(
    ("settings", "teach"),
    [
        (("filter.select=nofilter",), [True, True, True, True]),
        (("filter.select=nofilter", "filter.metric=entropy"), [True, True, True, True]),
        (("filter.select=top_p(1.0, include_zero=false)",), [False, True, False, True]),
        (("filter.select=top_k(1)",), [False, False, False, True]),
        (("filter.select=top_k(1)", "filter.metric=reward"), [False, False, True, False]),
    ],
)
def test_a_group_teaches_where_the_filter_would_keep_it(monkeypatch, settings, teach):
    pool, groups = pool_of(monkeypatch, REWARDS, *settings)
    assert pool.teaches(groups) == teach
    assert pool.teaches(groups[::-1]) == teach[::-1]
    assert pool.teaches([]) == []


def test_a_metric_of_what_is_not_there_yet_is_refused_by_name(monkeypatch):
    pool, groups = pool_of(
        monkeypatch, REWARDS, "filter.select=top_k(1)", "filter.metric=entropy", "rollout.batch=hoards"
    )
    with pytest.raises(RunError) as caught:
        pool.teaches(groups)
    asks, tells = caught.value.what.split(" asks which groups teach, and ")
    assert re.fullmatch(r"batch_sampler 'hoards' of plugin '.*samplers_plugin'.*", asks)
    assert tells.startswith("group_metric 'entropy' of ")
    assert tells.endswith(" tells that from entropies, which are not there before the policy scores them")


# --- ranks ------------------------------------------------------------------------------------------------------------


class Apart(Alone):
    """Hears of another rank that has drawn other tasks."""

    def gather(self, value):
        step, rounds, drawn = value
        return [value, (step, rounds, [seed + 1 for seed in drawn])]


def test_ranks_that_draw_different_tasks_are_refused_by_name(asked):
    with pytest.raises(RunError, match=r"task_sampler 'rated' of .*: draw gave other seeds on another rank"):
        sampler("rollout.tasks=rated", ranks=Apart(0, 2)).train(0)
    assert asked == []


@pytest.mark.parametrize("count", [-1, 1.0, True, "2", None])
def test_a_pool_is_asked_for_a_number_of_groups(asked, count):
    pool = sampling.StepPool(sampler(), 0)
    with pytest.raises(RunError, match=re.escape(f"asked the pool for {count!r} groups")):
        pool.sample(count)
    assert pool.sample(0) == asked == []
    assert pool.rounds == 0


def test_what_fails_while_episodes_are_played_is_not_the_samplers_fault(monkeypatch):
    def lost(*given, **options):
        raise ConnectionError("the other rank is gone")

    monkeypatch.setattr(sampling, "collect", lost)
    with pytest.raises(ConnectionError, match=r"^the other rank is gone$") as caught:
        sampler().train(0)
    assert caught.value.__suppress_context__


def test_samplers_may_be_objects_of_a_program(asked):
    plugin = registry().entry("task_sampler", "rated").target.__module__
    rated, hoards = (getattr(sys.modules[plugin], name) for name in ("Rated", "Hoards"))
    settings = {"rollout.tasks": rated(), "rollout.batch": hoards(more=3), "rollout.groups": 4, "rollout.group_size": 8}
    played = sampling.Sampler(uncollapse.compose("tiny-sokoban", settings), None, None, Alone())
    assert len(played.train(0)) == 4
    assert [len(each) for each, *_ in asked] == [4, 3]


# --- before a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ((), ["8 x 16 episodes of at most 5 turns", "environment seeds 500 to 739", "at most 4 per step"]),
        (
            ("rollout.tasks=rated",),
            ["8 x 16 episodes of at most 5 turns", "rated draws them as the run goes on", "at most 4 per step"],
        ),
        (
            ("rollout.batch=hoards(2)",),
            [
                "as many groups as hoards(more=2) collects x 16 episodes of at most 5 turns",
                "sequential draws them as the run goes on",
                "as many as the groups need",
            ],
        ),
        (
            ("rollout.context_window=single_turn",),
            ["8 x 16 episodes of at most 5 turns", "environment seeds 500 to 739", "as many as the turns need"],
        ),
    ],
)
def test_a_dry_run_says_as_much_as_is_known(settings, says):
    text = describe(uncollapse.compose("tiny-sokoban", ("rollout.seed=500", *settings)), Path("run"))
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines())
    assert [lines[name] for name in ("each step", "tasks", "optimizer steps")] == says
