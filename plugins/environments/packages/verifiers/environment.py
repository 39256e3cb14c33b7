"""The environment ``verifiers`` plays environments of the package of that name, whose rewards it gives."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

import attrs
from attrs.validators import and_, ge, in_, instance_of, min_len, optional

from .....core.components import Environment, Tool
from .....core.errors import MissingExtraError
from ...common import Split
from .tasks import Loaded, Source, load, stamp

if TYPE_CHECKING:
    from .play import VerifiersEnv


@attrs.frozen
class Verifiers(Environment):
    """Play an environment of the package verifiers (0.4 and later): a taskset, its tools and its rewards.

    A task brings its prompt, its system message and its rewards. A response without a call ends the episode, unless
    the environment answers as the user. Then the package's own functions give the rewards, each by its name; their
    weights are those of the package, unless ``reward.weights`` has others. Where the environment has a class ``Env`` of
    its own, the reward is their sum, unless ``rewards`` names them.

    Seed s names task s modulo the number of tasks. Members of a group play the same task. What the environment draws
    from ``random`` and ``numpy.random`` depends on seed and member.

    Source: https://github.com/PrimeIntellect-ai/verifiers.
    """

    env: str = attrs.field(validator=and_(instance_of(str), min_len(1)))
    """Name of an installed environment, as for ``vf-eval``; or a .py file or a folder with ``__init__.py`` (a path with
    a slash) that exports a Taskset."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """Settings of the taskset, by its own names; ``task`` holds those of its tasks."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of tasks: ``validation`` is one in five by content, ``train`` the others, ``all`` both."""
    size: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Number of tasks that are used, from the first. ``None`` is all, which must then have an end."""
    max_turns: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Largest number of responses. The package then ends the episode and gives its rewards; an episode that a limit of
    ``rollout`` ends has none."""
    rewards: tuple[str, ...] | None = None
    """Names of the rewards, where they are not those of the functions; empty for their sum alone. A reward that is no
    function comes with its weight in it."""
    threshold: float = 1.0
    """Smallest sum of rewards, by the package's weights, that is success."""
    instruction: str = "Answer the user."
    """Text after the task's own system message."""
    concurrency: int = attrs.field(default=1, validator=ge(1))
    """Number of episodes that are played at the same time, in threads. With 1 each has random numbers of its own; give
    more to an environment that waits for servers, and has nothing to do with threads."""

    actions = None

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("verifiers") is None:
            fix = "pip install 'uncollapse[verifiers]'"
            raise MissingExtraError("verifiers is not installed", "environment: verifiers", fix)
        if importlib.util.find_spec("verifiers.v1") is None:
            raise MissingExtraError(
                "the installed verifiers is older than 0.4", "environment: verifiers", "pip install 'verifiers>=0.4'"
            )
        tools_of(self._source)

    @property
    def _source(self) -> Source:
        if not isinstance(self.settings, Mapping):
            raise ValueError(f"settings must be a mapping, not {self.settings!r}")
        try:
            settings = json.dumps(dict(self.settings), sort_keys=True)
        except TypeError as error:
            raise ValueError(f"settings must be plain data: {error}") from error
        return Source(self.env, settings, self.size, self.max_turns, self.split, stamp(self.env))

    @property
    def _loaded(self) -> Loaded:
        return load(self._source)

    @property
    def tasks(self) -> int:  # type: ignore[override]
        """Number of tasks."""
        return len(self._loaded.tasks)

    @property
    def digest(self) -> str:
        """Hash of the tasks, with the version of the package."""
        return f"verifiers {importlib.metadata.version('verifiers')} {self._loaded.digest}"

    @property
    def reward_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the rewards."""
        if self.rewards is not None:
            return tuple(self.rewards)
        return tuple(self._loaded.weights) if self._loaded.closed else ()

    @property
    def reward_weights(self) -> Mapping[str, float]:  # type: ignore[override]
        """Weights of the package."""
        return {name: weight for name, weight in self._loaded.weights.items() if name in self.reward_names}

    @property
    def tools(self) -> tuple[Callable[..., Any] | Tool, ...]:  # type: ignore[override]
        """Tools of the task and of the taskset, by the names that the package gives them."""
        return tools_of(self._source)

    def make(self, seed: int, member: int = 0) -> VerifiersEnv:
        """Make an episode with the task of ``seed``, the same for every member."""
        from .loop import Chances
        from .play import Place, VerifiersEnv

        loaded, source = self._loaded, self._source
        number = seed % len(loaded.tasks)
        about = Place(
            env=loaded.env,
            task=loaded.tasks[number],
            shared=loaded.shared,
            names=self.reward_names,
            weighed=frozenset(loaded.weights),
            threshold=self.threshold,
            where=source.where,
            key=loaded.keys[number],
            guarded=self.concurrency == 1,
        )
        chances = Chances("verifiers opening", seed), Chances("verifiers member", seed, member)
        return VerifiersEnv.started(about, chances)


@lru_cache(maxsize=32)
def tools_of(source: Source) -> tuple[Tool, ...]:
    """Return the tools of an environment. Raises RequestError if they cannot be served here."""
    from .tools import listed

    return listed(load(source), source.where)
