import json
import math
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.core.components import Completion, Env, Environment, RolloutEngineSession, Step
from uncollapse.core.compose.experiment import Reward, Rollout
from uncollapse.core.errors import RequestError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.bandit import Bandit
from uncollapse.plugins.environments.dataset import Dataset
from uncollapse.plugins.environments.frozen_lake import FrozenLake
from uncollapse.plugins.environments.sokoban import Sokoban
from uncollapse.plugins.environments.tools.tool_calculator import ToolCalculator
from uncollapse.plugins.probe.sampling.prompts import PROMPT, PromptSource
from uncollapse.plugins.probe.sampling.samples import draw, stream
from uncollapse.plugins.probe.sampling.sources import EnvironmentSource, _Drawn
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.engine_hf import HfEngine
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.training.processes.ranks import Ranks

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from rollout_worlds import tiny_model, tokenizer

WORDS = tokenizer()
ONE = Ranks(0, 1, torch.device("cpu"))
PROMPTS = PromptSource.named("arithmetic", max_prompt_tokens=400)
LAKES = EnvironmentSource(FrozenLake(), ThinkAnswer(), Rollout(max_turns=2))
SOURCES = {
    "prompts": PROMPTS,
    "environment": LAKES,
    "data set": EnvironmentSource(Dataset("arithmetic"), ThinkAnswer(), Rollout(max_turns=1)),
}


@pytest.fixture(scope="module")
def engine():
    return HfEngine().start(tiny_model(len(WORDS)), WORDS)


def sample(source, engine, **how):
    """Two of everything that a test does not care about."""
    given = {
        "prompts": 2,
        "responses": 2,
        "with_replacement": False,
        "seed": 1,
        "temperature": 1.0,
        "max_tokens": 6,
        "ranks": ONE,
    }
    return draw(source, engine, WORDS, **{**given, **how})


class Scripted(RolloutEngineSession):
    """An engine that gives its completions in turn, and keeps what it was asked."""

    def __init__(self, *texts, end="stop"):
        self.texts, self.end, self.asked = texts, end, []

    def generate(self, prompts, sampling, seed):
        self.asked.append((prompts, sampling, seed))
        texts = [self.texts[index % len(self.texts)] for index in range(len(prompts))]
        encoded = [tuple(WORDS.encode(text, add_special_tokens=False)) for text in texts]
        return [Completion(tokens, (-0.5,) * len(tokens), self.end) for tokens in encoded]

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


# --- prompts --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Doors(Environment):
    """A world of ``tasks`` doors whose noise is its member: what is drawn can be seen."""

    tasks: int = 5
    instruction: str = "Choose."
    actions: tuple[str, ...] | None = None

    def make(self, seed, member=0):
        return Door(seed, member)


@attrs.define
class Door(Env):
    seed: int
    member: int

    def initial_observation(self):
        return f"door {self.seed}"

    def step(self, action):
        return Step("", 0.0, done=True, metrics={"noise": float(self.member % 2**40)})


def test_with_replacement_the_draws_are_independent_and_uniform():
    engine = Scripted("</think><answer>x</answer>")
    drawn = sample(
        EnvironmentSource(Doors(), ThinkAnswer(), Rollout()), engine, prompts=2000, responses=1, with_replacement=True
    )
    counts = Counter(drawn.tasks)
    assert set(counts) == set(range(5))
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 18.5  # 99.9 % of chi-square with 4
    pairs = Counter(zip(drawn.tasks, drawn.tasks[1:], strict=False))
    assert sum((count - 1999 / 25) ** 2 / (1999 / 25) for count in pairs.values()) < 51.2  # 99.9 % with 24
    assert len(pairs) == 25


def test_a_prompt_that_was_drawn_twice_is_two_units_with_noise_of_their_own():
    engine = Scripted("</think><answer>x</answer>")
    drawn = sample(EnvironmentSource(Doors(1), ThinkAnswer(), Rollout()), engine, prompts=6, with_replacement=True)
    assert drawn.tasks == (0,) * 6
    assert drawn.rollouts.groups_of_episodes().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert drawn.rollouts.group_ids_P.tolist() == list(range(6))
    assert len({episode.turns[0].prompt for episode in drawn.episodes}) == 1
    assert len({episode.metrics["noise"] for episode in drawn.episodes}) == 12


