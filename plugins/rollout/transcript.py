"""An episode becomes a record of plain text, a line of ``rollouts/step_N.jsonl``."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from .episode import Episode, Told, Turn
from .lost import LostGroup


def transcript(episode: Episode) -> dict[str, Any]:
    """Return the episode as text; ``group`` is the group's environment seed."""
    return {
        "group": episode.seed,
        "member": episode.member,
        "reward": episode.reward,
        "success": episode.success,
        "stop": episode.stop,
        "system": episode.system,
        **({"earlier": [list(pair) for pair in episode.earlier]} if episode.earlier else {}),
        "turns": [_turn(turn) for turn in episode.turns],
        **({"ending": _kept(episode.ending)} if episode.ending.text else {}),
    }


def lost_transcript(group: LostGroup) -> dict[str, Any]:
    """Return the record of a group that was dropped: an episode without turns and reward, and the reason."""
    return {
        "group": group.seed,
        "member": group.member,
        "reward": None,
        "success": False,
        "stop": "lost",
        "lost": group.reason,
        "system": "",
        "turns": [],
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "user": turn.user,
        "response": turn.response,
        **({"thought": turn.answer.thought, "calls": _calls(turn)} if turn.answer.calls else {}),
        "actions": list(turn.answer.actions),
        "valid": turn.answer.valid,
        "reward": turn.reward,
        **({"rewards": turn.rewards} if turn.rewards else {}),
        "penalty": turn.penalty,
        "tokens": len(turn.tokens),
        "stop_reason": turn.stop_reason,
    }


def _calls(turn: Turn) -> list[dict[str, Any]]:
    """Return the calls of a turn, each with the JSON text of its arguments.

    ``result`` is ``None`` for those that were not reached, since the episode ended.
    """
    return [
        {
            "name": call.name,
            "arguments": call.arguments,
            **({"fault": call.fault} if call.fault else {}),
            "result": None if told is None else _kept(told),
        }
        for call, told in zip_longest(turn.answer.calls, turn.results[: len(turn.answer.calls)])
    ]


def _kept(told: Told) -> str:
    return f"{told.text} ... ({told.left_out} more characters)" if told.left_out else told.text
