"""A source says where the prompts of a sample come from, and plays their episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

import attrs

from ....core.components import Dialogue, Env, Environment, RolloutEngineSession, Sampling, Tool
from ....core.compose.experiment import Reward, Rollout
from ....core.compose.named import Named
from ....core.compose.reward_names import weights_of
from ...rollout.borders import CheckedEnvironment
from ...rollout.collect import collect
from ...rollout.dialogue import CheckedDialogue
from ...rollout.episode import Episode
from ...rollout.template import Template
from ...training.step.rewards import Shaping
from ...training.step.stages import derived_seed

_ENDLESS = range(2**62)
"""Seeds of an environment that generates its tasks."""
_UNUSED = ("engine", "groups", "group_size", "tasks", "batch", "seed", "temperature", "max_tokens")
"""Keys of ``rollout`` that do not describe a source: a draw has its own, or they decide nothing."""


class Source(Protocol):
    """A source offers tasks and plays drawn ones; ``rollout`` and ``reward`` say how its episodes become rows."""

    @property
    def rollout(self) -> Rollout: ...

    @property
    def reward(self) -> Reward: ...

    @property
    def shaping(self) -> Shaping | None:
        """Shaping of the rewards before they are normalised; ``None`` where nothing shapes them."""
        ...

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the rewards, where there are several."""
        ...

    @property
    def reward_weights(self) -> Mapping[str, float]:
        """Weights of these rewards that are not 1."""
        ...

    def check(self) -> None:
        """Raise RequestError if there is nothing to draw from, before any model is loaded."""

    def tasks(self, tokenizer: Any) -> Sequence[int]:
        """Return what is drawn from: rows of a data set, or environment seeds."""
        ...

    def pool(self, tokenizer: Any) -> int | None:
        """Return the number of distinct prompts; ``None`` where they are generated without end."""
        ...

    def play(
        self,
        units: Mapping[int, int],
        responses: int,
        engine: RolloutEngineSession,
        tokenizer: Any,
        sampling: Sampling,
        seed: int,
    ) -> list[Episode]:
        """Play ``responses`` episodes of each unit's task; the unit is the group (``Episode.seed``) of its episodes."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return plain data that decides what is sampled from this source, for the key of a cached sample."""
        ...


@attrs.frozen
class EnvironmentSource:
    """An environment source plays episodes of a registered environment, of any number of turns, as the trainer does."""

    environment: Environment
    """Environment that is played. Where its ``tasks`` is a number, its tasks are those of the seeds below it; otherwise
    every seed is a task."""
    dialogue: Dialogue
    rollout: Rollout
    """Settings of the rollout, but for ``temperature`` and ``max_tokens``, which are those of a draw."""
    reward: Reward = attrs.field(factory=Reward)
    shaping: Shaping | None = None
    """Shaping of ``reward``, in the training step that is predicted; episodes are kept as they were rewarded."""

    @property
    def reward_names(self) -> tuple[str, ...]:
        return self.environment.reward_names

    @property
    def reward_weights(self) -> dict[str, float]:
        return weights_of(self.environment, self.reward.weights)

    def check(self) -> None:
        self.pool(None)

    def tasks(self, tokenizer: Any) -> Sequence[int]:
        pool = self.pool(tokenizer)
        return _ENDLESS if pool is None else range(pool)

    def pool(self, tokenizer: Any) -> int | None:
        """Return the number of distinct tasks, if the environment has one."""
        return self.environment.tasks

    def play(
        self,
        units: Mapping[int, int],
        responses: int,
        engine: RolloutEngineSession,
        tokenizer: Any,
        sampling: Sampling,
        seed: int,
    ) -> list[Episode]:
        return collect(
            _Drawn(self._weighed(), units, seed),
            attrs.evolve(self.rollout, max_tokens=sampling.max_tokens),
            engine,
            _template(tokenizer, self.dialogue, self.rollout.think),
            seeds=list(units),
            group_size=responses,
            seed=seed,
            temperature=sampling.temperature,
        )

    def _weighed(self) -> Environment:
        """Return the environment, with one reward where it names several."""
        if not self.reward_names:
            return self.environment
        named = Named("environment", type(self.environment).__name__, {}, self.environment)
        return CheckedEnvironment(named, weights=self.reward.weights)

    def describe(self) -> dict[str, Any]:
        dialogue = self.dialogue.component if isinstance(self.dialogue, CheckedDialogue) else self.dialogue
        rollout = attrs.asdict(self.rollout, recurse=False, filter=lambda field, _: field.name not in _UNUSED)
        return {
            "environment": _place_of(self.environment),
            "parameters": attrs.asdict(cast(Any, self.environment)),
            "content": self.environment.digest,
            "dialogue": _place_of(dialogue),
            "wording": attrs.asdict(cast(Any, dialogue)),
            "rollout": rollout,
            "reward": attrs.asdict(self.reward, filter=lambda field, _: field.name != "shaping"),
        }


def _place_of(component: Any) -> str:
    cls = type(component)
    return f"{cls.__module__.rpartition('uncollapse.')[2]}.{cls.__qualname__}"


@lru_cache(maxsize=8)
def _template(tokenizer: Any, dialogue: Dialogue, think: bool) -> Template:
    """Return one template for all draws of a process, so that its date does not change between them."""
    return Template(tokenizer, dialogue, think)


@attrs.frozen
class _Drawn(Environment):
    """A drawn environment has the drawn tasks in the place of seeds.

    A task that was drawn twice is two groups, whose noise is independent too.
    """

    environment: Environment
    units: Mapping[int, int]
    seed: int

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return self.environment.instruction

    @property
    def actions(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self.environment.actions

    @property
    def tools(self) -> tuple[Callable[..., Any] | Tool, ...]:  # type: ignore[override]
        return self.environment.tools

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        return self.environment.concurrency

    def make(self, seed: int, member: int = 0) -> Env:
        return self.environment.make(self.units[seed], derived_seed(self.seed, "member", seed, member))
