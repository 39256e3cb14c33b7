"""Demonstrations are conversations that a solver plays, in the tokens that a policy would have to sample."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import cast

import attrs

from ...core.components import Answer, Completion, Dialogue, Environment, Setting
from ...core.compose.experiment import Rollout
from ...core.errors import RequestError
from ..environments.common import seeded, split_of
from ..environments.sokoban import Sokoban, SokobanEnv
from ..environments.sokoban_rules import ACTIONS, Board, cells, interior, move
from ..environments.sokoban_solver import positions_by_distance, solve
from ..rollout.borders import name_of
from ..rollout.conversation import Conversation
from ..rollout.dialogue import setting_of
from ..rollout.episode import Episode, Turn
from ..rollout.template import Template


@attrs.frozen
class RandomStarts(Environment):
    """An environment with every solvable board of a split, not only the rooms that Sokoban's generator makes.

    A model that will play unseen rooms must see more boards than the generator has.
    """

    environment: Sokoban
    """The Sokoban whose size, boxes and split the boards have."""

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return self.environment.instruction

    @property
    def actions(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.environment.actions

    def make(self, seed: int, member: int = 0) -> SokobanEnv:
        """Draw boards until one of the split can be solved, then a start at a random distance from the solution."""
        environment = self.environment
        rng = seeded("start", seed)
        height = environment.size
        width = environment.columns
        inside = list(cells(interior(height, width)))
        while True:
            floor = rng.sample(inside, rng.randint(1 + 2 * environment.boxes, len(inside)))
            targets = sum(1 << cell for cell in floor[: environment.boxes])
            bits = sum(1 << cell for cell in floor)
            layers = positions_by_distance(width, bits, targets, environment.max_solution, 50_000)
            starts = []
            for layer in layers:
                off_target = [position for position in layer if not position[1] & targets]
                if off_target:
                    starts.append(off_target)
            if not starts:
                continue
            player, boxes = rng.choice(rng.choice(starts))
            board = Board(height, width, bits, targets, boxes, player)
            if environment.split in ("all", split_of(board.key)):
                return SokobanEnv(environment, board)


def demonstrations(
    environment: Sokoban, rollout: Rollout, template: Template, seed: int, noise: float
) -> Iterator[Episode]:
    """Yield episodes on random starts of ``environment``, without end.

    A share ``noise`` of the actions is random; the others are the next ones of a shortest solution. Once the board can
    no longer be solved, all actions are random.
    """
    for number in count(1_000_000 * seed):
        rng = seeded("demonstration", noise, number)
        conversation = Conversation(RandomStarts(environment), rollout, template, number)
        while conversation.stop is None:
            board = cast(SokobanEnv, conversation.env).board
            text = respond(board, template.dialogue, conversation.setting, noise, rng).removeprefix(template.tag)
            tokens = (*template.tokenizer.encode(text, add_special_tokens=False), template.end_of_turn)
            conversation.advance(Completion(tokens, (0.0,) * len(tokens), "eos"))
            _require_read(conversation.turns[-1], template.dialogue)
        yield conversation.episode()


def _require_read(turn: Turn, dialogue: Dialogue) -> None:
    """Check that the dialogue reads a response from its words, since the tokenizer drops white space.

    Raises:
        RequestError: it does not.
    """
    if not turn.answer.valid:
        raise RequestError(
            f"the dialogue {name_of(dialogue)} does not read {turn.response!r}, spelled in words, as the demonstrator "
            "meant it",
            "dialogue",
            "read answers without regard to white space, and list in tags what is one word; or give model.path",
        )


def respond(board: Board, dialogue: Dialogue, setting: Setting, noise: float, rng: random.Random) -> str:
    """Return the response of a turn: a thought about where things are, then as many actions as a turn may have."""
    thought = think(board)
    names: list[str] = []
    while len(names) < setting.max_actions_per_turn and not board.solved:
        solution = solve(board)
        name = rng.choice(ACTIONS) if solution is None or rng.random() < noise else solution[0]
        names.append(name)
        board = move(board, name)
    return dialogue.respond(thought, tuple(names), setting)


def think(board: Board) -> str:
    """Say in which direction the first box off target is from the player, and the first free target from that box."""
    box = next(cells(board.boxes & ~board.targets))
    target = next(cells(board.targets & ~board.boxes))
    return f"box is {_direction(board, board.player, box)} target is {_direction(board, box, target)}"


def _direction(board: Board, start: int, end: int) -> str:
    down = end // board.width - start // board.width
    right = end % board.width - start % board.width
    vertical = ["Down" if down > 0 else "Up"] if down else []
    horizontal = ["Right" if right > 0 else "Left"] if right else []
    return " ".join(vertical + horizontal)


def everything_said(
    environment: Sokoban, rollout: Rollout, dialogue: Dialogue, seed: int, episodes: int = 300
) -> Iterator[str]:
    """Yield texts with every word of the conversations: messages of random play, and the demonstrator's responses.

    Numbers need not occur, since the tokenizer spells them.
    """
    setting = setting_of(environment, rollout)
    yield dialogue.system(setting)
    for answer in (Answer(), Answer(actions=ACTIONS, parsed=len(ACTIONS))):
        yield dialogue.summary(answer)
        yield dialogue.outcome(0.0, answer, setting)
    for number in range(episodes):
        rng = seeded("vocabulary", seed, number)
        env = environment.make(number)
        yield dialogue.ask(1, env.initial_observation(), rollout.max_actions, setting)
        for _ in range(rollout.max_actions):
            yield respond(env.board, dialogue, setting, 0.5, rng)
            step = env.step(rng.choice(ACTIONS))
            yield step.observation
            if step.done:
                break
