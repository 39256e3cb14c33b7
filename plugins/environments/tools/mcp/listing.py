"""The tools that an MCP server lists, as the model is told of them."""

from __future__ import annotations

import hashlib
import json
import keyword
import re
from collections.abc import Mapping, Sequence

import attrs
from jsonschema import validators
from jsonschema.exceptions import SchemaError
from mcp.types import Tool as ListedTool

from .....core.components import Tool
from .....core.errors import RequestError, nearest
from .connection import Connection

_NO_PARAMETERS = {"type", "title", "description", "$schema"}
"""The keys of a schema that says nothing of parameters, which is how some servers say that a tool has none."""


@attrs.frozen
class Listing:
    """What a server says of itself and of its tools."""

    server: str
    """Its name and version."""
    tools: tuple[Tool, ...]
    """Its tools, with names that every format of calls can write."""
    names: Mapping[str, str]
    """Name that the model knows -> name that the server knows."""

    @property
    def digest(self) -> str:
        """The name and version of the server, and a hash of what it says of its tools."""
        text = json.dumps([[self.names[tool.name], tool.schema] for tool in self.tools])
        return f"{self.server}, tools {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def only(self, wanted: Sequence[str], where: str) -> Listing:
        """Return the listing with these tools alone; all, if none are named. Raises RequestError for an unknown one."""
        known = {name: name for name in self.names} | {theirs: ours for ours, theirs in self.names.items()}
        if missing := [name for name in wanted if name not in known]:
            raise RequestError(f"the server has no tool {missing[0]!r}", where, nearest(missing[0], known))
        kept = {known[name] for name in wanted} or set(self.names)
        return attrs.evolve(self, tools=tuple(tool for tool in self.tools if tool.name in kept))


def listing_of(connection: Connection) -> Listing:
    """Return what a server lists.

    Raises:
        RequestError: it lists nothing, or two tools of one name.
    """
    where, info = connection.program.where, connection.info
    server = " ".join(filter(None, (info.name, info.version))) if info else "a server without a name"
    names: dict[str, str] = {}
    for tool in connection.tools:
        name = callable_name(tool.name)
        if name in names:
            both = f"{names[name]!r} and {tool.name!r}" if names[name] != tool.name else f"two tools of {name!r}"
            raise RequestError(f"{both} have the name {name!r} for the model", where, "use a server with other names")
        names[name] = tool.name
    if not names:
        raise RequestError("the server lists no tools", where, "use a server that has some")
    tools = tuple(_tool(name, tool) for name, tool in zip(names, connection.tools, strict=True))
    return Listing(f"MCP server {server}", tools, names)


def callable_name(name: str) -> str:
    """Return a name that every format of calls can write: letters of ASCII, digits and ``_``, no word of Python."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if not plain or plain[0].isdigit() or keyword.iskeyword(plain) else plain


def _tool(name: str, tool: ListedTool) -> Tool:
    parameters = tool.input_schema
    if parameters.keys() <= _NO_PARAMETERS:
        parameters = {**parameters, "properties": {}}
    kept = {"name": name, "description": (tool.description or "").strip(), "parameters": parameters}
    return Tool(name, json.dumps(kept, ensure_ascii=False))


def refuse_unusable(tools: Sequence[Tool], where: str) -> None:
    """Raise RequestError for a tool whose parameters are no JSON Schema."""
    for tool in tools:
        parameters = tool.function["parameters"]
        try:
            validators.validator_for(parameters, default=validators.Draft202012Validator).check_schema(parameters)
        except SchemaError as error:
            fix = "mend the server, or name the tools to use: only: [...]"
            what = f"the schema of the tool {tool.name} cannot be used: {error.message}"
            raise RequestError(what, where, fix) from error
