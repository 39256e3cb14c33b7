"""Episodes per second with environments that wait, stepped side by side and in turn, through the rollout as it is.

    python benchmarks/environments.py [--rounds 3]

The engine answers at once, so that what is measured are the environments and the work around them. ``wait`` is
``time.sleep`` in a thread, or ``asyncio.sleep`` in an ``async def step``. The second table holds the longest of some
episodes against what one of them sleeps. Its ratio may be 1.3 at most. The last lines are the cost of threads for an
environment that only computes: microseconds of processor time for a turn.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

import attrs
from uncollapse.core.components import Completion, Env, Environment, RolloutEngineSession, Sampling, Step
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.compose.named import Named
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.experiments.tokenizer import build_tokenizer
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.template import Template

TURNS = 3
ANSWER = "<think>on</think><answer>Go</answer>"
ALLOWED = 1.3
"""The largest ratio of sixteen episodes to the sleeps of one."""
DIALOGUE = ThinkAnswer()
TEMPLATE = Template(build_tokenizer([ANSWER, "Wait . Turn 1 : State : there"], DIALOGUE.tags), DIALOGUE)


@attrs.frozen
class Waits(Environment):
    """An environment whose steps wait for ``seconds``."""

    seconds: float = 0.05
    concurrency: int = 128
    instruction = "Wait ."
    actions = ("Go",)

    def make(self, seed: int, member: int = 0) -> Env:
        return Waiting(self.seconds)


class Waiting(Env):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def initial_observation(self) -> str:
        return "there"

    def step(self, action: str) -> Step:
        if self.seconds:
            time.sleep(self.seconds)
        return Step("there", 0.0)


class WaitsAsync(Waits):
    def make(self, seed: int, member: int = 0) -> Env:
        return WaitingAsync(self.seconds)


class WaitingAsync(Waiting):
    async def step(self, action: str) -> Step:  # type: ignore[override]
        await asyncio.sleep(self.seconds)
        return Step("there", 0.0)


class Answers(RolloutEngineSession):
    """An engine that gives the same answer at once, for whole batches or single requests."""

    def __init__(self, single: bool) -> None:
        self.single_requests = single
        text = ANSWER.removeprefix(TEMPLATE.tag)
        tokens = (*TEMPLATE.tokenizer.encode(text, add_special_tokens=False), TEMPLATE.tokenizer.eos_token_id)
        self.answer = Completion(tokens, (-0.5,) * len(tokens), "eos")
        self.asked: list[Any] = []

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        return [self.answer] * len(prompts)

    def submit(self, key: Any, prompt: Sequence[int], sampling: Sampling, seed: int) -> None:
        self.asked.append(key)

    def finished(self) -> list[tuple[Any, Completion]]:
        asked, self.asked = self.asked, []
        return [(key, self.answer) for key in asked]

    def sync(self, weights: Any) -> None:
        pass

    def close(self) -> None:
        pass


def play(world: Environment, episodes: int, single: bool) -> float:
    """Return the seconds in which ``episodes`` are played, in groups of 8."""
    checked = CheckedEnvironment(Named("environment", type(world).__name__, {}, world))
    rollout = Rollout(max_turns=TURNS, max_tokens=16, max_context=2000)
    started = time.perf_counter()
    played = collect(checked, rollout, Answers(single), TEMPLATE, seeds=range(episodes // 8), group_size=8, seed=0)
    assert [len(episode.turns) for episode in played] == [TURNS] * episodes
    assert all(turn.executed == 1 for episode in played for turn in episode.turns)
    return time.perf_counter() - started


def throughput(rounds: int) -> None:
    print(f"64 environments of 50 ms steps, {TURNS} turns       episodes/s    ratio")
    in_turn = 64 / play(Waits(concurrency=1), 64, False)
    print(f"{'in turn':46} {in_turn:9.1f} {1:8.1f}")
    for name, world in (("threads", Waits()), ("async def step", WaitsAsync())):
        for single in (False, True):
            rate = 64 / statistics.median(play(world, 64, single) for _ in range(rounds))
            engine = "single requests" if single else "turn by turn"
            print(f"side by side, {f'{name}, {engine}':32} {rate:9.1f} {rate / in_turn:8.1f}")


def chain(rounds: int) -> None:
    print(f"\n16 episodes, sleep(0.1), {TURNS} turns            seconds    ratio to {TURNS * 0.1:.1f} s   allowed")
    for name, world in (("threads", Waits(0.1)), ("async def step", WaitsAsync(0.1))):
        for single in (False, True):
            seconds = statistics.median(play(world, 16, single) for _ in range(rounds))
            engine = "single requests" if single else "turn by turn"
            print(f"{f'{name}, {engine}':40} {seconds:8.3f} {seconds / (TURNS * 0.1):14.2f} {ALLOWED:11.1f}")


def cost(rounds: int) -> None:
    print("\nan environment that does nothing, 128 episodes      us/turn")
    for name, concurrency in (("in turn (concurrency 1)", 1), ("in threads (concurrency 128)", 128)):
        spent = []
        for _ in range(rounds):
            started = time.process_time()
            play(Waits(0.0, concurrency), 128, False)
            spent.append(time.process_time() - started)
        print(f"{name:46} {1e6 * min(spent) / (128 * TURNS):12.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    play(Waits(0.0, 1), 8, False)  # what the first call alone pays for
    throughput(rounds)
    chain(rounds)
    cost(rounds)


if __name__ == "__main__":
    main()
