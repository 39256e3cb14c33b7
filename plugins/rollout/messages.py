"""The wording of the system and user messages. Short, because small models pay for every word."""

from __future__ import annotations

from ...core.components import Environment
from ...core.compose.experiment import Rollout
from .parsing import SEPARATOR


def system(environment: Environment, rollout: Rollout) -> str:
    """Task, action names, budget, length and reply format: all that does not change from turn to turn."""
    words = max(1, rollout.max_tokens * 3 // 4)  # a word is about 4/3 of a token
    lines = ["You are a helpful assistant.", environment.instruction.strip()]
    if environment.actions is None:
        lines.append(f"Give one answer a turn, {rollout.max_actions} in all. At most {words} words a turn.")
    else:
        several = rollout.max_actions_per_turn > 1
        separated = f" separated by {SEPARATOR}" if several else ""
        lines.append(f"Actions: {', '.join(environment.actions)}")
        lines.append(
            f"Give at most {rollout.max_actions_per_turn} a turn{separated}, {rollout.max_actions} in all. "
            f"At most {words} words a turn."
        )
    lines.append(reply(environment, rollout))
    return "\n".join(lines)


def reply(environment: Environment, rollout: Rollout) -> str:
    """The last line of the system message, which is all ours: its tags may be tokens of their own."""
    example = "your answer"
    if environment.actions is not None:
        example = f"action {SEPARATOR} action" if rollout.max_actions_per_turn > 1 else "action"
    thought = "<think>your thoughts</think>" if rollout.think else ""
    return f"Reply: {thought}<answer>{example}</answer>"


def turn(number: int, state: str, actions_left: int) -> str:
    """What the model sees of turn ``number`` (from 1)."""
    return f"Turn {number}:\nState:\n{state}\nActions left: {actions_left}"


def outcome(reward: float, valid: bool) -> str:
    """What it sees of the turn before. The format penalty is never shown, the fact that it fell due is."""
    warning = "" if valid else "\nInvalid answer: keep to the actions and the reply format."
    return f"Reward:\n{reward + 0.0:g}{warning}"  # + 0.0 turns -0.0 into 0.0


def answered(actions: tuple[str, ...]) -> str:
    """An earlier answer in the summary of a ``single_turn`` window."""
    return f"Answer: {f' {SEPARATOR} '.join(actions) or 'none'}"