def test_the_same_prompt_gets_different_responses(engine):
    drawn = sample(
        EnvironmentSource(Doors(1), ThinkAnswer(), Rollout()), engine, prompts=8, responses=2, with_replacement=True
    )
    assert len({episode.turns[0].tokens for episode in drawn.episodes}) == 16


def test_without_replacement_no_prompt_is_drawn_twice():
    source = EnvironmentSource(Dataset("arithmetic", split="test"), ThinkAnswer(), Rollout())
    drawn = sample(source, Scripted("</think><answer>0</answer>"), prompts=100, responses=1)
    assert sorted(drawn.tasks) == list(range(100))
    assert drawn.tasks != tuple(range(100))
    with pytest.raises(RequestError, match="101 distinct prompts are to be drawn, but there are only 100"):
        sample(source, None, prompts=101)


def test_generated_tasks_have_no_end(engine):
    assert EnvironmentSource(Sokoban(), ThinkAnswer(), Rollout()).pool(WORDS) is None
    assert EnvironmentSource(Bandit(), ThinkAnswer(), Rollout()).pool(WORDS) is None
    assert EnvironmentSource(Dataset("arithmetic"), ThinkAnswer(), Rollout()).pool(WORDS) == PROMPTS.pool(WORDS) == 400
    drawn = sample(EnvironmentSource(Bandit(), ThinkAnswer(), Rollout(max_turns=1)), engine, prompts=40, responses=1)
    assert len(set(drawn.tasks)) == 40
    assert len({episode.turns[0].prompt for episode in drawn.episodes}) > 5


def test_every_group_shares_its_first_prompt_and_shows_its_task(engine):
    drawn = sample(SOURCES["data set"], engine, prompts=3)
    for unit, task in enumerate(drawn.tasks):
        first, second = (episode for episode in drawn.episodes if episode.seed == unit)
        assert first.turns[0].prompt == second.turns[0].prompt
        assert Dataset("arithmetic").row(task).question in WORDS.decode(first.turns[0].prompt)


# --- streams --------------------------------------------------------------------------------------------------------


def test_streams_are_named():
    seeds = [stream(7, "E"), stream(7, "U"), stream(8, "E"), stream(7, "E", 0), stream(7, "E", 1)]
    assert len(set(seeds)) == 5
    assert seeds[0] == stream(7, "E")
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_seed_decides(source, engine):
    first, same, other = (sample(source, engine, prompts=4, seed=seed) for seed in (5, 5, 6))
    assert first.episodes == same.episodes
    assert first.tasks == same.tasks
    assert first.tasks != other.tasks
    assert [e.turns[0].tokens for e in first.episodes] != [e.turns[0].tokens for e in other.episodes]


def test_no_chunk_shares_its_noise_with_another(engine):
    drawn = sample(
        EnvironmentSource(Doors(1), ThinkAnswer(), Rollout(max_turns=1)),
        engine,
        prompts=12,
        with_replacement=True,
        chunk=4,
    )
    assert len({episode.turns[0].tokens for episode in drawn.episodes}) == 24


# --- episodes and rows ----------------------------------------------------------------------------------------------


def test_an_environment_is_played_as_the_trainer_plays_it(engine):
    drawn = sample(
        EnvironmentSource(Bandit(), ThinkAnswer(), Rollout(max_turns=2, max_tokens=9)), engine, prompts=3, responses=1
    )
    rollout = Rollout(max_turns=2, max_tokens=6)
    template = Template(WORDS, ThinkAnswer())
    expected = collect(Bandit(), rollout, engine, template, seeds=drawn.tasks, group_size=1, seed=0)
    assert [e.turns[0].prompt for e in drawn.episodes] == [e.turns[0].prompt for e in expected]
    assert [e.system for e in drawn.episodes] == [e.system for e in expected]
    assert max(len(turn.tokens) for episode in drawn.episodes for turn in episode.turns) == 6


