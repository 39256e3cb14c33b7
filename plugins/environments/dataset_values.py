"""From what a file says to text: a question, and the answers that are right. Nothing is rounded, nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""The roles of chat messages, by the names that files give them."""
_HALF = re.compile("[\ud800-\udfff]")


class Number(str):
    """A number, as the characters that stand for it in the file."""

    __slots__ = ()


def question_text(value: Any) -> str:
    """A question: text, or chat messages.

    A system message comes first, an empty line after it. Of a conversation with earlier turns each message begins with
    ``User:`` or ``Assistant:``; a single user message is its text alone.

    Raises:
        ValueError: the value is neither, and the message says what it is.
    """
    if isinstance(value, Mapping) and _is_message(value):
        value = [value]
    if not _is_chat(value):
        return _scalar(value)
    said = [_message(message) for message in value]
    systems = [text for role, text in said if role == "system"]
    turns = [(role, text) for role, text in said if role != "system"]
    if not turns or turns[-1][0] != "user":
        raise ValueError("its chat messages do not end with one of the user")
    if len(turns) > 1:
        systems += [f"{role.capitalize()}: {text}" for role, text in turns]
    else:
        systems.append(turns[0][1])
    return "\n\n".join(systems)


def answer_texts(value: Any) -> tuple[str, ...]:
    """The right answers: one value, a list of values each of which is right, or one message of the assistant.

    Where an answer holds ``####``, only what follows the last one counts, as in GSM8K.

    Raises:
        ValueError: the value is no answer, and the message says what it is.
    """
    if isinstance(value, Mapping) and _is_message(value):
        value = [value]
    if _is_chat(value):
        said = [_message(message) for message in value]
        if len(said) != 1 or said[0][0] != "assistant":
            raise ValueError("its chat messages are not a single one of the assistant")
        value = said[0][1]
    values = value if _is_list(value) else [value]
    if not values:
        raise ValueError("it is an empty list")
    return tuple(_scalar(_scalar(item).rpartition("####")[2]) for item in values)


def _scalar(value: Any) -> str:
    """The text of a single value, without white space around it."""
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
    """Role and text. Raises ValueError for other roles, and for content that is not text alone."""
    named, content = (message["role"], message["content"]) if "role" in message else (message["from"], message["value"])
    if not isinstance(named, str) or named not in _ROLES:
        raise ValueError(f"it holds a message of the role {named!r}")
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("it holds a message that calls tools")
    if _is_list(content):
        parts = [part.get("text") if _is_text_part(part) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise ValueError("it holds a message with something else than text")
        content = "".join(texts)
    return _ROLES[named], _scalar(content)
