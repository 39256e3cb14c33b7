"""Opponents in games of TextArena: texts for a random one, and a language model that stays as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import attrs

from .....core.errors import RequestError, RunError
from .....core.paths import cache_directory
from ....models.replies import Reply, cached, identity
from .games import where

if TYPE_CHECKING:
    from ....models.loaded import LoadedModel

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
START = "start"
"""The name of the start model of the run, in place of a path."""


def _texts(*parts: Sequence[object]) -> tuple[str, ...]:
    return tuple(f"[{' '.join(map(str, each))}]" for each in product(*parts))


TEXTS: dict[str, tuple[str, ...]] = {
    "TicTacToe": _texts(range(9)),
    "WildTicTacToe": _texts("XO", range(9)),
    "QuantumTicTacToe": tuple(f"[{one},{other}]" for other in range(9) for one in range(other)),
    "ConnectFour": _texts(range(12)),
    "Othello": _texts(range(14), range(14)),
    "Nim": _texts(range(5), range(1, 12)),
    "KuhnPoker": ("[check]", "[bet]", "[call]", "[fold]"),
    "PigDice": ("[roll]", "[hold]"),
    "GameOfPureStrategy": _texts(("A", *range(2, 11), "J", "Q", "K")),
    "IteratedMatchingPennies": ("[heads]", "[tails]"),
    "IteratedRockPaperScissors": ("[rock]", "[paper]", "[scissors]"),
    "IteratedTwoThirdsAverage": _texts(range(101)),
}
"""Texts of a random opponent, by the game's name before ``-v``, where they are known."""


def texts_for(game: str) -> tuple[str, ...]:
    """Return the texts of a random opponent in a game; empty if they are not known."""
    return TEXTS.get(game.partition("-v")[0], ())


@attrs.frozen
class FrozenModel:
    """A language model that plays the opponent. It decodes greedily, and what it has said once is kept on disk."""

    path: str
    """Directory, or name on the hub; ``start`` until a run puts the path of its start model there."""
    max_tokens: int
    """Largest number of tokens of a reply."""
    device: str | None
    """Device; ``None`` for the process's GPU, if there is one."""
    batch: int
    """Largest number of games that ask it at the same time."""

    def require(self, game: str) -> None:
        """Load the model, if it is not. Raises RequestError if it cannot be, or if no run has given its start model."""
        if self.path == START:
            fix = "give the path of a model to play outside of a run"
            raise RequestError("only a run knows its start model", f"{where(game)}, opponent_model start", fix)
        self._model()

    def _model(self) -> LoadedModel:
        from ....models.loaded import loaded  # it imports torch

        return loaded(self.path, self.device, self.batch, "an opponent", "opponent_model")

    def reply(self, game: str, earlier: Sequence[tuple[str, str]], told: str) -> str:
        """Return its move.

        Args:
            game: name of the game, for messages.
            earlier: what it was told at each of its turns before, and what it replied.
            told: what it is told now.

        Raises:
            RequestError: the model cannot be loaded.
            RunError: the game leaves no room in the model's context.
        """
        talk = [text for pair in earlier for text in pair]
        while missing := (reply := self._said([*talk, told])).missing:
            if len(talk) <= 2:
                fix = "choose a model with a longer context, or lower opponent_tokens"
                raise RunError(f"the opponent {self.path} cannot reply: {missing}", where(game), fix)
            del talk[2:4]  # the rules stand in what it was told first
        return move_in(reply.text)

    def _said(self, texts: list[str]) -> Reply:
        def ask() -> Reply:
            return self._model().ask(texts, self.max_tokens)

        content = ["opponent", identity(self.path), self.max_tokens, texts]
        return cached(cache_directory() / "opponents", content, ask, lambda reply: not reply.missing)


def move_in(reply: str) -> str:
    """Return what a reply says after its thought, and between ``<answer>`` tags if it has them."""
    said = reply.rpartition("</think>")[2].strip()
    if said.startswith("<think>"):
        return ""  # it has not come to an end
    answers = _ANSWER.findall(said)
    return answers[0].strip() if len(answers) == 1 else said
