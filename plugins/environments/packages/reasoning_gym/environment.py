"""The environment ``reasoning_gym`` asks the questions of the package of that name, which also scores the answers."""

from __future__ import annotations

import atexit
import importlib.metadata
import importlib.util
import json
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_args

import attrs
from attrs.validators import and_, ge, gt, in_, instance_of, le, optional

from .....core.asked_process import AskedProcess
from .....core.components import Env, Environment, Step
from .....core.errors import EpisodeLostError, MissingExtraError, RequestError, RunError, nearest
from ...common import Split, draw_task, feedback, refuse_after_end, seeded
from ...metrics import ACCEPTED

_PACKAGE = AskedProcess(f"{__package__}.worker", "environment: reasoning_gym")
atexit.register(_PACKAGE.end)
NUMBER = re.compile(r"\d+")
FEW = 4
"""Numbers of a question that may be in any order."""
_TRIED = 8
"""Number of items on which settings are tried."""
_FIXES = {
    "composite": "give its parts, settings={datasets: [{name: gcd, weight: 2, config: {}}]}, or write a mixture, "
    "task={gcd: 2, lcm: 1}"
}
"""How to mend the settings of a task, where the package does not say."""


@attrs.frozen
class Item:
    """An item is a question of a data set that the package generates."""

    task: str
    """Name of the generator."""
    settings: str
    """Settings of the generator, as JSON."""
    size: int
    """Number of items in its data set."""
    index: int
    """Number of the item in the data set."""

    def ask(self, **more: object) -> dict[str, Any] | None:
        """Ask the package about the item: question and own answer, or the score of an ``answer``.

        ``None`` says that it found no end.
        """
        reply: dict[str, Any] | None = _PACKAGE.ask({**attrs.asdict(self), **more})
        return reply


@attrs.frozen
class Asked:
    """What the package says about an item."""

    question: str
    """Its question."""
    answer: str | None
    """An answer that the package knows to be right; ``None`` where it knows none."""


@lru_cache(maxsize=8192)
def asked(item: Item) -> Asked:
    """Return the question of an item, and the package's own answer.

    Raises:
        EpisodeLostError: the generator needs more processor time or memory than the separate process may use.
        RunError: the generator fails at this item.
    """
    reply, where = item.ask(), f"environment: reasoning_gym, task {item.task}, item {item.index}"
    if reply is None:
        raise EpisodeLostError("the generator needs too much time or memory for an item", where)
    if "question" not in reply:
        raise RunError(f"the generator fails: {reply['refused']}", where, "give it other settings")
    return Asked(reply["question"], reply["own"])


