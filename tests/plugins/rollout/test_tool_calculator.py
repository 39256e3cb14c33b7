"""The calculator's task, alone and played by a scripted model."""

from __future__ import annotations

import re

import pytest
from rollout_worlds import tokenizer
from uncollapse.core.components import Completion, RolloutEngineSession
from uncollapse.core.compose.config import problems
from uncollapse.core.compose.experiment import Reward, Rollout
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.environments.tools.tool_calculator import ToolCalculator
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.rows import build, episode_metrics
from uncollapse.plugins.rollout.sampler_state import from_plain, group_of, to_plain
from uncollapse.plugins.rollout.template import Template


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("12 * 7", "84"),
        ("1/3", "1/3"),
        ("1 + 2 + 3", "Error: it calculates with two numbers, not 3"),
        ("7", "Error: it calculates with two numbers, not 1"),
        ("1 / 0", "Error: nothing can be divided by zero"),
        ("__import__('os')", "Error: \"__import__('os')\" is not arithmetic"),
        ("9**9**9**9", "Error: a number or a parenthesis is missing before '*'"),
    ],
)
def test_the_calculator_takes_two_numbers_and_runs_nothing(expression, said):
    step = ToolCalculator().make(0).call("calculator", {"expression": expression})
    assert (step.observation, step.reward, step.done) == (said, 0.0, False)


def test_the_answer_is_the_value_and_ends_the_episode():
    env = ToolCalculator(largest=9).make(3)
    a, b, c = map(int, re.findall(r"\d+", env.initial_observation()))
    assert env.step(f" {(a + b) * c}. ").success
    assert not ToolCalculator(largest=9).make(3).step("one").success
    assert ToolCalculator().make(3).initial_observation() != ToolCalculator().make(4).initial_observation()


class Solver(RolloutEngineSession):
    """Reads the question, then the result, and calculates; member 1 makes mistakes first."""

    def __init__(self, template: Template) -> None:
        self.template, self.calls = template, 0

    def generate(self, prompts, sampling, seed):
        return [self.answer(prompt, number) for number, prompt in enumerate(prompts)]

    def answer(self, prompt, number):
        text = self.template.tokenizer.decode(list(prompt))
        a, b, c = map(int, re.search(r"What is \((\d+) \+ (\d+)\) \* (\d+)\?", text).groups())
        results = re.findall(r"Result of calculator: (\d+)", text)
        expressions = [f"{a} + {b}", f"{results[0]} * {c}"] if results else [f"{a} + {b}"]
        if len(results) == 2:
            said = results[1]
        elif number and "Error" not in text:
            said = '<tool_call>{"name": "calculator", "arguments": {"sum": 1}}</tool_call>'
        else:
            call = f'{{"name": "calculator", "arguments": {{"expression": "{expressions[-1]}"}}}}'
            said = f"<tool_call>{call}</tool_call>"
        tokens = (*self.template.tokenizer.encode(said), self.template.end_of_turn)
        return Completion(tokens, (-0.5,) * len(tokens), "eos")

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


def test_two_calls_in_turn_solve_it_and_mistakes_are_counted():
    template = Template(tokenizer(), ToolCalls(), False)
    rollout = Rollout(think=False, max_tokens=99)
    engine = Solver(template)
    episodes = collect(ToolCalculator(), rollout, engine, template, seeds=[5], group_size=2, seed=0)
    assert [(len(each.turns), each.success) for each in episodes] == [(3, True), (4, True)]
    metrics = episode_metrics(episodes)
    assert metrics["success"] == 1.0
    assert metrics["reward"] == pytest.approx((1.0 + 0.9) / 2)
    assert metrics["share_of_calls_wrong"] == pytest.approx(1 / 5)
    assert (metrics["share_of_calls_broken"], metrics["share_of_calls_unknown"]) == (0.0, 0.0)
    assert metrics["share_of_turns_invalid"] == pytest.approx(1 / 7)
    rollouts = build(episodes, rollout, Reward())
    sampled = sum(len(turn.tokens) for each in episodes for turn in each.turns)
    assert int(rollouts.mask.sum()) == sampled  # no token of a result trains
    group = group_of(episodes, 0)
    assert from_plain(to_plain(group)) == group


def test_an_experiment_with_tools_needs_a_dialogue_that_calls_them():
    found = problems("tiny-sokoban", ["environment=tool_calculator", "validation.environment=null"])
    assert any(each.key == "dialogue" and "calls no tools, which the environment tool" in each.reason for each in found)
    found = problems(
        "tiny-sokoban", ["environment=tool_calculator", "dialogue=tool_calls", "validation.environment=null"]
    )
    assert "dialogue" not in {each.key for each in found}
