"""The first prompts of a finite set of tasks are checked to leave room for a turn, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from ...core.components import Environment
from ...core.compose.experiment import Rollout
from ...core.compose.fields import TOKENS
from ...core.errors import RequestError
from .conversation import Conversation
from .template import Template
from .time_limit import TimeLimit

_NAMED = 5
"""The number of tasks that the message names."""
_SLACK = 16
"""The number of tokens by which a text may be longer between two others than alone."""
_TURN = 32
"""The number of tokens that a template may write around an earlier turn of a chat."""


@attrs.frozen
class Prompt:
    """The first prompt of a task."""

    place: str
    """The name of the task, for messages."""
    tokens: int
    """The number of tokens of the whole prompt."""
    characters: int
    """The number of characters that the environment shows."""


def tasks_of(environment: Environment, seeds: range) -> Sequence[int] | None:
    """Return the distinct tasks that ``seeds`` name; ``None`` where every seed makes a new task."""
    count = environment.tasks
    if count is None:
        return None
    return range(count) if len(seeds) >= count else [seed % count for seed in seeds]


def too_long(environment: Environment, rollout: Rollout, template: Template, tasks: Iterable[int]) -> Iterable[Prompt]:
    """Yield the prompts after which there is no room for ``rollout.max_tokens`` within ``rollout.max_context``.

    Only prompts that could be too long are tokenised: a token of plain English is at least one character.
    """
    room = rollout.max_context - rollout.max_tokens
    unbounded = attrs.evolve(rollout, max_context=TOKENS)
    around: int | None = None  # at least the number of tokens around the environment's text
    for task in tasks:
        limit = TimeLimit(type(environment).__name__, rollout.step_timeout, task, 0)
        env = limit("a new episode", environment.make, task, 0)
        observation = limit("the first observation", env.initial_observation)
        text = "".join([env.system_text, *(part for turn in env.earlier_turns for part in turn), observation])
        markup = _SLACK + _TURN * 2 * len(env.earlier_turns)
        if around is not None and text.isascii() and around + len(text) + markup <= room:
            continue
        tokens = len(Conversation(environment, unbounded, template, task).prompt)
        around = tokens if around is None else min(around, tokens)
        if tokens > room:
            yield Prompt(env.place or f"task {task}", tokens, len(text))


def require_room(
    environment: Environment, rollout: Rollout, template: Template, seeds: range, where: str = "environment"
) -> None:
    """Check the first prompt of every task that ``seeds`` name, if the number of tasks is finite.

    Args:
        environment: what makes the tasks.
        rollout: the ``rollout`` section, with the limits.
        template: what writes prompts.
        seeds: the environment seeds.
        where: the key of the environment, for the message.

    Raises:
        RequestError: some prompts leave no room for a turn; the message names them, their lengths and what to do.
    """
    tasks = tasks_of(environment, seeds)
    if tasks is None:
        return
    prompts = list(too_long(environment, rollout, template, tasks))
    if not prompts:
        return
    named = ", ".join(f"{p.place} ({p.tokens} tokens, {p.characters} characters)" for p in prompts[:_NAMED])
    more = f" and {len(prompts) - _NAMED} more" if len(prompts) > _NAMED else ""
    fix = f"set rollout.max_context to {max(p.tokens for p in prompts) + rollout.max_tokens} or more"
    if "longest" in _fields(environment):
        fix += f", or leave long ones out: {where}.longest={min(p.characters for p in prompts) - 1} (characters)"
    raise RequestError(
        f"{len(prompts)} of {len(tasks)} first prompts leave no room for a turn of {rollout.max_tokens} tokens: "
        f"{named}{more}",
        f"{where}, rollout.max_context: {rollout.max_context}",
        fix,
    )


def _fields(environment: Any) -> set[str]:
    cls = type(environment)
    return {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set()