@attrs.frozen
class ReasoningGym(Environment):
    """Answer questions that the package ``reasoning_gym`` generates: arithmetic, logic, puzzles, graphs, words.

    The answer is free text, and one answer ends the episode. The package scores it: the reward is its score, between 0
    and 1, with its partial credit. A score of at least ``threshold`` is success. An answer on which the package's
    scoring fails, or finds no end within 5 seconds of processor time, earns 0; the metric
    ``share_of_played_actions_accepted`` is the share of the others.

    A seed draws a task by its weight, and an item of the task's data set, which is generated with the package's seed 0.
    All members of a group get the same question. The package runs in a separate process, since it evaluates some
    answers as Python; this process may not write files, start others or connect while it scores.

    Source: Reasoning Gym (Stojanovski et al. 2025, arXiv:2505.24760).
    """

    task: str | Mapping[str, float] = attrs.field(validator=instance_of((str, Mapping)))
    """Name of a generator, such as ``chain_sum``; or several with weights, ``{chain_sum: 2, leg_counting: 1}``."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """Settings of the generator, by the package's names; of several generators, a mapping of settings for each name."""
    size: int = attrs.field(default=10_000, validator=and_(ge(1), le(2**31)))
    """Number of items in the data set of each generator. Some generators make all of them at the beginning."""
    threshold: float = attrs.field(default=1.0, validator=and_(gt(0), le(1)))
    """Smallest score that is success."""
    longest: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Largest length of a question in characters; longer ones are left out. ``None`` keeps all."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of questions: ``validation`` is one in five by content, ``train`` the others, ``all`` both.

    Questions that differ in the order of a few numbers alone are in the same set.
    """

    instruction = "Answer the question. Give the final answer alone, in the form that the question asks for."
    actions = None
    least_reward = 0.0
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        require_package()
        for name, weight in self.weights.items():
            if not isinstance(name, str) or name not in names():
                raise ValueError(f"reasoning_gym has no task {name!r}; {nearest(str(name), names())}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
                raise ValueError(f"the weight of {name} must be a number above 0, not {weight!r}")
        if not self.weights:
            raise ValueError("task names no generator")
        if not isinstance(self.task, str) and (others := sorted(set(self.settings) - set(self.weights))):
            raise ValueError(
                f"settings has {others[0]!r}, which is none of the tasks; {nearest(others[0], self.weights)}"
            )
        for name in self.weights:
            refuse_settings(Item(name, self.settings_of(name), self.size, 0))

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each task."""
        return {self.task: 1.0} if isinstance(self.task, str) else self.task

    @property
    def digest(self) -> str:
        """Version of the package, whose releases generate different questions."""
        return f"reasoning_gym {importlib.metadata.version('reasoning_gym')}"

    @property
    def demonstrated(self) -> ReasoningGym | None:  # type: ignore[override]
        """The environment itself, with the package's own answers; ``None`` if it has none to a task of it."""
        first = (Item(name, self.settings_of(name), self.size, 0) for name in self.weights)
        return self if all(asked(item).answer for item in first) else None

    def settings_of(self, task: str) -> str:
        """Return the settings of a task as JSON. Raises ValueError if they are no mapping of plain data."""
        settings = self.settings if isinstance(self.task, str) else self.settings.get(task, {})
        if not isinstance(settings, Mapping):
            raise ValueError(f"the settings of {task} must be a mapping, not {settings!r}")
        try:
            return json.dumps(dict(settings), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the settings of {task} must be plain data: {error}") from error

    def make(self, seed: int, member: int = 0) -> ReasoningGymEnv:
        """Make an episode with the question of ``seed``, the same for every member."""
        rng = seeded("reasoning_gym", seed)
        task = rng.choices(list(self.weights), list(self.weights.values()))[0]
        settings = self.settings_of(task)

        def draw() -> Item | None:
            item = Item(task, settings, self.size, rng.randrange(self.size))
            return item if self.longest is None or len(asked(item).question) <= self.longest else None

        what = f"environment: reasoning_gym, task {task}, longest {self.longest}"
        fix = "give it a larger size, a larger longest, or settings with more questions"
        item = draw_task(draw, lambda drawn: f"{task}\n{unordered(asked(drawn).question)}", self.split, what, fix)
        return ReasoningGymEnv(item, asked(item).question, self.threshold)


def unordered(question: str) -> str:
    """Return a question with its numbers in order, if they are few: 4 + 2 is 2 + 4, but a board is its order."""
    numbers = sorted(NUMBER.findall(question))
    return NUMBER.sub(lambda _: numbers.pop(0), question) if len(numbers) <= FEW else question


@attrs.define
class ReasoningGymEnv(Env):
    """An episode of :class:`ReasoningGym`."""

    item: Item
    """Item whose question is asked."""
    question: str
    """The question."""
    threshold: float
    """Smallest score that is success."""
    done: bool = False
    """Whether the question has been answered."""

    @property
    def key(self) -> str:
        """Task and question: equal for equal ones only."""
        return f"{self.item.task}\n{self.question}"

    @property
    def place(self) -> str:  # type: ignore[override]
        """Task and number of the item, for messages."""
        return f"{self.item.task}, item {self.item.index}"

    def initial_observation(self) -> str:
        return self.question

    def step(self, action: str) -> Step:
        """Score an answer by the package. Raises RunError after the end."""
        refuse_after_end(self.done)
        self.done = True
        reply = self.item.ask(answer=action)
        score = None if reply is None else reply["score"]
        reward = float(score or 0.0)
        metrics = {ACCEPTED: float(score is not None)}
        return Step(feedback(score), reward, done=True, success=reward >= self.threshold, metrics=metrics)

    def demonstrate(self, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Return no thought, and the package's own answer; a mistake is its answer to another question of the task.

        Raises:
            RunError: the package has no answer to the question.
        """
        item = self.item
        if item.size > 1 and rng.random() < noise:
            item = attrs.evolve(item, index=(item.index + rng.randrange(1, item.size)) % item.size)
        answer = asked(item).answer
        if not answer:
            where = f"environment: reasoning_gym, task {item.task}, item {item.index}"
            raise RunError("the package knows no answer", where, "leave out model.warm_start, or choose another task")
        return "", (answer,)


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Return the names of the package's generators."""
    return tuple((_PACKAGE.ask({}) or {"names": ()})["names"])


@lru_cache(maxsize=256)
def refuse_settings(item: Item) -> None:
    """Raise RequestError if the package does not take the settings of an item's task, or cannot make the items.

    Settings that are given are tried on some items, since many generators check nothing before.
    """
    for number in range(1 if item.settings == "{}" else min(_TRIED, item.size)):
        _refuse_item(attrs.evolve(item, index=number))


def _refuse_item(item: Item) -> None:
    reply, where = item.ask(), f"environment: reasoning_gym, task {item.task}"
    if reply is None:
        fix = "give it other settings, or a lower size"
        raise RequestError("the data set needs too much time or memory", f"{where}, size {item.size}", fix)
    if "unknown" in reply:
        what, fix = f"{item.task} has no setting {reply['unknown']!r}", nearest(reply["unknown"], reply["known"])
        if reply["unknown"] in ("seed", "size"):
            fix = "size is a parameter of the environment, and the seeds of a run choose the items"
        raise RequestError(what, where, fix)
    if "refused" in reply:
        raise RequestError(f"reasoning_gym refuses the settings: {reply['refused']}", where, _FIXES.get(item.task, ""))


def require_package() -> None:
    """Raise MissingExtraError if the package is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise MissingExtraError(
            "reasoning_gym is not installed", "environment: reasoning_gym", "pip install 'uncollapse[reasoning-gym]'"
        )
