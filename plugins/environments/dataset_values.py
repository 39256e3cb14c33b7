"""Values of a file become text, a question and its right answers; nothing is rounded, nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import attrs

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Roles of chat messages, by the names that files give them."""
_HALF = re.compile("[\ud800-\udfff]")


class Number(str):
    """A number is kept as the characters that stand for it in the file."""

    __slots__ = ()


@attrs.frozen
class Question:
    """A question, with what a file says before it."""

    text: str
    """Text of the question."""
    system: str = ""
    """Text of the system messages."""
    earlier: tuple[tuple[str, str], ...] = ()
    """Earlier texts of the user, each with the answer to it."""


def question_of(value: Any) -> Question:
    """Turn a value into a question: it is text, or chat messages that end with one of the user.

    Messages of one role that follow each other, and all system messages, are joined with an empty line between them.

    Raises:
        ValueError: the value is neither, and the message says what it is.
    """
    if isinstance(value, Mapping) and _is_message(value):
        value = [value]
    if not _is_chat(value):
        return Question(_scalar(value))
    messages = [_message(message) for message in value]
    system = "\n\n".join(text for role, text in messages if role == "system")
    others = groupby((message for message in messages if message[0] != "system"), key=lambda message: message[0])
    turns = [(role, "\n\n".join(text for _, text in same)) for role, same in others]
    if not turns or turns[-1][0] != "user":
        raise ValueError("its chat messages do not end with one of the user")
    if turns[0][0] != "user":
        raise ValueError("its chat messages do not begin with one of the user")
    texts = [text for _, text in turns]
    return Question(texts[-1], system, tuple(zip(texts[:-1:2], texts[1::2], strict=True)))


def system_of(value: Any) -> str:
    """Turn a value into a system text; null is none. Raises ValueError if it is no text."""
    return "" if value is None else _scalar(value)


REASONED = "####"
"""Mark between the reasoning and the answer, as GSM8K has it."""


def answer_texts(value: Any) -> tuple[str, ...]:
    """Turn a value into the right answers: it is one, a list of them, or one message of the assistant.

    If an answer contains ``####``, only the text after the last one counts, as in GSM8K.

    Raises:
        ValueError: the value is no answer, and the message says what it is.
    """
    return tuple(_scalar(text.rpartition(REASONED)[2]) for text in _written(value))


def reasoning_of(value: Any) -> str:
    """Return what stands before ``####`` in the first right answer; nothing if it has no such mark.

    Raises:
        ValueError: as :func:`answer_texts` does.
    """
    return _written(value)[0].rpartition(REASONED)[0].strip()


def _written(value: Any) -> list[str]:
    """Return the right answers as they are written. Raises ValueError if there is none."""
    if isinstance(value, Mapping) and _is_message(value):
        value = [value]
    if _is_chat(value):
        messages = [_message(message) for message in value]
        if len(messages) != 1 or messages[0][0] != "assistant":
            raise ValueError("its chat messages are not a single one of the assistant")
        value = messages[0][1]
    values = value if _is_list(value) else [value]
    if not values:
        raise ValueError("it is an empty list")
    return [_scalar(item) for item in values]


def _scalar(value: Any) -> str:
    """Return the text of a single value, without white space around it. Raises ValueError if it has none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        raise ValueError(f"it is {_name(value)}")
    if _HALF.search(value):
        raise ValueError("it holds half of a surrogate pair, which is no character")
    if not value.strip():
        raise ValueError("it is empty")
    return str(value.strip())


def _name(value: Any) -> str:
    """Say what a value is, for messages."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return f"a record with the fields {', '.join(map(str, value))}"
    if isinstance(value, bytes):
        return "binary"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is no number"
    return "a list" if _is_list(value) else f"of the type {type(value).__name__}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_message(value: Mapping[str, Any]) -> bool:
    return {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()


def _is_chat(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(isinstance(item, Mapping) and _is_message(item) for item in value)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text", "output_text")


def _message(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return role and text of a message. Raises ValueError for other roles, and for content that is not only text."""
    if "role" in message:
        role, content = message["role"], message["content"]
    else:
        role, content = message["from"], message["value"]
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"it holds a message of the role {role!r}")
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("it holds a message that calls tools")
    if _is_list(content):
        parts = [part.get("text") if _is_text_part(part) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise ValueError("it holds a message with something else than text")
        content = "".join(texts)
    return _ROLES[role], _scalar(content)