def test_rows_hold_the_sampled_tokens(engine):
    drawn = sample(LAKES, engine, prompts=3)
    rollouts = drawn.rollouts
    assert len(rollouts.tokens) == 6
    assert drawn.lengths.tolist() == rollouts.mask.sum(1).tolist()
    assert drawn.lengths.tolist() == [sum(len(turn.tokens) for turn in e.turns) for e in drawn.episodes]
    assert drawn.mean_length == pytest.approx(sum(drawn.lengths.tolist()) / 6)
    assert drawn.rewards.tolist() == pytest.approx([episode.reward for episode in drawn.episodes])
    assert drawn.mean_reward == pytest.approx(-0.2)  # two unreadable turns each
    assert drawn.seconds > 0
    for row, episode in enumerate(drawn.episodes):
        sampled = [token for turn in episode.turns for token in turn.tokens]
        assert rollouts.tokens[row][rollouts.mask[row]].tolist() == sampled


def test_the_first_end_token_counts_and_is_the_last(engine):
    likely = HfEngine().start(engine.model, WORDS)
    likely.end_ids = list(range(0, len(WORDS), 6))
    for source in (PROMPTS, attrs.evolve(LAKES, rollout=Rollout(max_turns=1))):
        drawn = sample(source, likely, prompts=20, responses=1, max_tokens=12)
        ends = [token % 6 == 0 for e in drawn.episodes for token in e.turns[0].tokens]
        reasons = [episode.turns[0].stop_reason for episode in drawn.episodes]
        assert set(reasons) == {"eos", "length"}
        assert sum(ends) == reasons.count("eos")
        assert int(drawn.lengths.sum()) == len(ends)
        for episode, length in zip(drawn.episodes, drawn.lengths.tolist(), strict=True):
            (turn,) = episode.turns
            assert (turn.tokens[-1] % 6 == 0) == (turn.stop_reason == "eos")
            assert length == (len(turn.tokens) if turn.stop_reason == "eos" else 12)
            assert len(turn.logprobs) == length


def test_rewards_are_normalised_as_in_training():
    source = EnvironmentSource(Dataset("arithmetic"), ThinkAnswer(), Rollout(), Reward(normalization="mean"))
    right = Dataset("arithmetic").row(sample(source, Scripted(""), prompts=1).tasks[0]).answer
    drawn = sample(source, Scripted(f"</think><answer>{right}</answer>", "</think><answer>-1</answer>"), prompts=1)
    assert drawn.rewards.tolist() == [1.0, 0.0]
    assert drawn.rollouts.rewards.sum(1).tolist() == [0.5, -0.5]


def test_turn_level_windows(engine):
    source = attrs.evolve(LAKES, rollout=Rollout(max_turns=2, context_window="single_turn"))
    drawn = sample(source, engine, prompts=3)
    assert len(drawn.episodes) == 6
    assert len(drawn.rollouts.tokens) == 12
    assert drawn.rollouts.groups_of_episodes().tolist() == [0, 0, 1, 1, 2, 2]


# --- raw prompts ----------------------------------------------------------------------------------------------------


def test_raw_prompts_have_no_chat_template():
    engine = Scripted("x")
    drawn = sample(PROMPTS, engine, prompts=2, responses=1, max_tokens=30, temperature=0.7)
    ((prompts, sampling, _),) = engine.asked
    question = Dataset("arithmetic").row(drawn.tasks[0]).question
    text = WORDS.decode(prompts[0])
    assert text == PROMPT.format(question=question) == drawn.episodes[0].turns[0].user
    assert text.endswith("<think>")
    assert "<|" not in text
    assert (sampling.temperature, sampling.max_tokens, sampling.stop) == (0.7, 30, ("</answer>",))


