"""Demonstrations from a file of chats, one JSON object in a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ....core.components import Answer
from ....core.errors import RequestError
from ....core.paths import expanded
from ...rollout.episode import Episode, Turn
from ...rollout.template import Template

ROLES = ("system", "user", "assistant")
HOW = 'a line is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def read_chats(path: str, template: Template, max_context: int) -> list[Episode]:
    """Read every message of the assistant as an episode of one turn, with all messages before it as its prompt.

    Messages alternate between user and assistant, after a system message or none. Chats whose tokens exceed
    ``max_context`` are left out.

    Raises:
        RequestError: the file cannot be read, a line is no such chat, or none is short enough.
    """
    file = expanded(path)
    episodes: list[Episode] = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    episodes += _answers(line, f"{path}, line {number}", template, len(episodes))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the demonstrations cannot be read: {error}", f"model.warm_start.file: {path}") from error
    short = [episode for episode in episodes if len(episode.turns[0].prompt + episode.turns[0].tokens) <= max_context]
    if not short:
        what = f"no chat of {path} has at most {max_context} tokens" if episodes else f"{path} holds no chats"
        raise RequestError(what, "model.warm_start.file", HOW)
    return short


def _answers(line: str, place: str, template: Template, first: int) -> Iterator[Episode]:
    system, said = _messages(line, place)
    earlier: list[tuple[str, str]] = []
    for number, (asked, answer) in enumerate(zip(said[::2], said[1::2], strict=True)):
        prompt = template.first(system, asked, earlier=tuple(earlier))
        text = answer.removeprefix(template.tag)
        tokens = (*template.tokenizer.encode(text, add_special_tokens=False), template.end_of_turn)
        turn = Turn(prompt, tokens, (0.0,) * len(tokens), "eos", asked, answer, Answer(), 0, 0.0, 0.0)
        yield Episode(first + number, 0, system, (turn,), "done", {})
        earlier.append((asked, answer))


def _messages(line: str, place: str) -> tuple[str, Sequence[str]]:
    """Return the system text and the texts of user and assistant in turn. Raises RequestError if it is no such chat."""
    try:
        chat: Any = json.loads(line)
        pairs = [(message["role"], message["content"]) for message in chat["messages"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"that is no chat: {type(error).__name__}: {error}", place, HOW) from error
    if not all(role in ROLES and isinstance(text, str) for role, text in pairs):
        raise RequestError(f"roles are {', '.join(ROLES)}, and contents are texts", place, HOW)
    system = pairs.pop(0)[1] if pairs and pairs[0][0] == "system" else ""
    roles = [role for role, _ in pairs]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise RequestError(f"messages must alternate between user and assistant, not {', '.join(roles)}", place, HOW)
    return system, [text for _, text in pairs]
