"""The turns of a conversation become the messages that chat templates take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen
class Result:
    """The result of a call, which a message of the role ``tool`` tells the model."""

    name: str
    """The name of the tool."""
    text: str
    """The text of the message."""


Said = str | tuple[Result, ...]
"""What follows an answer: the text of a user, or the results of the calls that the answer makes."""


def text_of(said: Said) -> str:
    """Return what is said as the text of a user."""
    return said if isinstance(said, str) else "\n".join(result.text for result in said)


def messages(
    system: str, said: Sequence[Said], answers: Sequence[str], *, folds: bool, parts: bool, in_calls: bool
) -> list[dict[str, Any]]:
    """Return the messages of a conversation up to the answer to the last text.

    Args:
        system: the system text; an empty one makes no message.
        said: what is said before each answer; the first is the text of a user.
        answers: the earlier answers, one fewer than ``said``.
        folds: whether the system text stands in the first user message.
        parts: whether a text is a list of parts.
        in_calls: whether an answer before results is given as the name of a called tool, rather than as text.
    """
    built: list[dict[str, Any]] = []
    if system and not folds:
        built.append({"role": "system", "content": system})
    calls = 0
    for turn, each in enumerate(said):
        ids = [f"call{calls + number:05d}" for number in range(len(each))] if isinstance(each, tuple) else []
        if turn:
            answer: dict[str, Any] = {"role": "assistant", "content": answers[turn - 1]}
            if ids and in_calls:
                function = {"name": answers[turn - 1], "arguments": {}}
                made = [{"id": name, "type": "function", "function": function} for name in ids]
                answer = {"role": "assistant", "content": "", "tool_calls": made}
            built.append(answer)
        if isinstance(each, tuple):
            calls += len(ids)
            for name, result in zip(ids, each, strict=True):
                built.append({"role": "tool", "name": result.name, "content": result.text, "tool_call_id": name})
        else:
            built.append({"role": "user", "content": f"{system}\n\n{each}" if system and folds and not turn else each})
    if parts:
        for message in built:
            message["content"] = [{"type": "text", "text": message["content"]}]
    return built
