"""What dialogues and environments say of tools: the functions that a response may call."""

from __future__ import annotations

import json
from typing import Any

import attrs


@attrs.frozen
class Tool:
    """A tool is a function that the environment offers, and that a response may call."""

    name: str
    """The name that calls it."""
    schema: str
    """The JSON text of its description, with the keys ``name``, ``description`` and ``parameters`` (a JSON schema)."""

    @property
    def function(self) -> dict[str, Any]:
        """The schema as a new mapping."""
        function: dict[str, Any] = json.loads(self.schema)
        return function

    @property
    def spelled(self) -> dict[str, Any]:
        """The tool as chat templates take it."""
        return {"type": "function", "function": self.function}


def text_of(result: object) -> str:
    """Return what a tool gives as text that can be encoded: bytes are read as UTF-8, with marks for what is none."""
    if isinstance(result, bytes | bytearray | memoryview):
        return bytes(result).decode("utf-8", "replace")
    return str(result).encode("utf-8", "replace").decode("utf-8")


@attrs.frozen
class Call:
    """A call of a tool, as a response makes it. A call with a ``problem`` is not played: the model is told of it."""

    name: str = ""
    """The name of the tool; empty where it cannot be read."""
    arguments: str = "{}"
    """The JSON text of the arguments by their names."""
    action: str = ""
    """The action of the environment that the call stands for; empty where it calls a tool of the environment."""
    problem: str = ""
    """The text that tells the model why nothing was called; empty for a call that can be played."""
    fault: str = ""
    """The kind of the problem: ``broken`` (it cannot be read), ``unknown`` (there is no such tool) or ``wrong`` (its
    arguments are). Empty for none."""

    @property
    def text(self) -> str:
        """The call as one line of JSON."""
        return f'{{"name": {json.dumps(self.name)}, "arguments": {self.arguments}}}'
