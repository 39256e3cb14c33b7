"""A recorded episode is shown as a chat: what the system, the user and the policy say, calls of tools, and results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from .page import Chip, Episode, Message

LETTERS = 12_000
"""Largest number of characters of an episode, over all its messages."""
HEAD = 500
"""Number of characters of a message that are shown before it is unfolded."""
HEAD_LINES = 14
"""Number of lines of a message that are shown before it is unfolded."""
FAULTS = {
    "broken": "cannot be read",
    "unknown": "no such tool",
    "wrong": "wrong arguments",
}
"""The words for the faults of calls."""


def episode_of(record: Mapping[str, Any]) -> Episode:
    """Return what is shown of a line of ``rollouts/step_N.jsonl``. Those of earlier versions have no calls.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no such line.
    """
    facts = [f"{key} {record[key]}" for key in ("group", "member") if key in record]
    if "lost" in record:
        lost = Message("environment", str(record["lost"]), "lost, and its group dropped")
        return Episode(", ".join(facts), [Chip("lost", "damaged")], list(_folded([lost])), 0)
    stop = str(record.get("stop", "ended"))
    outcome = "success" if record.get("success") else "failed" if stop in ("done", "ended") else ""
    chips = [Chip(stop, outcome), Chip(f"reward {_number(record['reward'])}", "")]
    messages = list(_messages(record))
    shown = list(_within(messages))
    left_out = sum(len(each.text) for each in messages) - sum(len(each.text) for each in shown)
    return Episode(", ".join(facts), chips, list(_folded(shown)), left_out)


def _messages(record: Mapping[str, Any]) -> Iterator[Message]:
    yield Message("system", record["system"])
    for asked, answer in record.get("earlier", ()):
        yield Message("user", asked, "before the first turn")
        yield Message("assistant", answer, "before the first turn")
    told = None
    for number, turn in enumerate(record["turns"], 1):
        if told is None or not _repeats(turn["user"], told):
            yield Message("user", turn["user"])
        yield from _turn(turn, number)
        told = [call["result"] for call in turn.get("calls", ()) if call["result"] is not None]
    if ending := record.get("ending"):
        yield Message("environment", ending, "after the last turn")


def _turn(turn: Mapping[str, Any], number: int) -> Iterator[Message]:
    """Yield what the policy wrote in a turn, then its calls with their results."""
    calls: Sequence[Mapping[str, Any]] = turn.get("calls", ())
    note = ", ".join([f"turn {number}", *_facts(turn)])
    if not calls:
        yield Message("assistant", turn["response"], note)
        return
    yield Message("assistant", turn.get("thought", ""), note, keep=True)
    for call in calls:
        fault, result = str(call.get("fault", "")), call["result"]
        if call["name"] or fault:
            chips = [Chip(FAULTS.get(fault, fault), "failed")] if fault else []
            yield Message("call", _arguments(call["arguments"]), call["name"] or "a call", chips=chips, keep=True)
        if result is None:
            yield Message("result", "", "not called: the episode was over", keep=True)
        else:
            yield Message("result", result, call["name"], outcome="failed" if fault else "", keep=True)
    # what cannot be read is there to be seen
    open_ = any(call.get("fault") for call in calls)
    yield Message("sampled", turn["response"], folded=not open_)


def _facts(turn: Mapping[str, Any]) -> Iterator[str]:
    if "tokens" in turn:
        yield f"{turn['tokens']} tokens"
    if turn.get("stop_reason") == "length":
        yield "cut at max_tokens"
    if "reward" in turn:
        named = ", ".join(f"{name} {_number(value)}" for name, value in turn.get("rewards", {}).items())
        yield f"reward {_number(turn['reward'])}" + (f" ({named})" if named else "")
    if turn.get("penalty"):
        yield f"format penalty {_number(turn['penalty'])}"
    if turn.get("valid") is False:
        yield "invalid"


def _number(value: Any) -> str:
    return "missing" if value is None else f"{float(value):.2f}"


def _arguments(text: str) -> str:
    """Return arguments as lines, ``name: value``; as they stand where they are none."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(arguments, dict):
        return text
    spelled = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in arguments.values()
    )
    return "\n".join(f"{name}: {value}" for name, value in zip(arguments, spelled, strict=True))


def _repeats(user: str, results: Sequence[str]) -> bool:
    """Whether a message of the user is the results that were shown already; the record may have cut some."""
    return bool(results) and user == "\n".join(results)


def _within(messages: Sequence[Message]) -> Iterator[Message]:
    """Yield the messages that an episode has room for, the last one cut."""
    room = LETTERS
    for message in messages:
        if (message.text or message.keep) and room > 0:
            yield message if len(message.text) <= room else attrs.evolve(message, text=message.text[:room], cut=True)
        room -= len(message.text)


def _folded(messages: Sequence[Message]) -> Iterator[Message]:
    """Yield the messages with what comes after their beginning apart."""
    for message in messages:
        lines = message.text[:HEAD].split("\n")[:HEAD_LINES]
        head = "\n".join(lines)
        rest = message.text[len(head) :].removeprefix("\n")
        if message.folded or (len(rest) < HEAD // 4 and rest.count("\n") < 4):
            yield message
        else:
            yield attrs.evolve(message, text=head, rest=rest)
