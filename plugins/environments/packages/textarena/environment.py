"""The environment ``textarena`` plays the games of the package of that name, alone or against an opponent."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import attrs
from attrs.validators import ge, in_, instance_of, optional

from .....core.components import Environment
from .....core.errors import MissingExtraError, RequestError, nearest
from .....core.paths import expanded
from ...common import Split
from .games import players_of, where
from .opponents import FrozenModel, texts_for
from .play import Table, TextArenaEnv, refuse_unsplit

_AT_ONCE = 32
"""Largest number of games whose opponents are asked at the same time."""


@attrs.frozen
class TextArena(Environment):
    """Play a game of TextArena: one for a single player, or one for two against a random opponent or a frozen model.

    A random opponent chooses among the texts of ``opponent`` that the game accepts. A frozen model (``opponent_model``)
    reads its side of the game as a chat and replies in text. The reward comes at the end: that of the package for the
    policy's player. 1 or more is success. Texts of the policy that the game refuses count as not accepted in
    ``share_of_played_actions_accepted``; the game gives one more try, and is lost after it.

    Members of a group see the same first observation, of the game that the group's seed starts. A random opponent's
    choices and other chances afterwards depend on the member. A frozen model decodes greedily: in the same game it
    replies the same, and replies are kept in ``$UNCOLLAPSE_CACHE/opponents``.

    Source: TextArena (Guertler et al. 2025, arXiv:2504.11442).
    """

    game: str
    """Name of the game without a wrapper's suffix, such as ``GuessTheNumber-v0`` or ``TicTacToe-v0``."""
    opponent: tuple[str, ...] = ()
    """Texts that a random opponent plays in a game of two players; by default those of the game, if they are known."""
    opponent_model: str | None = attrs.field(default=None, validator=optional(instance_of(str)))
    """Frozen model that plays the opponent: a directory or name of a Hugging Face model, or ``start``, the run's start
    model."""
    opponent_tokens: int = attrs.field(default=64, validator=ge(1))
    """Largest number of tokens of the model's reply; models that think need more."""
    opponent_device: str | None = None
    """Device of the model, such as ``cpu``; ``None`` takes the process's GPU, if there is one."""
    player: int = attrs.field(default=0, validator=in_((0, 1)))
    """Number of the policy's player in a game of two players: 0 begins."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """Arguments of the game, such as ``{max_number: 100}``."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of tasks: ``validation`` is one in five by the first observation, ``train`` the others, ``all`` both."""

    instruction = "Play the game. Give your move in the form that the game asks for."
    actions = None
    model_parameters = ("opponent_model",)

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("textarena") is None:
            fix = "pip install 'uncollapse[textarena]'"
            raise MissingExtraError("textarena is not installed", "environment: textarena", fix)
        from textarena.envs.registration import ENV_REGISTRY

        games = [name for name in ENV_REGISTRY if f"{name}-raw" in ENV_REGISTRY]
        if self.game not in games:
            near = nearest(self.game, games)
            raise ValueError(f"textarena has no game {self.game!r}" + (f"; {near}" if near.startswith("did") else ""))
        self._refuse_players()
        refuse_unsplit(self.table, self.split)

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield that the opponent's directory is missing, if it is."""
        model = self.opponent_model or ""
        if model.startswith(("/", ".", "~")) and not expanded(model).is_dir():
            yield f"there is no directory {model} of a model, which opponent_model names"

    def _refuse_players(self) -> None:
        """Raise for a game of another number of players than these."""
        if self.opponent and self.opponent_model is not None:
            raise ValueError("the opponent is either random (opponent) or a model (opponent_model), not both")
        table = self.table
        wanted = players_of(table.game, table.settings)
        if wanted < table.players or (wanted == 1 and self.player):
            given = "player" if self.player else "opponent" if self.opponent else "opponent_model"
            raise ValueError(f"{self.game} is for one player: leave out {given}")
        if wanted > table.players:
            fix = "give texts among which it chooses, opponent=['[0]', '[1]'], or a model, opponent_model=PATH"
            raise RequestError("the game needs an opponent", where(self.game), fix)

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """Games only compute; a model answers many of them together."""
        return 1 if self.opponent_model is None else _AT_ONCE

    @property
    def table(self) -> Table:
        """Game with its players."""
        try:
            settings = json.dumps(dict(self.settings), sort_keys=True)
        except TypeError as error:
            raise ValueError(f"settings must be plain data: {error}") from error
        model, texts = None, tuple(self.opponent) or texts_for(self.game)
        if self.opponent_model is not None:
            model = FrozenModel(self.opponent_model, self.opponent_tokens, self.opponent_device, _AT_ONCE)
            texts = ()
        return Table(self.game, settings, texts, model, self.player)

    @property
    def digest(self) -> str:
        """Version of the package."""
        return f"textarena {importlib.metadata.version('textarena')}"

    def make(self, seed: int, member: int = 0) -> TextArenaEnv:
        """Make an episode of the game of ``seed``, with the chances of ``member``."""
        table = self.table
        if table.model is not None:
            table.model.require(self.game)  # the game may end before the opponent is asked
        return table.start_in(self.split, seed, member)