@pytest.mark.parametrize(
    ("response", "reward", "stop"),
    [
        ("6 + 1 is {right}</think><answer>{right}</answer>", 1.0, "success"),
        ("so <answer> {right}.0 apples </answer>", 1.0, "success"),
        ("</think><answer>-1</answer>", 0.0, "done"),
        ("</think><answer>{right}", 0.0, "max_turns"),
        ("<answer>{right}</answer><answer>{right}</answer>", 0.0, "max_turns"),
        ("{right}", 0.0, "max_turns"),
    ],
)
def test_the_reward_of_a_response(response, reward, stop):
    task = sample(PROMPTS, Scripted("x"), prompts=1, responses=1).tasks[0]
    text = response.format(right=Dataset("arithmetic").row(task).answer)
    drawn = sample(PROMPTS, Scripted(text), prompts=1, responses=1)
    (episode,) = drawn.episodes
    (turn,) = episode.turns
    assert (episode.reward, episode.stop, episode.success) == (reward, stop, reward == 1.0)
    assert turn.response == "<think>" + text
    assert turn.stop_reason == "stop"
    assert drawn.mean_reward == reward
    assert drawn.rollouts.rewards[0, -1] == reward
    assert WORDS.decode(turn.tokens) == text


def test_long_prompts_are_left_out():
    lengths = [
        len(WORDS(PROMPT.format(question=Dataset("arithmetic").row(i).question))["input_ids"]) for i in range(400)
    ]
    limit = sorted(lengths)[150]
    source = attrs.evolve(PROMPTS, max_prompt_tokens=limit)
    fitting = [index for index, length in enumerate(lengths) if length <= limit]
    assert list(source.tasks(WORDS)) == fitting
    assert source.pool(WORDS) == len(fitting)
    assert source.left_out(WORDS) == 400 - len(fitting) > 0
    drawn = sample(source, Scripted("x"), prompts=len(fitting), responses=1)
    assert sorted(drawn.tasks) == fitting
    assert max(len(episode.turns[0].prompt) for episode in drawn.episodes) == limit
    with pytest.raises(RequestError, match="only "):
        sample(source, None, prompts=len(fitting) + 1)
    with pytest.raises(RequestError, match="all 400 prompts are longer than 20 tokens") as caught:
        sample(attrs.evolve(PROMPTS, max_prompt_tokens=20), None)
    assert f"the shortest prompt has {min(lengths)} tokens" in caught.value.fix


def test_names_of_data_sets():
    known = PromptSource.named("gsm8k_r1_template", split="test")
    assert known.dataset == Dataset("openai/gsm8k", subset="main", split="test")
    assert known.max_prompt_tokens == 200
    other = PromptSource.named("sums.jsonl", question="q", verifier="exact")
    assert other.dataset == Dataset("sums.jsonl", question="q", verifier="exact")


# --- ranks ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Fake(Ranks):
    """One rank of several, one after the other: the last one finds what the others gave away."""

    given: list = attrs.field(factory=list)

    def gather(self, value):
        self.given.append(value)
        return list(self.given)


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_any_number_of_ranks_draws_the_same_sample(source, engine, size):
    alone = sample(source, engine, prompts=9, chunk=4)
    given = []
    for rank in range(size):
        together = sample(source, engine, prompts=9, chunk=4, ranks=Fake(rank, size, torch.device("cpu"), given=given))
    assert sum(map(len, given)) == 18
    assert sum(map(bool, given)) == min(size, math.ceil(9 / 2))
    assert together.episodes == alone.episodes
    assert together.tasks == alone.tasks
    assert torch.equal(together.rollouts.tokens, alone.rollouts.tokens)


@pytest.mark.slow
def test_two_processes_draw_the_same_samples(tmp_path):
    WORDS.save_pretrained(tmp_path / "model")
    tiny_model(len(WORDS)).save_pretrained(tmp_path / "model")
    found = [result for size in (1, 2) for result in run(tmp_path, size)]
    assert [result.pop("ranks") for result in found] == [1, 2, 2]
    assert found[0] == found[1] == found[2]
    assert found[0]["episodes"][2] == found[0]["episodes"][3]


def run(directory, size):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(Path(__file__).with_name("probe_draw_script.py")), str(directory)]
    processes = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-3000:]
    return [json.loads((directory / f"{rank}_of_{size}.out").read_text()) for rank in range(size)]


@pytest.mark.parametrize("environment", [Bandit(), ToolCalculator()], ids=["actions", "tools"])
def test_drawn_tasks_offer_all_that_the_environment_offers(environment):
    drawn = _Drawn(environment, {0: 5}, 0)
    for name in ("instruction", "actions", "tools", "concurrency"):
        assert getattr(drawn, name) == getattr(environment, name)
