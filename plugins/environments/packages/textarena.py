"""The environment ``textarena`` plays the games of the package of that name, alone or against a fixed opponent."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from typing import Any, get_args

import attrs
from attrs.validators import in_

from ....core.components import Environment
from ....core.errors import MissingExtraError, nearest
from ..common import Split
from .textarena_play import Table, TextArenaEnv, prototype, refuse_unplayable

_CELLS = tuple(f"[{number}]" for number in range(9))
OPPONENTS: dict[str, tuple[str, ...]] = {
    "TicTacToe-v0": _CELLS,
    "ConnectFour-v0": _CELLS[:7],
    "KuhnPoker-v0": ("[check]", "[bet]", "[call]", "[fold]"),
    "IteratedRockPaperScissors-v0": ("[rock]", "[paper]", "[scissors]"),
}
"""Texts of the opponent in games of two players, where they are known."""


@attrs.frozen
class TextArena(Environment):
    """Play a game of TextArena: one for a single player, or one for two against a random opponent.

    The opponent chooses at random among the texts of ``opponent`` that the game accepts. The reward comes at the end:
    that of the package for the policy's player. 1 or more is success. Texts of the policy that the game refuses
    count as not accepted in ``share_of_played_actions_accepted``; the game gives one more try, and is lost after it.

    Members of a group see the same first observation, of the game that the group's seed starts. The opponent's choices
    and other chances afterwards depend on the member.

    Source: TextArena (Guertler et al. 2025, arXiv:2504.11442).
    """

    game: str
    """Name of the game without a wrapper's suffix, such as ``GuessTheNumber-v0`` or ``TicTacToe-v0``."""
    opponent: tuple[str, ...] = ()
    """Texts that the opponent plays in a game of two players; by default those of TicTacToe-v0, ConnectFour-v0,
    KuhnPoker-v0 and IteratedRockPaperScissors-v0."""
    player: int = attrs.field(default=0, validator=in_((0, 1)))
    """Number of the policy's player in a game of two players: 0 begins."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """Arguments of the game, such as ``{max_number: 100}``."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of tasks: ``validation`` is one in five by the first observation, ``train`` the others, ``all`` both."""

    instruction = "Play the game. Give your move in the form that the game asks for."
    actions = None
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("textarena") is None:
            fix = "pip install 'uncollapse[textarena]'"
            raise MissingExtraError("textarena is not installed", "environment: textarena", fix)
        from textarena.envs.registration import ENV_REGISTRY

        games = [name for name in ENV_REGISTRY if f"{name}-raw" in ENV_REGISTRY]
        if self.game not in games:
            near = nearest(self.game, games)
            raise ValueError(f"textarena has no game {self.game!r}" + (f"; {near}" if near.startswith("did") else ""))
        table = self.table
        if self.player and not table.replies:
            raise ValueError("player 1 needs an opponent")
        prototype(table.game, table.settings)
        refuse_unplayable(table, self.split)

    @property
    def table(self) -> Table:
        """Game with its players."""
        try:
            settings = json.dumps(dict(self.settings), sort_keys=True)
        except TypeError as error:
            raise ValueError(f"settings must be plain data: {error}") from error
        return Table(self.game, settings, tuple(self.opponent) or OPPONENTS.get(self.game, ()), self.player)

    @property
    def digest(self) -> str:
        """Version of the package."""
        return f"textarena {importlib.metadata.version('textarena')}"

    def make(self, seed: int, member: int = 0) -> TextArenaEnv:
        """Make an episode of the game of ``seed``, with the chances of ``member``."""
        return self.table.start_in(self.split, seed, member)
