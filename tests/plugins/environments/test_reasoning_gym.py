"""The environment reasoning_gym asks and scores as the package of that name does."""

import importlib.util
import json
import pickle
import random
import re

import pytest
from uncollapse.core.compose.config import problems
from uncollapse.core.errors import MissingExtraError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.testing import check

NAME = "uncollapse.plugins.environments.packages.reasoning_gym.environment"
installed = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning_gym")
NO_SINGLE_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}

DEPENDS_ON_THE_PROCESS = {"list_functions", "polynomial_multiplication", "ransom_note"}
"""Some generators that draw from the random numbers of all modules, or from sets in the order of their hashes."""


def create(task, **parameters):
    return registry().create("environment", "reasoning_gym", task=task, **parameters)


def of_the_package(env):
    """The data set and the item that an episode asks about, from the package itself."""
    import reasoning_gym

    item = env.item
    dataset = reasoning_gym.create_dataset(item.task, seed=0, size=item.size, **json.loads(item.settings))
    return dataset, dataset[item.index]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(f"{NAME}.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        create("chain_sum")
    assert "pip install 'uncollapse[reasoning-gym]'" in str(caught.value)


@installed
@pytest.mark.parametrize("spelling", ["chain_sum", "{list_functions: 3, graph_color: 1}, split=train"])
def test_the_laws_of_environments_hold(spelling):
    assert check("environment", f"reasoning_gym({spelling})") == []


@installed
@pytest.mark.parametrize("task", ["spiral_matrix", "fraction_simplification", "propositional_logic", "countdown"])
def test_question_and_reward_are_those_of_the_package(task):
    env = create(task).make(4)
    dataset, entry = of_the_package(env)
    assert env.initial_observation() == entry["question"]
    right = entry["answer"] or "A"
    answers = [right, f"The answer is {right}", f"{right} ", "[1, 2]", "", "no idea"]
    rewards = [create(task).make(4).step(answer).reward for answer in answers]
    assert rewards == [dataset.score_answer(answer, entry) for answer in answers]
    assert rewards[0] == 1.0 or task == "propositional_logic"


@installed
def test_partial_credit_is_the_reward_and_the_threshold_decides_what_is_success():
    steps = [create("fraction_simplification", **given).make(1).step("?") for given in ({}, {"threshold": 0.01})]
    assert [(step.reward, step.success, step.observation) for step in steps] == [
        (0.01, False, "Partly right."),
        (0.01, True, "Partly right."),
    ]


@installed
def test_a_task_without_a_single_answer_is_scored_by_the_package():
    env = create("graph_color").make(2)
    puzzle = of_the_package(env)[1]["metadata"]["puzzle"]
    colours = {}
    for vertex in puzzle["vertices"]:
        near = {colours.get(b if a == vertex else a) for a, b in puzzle["edges"] if vertex in (a, b)}
        colours[vertex] = min(set(puzzle["color_options"]) - near)
    step = env.step(json.dumps({str(vertex): colour for vertex, colour in colours.items()}))
    assert (step.reward, step.success) == (1.0, True)


@installed
@pytest.mark.parametrize(
    ("task", "example"), [("rubiks_cube", "example_correct_answer"), ("propositional_logic", "example_answer")]
)
def test_an_example_of_a_right_answer_earns_the_full_score(task, example):
    env = create(task).make(2)
    entry = of_the_package(env)[1]
    assert entry["answer"] is None
    assert [create(task).make(2).step(text).success for text in (entry["metadata"][example], "R")] == [True, False]


@installed
@pytest.mark.parametrize("task", sorted(DEPENDS_ON_THE_PROCESS))
def test_the_seed_names_the_question_for_all_members_in_every_process(task):
    from uncollapse.plugins.environments.packages.reasoning_gym import environment as reasoning_gym

    environment = create(task)
    first = [environment.make(seed).key for seed in range(8)]
    reasoning_gym._PACKAGE.end()
    reasoning_gym.asked.cache_clear()
    copy = pickle.loads(pickle.dumps(environment))
    assert [copy.make(seed, member=3).key for seed in reversed(range(8))] == first[::-1]
    assert len(set(first)) == 8


@installed
def test_train_and_validation_share_no_question_also_where_questions_are_few():
    splits = [
        create("chain_sum", settings={"max_digits": 1, "max_terms": 2}, split=name) for name in ("train", "validation")
    ]
    train, validation = ({split.make(seed).key for seed in range(150)} for split in splits)
    assert len(train) > 50
    assert len(validation) > 15
    assert not train & validation
    terms = [{tuple(sorted(re.findall(r"\d|[+*-]", key))) for key in keys} for keys in (train, validation)]
    assert not terms[0] & terms[1]


@installed
def test_few_numbers_have_no_order_and_boards_have():
    unordered = importlib.import_module(NAME).unordered
    assert unordered("4 + 2 = ?") == unordered("2 + 4 = ?") == "2 + 4 = ?"
    assert unordered("1 0 0\n0 1 1") == "1 0 0\n0 1 1"


@installed
def test_a_mixture_draws_its_tasks_by_weight_with_their_own_settings():
    environment = create({"chain_sum": 3, "gcd": 1}, settings={"chain_sum": {"min_terms": 5, "max_terms": 5}})
    episodes = [environment.make(seed) for seed in range(400)]
    sums = [episode.question for episode in episodes if episode.item.task == "chain_sum"]
    assert 270 <= len(sums) <= 330
    assert {question.count(" + ") + question.count(" - ") for question in sums} == {4}


@installed
def test_composite_asks_its_parts_as_the_package_does():
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    parts = [{"name": "gcd", "weight": 3}, {"name": "chain_sum", "config": {"min_terms": 5, "max_terms": 5}}]
    environment = create("composite", settings={"datasets": parts}, size=200)
    specs = [DatasetSpec("gcd", 3, {}), DatasetSpec("chain_sum", 1, {"min_terms": 5, "max_terms": 5})]
    dataset = reasoning_gym.create_dataset("composite", seed=0, size=200, datasets=specs)
    asked = set()
    for seed in range(60):
        env = environment.make(seed)
        entry = dataset[env.item.index]
        assert env.question == entry["question"]
        assert env.step(entry["answer"]).reward == 1.0
        asked.add(entry["metadata"]["source_dataset"])
    assert asked == {"gcd", "chain_sum"}


@installed
def test_a_long_question_is_left_out():
    lengths, short = (
        [len(create("chain_sum", longest=longest).make(seed).question) for seed in range(40)] for longest in (None, 90)
    )
    assert max(short) <= 90 < max(lengths)
    with pytest.raises(RunError, match="longest 5"):
        create("chain_sum", longest=5, size=20).make(0)


@installed
@pytest.mark.parametrize(
    ("task", "parameters", "message"),
    [
        ("chain_sun", {}, "no task 'chain_sun'; did you mean 'chain_sum'?"),
        ("chain_sum", {"settings": {"min_term": 2}}, "did you mean 'min_terms'?"),
        ("chain_sum", {"settings": {"min_terms": 9}}, "max_terms must be >= min_terms"),
        ("chain_sum", {"settings": {"min_terms": 2.5}}, "non-integer"),
        ("number_sequence", {"settings": {"max_terms": -1}}, "AssertionError: assert self.max_terms >= self.min_terms"),
        ("decimal_arithmetic", {"settings": {"min_num_decimal_places": -1}}, "ValueError: invalid format string"),
        ("calendar_arithmetic", {"settings": {"offset_upper_bound": "x"}}, "TypeError: unsupported type"),
        ("chain_sum", {"settings": {"seed": 3}}, "the seeds of a run choose the items"),
        ("chain_sum", {"settings": {"min_terms": {3}}}, "must be plain data"),
        ("word_ladder", {"size": 30_000}, "Dataset size too large"),
        ({"chain_sum": 0}, {}, "a number above 0, not 0"),
        ({}, {}, "names no generator"),
        ({"gcd": 1, "lcm": 1}, {"settings": {"gdc": {}}}, "did you mean 'gcd'?"),
        ({"gcd": 1, "lcm": 1}, {"settings": {"gcd": 3}}, "must be a mapping, not 3"),
        ("composite", {}, "Must specify at least one dataset"),
        ("composite", {}, "give its parts, settings={datasets: ["),
        ("composite", {"settings": {"datasets": [{"name": "gdc"}]}}, "Dataset 'gdc' not registered"),
        ("composite", {"settings": {"datasets": [{"nam": "gcd"}]}}, "unexpected keyword argument 'nam'"),
        ("composite", {"settings": {"datasets": [{"name": "gcd", "config": {"a": 1}}]}}, "keyword argument 'a'"),
        ("composite", {"settings": {"datasets": [{"name": "gcd", "weight": 0}]}}, "Weight must be positive"),
        ("composite", {"settings": {"datasets": ["gcd"]}}, "reasoning_gym refuses the settings: TypeError"),
        ("composite", {"settings": {"datasets": "gcd"}}, "reasoning_gym refuses the settings: AttributeError"),
    ],
)
def test_what_the_package_cannot_make_is_refused_with_the_reason(task, parameters, message):
    with pytest.raises(RequestError) as caught:
        create(task, **parameters)
    assert message in str(caught.value)


@installed
@pytest.mark.parametrize("task", ["spiral_matrix", "simple_integration"])
def test_an_answer_that_the_package_would_run_changes_nothing(task, tmp_path):
    environment, file = create(task), tmp_path / "written"
    for text in (f"open({str(file)!r}, 'w')", f"__import__('os').mkdir({str(file)!r})", "exit()", "input()"):
        step = environment.make(0).step(text)
        assert (step.reward, step.success) == (0.0, False)
    assert not file.exists()
    assert environment.make(0).step(of_the_package(environment.make(0))[1]["answer"]).reward == 1.0


@installed
def test_an_answer_on_which_the_scoring_fails_earns_nothing():
    steps = [create("prime_factorization").make(0).step(text) for text in ("I do not know", "")]
    assert steps[0].metrics == {"share_of_played_actions_accepted": 0.0}
    assert (steps[0].observation, steps[0].reward) == ("The answer cannot be read.", 0.0)
    env = create("gcd").make(0)
    env.step("1")
    with pytest.raises(RunError, match="the episode is over"):
        env.step("1")


@installed
@pytest.mark.slow
def test_an_answer_without_an_end_earns_nothing():
    environment = create("spiral_matrix")
    assert environment.make(0).step("9**9**9**9").metrics == {"share_of_played_actions_accepted": 0.0}
    assert environment.make(0).step(of_the_package(environment.make(0))[1]["answer"]).reward == 1.0


@installed
@pytest.mark.slow
def test_every_generator_asks_and_demonstrates_its_own_answer_with_the_full_score():
    from uncollapse.plugins.environments.packages.reasoning_gym.environment import names

    without, others = set(), set()
    for task in set(names()) - {"composite"}:
        environment = create(task, size=500)
        env = environment.make(0)
        entry = of_the_package(env)[1]
        if environment.demonstrated is None:
            assert entry["answer"] is None
            without.add(task)
            continue
        assert demonstrated(environment, 0, noise=0.0)[-1].success, task
        if entry["question"] != env.question:
            others.add(task)
        else:
            assert env.step(entry["answer"]).reward == 1.0, task
    assert without == NO_SINGLE_ANSWER
    assert others <= {*DEPENDS_ON_THE_PROCESS, "isomorphic_strings", "knight_swap", "word_ladder"}


def demonstrated(environment, seed, noise):
    """The demonstrator's thought and answer in a new episode, and the step that the answer makes."""
    env = environment.make(seed)
    thought, (answer,) = env.demonstrate(1, noise, random.Random(seed))
    return env, thought, answer, env.step(answer)


@installed
@pytest.mark.parametrize(
    "task", ["chain_sum", "jugs", "knights_knaves", "string_manipulation", "arc_1d", "dice", "fraction_simplification"]
)
def test_the_packages_own_answer_is_demonstrated_and_right(task):
    environment = create(task)
    assert environment.demonstrated is environment
    for seed in range(6):
        env, thought, answer, step = demonstrated(environment, seed, noise=0.0)
        assert (thought, answer) == ("", of_the_package(env)[1]["answer"])
        assert (step.reward, step.success) == (1.0, True)


@installed
def test_a_mistake_is_the_answer_to_another_question_of_the_same_task():
    environment = create({"spell_backward": 1, "chain_sum": 1}, split="train")
    shown = [demonstrated(environment, seed, noise=1.0) for seed in range(40)]
    assert not any(step.success for *_, step in shown)
    assert {env.item.task for env, *_ in shown} == {"spell_backward", "chain_sum"}
    assert all(answer.isalpha() == (env.item.task == "spell_backward") for env, _, answer, _ in shown)
    mixed = [demonstrated(environment, seed, noise=0.5)[-1].success for seed in range(80)]
    assert 25 <= sum(mixed) <= 55


@installed
def test_of_a_single_question_the_answer_is_never_a_mistake():
    assert demonstrated(create("gcd", size=1), 0, noise=1.0)[-1].success


@installed
@pytest.mark.parametrize("task", ["graph_color", {"chain_sum": 1, "rush_hour": 1}])
def test_where_the_package_knows_no_answer_nobody_demonstrates(task):
    environment = create(task)
    assert environment.demonstrated is None
    unanswered = next(env for env in map(environment.make, range(20)) if env.item.task != "chain_sum")
    with pytest.raises(RunError, match="knows no answer"):
        unanswered.demonstrate(1, 0.0, random.Random(0))
    experiment = {"environment": {"name": "reasoning_gym", "task": task}, "model": {"path": "x", "warm_start": {}}}
    (problem,) = problems(experiment)
    assert (problem.key, "nobody demonstrates" in problem.reason) == ("model.warm_start", True)
