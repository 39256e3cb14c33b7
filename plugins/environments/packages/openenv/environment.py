"""The environment ``openenv`` plays what a server of OpenEnv offers, with texts or with the server's tools."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import attrs
from attrs.validators import gt, in_

from .....core.components import Environment, Tool
from .....core.errors import MissingExtraError
from ...common import Split, stable_hash
from .checks import Described, described, refuse_unplayable, too_few_sessions
from .fields import action_form, as_json
from .play import Game, OpenEnvEnv
from .server import Server


@attrs.frozen
class OpenEnv(Environment):
    """Play the environment of an OpenEnv server, which runs elsewhere and is reached by its address.

    Each episode has a session of its own with the server (a websocket). The reward is the server's, and one that it
    leaves out is 0. An episode that the server ends with a reward of at least ``threshold`` in the last step is a
    success. A text is one field of the server's actions. A server whose actions are calls of tools (MCP) offers them
    to the model, with the dialogue ``tool_calls``. The metric ``share_of_played_actions_accepted`` is 0 for texts that
    are no action of the server.

    The group's seed is given to ``reset``. A server that starts two sessions of one seed differently is refused. What
    happens by chance afterwards is the server's affair.

    A server that is gone, gives no answer within ``timeout``, or one that cannot be read, costs the group.

    Source: OpenEnv (Meta and Hugging Face 2025, https://github.com/meta-pytorch/OpenEnv).
    """

    url: str
    """Address of the server, such as ``http://localhost:8000``."""
    action: str = ""
    """Field of the actions that takes the text; by default the one that the server's schema shows."""
    names: tuple[str, ...] = ()
    """Names of the actions, in the order of the values of that field; by default its values, where they are few."""
    fixed: Mapping[str, Any] = attrs.field(factory=dict)
    """Other fields of the actions, with their values."""
    shown: tuple[str, ...] = ()
    """Fields of the observations that are shown; by default all."""
    opening: str = ""
    """Text before the first observation."""
    description: str = ""
    """Text for the system message; by default the server's description of itself."""
    reset: Mapping[str, Any] = attrs.field(factory=dict)
    """Further arguments of ``reset``, beside the seed."""
    threshold: float = 1.0
    """Smallest reward of the last step that is a success."""
    failures: Literal["lost", "told"] = attrs.field(default="lost", validator=in_(("lost", "told")))
    """Whether an action on which the server's environment raises an exception costs the group, or is told to the model,
    without a reward."""
    ignored: tuple[str, ...] = ()
    """Fields of state and observation that may differ between sessions of the same seed, such as the time."""
    timeout: float = attrs.field(default=60.0, validator=gt(0))
    """Seconds that the server may take for an answer."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of tasks: ``validation`` is one in five by the first observation, ``train`` the others, ``all`` both."""

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("openenv") is None:
            fix = "pip install 'uncollapse[openenv]'"
            raise MissingExtraError("openenv-core is not installed", "environment: openenv", fix)
        refuse_address(self.url)
        if "seed" in self.reset:
            raise ValueError("reset must not have seed: it is the seed of the group")
        if self.tools and (given := [name for name in ("action", "names", "fixed") if getattr(self, name)]):
            raise ValueError(f"{given[0]} is of actions with a field for a text, and this server takes calls of tools")
        refuse_unplayable(self.game, self.split, tuple(self.ignored))

    @property
    def server(self) -> Server:
        """The server."""
        url = self.url.rstrip("/")
        return Server(url if "://" in url else f"http://{url}", self.timeout)

    @property
    def game(self) -> Game:
        """What is played, and how."""
        form = None if self.tools else action_form(self._described.schema, self.action, self.names, self.fixed)
        reset = as_json("reset", self.reset)
        return Game(self.server, tuple(self.shown), self.opening, reset, form, self.threshold, self.failures)

    @property
    def _described(self) -> Described:
        return described(self.server)

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return self.description or self._described.text or "Act in the environment."

    @property
    def actions(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self.game.form.names if self.game.form else None

    @property
    def tools(self) -> tuple[Tool, ...]:  # type: ignore[override]
        return self._described.tools

    @property
    def digest(self) -> str:
        """Version of the package, and a hash of what the server says of itself."""
        return f"openenv {importlib.metadata.version('openenv-core')} {stable_hash(repr(self._described)):x}"

    def check(self, experiment: Any) -> Iterable[str]:
        """Refuse a server that takes fewer sessions than a step or a validation plays at a time."""
        validation = experiment.validation
        parts = {"rollout": experiment.rollout}
        if validation.every or validation.before_train:
            parts["validation"] = validation
        for name, part in parts.items():
            episodes = part.groups * part.group_size
            if reason := too_few_sessions(self.server, episodes):
                key = f"{name}.groups * {name}.group_size = {episodes}"
                yield f"{reason}, and {key} episodes need one each; start it with max_concurrent_envs={episodes}"
                return

    async def make(self, seed: int, member: int = 0) -> OpenEnvEnv:  # type: ignore[override]
        """Start the episode of ``seed`` in a new session; all members start alike.

        Raises:
            EpisodeLostError: the server does not start it.
        """
        return await self.game.start(seed, self.split)


def refuse_address(url: str) -> None:
    """Raise ValueError for what is no address of a server."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https", "ws", "wss"):
        raise ValueError(f"url must begin with http://, https://, ws:// or wss://, not {parts.scheme}://")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0 or any(map(str.isspace, url)):
        raise ValueError(f"url {url!r} is no address, such as http://localhost:8000")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("url must have neither a user, nor a query, nor a fragment: it is written to files")
