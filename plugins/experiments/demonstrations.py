"""Solver play as conversations: the very tokens that a policy would have to sample."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import cast

import attrs

from ...core.components import Completion, Environment
from ...core.compose.experiment import Rollout
from ..environments.common import seeded, split_of
from ..environments.sokoban import Sokoban, SokobanEnv
from ..environments.sokoban_rules import ACTIONS, Board, cells, interior, move
from ..environments.sokoban_solver import positions_by_distance, solve
from ..rollout import messages
from ..rollout.conversation import Conversation
from ..rollout.episode import Episode
from ..rollout.parsing import SEPARATOR
from ..rollout.template import Template


@attrs.frozen
class RandomStarts(Environment):
    """The environment with any board of its split that can be solved, not only those that its generator draws.

    A model that is to play unseen rooms needs more of them than the generator has.
    """

    environment: Sokoban

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return self.environment.instruction

    @property
    def actions(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.environment.actions

    def make(self, seed: int, member: int = 0) -> SokobanEnv:
        environment, rng = self.environment, seeded("start", seed)
        height, width = environment.size, environment.columns
        inside = list(cells(interior(height, width)))
        while True:
            floor = rng.sample(inside, rng.randint(1 + 2 * environment.boxes, len(inside)))
            targets = sum(1 << cell for cell in floor[: environment.boxes])
            bits = sum(1 << cell for cell in floor)
            layers = positions_by_distance(width, bits, targets, environment.max_solution, 50_000)
            starts = [start for layer in layers if (start := [p for p in layer if not p[1] & targets])]
            if not starts:
                continue
            player, boxes = rng.choice(rng.choice(starts))
            board = Board(height, width, bits, targets, boxes, player)
            if environment.split in ("all", split_of(board.key)):
                return SokobanEnv(environment, board)


def demonstrations(
    environment: Sokoban, rollout: Rollout, template: Template, seed: int, noise: float
) -> Iterator[Episode]:
    """Endless episodes on random starts of ``environment``.

    A share ``noise`` of the actions is random, the others are a shortest solution's from wherever that led to. Where no
    solution is left, all are random: the play stays readable.
    """
    for number in count(1_000_000 * seed):
        rng = seeded("demonstration", noise, number)
        conversation = Conversation(RandomStarts(environment), rollout, template, number)
        while conversation.stop is None:
            board = cast(SokobanEnv, conversation.env).board
            text = respond(board, rollout.max_actions_per_turn, noise, rng)
            tokens = (*template.tokenizer.encode(text, add_special_tokens=False), template.end_of_turn)
            conversation.advance(Completion(tokens, (0.0,) * len(tokens), "eos"))
        yield conversation.episode()


def respond(board: Board, max_actions: int, noise: float, rng: random.Random) -> str:
    """One turn's response after the forced ``<think>``: where things are, then up to ``max_actions`` actions."""
    thought = think(board)
    names: list[str] = []
    while len(names) < max_actions and not board.solved:
        solution = solve(board)
        name = rng.choice(ACTIONS) if solution is None or rng.random() < noise else solution[0]
        names.append(name)
        board = move(board, name)
    return f"{thought}</think><answer>{f' {SEPARATOR} '.join(names)}</answer>"


def think(board: Board) -> str:
    """Where the first box off target lies, seen from the player, and the first free target, seen from that box."""
    box = next(cells(board.boxes & ~board.targets))
    target = next(cells(board.targets & ~board.boxes))
    return f"box is {_direction(board, board.player, box)} target is {_direction(board, box, target)}"


def _direction(board: Board, start: int, end: int) -> str:
    down, right = end // board.width - start // board.width, end % board.width - start % board.width
    vertical = ["Down" if down > 0 else "Up"] if down else []
    horizontal = ["Right" if right > 0 else "Left"] if right else []
    return " ".join(vertical + horizontal)


def everything_said(environment: Sokoban, rollout: Rollout, seed: int, episodes: int = 300) -> Iterator[str]:
    """Texts that hold every word of the conversations: messages of random play, and the demonstrator's responses.

    Numbers are left to the tokenizer, which spells them.
    """
    yield messages.system(environment, rollout)
    yield messages.answered(())
    yield messages.answered(ACTIONS)
    yield messages.outcome(0.0, valid=False)
    for number in range(episodes):
        rng = seeded("vocabulary", seed, number)
        env = environment.make(number)
        yield messages.turn(1, env.initial_observation(), rollout.max_actions)
        for _ in range(rollout.max_actions):
            yield respond(env.board, rollout.max_actions_per_turn, 0.5, rng)
            step = env.step(rng.choice(ACTIONS))
            yield step.observation
            if step.done:
                break
