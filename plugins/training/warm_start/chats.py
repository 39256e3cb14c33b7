"""Demonstrations from a file of chats, one JSON object in a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ....core.components import Answer
from ....core.console.streams import say
from ....core.errors import RequestError
from ....core.paths import expanded
from ...rollout.demonstrations import sampled_tokens
from ...rollout.episode import Episode, Turn
from ...rollout.template import Template

ROLES = ("system", "user", "assistant")
HOW = 'a line is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def read_chats(path: str, template: Template, max_context: int, max_tokens: int) -> list[Episode]:
    """Read every message of the assistant as an episode of one turn, with all messages before it as its prompt.

    Messages alternate between user and assistant, after a system message or none. What the run would cut is left out,
    and that is said: answers of more than ``max_tokens`` tokens, and of more than ``max_context`` with their prompts.

    Raises:
        RequestError: the file cannot be read, a line is no such chat, or no answer is short enough.
    """
    episodes: list[Episode] = []
    try:
        with expanded(path).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    episodes += _answers(line, f"{path}, line {number}", template, len(episodes))
    except (OSError, UnicodeDecodeError) as error:
        where = f"model.warm_start.file: {path}"
        raise RequestError(f"the demonstrations cannot be read: {error}", where, "give a file of UTF-8 text") from error
    if not episodes:
        raise RequestError(f"{path} holds no chats", "model.warm_start.file", HOW)
    short = [episode for episode in episodes if _fits(episode.turns[0], max_context, max_tokens)]
    limits = f"rollout.max_tokens is {max_tokens} and, with their prompts, rollout.max_context is {max_context}"
    if not short:
        what = f"no answer of {path} is short enough: {limits}"
        raise RequestError(what, "model.warm_start.file", "raise these, or give shorter chats")
    if left := len(episodes) - len(short):
        say(f"warning: {left} of {len(episodes)} answers of {path} are left out, since they are too long: {limits}")
    return short


def _fits(turn: Turn, max_context: int, max_tokens: int) -> bool:
    return len(turn.tokens) <= max_tokens and len(turn.prompt + turn.tokens) <= max_context


def _answers(line: str, place: str, template: Template, first: int) -> Iterator[Episode]:
    system, said = _messages(line, place)
    earlier: list[tuple[str, str]] = []
    for number, (asked, answer) in enumerate(zip(said[::2], said[1::2], strict=True)):
        prompt = template.first(system, asked, earlier=tuple(earlier))
        tokens = sampled_tokens(template, answer, place)
        turn = Turn(prompt, tokens, (0.0,) * len(tokens), "eos", asked, answer, Answer(), 0, 0.0, 0.0)
        yield Episode(first + number, 0, system, (turn,), "done", {})
        earlier.append((asked, answer))


def _messages(line: str, place: str) -> tuple[str, Sequence[str]]:
    """Return the system text and the texts of user and assistant in turn. Raises RequestError if it is no such chat."""
    try:
        chat: Any = json.loads(line)
        pairs = [(message["role"], message["content"]) for message in chat["messages"]]
        calls = any(message.get("tool_calls") for message in chat["messages"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(f"that is no chat: {type(error).__name__}: {error}", place, HOW) from error
    if calls:
        raise RequestError("tool_calls are not learnt from here", place, "write the call into content, as it is said")
    if not all(role in ROLES and isinstance(text, str) for role, text in pairs):
        raise RequestError(f"roles are {', '.join(ROLES)}, and contents are texts", place, HOW)
    system = pairs.pop(0)[1] if pairs and pairs[0][0] == "system" else ""
    roles = [role for role, _ in pairs]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise RequestError(
            f"messages must alternate between user and assistant, not {', '.join(roles) or 'none at all'}", place, HOW
        )
    if any(role == "assistant" and not text.strip() for role, text in pairs):
        raise RequestError("an answer is empty", place, "leave the message out")
    return system, [text for _, text in pairs]
